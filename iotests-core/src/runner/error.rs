//! Why a run could not start or continue: the errors shown on the command line, and their exit
//! codes.

use std::path::PathBuf;

use super::config::ConfigError;
use super::exit::Exit;
use super::near::nearest_word;
use super::tasks::{self, FIRST_WORDS};
use crate::case::{Problems, UnknownName};
use crate::script::TreeError;

/// Why a run could not start or continue. Messages complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Cases of this program are declared wrongly.
    #[error("use the declarations of this program:\n{0}")]
    Declarations(Problems),
    /// A selector that matches no case.
    #[error("find a case for `{selector}`{}", near(.selector, .hint.as_deref(), .nearest))]
    UnknownSelector {
        /// The selector.
        selector: String,
        /// What to write instead, if known.
        hint: Option<String>,
        /// Similar names.
        nearest: Vec<String>,
    },
    /// Each selector matches something, but nothing is left after the other options.
    #[error("select a case: {0}")]
    NothingSelected(String),
    /// A format, protocol or mode that does not exist.
    #[error("understand the command line: {0}")]
    UnknownName(#[from] UnknownName),
    /// Contradictory or incomplete options.
    #[error("understand the command line: {0}")]
    Usage(String),
    /// A program that the user named cannot be used.
    #[error("use the named program: {0}")]
    NamedTool(String),
    /// There is no QEMU.
    #[error("find QEMU's tools: {0}")]
    NoQemu(String),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The upstream scripts cannot be found.
    #[error(transparent)]
    Upstream(#[from] TreeError),
    /// An emulator could not be fetched.
    #[error("{0}")]
    Provision(String),
    /// One of the harness's folders or files cannot be used.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was tried, such as "create the scratch folder".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A system call that a run cannot do without failed.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl RunError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::UnknownSelector { .. } | Self::NothingSelected(_) => Exit::NothingSelected,
            Self::UnknownName(_) | Self::Usage(_) | Self::Upstream(_) | Self::Config(_) => {
                Exit::Usage
            }
            Self::Declarations(_) => Exit::Declarations,
            Self::NamedTool(_) | Self::NoQemu(_) | Self::Provision(_) => Exit::NoQemu,
            Self::Io { .. } | Self::System { .. } => Exit::Environment,
        }
    }
}

fn near(selector: &str, hint: Option<&str>, names: &[String]) -> String {
    let program = super::called_as();
    if FIRST_WORDS.contains(&selector) {
        return format!("; {}", tasks::as_selector(selector));
    }
    let mut text = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    if let Some(word) = nearest_word(selector, FIRST_WORDS) {
        text += &format!("; did you mean the command `{program} {word}`?");
    }
    if !names.is_empty() {
        text += &format!("; similar names:\n  {}", names.join("\n  "));
    }
    text
}

/// Adds to an I/O error what was tried, for `map_err`.
pub(crate) fn io(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.into();
    move |source| RunError::Io {
        doing,
        path,
        source,
    }
}

/// An error with all its causes, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
