//! What runs the cases: from the command line to the report.
//!
//! The program plays three parts: the *runner*, for each instance a *supervisor* (`__supervise`), and below it a *case process* (`__case`).
//! The runner plans, schedules and reports; a supervisor proves that nothing is left of its case; only the case process touches QEMU.

mod app;
mod case_process;
mod cli;
mod confine;
mod console;
mod error;
pub mod event;
mod execute;
mod exit;
mod imgopts;
mod instance;
mod keep;
mod list;
mod mounts;
mod new;
mod places;
mod plan;
mod probe;
mod records;
mod report;
mod review;
mod run;
mod rundir;
mod schedule;
mod select;
mod sets;
mod signals;
mod supervise;
mod trace;
mod verdict;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

pub use error::RunError;
pub use exit::Exit;
pub use supervise::{End, Leak, SupervisorReport};
pub use verdict::{Attempt, Verdict, judge};

/// The whole program: `fn main() -> ExitCode { iotests_core::runner::main() }`, in a binary that links the cases.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let word = |index: usize| arguments.get(index).and_then(|word| word.to_str());
    match (word(1), word(2)) {
        (Some(supervise::SUPERVISE), Some(spec)) => supervise::main(Path::new(spec)),
        (Some(case_process::CASE), Some(spec)) => {
            case_process::main(Path::new(spec), word(3).unwrap_or_default())
        }
        (Some(new::NEW), name) => new::main(name).into(),
        _ => {
            trace::show(tracing::Level::WARN);
            app::main(arguments)
        }
    }
}

/// This program once more. Its path may meanwhile belong to another build of it, or to nothing: whoever changes a case and runs it while
/// a run is under way replaces the file.
fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("iotests");
    command
}

/// How a person started this program: `cargo xtask iotests` says so itself.
fn called_as() -> String {
    std::env::var("IOTESTS_CALLED_AS").unwrap_or_else(|_| "iotests".to_owned())
}
