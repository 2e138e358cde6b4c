//! Bytes of an image's file: bounded reads, pokes, and the errors of both.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why metadata could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Error {
    /// The system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// The action.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a readable qcow2 image.
    #[error("failed to read {} as a qcow2 image: {reason}", path.display())]
    NotQcow2 {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image that cannot be created here.
    #[error("failed to make {}: {reason}", path.display())]
    Unmakeable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The image has incompatible features that are unknown here, so its content could be misread.
    #[error("failed to read {} as a qcow2 image: it has unknown incompatible features: {features}", path.display())]
    UnknownFeatures {
        /// Which file.
        path: PathBuf,
        /// The bits that are set and unknown.
        bits: u64,
        /// Those bits with their names from the image.
        features: String,
    },
    /// A structure is larger than QEMU ever creates or accepts.
    #[error("failed to read the {what} of {}: it is said to have {length} bytes at {offset:#x}", path.display())]
    TooLarge {
        /// What.
        what: &'static str,
        /// In which file.
        path: PathBuf,
        /// Its offset according to the image.
        offset: u64,
        /// Its length according to the image.
        length: u64,
    },
    /// A structure lies beyond the end of the file.
    #[error(
        "failed to read the {what} of {}: {length} bytes at {offset:#x} are not in its {size} bytes",
        path.display()
    )]
    OutOfFile {
        /// What.
        what: &'static str,
        /// In which file.
        path: PathBuf,
        /// Its offset according to the image.
        offset: u64,
        /// Its length according to the image.
        length: u64,
        /// The size of the file.
        size: u64,
    },
}

/// The largest single read. A sparse file may have any size, so its size does not bound the memory
/// needed to read it. Of QEMU's structures only the table of a bitmap with more than 2^40 bits
/// would be larger.
pub(super) const LARGEST: u64 = 256 << 20;

/// A file with bounds-checked reads.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source, Qcow2Error> {
        let file = File::open(path).map_err(at("open", path))?;
        let size = file.metadata().map_err(at("look at", path))?.len();
        Ok(Source {
            file: Arc::new(file),
            path: path.to_owned(),
            size,
        })
    }

    /// Fills a buffer from the file, with zeroes beyond its end.
    pub(super) fn read_to_the_end(
        &self,
        mut offset: u64,
        mut data: &mut [u8],
    ) -> Result<(), Qcow2Error> {
        while !data.is_empty() {
            let read = self.file.read_at(data, offset);
            match read.map_err(at("read", &self.path))? {
                0 => {
                    data.fill(0);
                    break;
                }
                count => {
                    offset += count as u64;
                    data = &mut data[count..];
                }
            }
        }
        Ok(())
    }

    /// Reads a piece. Its length is checked before memory is allocated.
    pub(super) fn read(
        &self,
        what: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, Qcow2Error> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        let Some(fits) = usize::try_from(length).ok().filter(|_| inside) else {
            let (path, size) = (self.path.clone(), self.size);
            return Err(Qcow2Error::OutOfFile {
                what,
                path,
                offset,
                length,
                size,
            });
        };
        if length > LARGEST {
            let path = self.path.clone();
            return Err(Qcow2Error::TooLarge {
                what,
                path,
                offset,
                length,
            });
        }
        let mut data = vec![0; fits];
        self.file.read_exact_at(&mut data, offset).map_err(at("read", &self.path))?;
        Ok(data)
    }

    /// Reads a table of 64-bit numbers.
    pub(super) fn table(
        &self,
        what: &'static str,
        offset: u64,
        entries: u64,
    ) -> Result<Vec<u64>, Qcow2Error> {
        let data = self.read(what, offset, entries.saturating_mul(8))?;
        let (entries, _) = data.as_chunks();
        Ok(entries.iter().map(|it| u64::from_be_bytes(*it)).collect())
    }

    pub(super) fn wrong(&self, reason: impl Into<String>) -> Qcow2Error {
        Qcow2Error::NotQcow2 {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// The big-endian number of this width at this position; bytes beyond the end count as 0.
pub(super) fn number(data: &[u8], position: usize, bytes: usize) -> u64 {
    let rest = data.get(position..).unwrap_or_default();
    let field = rest.get(..bytes).unwrap_or(rest);
    field.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

pub(super) fn at<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> Qcow2Error + 'p {
    move |source| Qcow2Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Writes bytes into a file, regardless of its format. The file grows if necessary.
pub fn poke(path: impl AsRef<Path>, offset: u64, bytes: &[u8]) -> Result<(), Qcow2Error> {
    let path = path.as_ref();
    let file = OpenOptions::new().write(true).open(path).map_err(at("open", path))?;
    file.write_all_at(bytes, offset).map_err(at("write", path))
}

/// Reads bytes of a file.
pub fn peek(path: impl AsRef<Path>, offset: u64, length: u64) -> Result<Vec<u8>, Qcow2Error> {
    Source::open(path.as_ref())?.read("bytes", offset, length)
}
