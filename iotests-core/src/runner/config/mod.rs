//! `iotests.toml`: option defaults, profiles, settings and expectations of cases. The format is in
//! docs/config.md.

mod options;
mod rules;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches};
use serde::Deserialize;
use toml::Spanned;

use super::cli::{Cli, ConfigArgs};
use super::near::nearest_word;
pub(crate) use rules::Asked;

/// The file read if none is named.
const DEFAULT: &str = "iotests.toml";

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something in a file is wrong.
    #[error("use the configuration: {}:{line}: {why}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// No file has the requested profile.
    #[error("find the profile `{name}`{}", there_are(.known))]
    UnknownProfile {
        /// The requested name.
        name: String,
        /// The existing profiles.
        known: Vec<String>,
    },
}

fn there_are(known: &[String]) -> String {
    match known {
        [] => {
            format!(": no configuration has one; write a table `[profile.NAME]` into {DEFAULT}")
        }
        known => format!("; known: {}", known.join(", ")),
    }
}

/// All files read, in increasing precedence.
#[derive(Debug, Default)]
pub(crate) struct Config {
    files: Vec<ConfigFile>,
}

/// One file.
#[derive(Debug)]
struct ConfigFile {
    path: PathBuf,
    text: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Content {
    #[serde(default)]
    defaults: Options,
    #[serde(default)]
    profile: BTreeMap<String, Options>,
    #[serde(default, rename = "case")]
    cases: Vec<Spanned<CaseTable>>,
    #[serde(default, rename = "expect")]
    expectations: Vec<Spanned<ExpectTable>>,
}

/// Command line options by their long names.
type Options = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

/// Settings of some cases: `[[case]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CaseTable {
    select: Option<Spanned<Words>>,
    expression: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    set: Option<String>,
    timeout: Option<Spanned<String>>,
    cpus: Option<u32>,
    memory: Option<Spanned<String>>,
    exclusive: Option<bool>,
    lock: Option<String>,
}

/// Expectations of some cases: `[[expect]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ExpectTable {
    select: Option<Spanned<Words>>,
    expression: Option<Spanned<String>>,
    version: Option<Spanned<String>>,
    set: Option<String>,
    outcome: ExpectedOutcome,
    reason: Spanned<String>,
    until: Option<Spanned<toml::value::Datetime>>,
    says: Option<String>,
    #[serde(default)]
    intermittent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ExpectedOutcome {
    Skip,
    KnownFailure,
    Quarantine,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a selector, or a list of them")]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn all(&self) -> &[String] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }
}

/// Parses the command line together with what the configuration adds to it.
pub(crate) fn read(arguments: Vec<OsString>) -> Result<(Cli, Config), ConfigError> {
    let command = Cli::command();
    let matches = command.get_matches_from(&arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let config = Config::load(&cli.config)?;
    let added = config.arguments(cli.config.profile.as_deref(), &matches)?;
    if added.is_empty() {
        return Ok((cli, config));
    }
    let (program, rest) = arguments.split_at(arguments.len().min(1));
    let all = [program, &added, rest].concat();
    let matches = Cli::command().get_matches_from(all);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    Ok((cli, config))
}

impl Config {
    fn load(args: &ConfigArgs) -> Result<Self, ConfigError> {
        let mut paths = args.config.clone();
        if args.no_config {
            paths.clear();
        } else if paths.is_empty() && Path::new(DEFAULT).exists() {
            paths.push(DEFAULT.into());
        }
        let files = paths.into_iter().map(ConfigFile::read);
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// The paths of the files, as given.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }
}

impl ConfigFile {
    fn read(path: PathBuf) -> Result<Self, ConfigError> {
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, text),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    fn parse(path: PathBuf, text: String) -> Result<Self, ConfigError> {
        match toml::from_str(&text) {
            Ok(content) => Ok(Self {
                path,
                text,
                content,
            }),
            Err(error) => Err(ConfigError::Content {
                line: line(&text, error.span().unwrap_or_default()),
                why: with_nearest(error.message()),
                path,
            }),
        }
    }

    fn error(&self, at: Range<usize>, why: impl Into<String>) -> ConfigError {
        ConfigError::Content {
            path: self.path.clone(),
            line: self.line(at),
            why: why.into(),
        }
    }

    fn line(&self, at: Range<usize>) -> usize {
        line(&self.text, at)
    }
}

fn line(text: &str, at: Range<usize>) -> usize {
    let before = text.as_bytes().get(..at.start).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Adds a suggestion. The parser puts the unknown word and then all known ones in backticks.
fn with_nearest(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next().filter(|_| message.starts_with("unknown ")).unwrap_or_default();
    match nearest_word(unknown, words) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let parsed = ConfigFile::parse("c.toml".into(), text.to_owned());
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
        for (text, wanted) in [
            ("\n[default]\n", "c.toml:2: unknown field `default`"),
            ("\n[default]\n", "did you mean `defaults`?"),
            (
                "[[case]]\nselekt = \"a\"",
                "c.toml:2: unknown field `selekt`",
            ),
            ("[[case]]\nselekt = \"a\"", "did you mean `select`?"),
            (
                "[[expect]]\nreason = \"r\"\noutcome = \"skipped\"",
                "c.toml:3: unknown variant `skipped`",
            ),
            (
                "[[expect]]\nselect = 3\noutcome = \"skip\"",
                "a selector, or a list of them",
            ),
            (
                "[[expect]]\nselect = \"a\"\noutcome = \"skip\"",
                "missing field `reason`",
            ),
            (
                "[[expect]]\nreason = \"r\"\noutcome = \"skip\"\nuntil = 2026-02-31",
                "c.toml:4: ",
            ),
            ("[[case]]\ntimeout", "c.toml:2: "),
        ] {
            let error = error(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,80}|[a-z\\[\\]=\"\n .]{0,80}") {
            let _ = ConfigFile::parse("c.toml".into(), text);
        }
    }
}
