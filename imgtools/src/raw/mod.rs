//! Raw images and plain files: patterns and holes.
//!
//! Offsets and lengths are in bytes. The functions block for as long as the file system does; they are
//! meant for images of megabytes.

mod file;
mod sparse;

pub use file::{SECTOR, Wrong, fill, verify_fill};
pub use sparse::{Extent, allocated, create_sparse, extents, punch_hole};

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RawError {
    /// The system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data is not what it should be.
    #[error("failed to find the expected data in {}: {wrong}", path.display())]
    Wrong {
        /// In which file.
        path: PathBuf,
        /// Where, and what is there.
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
