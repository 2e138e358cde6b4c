//! Why a qemu-nbd could not be run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use imgtools::process::{Output, ProcessError};

use crate::uri::Address;

/// A qemu-nbd could not be started, queried or stopped. Messages show the command and its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuNbdError {
    /// The socket to pass on could not be created.
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
    /// It exited before sending its greeting.
    #[error("failed to serve: `{}` {} before it was ready{}", .0.command, .0.status, .0.tail())]
    Exited(Box<Output>),
    /// Its greeting did not arrive in time.
    #[error("failed to serve within {after:?}: `{}` was killed{}", output.command, output.tail())]
    NotReady {
        /// Its output, and its status after it was killed.
        output: Box<Output>,
        /// The timeout.
        after: Duration,
    },
    /// It had to be killed, because SIGTERM did not end it.
    #[error("failed to stop: `{}` had to be killed{}", .0.command, .0.tail())]
    Killed(Box<Output>),
    /// A file of ours could not be created, read or removed.
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
    /// The output of `--list` has a line that could not be parsed.
    #[error("failed to read the list of exports: line {line:?} can be read in two ways or in none")]
    Listing {
        /// The line.
        line: String,
    },
}
