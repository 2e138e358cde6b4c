//! Reviews pending goldens one by one.

use std::path::{Path, PathBuf};

use super::store::split_origin;
use super::{Style, diff};

/// A golden that awaits review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The name that the golden would have, below the sources: `nbd/block_status.map.golden`.
    pub name: String,
    /// The pending file.
    pub path: PathBuf,
    /// The origin of the text: the instance, its line, the version of QEMU.
    pub origin: Option<String>,
    /// The current content of the golden, if there is one.
    pub accepted: Option<String>,
    /// Its new content.
    pub text: String,
}

impl Pending {
    /// The diff between the two.
    #[must_use]
    pub fn diff(&self, style: Style) -> String {
        diff(self.accepted.as_deref().unwrap_or(""), &self.text, style)
    }

    fn golden(&self) -> PathBuf {
        self.path.with_extension("")
    }
}

/// What to do with a pending golden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Replace the golden with it.
    Accept,
    /// Delete it.
    Reject,
    /// Keep it pending.
    Skip,
}

/// The numbers of goldens that were accepted, rejected and left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Accepted as goldens.
    pub accepted: usize,
    /// Deleted.
    pub rejected: usize,
    /// Still pending.
    pub left: usize,
}

/// Why a review stopped.
#[derive(Debug, thiserror::Error)]
#[error("failed to review {}", path.display())]
pub struct ReviewError {
    /// The file or directory.
    pub path: PathBuf,
    /// The error.
    pub source: std::io::Error,
}

/// All pending goldens below `sources`, sorted by name.
///
/// # Errors
/// If a directory or file there cannot be read.
pub fn pending(sources: &Path) -> Result<Vec<Pending>, ReviewError> {
    let mut found = Vec::new();
    let mut directories = vec![sources.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |source| ReviewError {
            path: directory.clone(),
            source,
        };
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.to_string_lossy().ends_with(".pending") {
                found.push(read(sources, path)?);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(sources: &Path, path: PathBuf) -> Result<Pending, ReviewError> {
    let golden = path.with_extension("");
    let name = golden.strip_prefix(sources).unwrap_or(&golden).to_string_lossy().into_owned();
    let text = std::fs::read_to_string(&path).map_err(|source| ReviewError {
        path: path.clone(),
        source,
    })?;
    let accepted = match std::fs::read_to_string(&golden) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(ReviewError {
                path: golden,
                source,
            });
        }
    };
    let (origin, text) = split_origin(&text);
    Ok(Pending {
        name,
        path,
        origin: origin.map(str::to_owned),
        accepted,
        text: text.to_owned(),
    })
}

/// Asks what to do with each pending golden below `sources`, and does it.
///
/// # Errors
/// If a file cannot be read, renamed or deleted. Earlier decisions remain in effect.
pub fn review(
    sources: &Path,
    ask: &mut dyn FnMut(&Pending) -> Answer,
) -> Result<Summary, ReviewError> {
    let mut summary = Summary::default();
    for pending in pending(sources)? {
        let failed = |source| ReviewError {
            path: pending.path.clone(),
            source,
        };
        match ask(&pending) {
            Answer::Accept => {
                // Without the origin, which would be a change in each review.
                std::fs::write(&pending.path, &pending.text).map_err(failed)?;
                std::fs::rename(&pending.path, pending.golden()).map_err(failed)?;
                summary.accepted += 1;
            }
            Answer::Reject => {
                std::fs::remove_file(&pending.path).map_err(failed)?;
                summary.rejected += 1;
            }
            Answer::Skip => summary.left += 1,
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_goldens_are_accepted_rejected_or_left_as_answered() {
        let sources = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = sources.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/x.one.golden", "old\n");
        write(
            "a/x.one.golden.pending",
            "# from a::x::one@raw, QEMU 9\nnew\n",
        );
        write("a/y.two.golden.pending", "new\n");
        write("b/z.three.golden.pending", "new\n");
        write("b/z.rs", "");

        let mut asked = Vec::new();
        let summary = review(sources.path(), &mut |pending| {
            asked.push((pending.name.clone(), pending.diff(Style::Plain)));
            let origin = pending.name.starts_with("a/x").then_some("a::x::one@raw, QEMU 9");
            assert_eq!(pending.origin.as_deref(), origin);
            [Answer::Accept, Answer::Reject, Answer::Skip][asked.len() - 1]
        });

        assert_eq!(
            summary.unwrap(),
            Summary {
                accepted: 1,
                rejected: 1,
                left: 1
            }
        );
        assert_eq!(asked[0].0, "a/x.one.golden");
        assert!(asked[0].1.contains("-old\n+new\n"), "{}", asked[0].1);
        let read = |name: &str| std::fs::read_to_string(sources.path().join(name));
        assert_eq!(read("a/x.one.golden").unwrap(), "new\n");
        assert!(read("a/y.two.golden").is_err() && read("a/y.two.golden.pending").is_err());
        assert_eq!(pending(sources.path()).unwrap().len(), 1);
    }
}
