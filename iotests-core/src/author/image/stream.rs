//! The content of an image, read from start to end: most checks need no more of it at once than
//! a block.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgtools::{qcow2, raw};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use crate::author::failure::{CaseResult, Context};

/// The bytes of an image, not yet read.
pub(super) struct Stream {
    pub(super) size: u64,
    pub(super) data: Box<dyn Read + Send>,
}

impl Stream {
    /// The bytes of a file. It may be removed while they are read. Its file system is trusted about
    /// holes, unless that is a program's own, which may be what is under test.
    pub(super) fn open(path: &Path) -> CaseResult<Self> {
        let reading = || format!("reading {}", path.display());
        let file = File::open(path).context(reading())?;
        let size = file.metadata().context(reading())?.len();
        let is_fuse = fstatfs(&file).context(reading())?.filesystem_type() == FUSE_SUPER_MAGIC;
        let data: Box<dyn Read + Send> = match is_fuse {
            true => Box::new(file),
            false => Box::new(WithHoles {
                file,
                extents: raw::extents(path).context(reading())?,
                position: 0,
            }),
        };
        Ok(Stream { size, data })
    }

    /// All of them.
    pub(super) fn bytes(mut self) -> CaseResult<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(self.size)?)?;
        self.data.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A file whose holes are not read: the kernel would fill memory with zeroes for them.
struct WithHoles {
    file: File,
    extents: Vec<raw::Extent>,
    position: u64,
}

impl Read for WithHoles {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let next = self.extents.partition_point(|extent| extent.range.end <= self.position);
        let Some(raw::Extent { range, data }) = self.extents.get(next) else {
            return Ok(0);
        };
        let left = usize::try_from(range.end - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let part = &mut buffer[..length];
        let count = match data {
            true => self.file.read_at(part, self.position)?,
            false => {
                part.fill(0);
                length
            }
        };
        self.position += count as u64;
        Ok(count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_holes_reads_as_it_is_to_its_end() {
        const BLOCK: u64 = 64 * 1024;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        raw::create_sparse(&path, 5 * BLOCK + 7).unwrap();
        raw::fill(&path, BLOCK..2 * BLOCK, 1).unwrap();
        raw::fill(&path, 4 * BLOCK..4 * BLOCK + 3, 2).unwrap();
        let stream = Stream::open(&path).unwrap();
        assert_eq!(stream.size, 5 * BLOCK + 7);
        assert!(stream.bytes().unwrap() == std::fs::read(&path).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(Stream::open(&path).unwrap().bytes().unwrap().is_empty());
    }
}
