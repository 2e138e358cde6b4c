//! The errors of qemu-img, by what was being done.

use std::fmt;

use super::{CheckOutcome, MapExtent};
use crate::image::{FailureKind, NameError, failure_kinds};
use crate::process::{Output, ProcessError};

/// Why a call of qemu-img has no answer. Messages show the command and the tail of its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImgError {
    /// An image cannot be named as this call must name it. Nothing was run.
    #[error(transparent)]
    Name(#[from] NameError),

    /// It did not run, took too long, was killed by a signal, or exited with a status that means a
    /// failure.
    #[error(transparent)]
    Process(#[from] ProcessError),

    /// It printed JSON that is not what this subcommand prints.
    #[error("failed to read the JSON that `{}` printed{}", output.command, output.tail())]
    Json {
        /// What it printed.
        output: Box<Output>,
        /// What was wrong with it.
        source: serde_json::Error,
    },

    /// It printed a text that is not what this subcommand prints.
    #[error("failed to read what `{}` printed{}", .0.command, .0.tail())]
    Text(Box<Output>),

    /// `map` failed on its way.
    #[error(
        "failed to map the whole image: `{}` {} after {found} extents{}",
        output.command, output.status, output.tail()
    )]
    TruncatedMap {
        /// What it printed.
        output: Box<Output>,
        /// How many extents it had found before.
        found: u64,
        /// Those extents, unless they were given out as they came.
        extents: Vec<MapExtent>,
    },

    /// `compare` could not compare.
    #[error("failed to compare images ({phase}): `{}` {}{}", output.command, output.status, output.tail())]
    Compare {
        /// What it was doing.
        phase: ComparePhase,
        /// What it printed.
        output: Box<Output>,
    },

    /// `check` found that the image is not clean, where a clean one was expected.
    #[error("failed to find a clean image: {}", .0)]
    NotClean(Box<CheckOutcome>),
}

impl ImgError {
    /// What the program printed and how it exited, if it came to its end.
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

    /// What kind of failure it is, by QEMU's message.
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
    /// Reading its command line, or anything else that ends with status 1 and no word on a
    /// difference. (QEMU exits with 1 for both "the images differ" and "wrong usage".)
    Usage,
    /// Opening an image (status 2).
    Open,
    /// Finding out what is allocated (status 3).
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
