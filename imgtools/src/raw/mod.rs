//! Raw images and plain files: patterns and holes.
//!
//! Offsets and lengths are in bytes. The functions block on file system I/O; they are meant for
//! images of megabytes.

mod file;
mod sparse;

pub use file::{SECTOR, Wrong, fill, verify_fill};
pub use sparse::{Extent, allocated, create_sparse, extents, punch_hole};

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RawError {
    /// The system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// The action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The data differs from the expected data.
    #[error("failed to find the expected data in {}: {wrong}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The first wrong byte.
        wrong: Wrong,
    },
}

/// Adds the action and the file to an error.
trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, RawError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, RawError> {
        self.map_err(|error| RawError::Io {
            action,
            path: path.to_owned(),
            source: error.into(),
        })
    }
}
