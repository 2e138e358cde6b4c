//! The errors of building and launching.

use crate::accel::NoPlan;
use imgtools::process::{CommandLine, Output, ProcessError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is wrong with a builder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A descriptor for the process could not be created.
    #[error("failed to make a descriptor for {what}")]
    Descriptor {
        /// What it was for.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// An argument contains a NUL byte, which a command line cannot.
    #[error("failed to build a command line with {word:?}: it holds a NUL byte")]
    NulByte {
        /// The argument.
        word: String,
    },
    /// Even the file name alone does not fit a socket address.
    #[error("failed to shorten the socket path {}: its last component alone is too long", path.display())]
    SocketName {
        /// The path.
        path: PathBuf,
    },
}

/// Why a binary could not be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFailure {
    /// There is no such file.
    Missing,
    /// It is a directory.
    Directory,
    /// It is not executable.
    NotExecutable,
    /// Its working directory does not exist.
    WorkingDirectory,
    /// It is not a program for this host: another architecture, or not a program at all.
    WrongFormat,
    /// The host ran out of processes, memory or descriptors.
    Resources,
    /// Something else; see the source.
    Other,
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StartFailure::Missing => "there is no such program",
            StartFailure::Directory => "it is a directory",
            StartFailure::NotExecutable => "it may not be executed",
            StartFailure::WorkingDirectory => "the directory to run it in does not exist",
            StartFailure::WrongFormat => "it is not a program for this host's architecture",
            StartFailure::Resources => "the host ran out of processes, memory or descriptors",
            StartFailure::Other => "the system refused",
        })
    }
}

/// Why a machine could not be launched. Anything that was started is dead and reaped when this is
/// returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The builder is at fault.
    #[error("failed to build the command line of {name}")]
    Build {
        /// The machine's name in messages.
        name: String,
        /// The first mistake.
        source: Arc<BuildError>,
    },
    /// The binary does not support the requested mode.
    #[error(transparent)]
    Mode(NoPlan),
    /// A socket or a descriptor for the process could not be created.
    #[error("failed to make {what} for {name}")]
    Descriptor {
        /// The machine's name in messages.
        name: String,
        /// What it was.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program could not be executed.
    #[error("failed to execute {}: {why}", program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        why: StartFailure,
        /// The system's error, if it refused.
        source: Option<Box<ProcessError>>,
    },
    /// The process ended before its monitor was ready.
    #[error("failed to launch {name}: it {} before its monitor was ready\n  command: {}{}", output.status, output.command, output.tail())]
    Exited {
        /// The machine's name in messages.
        name: String,
        /// Command, status and all output.
        output: Box<Output>,
    },
    /// The monitor failed although the process was running; it was killed.
    #[error("failed to negotiate with the monitor of {name}\n  command: {}{}", output.command, output.tail())]
    Monitor {
        /// The machine's name in messages.
        name: String,
        /// Command and all output.
        output: Box<Output>,
        /// What went wrong.
        source: Box<qmp::Error>,
    },
    /// The monitor was not ready in time; the process was killed.
    #[error("failed to launch {name} within {deadline:?}\n  command: {}{}\n{diagnosis}", output.command, output.tail())]
    TimedOut {
        /// The machine's name in messages.
        name: String,
        /// The budget.
        deadline: Duration,
        /// Command and all output.
        output: Box<Output>,
        /// What it was doing.
        diagnosis: Box<crate::diagnose::Diagnosis>,
    },
    /// The process could no longer be watched.
    #[error("failed to watch {name}: {command}")]
    Lost {
        /// The machine's name in messages.
        name: String,
        /// Its command.
        command: Box<CommandLine>,
        /// Why.
        source: Box<ProcessError>,
    },
}

impl LaunchError {
    /// The output of the process, if there was one.
    #[must_use]
    pub fn output(&self) -> Option<&Output> {
        match self {
            LaunchError::Exited { output, .. }
            | LaunchError::Monitor { output, .. }
            | LaunchError::TimedOut { output, .. } => Some(output),
            _ => None,
        }
    }
}
