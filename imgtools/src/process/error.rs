//! The errors of running a process, by phase.

use std::io;
use std::time::Duration;

use super::{CommandLine, Output, Status, Time};

/// Why a process could not be run, or why it failed.
///
/// The output in a variant is complete up to the exit of the process. Messages show the command and
/// the tail of the output, without secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The process could not be started.
    #[error("failed to start `{command}`")]
    Spawn {
        /// The command.
        command: Box<CommandLine>,
        /// The system's error.
        source: io::Error,
    },

    /// The deadline passed. The process group was terminated, and killed if that did not help.
    #[error(
        "failed to finish within {}: `{}` {}{}",
        Time(*deadline), output.command, late(output, *exited), output.tail()
    )]
    Deadline {
        /// The output and status after it was ended.
        output: Box<Output>,
        /// The deadline.
        deadline: Duration,
        /// Whether the process itself had exited in time, and only another process that it left
        /// behind still held its output open.
        exited: bool,
    },

    /// The exit status was not one of those expected.
    #[error("failed to run `{}`: it {}{}", .0.command, .0.status, .0.tail())]
    Status(Box<Output>),

    /// A signal ended the process.
    #[error("failed to run `{}` to its end: it {}{}", .0.command, .0.status, .0.tail())]
    Signal(Box<Output>),

    /// The process ran under valgrind, which has found errors in it.
    #[error("failed to run `{}` without errors found by valgrind{}", .0.command, .0.tail())]
    Valgrind(Box<Output>),

    /// The process could no longer be watched; it was killed.
    #[error("failed to watch `{command}`")]
    Watch {
        /// The command.
        command: Box<CommandLine>,
        /// The system's error.
        source: io::Error,
    },

    /// The process could not even be killed: it hangs in the kernel.
    #[error("failed to kill `{command}`: it does not leave the kernel")]
    Unkillable {
        /// The command.
        command: Box<CommandLine>,
    },
}

impl ProcessError {
    /// The output of the process, if it exited.
    pub fn output(&self) -> Option<&Output> {
        match self {
            ProcessError::Deadline { output, .. }
            | ProcessError::Status(output)
            | ProcessError::Signal(output)
            | ProcessError::Valgrind(output) => Some(output),
            ProcessError::Spawn { .. }
            | ProcessError::Watch { .. }
            | ProcessError::Unkillable { .. } => None,
        }
    }

    /// How the process ended, if it was started and exited.
    pub fn status(&self) -> Option<Status> {
        self.output().map(|output| output.status)
    }
}

fn late(output: &Output, exited: bool) -> String {
    if exited {
        format!(
            "{}, but another process still held its output open",
            output.status
        )
    } else {
        format!("was still running, and {}", output.status)
    }
}
