//! The runner: from the command line to the report.
//!
//! The program plays three roles: the *runner*; one *supervisor* per instance (`__supervise`); and,
//! forked from the supervisor, a *case process*. The runner plans, schedules and reports; the
//! supervisor proves that its case left nothing behind; only the case process touches QEMU.

mod app;
mod case_process;
mod cli;
mod config;
mod confine;
mod console;
mod error;
pub mod event;
mod evidence;
mod execute;
mod exit;
mod explain;
mod explore;
mod filter;
mod follow;
pub mod host;
mod imgopts;
mod instance;
mod jobs;
mod keep;
mod list;
mod mounts;
mod near;
mod new;
pub mod partition;
mod places;
mod plan;
mod probe;
pub mod record;
mod recordings;
mod records;
mod report;
mod review;
mod run;
mod rundir;
mod schedule;
mod select;
mod sets;
mod shell;
mod signals;
mod since;
mod skeleton;
mod sums;
mod supervise;
pub(crate) mod supervised;
mod surroundings;
mod tasks;
mod trace;
mod typed;
mod verdict;
mod words;
mod wrap;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

pub use config::ConfigError;
pub use error::RunError;
pub use exit::Exit;
pub use supervise::{End, Leak, Seen, SupervisorReport};
pub use verdict::{Attempt, Verdict, judge};

/// The whole program: `fn main() -> ExitCode { iotests_core::runner::main() }`, in a binary that
/// links the cases.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Parsing is skipped for a supervisor, which must start fast.
    let is_supervisor = arguments.get(1).is_some_and(|word| word == supervise::SUPERVISE);
    let arguments = match is_supervisor {
        true => arguments,
        false => match tasks::command_first(arguments) {
            Ok(arguments) => arguments,
            Err(error) => return app::refuse(&error),
        },
    };
    let word = |index: usize| arguments.get(index).and_then(|word| word.to_str());
    match (word(1), word(2)) {
        (Some(supervise::SUPERVISE), Some(spec)) => supervise::main(Path::new(spec)),
        (Some(shell::COMPLETIONS), shell) => shell::completions(shell).into(),
        (Some(shell::MAN), None) => shell::man().into(),
        (Some(new::NEW), name) => new::main(name).into(),
        (Some(explore::EXPLORE), _) => {
            trace::show(tracing::Level::WARN);
            app::main(explore::arguments(arguments))
        }
        _ => {
            trace::show(tracing::Level::WARN);
            app::main(tasks::arguments(arguments))
        }
    }
}

/// Starts this program again. Its path may be gone or hold a newer build by now: rebuilding during
/// a run replaces the file.
fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("iotests");
    command
}

/// The variable that holds the command a user typed if it is not this program's own name, such as
/// `cargo xtask iotests`.
const CALLED_AS: &str = "IOTESTS_CALLED_AS";

/// The command by which a user starts this program.
fn called_as() -> String {
    std::env::var(CALLED_AS).unwrap_or_else(|_| "iotests".to_owned())
}
