//! Upstream's own tests, unmodified: scripts of a source tree of QEMU that run as cases do.
//!
//! A script is a case whose body is not ours: `tree` finds the scripts of a tree, `facts` reads from the text of each what it declares,
//! and `entry` makes the same entry of it that a `#[case]` has in the registry. From there on the runner does not know the
//! difference. The body (`run`) gives the script the environment that it expects, waits for its end, and judges what it left:
//! exit status, `.notrun`, `.casenotrun`, and its output against the reference.

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

/// What the names of all scripts begin with.
pub(crate) const SCRIPTS: &str = "upstream::";

/// The group of scripts that their authors have put aside.
pub(crate) const DISABLED: &str = "disabled";

pub(crate) use entry::entries;
pub(crate) use environment::variables;
pub(crate) use hang::explain;
pub(crate) use interpreter::python;
pub(crate) use run::body;
pub use tree::TreeError;

/// What a script is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// bash, or whatever else its first line names.
    Shell,
    /// Python 3, run by the interpreter that the run has chosen.
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
    /// Its name, as upstream's `check` has it: `040`, `mirror-top-perms`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The folder of the tests, with what they include and import.
    pub folder: PathBuf,
    /// What it is written in.
    pub language: Language,
}

/// A script as a case process gets it, with what holds for the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptSpec {
    /// The script.
    pub script: Script,
    /// The interpreter for Python.
    pub python: Option<PathBuf>,
    /// Where Python keeps what it has compiled, so that nothing is written into the tree.
    pub bytecode: PathBuf,
    /// The machine that the emulator uses by default, by its short name.
    pub default_machine: String,
    /// Nobody has chosen a cache mode, so that the script may.
    pub cache_is_default: bool,
    /// How the programs are run.
    pub tooling: Tooling,
}

/// What the programs of a script are run under.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tooling {
    /// valgrind.
    pub valgrind: bool,
    /// gdbserver, with these options.
    pub gdb: Option<String>,
    /// qemu-io misaligns its buffers.
    pub misalign: bool,
}

#[cfg(test)]
impl ScriptSpec {
    /// Of this script, as a run without options has it.
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
