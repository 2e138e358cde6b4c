//! The errors of qemu-img, by operation.

use std::fmt;

use super::{CheckOutcome, MapExtent};
use crate::image::{FailureKind, NameError, failure_kinds};
use crate::process::{Output, ProcessError};

/// Why a call of qemu-img failed. Messages show the command and the tail of its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImgError {
    /// An image cannot be named as this call requires. Nothing was run.
    #[error(transparent)]
    Name(#[from] NameError),

    /// It did not run, timed out, was killed by a signal, or exited with a failure status.
    #[error(transparent)]
    Process(#[from] ProcessError),

    /// It printed unexpected JSON.
    #[error("failed to read the JSON that `{}` printed{}", output.command, output.tail())]
    Json {
        /// Its output.
        output: Box<Output>,
        /// What was wrong with it.
        source: serde_json::Error,
    },

    /// It printed unexpected text.
    #[error("failed to read what `{}` printed{}", .0.command, .0.tail())]
    Text(Box<Output>),

    /// `map` failed part-way.
    #[error(
        "failed to map the whole image: `{}` {} after {found} extents{}",
        output.command, output.status, output.tail()
    )]
    TruncatedMap {
        /// Its output.
        output: Box<Output>,
        /// How many extents it had found.
        found: u64,
        /// Those extents, unless they were streamed.
        extents: Vec<MapExtent>,
    },

    /// `compare` failed.
    #[error("failed to compare images ({phase}): `{}` {}{}", output.command, output.status, output.tail())]
    Compare {
        /// The phase in which it failed.
        phase: ComparePhase,
        /// Its output.
        output: Box<Output>,
    },

    /// `check` found that the image is not clean, where a clean one was expected.
    #[error("failed to find a clean image: {}", .0)]
    NotClean(Box<CheckOutcome>),
}

impl ImgError {
    /// The program's output and exit status, if it exited.
    pub fn output(&self) -> Option<&Output> {
        match self {
            ImgError::Name(_) => None,
            ImgError::Process(error) => error.output(),
            ImgError::Json { output, .. }
            | ImgError::Text(output)
            | ImgError::TruncatedMap { output, .. }
            | ImgError::Compare { output, .. } => Some(output),
            ImgError::NotClean(outcome) => Some(&outcome.output),
        }
    }

    /// The kind of failure, by QEMU's message.
    pub fn kind(&self) -> Option<FailureKind> {
        FailureKind::of(&self.output()?.stderr_text())
    }

    /// The exit status, if it exited.
    pub fn code(&self) -> Option<i32> {
        self.output().and_then(|output| output.status.code())
    }
}

failure_kinds!(ImgError);

/// What `compare` was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComparePhase {
    /// Parsing its command line, or anything else that ends with status 1 without reporting a
    /// difference. (QEMU exits with 1 for both "the images differ" and "wrong usage".)
    Usage,
    /// Opening an image (status 2).
    Open,
    /// Querying the allocation (status 3).
    BlockStatus,
    /// Reading data (status 4).
    Read,
}

impl fmt::Display for ComparePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ComparePhase::Usage => "usage",
            ComparePhase::Open => "open",
            ComparePhase::BlockStatus => "block status",
            ComparePhase::Read => "read",
        })
    }
}
