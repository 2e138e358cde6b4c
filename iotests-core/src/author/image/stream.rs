//! The content of an image, read from start to end: most checks need no more of it at once than
//! a block.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use imgtools::qcow2;

use crate::author::failure::{CaseResult, Context};

/// The bytes of an image, not yet read.
pub(super) struct Stream {
    pub(super) size: u64,
    pub(super) data: Box<dyn Read + Send>,
}

impl Stream {
    /// The bytes of a file. It may be removed while they are read.
    pub(super) fn open(path: &Path) -> CaseResult<Self> {
        let reading = || format!("reading {}", path.display());
        let file = File::open(path).context(reading())?;
        Ok(Stream {
            size: file.metadata().context(reading())?.len(),
            data: Box::new(file),
        })
    }

    /// All of them.
    pub(super) fn bytes(mut self) -> CaseResult<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.size)?);
        self.data.read_to_end(&mut bytes).context("reading an image")?;
        Ok(bytes)
    }
}

impl From<qcow2::Contents> for Stream {
    fn from(contents: qcow2::Contents) -> Self {
        Stream {
            size: contents.size(),
            data: Box::new(contents),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("size", &self.size).finish_non_exhaustive()
    }
}
