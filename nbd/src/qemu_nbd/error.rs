//! Why a qemu-nbd could not be had.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use imgtools::process::{Output, ProcessError};

use crate::uri::Address;

/// A qemu-nbd could not be started, asked or stopped. Messages show the command and its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuNbdError {
    /// The socket that was to be handed over could not be made.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The process could not be run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It ended before its greeting came.
    #[error("failed to serve: `{}` {} before it was ready{}", .0.command, .0.status, .0.tail())]
    Exited(Box<Output>),
    /// Its greeting did not come in time.
    #[error("failed to serve within {after:?}: `{}` was killed{}", output.command, output.tail())]
    NotReady {
        /// What it had printed, and how it ended when it was killed.
        output: Box<Output>,
        /// The time it had.
        after: Duration,
    },
    /// It had to be killed, because SIGTERM did not end it.
    #[error("failed to stop: `{}` had to be killed{}", .0.command, .0.tail())]
    Killed(Box<Output>),
    /// A file of ours could not be made, read or removed.
    #[error("failed to use {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon could not be watched.
    #[error("failed to watch process {pid}")]
    Watch {
        /// Its id.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// What `--list` printed has a line that is not understood.
    #[error("failed to read the list of exports: line {line:?} can be read in two ways or in none")]
    Listing {
        /// The line.
        line: String,
    },
}
