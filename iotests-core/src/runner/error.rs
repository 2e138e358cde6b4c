//! Why a run could not begin or go on: one error for the command line, each with its exit code.

use std::path::PathBuf;

use super::config::ConfigError;
use super::exit::Exit;
use super::filter::nearest_word;
use super::tasks::{self, FIRST_WORDS};
use crate::case::{Problems, UnknownName};
use crate::script::TreeError;

/// Why a run could not begin or go on. Messages finish "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Cases of this program are declared wrongly.
    #[error("use the declarations of this program:\n{0}")]
    Declarations(Problems),
    /// A selector that matches no case.
    #[error("find a case for `{selector}`{}", near(.selector, .hint.as_deref(), .nearest))]
    UnknownSelector {
        /// What was given.
        selector: String,
        /// What to write instead, where that can be told.
        hint: Option<String>,
        /// Names that are near to it.
        nearest: Vec<String>,
    },
    /// Each selector matches something, but together with the other options nothing is left.
    #[error("select a case: {0}")]
    NothingSelected(String),
    /// A format, protocol or mode that does not exist.
    #[error("understand the command line: {0}")]
    UnknownName(#[from] UnknownName),
    /// Options that contradict each other, or are incomplete.
    #[error("understand the command line: {0}")]
    Usage(String),
    /// A program that was named is no good.
    #[error("use the named program: {0}")]
    NamedTool(String),
    /// There is no QEMU.
    #[error("find QEMU's tools: {0}")]
    NoQemu(String),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The scripts of upstream cannot be had.
    #[error(transparent)]
    Upstream(#[from] TreeError),
    /// An emulator could not be fetched.
    #[error("{0}")]
    Provision(String),
    /// A folder or file of ours cannot be used.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was tried: "create the scratch folder"…
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel refused something that a run cannot do without.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why not.
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
        text += &format!("; near to it:\n  {}", names.join("\n  "));
    }
    text
}

/// An I/O error with what was tried.
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

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
