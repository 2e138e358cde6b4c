//! Paths in JSON.

use std::path::{Path, PathBuf};

/// A path that JSON, which is UTF-8, cannot represent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to name {} in JSON: it is not UTF-8; rename the file, or name it by a link", path.display()
)]
#[non_exhaustive]
pub struct PathError {
    /// The path.
    pub path: PathBuf,
}

/// The path as a JSON string.
pub(super) fn utf8(path: &Path) -> Result<&str, PathError> {
    path.to_str().ok_or_else(|| PathError {
        path: path.to_owned(),
    })
}
