//! Upstream's own tests, unmodified: scripts of a QEMU source tree that run like cases.
//!
//! A script is a case with an external body: `tree` finds the scripts of a tree, `facts` parses
//! each one's declarations, and `entry` turns it into a registry entry like that of a `#[case]`.
//! The runner treats both alike. The body (`run`) sets up the environment that the script expects,
//! waits for its end, and judges the results: exit status, `.notrun`, `.casenotrun`, and its output
//! against the reference.

mod entry;
mod environment;
mod facts;
mod hang;
mod interpreter;
mod output;
mod run;
mod tree;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The prefix of all script names.
pub(crate) const SCRIPTS: &str = "upstream::";

/// The group of scripts that their authors have disabled.
pub(crate) const DISABLED: &str = "disabled";

pub(crate) use entry::entries;
pub(crate) use environment::variables;
pub(crate) use hang::explain;
pub(crate) use interpreter::python;
pub(crate) use run::body;
pub use tree::TreeError;

/// The language of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// bash, or whatever else its first line names.
    Shell,
    /// Python 3, run by the interpreter chosen for the run.
    Python,
}

impl Language {
    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shell => "bash",
            Self::Python => "Python",
        }
    }
}

/// One script of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Its name in upstream's `check`: `040`, `mirror-top-perms`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The folder of the tests, with the files that they include and import.
    pub folder: PathBuf,
    /// Its language.
    pub language: Language,
}

/// A script as passed to a case process, with the settings of the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptSpec {
    /// The script.
    pub script: Script,
    /// The interpreter for Python.
    pub python: Option<PathBuf>,
    /// Where Python stores its bytecode, so that nothing is written to the tree.
    pub bytecode: PathBuf,
    /// The short name of the emulator's default machine type.
    pub default_machine: String,
    /// Whether the user has not chosen a cache mode, so that the script may choose one.
    pub cache_is_default: bool,
    /// How the programs are run.
    pub tooling: Tooling,
}

/// The wrappers and options with which a script's programs run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tooling {
    /// Run under valgrind.
    pub valgrind: bool,
    /// Run under gdbserver, with these options.
    pub gdb: Option<String>,
    /// Make qemu-io misalign its buffers.
    pub misalign: bool,
}

#[cfg(test)]
impl ScriptSpec {
    /// The spec of this script in a run without options.
    fn of(path: &std::path::Path) -> Self {
        Self {
            script: Script {
                name: "001".to_owned(),
                path: path.to_owned(),
                folder: "/tree/tests/qemu-iotests".into(),
                language: Language::Shell,
            },
            python: None,
            bytecode: PathBuf::new(),
            default_machine: "pc".to_owned(),
            cache_is_default: true,
            tooling: Tooling::default(),
        }
    }
}
