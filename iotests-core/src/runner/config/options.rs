//! Command line options in a file: `[defaults]` and `[profile.NAME]`.
//!
//! They become words of the command line, so that an option means the same and is checked the same
//! way wherever it is given.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};
use imgtools::tools::ToolKind;
use toml::{Spanned, Value};

use super::{Config, ConfigError, ConfigFile, Options};
use crate::runner::cli::{Cli, INSTEAD_OF_RUNNING};
use crate::runner::near::nearest_word;

/// Options that are decided for each run and have no place in a file.
const FOR_ONE_RUN: [&str; 10] = [
    "bless",
    "config",
    "failed",
    "help",
    "no-config",
    "profile",
    "since",
    "start-from",
    "unfinished",
    "version",
];

/// Where an option comes from: the command line or environment, or a layer of the configuration,
/// the strongest being 0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Giver {
    User,
    Layer(usize),
}

impl Config {
    /// The words the files add to a command line: options given neither there nor in the
    /// environment. A profile overrides `[defaults]`, and a later file an earlier one.
    pub(super) fn arguments(
        &self,
        profile: Option<&str>,
        matches: &ArgMatches,
    ) -> Result<Vec<OsString>, ConfigError> {
        let mut command = Cli::command();
        command.build();
        let is_given = |arg: &&Arg| {
            matches!(
                matches.value_source(arg.get_id().as_str()),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            ) || program_is_in_environment(arg)
        };
        let given = command.get_arguments().filter(is_given);
        let mut given: BTreeMap<&str, Giver> =
            given.map(|arg| (arg.get_id().as_str(), Giver::User)).collect();
        let mut all = Vec::new();
        for (layer, (file, options)) in self.layers(profile)?.into_iter().enumerate() {
            for (key, value) in options {
                let arg = find(&command, file, key)?;
                let words = words(file, arg, value)?;
                check(file, value, &words)?;
                let id = arg.get_id().as_str();
                let rival = given.iter().find(|(other, _)| {
                    let other = command.get_arguments().find(|arg| arg.get_id() == **other);
                    other.is_some_and(|other| exclude_each_other(&command, arg, other))
                });
                match rival {
                    _ if given.contains_key(id) => {}
                    Some((rival, Giver::Layer(same))) if *same == layer => {
                        let rival = command.get_arguments().find(|arg| arg.get_id() == *rival);
                        let rival = rival.and_then(Arg::get_long).unwrap_or_default();
                        let why = format!("`{}` and `{rival}` exclude each other", key.as_ref());
                        return Err(file.error(key.span(), why));
                    }
                    // Overridden by a conflicting option of a stronger layer.
                    Some(_) => {}
                    None => {
                        given.insert(id, Giver::Layer(layer));
                        all.extend(words);
                    }
                }
            }
        }
        Ok(all)
    }

    /// The option tables, strongest first.
    fn layers(&self, profile: Option<&str>) -> Result<Vec<(&ConfigFile, &Options)>, ConfigError> {
        let files = self.files.iter().rev();
        let mut layers = Vec::new();
        if let Some(name) = profile {
            layers.extend(files.clone().filter_map(|file| {
                let options = file.content.profile.get(name)?;
                Some((file, options))
            }));
            if layers.is_empty() {
                let known = files.flat_map(|file| file.content.profile.keys().cloned());
                return Err(ConfigError::UnknownProfile {
                    name: name.to_owned(),
                    known: known.collect(),
                });
            }
        }
        layers.extend(files.map(|file| (file, &file.content.defaults)));
        Ok(layers)
    }
}

/// Whether a QEMU program's variable is set. These variables are read during the search for
/// programs, so clap does not know them.
fn program_is_in_environment(arg: &Arg) -> bool {
    let kind = match arg.get_long() {
        Some("qemu") => ToolKind::System,
        Some("qemu-img") => ToolKind::Img,
        Some("qemu-io") => ToolKind::Io,
        Some("qemu-nbd") => ToolKind::Nbd,
        Some("qsd") => ToolKind::StorageDaemon,
        _ => return false,
    };
    env::var_os(kind.program_variable()).is_some_and(|value| !value.is_empty())
}

fn exclude_each_other(command: &Command, one: &Arg, other: &Arg) -> bool {
    let has = |arg: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(arg);
        conflicts.iter().any(|arg| arg.get_id() == other.get_id())
    };
    has(one, other) || has(other, one)
}

fn find<'c>(
    command: &'c Command,
    file: &ConfigFile,
    key: &Spanned<String>,
) -> Result<&'c Arg, ConfigError> {
    let may_stand_here = |arg: &&Arg| {
        let long = arg.get_long().unwrap_or_default();
        !long.is_empty()
            && !FOR_ONE_RUN.contains(&long)
            && arg.get_help_heading() != Some(INSTEAD_OF_RUNNING)
    };
    let mut known = command.get_arguments().filter(may_stand_here);
    let name = key.as_ref().as_str();
    if let Some(arg) = known.find(|arg| arg.get_long() == Some(name)) {
        return Ok(arg);
    }
    let mut all = command.get_arguments();
    let why = if all.any(|arg| arg.get_long() == Some(name)) {
        format!("`{name}` is only for the command line; remove it here")
    } else {
        let known = command.get_arguments().filter(may_stand_here);
        match nearest_word(name, known.filter_map(Arg::get_long)) {
            Some(near) => format!("there is no option `{name}`; did you mean `{near}`?"),
            None => format!("there is no option `{name}`; see --help"),
        }
    };
    Err(file.error(key.span(), why))
}

/// The option as command line words.
fn words(
    file: &ConfigFile,
    arg: &Arg,
    value: &Spanned<Value>,
) -> Result<Vec<OsString>, ConfigError> {
    let long = arg.get_long().unwrap_or_default();
    let error = |why: String| file.error(value.span(), format!("`{long}` {why}"));
    let is_flag = !arg.get_action().takes_values();
    let needs_none = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    match value.as_ref() {
        Value::Boolean(false) if is_flag || needs_none => Ok(Vec::new()),
        Value::Boolean(true) if is_flag || needs_none => Ok(vec![format!("--{long}").into()]),
        _ if is_flag => Err(error("must be true or false".to_owned())),
        Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            let one = |value| scalar(file, arg, value).ok_or_else(|| error(text_or_number()));
            values.iter().map(one).collect()
        }
        Value::Array(_) => Err(error("takes one value, not a list".to_owned())),
        value => {
            scalar(file, arg, value).map(|word| vec![word]).ok_or_else(|| error(text_or_number()))
        }
    }
}

fn text_or_number() -> String {
    "must be a string or a number".to_owned()
}

/// One value as a word. A path is relative to the file that names it.
fn scalar(file: &ConfigFile, arg: &Arg, value: &Value) -> Option<OsString> {
    let mut word = OsString::from(format!("--{}=", arg.get_long().unwrap_or_default()));
    match value {
        Value::String(text) if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() => {
            let folder = file.path.parent().unwrap_or_else(|| "".as_ref());
            word.push(folder.join(text));
        }
        Value::String(text) => word.push(text),
        Value::Integer(number) => word.push(number.to_string()),
        Value::Float(number) => word.push(number.to_string()),
        _ => return None,
    }
    Some(word)
}

/// Checks that the option accepts this value, so that the error names the place. Required and
/// conflicting options are checked later, with the whole command line.
fn check(file: &ConfigFile, value: &Spanned<Value>, words: &[OsString]) -> Result<(), ConfigError> {
    let name = OsString::from("iotests");
    let tried = Cli::command().try_get_matches_from([&[name], words].concat());
    match tried {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict
            ) =>
        {
            let text = error.to_string();
            let why = text.lines().next().unwrap_or_default();
            let why = why.strip_prefix("error: ").unwrap_or(why);
            Err(file.error(value.span(), why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str, profile: Option<&str>, line: &[&str]) -> Result<Vec<String>, String> {
        let file = ConfigFile::parse("dir/c.toml".into(), text.to_owned());
        let file = file.map_err(|error| error.to_string())?;
        let matches = Cli::command().get_matches_from([&["iotests"], line].concat());
        let config = Config { files: vec![file] };
        let words = config.arguments(profile, &matches);
        let words = words.map_err(|error| error.to_string())?;
        Ok(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn options_become_words_unless_overridden() {
        let text = "[defaults]\nretries = 1\nformat = [\"qcow2\", \"raw\"]\njunit = \"j.xml\"\nkeep = true\n\
            repeat = 2\n[profile.ci]\nretries = 3\nkeep = false\n";
        let all = |profile, line: &[&str]| arguments(text, profile, line).unwrap().join(" ");
        let expected =
            "--format=qcow2 --format=raw --junit=dir/j.xml --keep --repeat=2 --retries=1";
        assert_eq!(all(None, &[]), expected);
        let ci = all(Some("ci"), &[]);
        assert!(
            ci.contains("--retries=3") && !ci.contains("--retries=1"),
            "{ci}"
        );
        let line = all(Some("ci"), &["--retries", "9", "-f", "vmdk"]);
        assert!(
            !line.contains("--retries") && !line.contains("--format"),
            "{line}"
        );
        // `--for` on the command line excludes it.
        assert!(!all(None, &["--for", "1h"]).contains("--repeat"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, wanted) in [
            (
                "[defaults]\nretrys = 1",
                "dir/c.toml:2: there is no option `retrys`; did you mean `retries`?",
            ),
            (
                "[defaults]\n\nretries = \"x\"",
                "dir/c.toml:3: invalid value 'x' for '--retries",
            ),
            (
                "[defaults]\nkeep = 1",
                "dir/c.toml:2: `keep` must be true or false",
            ),
            (
                "[defaults]\nretries = [1]",
                "`retries` takes one value, not a list",
            ),
            (
                "[defaults]\nformat = [\"qcow9\"]",
                "dir/c.toml:2: invalid value 'qcow9'",
            ),
            (
                "[defaults]\nbless = true",
                "`bless` is only for the command line",
            ),
            (
                "[defaults]\nlist = true",
                "`list` is only for the command line",
            ),
            ("[defaults]\nrepeat = 2\nfor = \"1h\"", "exclude each other"),
            (
                "[profile.ci]\nx = 1\n[profile.nightly]",
                "find the profile `co`; known: ci, nightly",
            ),
        ] {
            let error = arguments(text, Some("co").filter(|_| text.contains("profile")), &[]);
            let error = error.unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
