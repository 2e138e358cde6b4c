//! Holes: finding the allocated parts of a file, and deallocating them.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::{At, RawError};

/// A part of a file that is data, or that is a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it is.
    pub range: Range<u64>,
    /// Whether it is data.
    pub data: bool,
}

/// Creates a file of this size that is one hole.
pub fn create_sparse(path: impl AsRef<Path>, size: u64) -> Result<(), RawError> {
    let path = path.as_ref();
    File::create(path).at("create", path)?.set_len(size).at("set the size of", path)
}

/// The data and holes of a file, by `SEEK_DATA` and `SEEK_HOLE`. A file system without holes
/// reports everything as data; holes smaller than a block are not reported.
pub fn extents(path: impl AsRef<Path>) -> Result<Vec<Extent>, RawError> {
    let path = path.as_ref();
    let file = File::open(path).at("open", path)?;
    let size = file.metadata().at("look at", path)?.len();
    let mut found = Vec::new();
    let mut start = 0;
    while start < size {
        let data = match rustix::fs::seek(&file, SeekFrom::Data(start)) {
            Ok(data) => data.min(size),
            // No data from here on.
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error).at("look for data in", path),
        };
        if data > start {
            found.push(Extent {
                range: start..data,
                data: false,
            });
        }
        start = data;
        if start < size {
            let hole =
                rustix::fs::seek(&file, SeekFrom::Hole(start)).at("look for holes in", path)?;
            let hole = hole.clamp(start + 1, size);
            found.push(Extent {
                range: start..hole,
                data: true,
            });
            start = hole;
        }
    }
    Ok(found)
}

/// The allocated size of a file.
pub fn allocated(path: impl AsRef<Path>) -> Result<u64, RawError> {
    let path = path.as_ref();
    // The unit of `st_blocks` is 512 whatever the file system's blocks are.
    Ok(std::fs::metadata(path).at("look at", path)?.blocks() * 512)
}

/// Punches a hole that reads as zeroes into a file, without changing its size.
pub fn punch_hole(path: impl AsRef<Path>, range: Range<u64>) -> Result<(), RawError> {
    let path = path.as_ref();
    let file = OpenOptions::new().write(true).open(path).at("open", path)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let length = range.end.saturating_sub(range.start);
    if length == 0 {
        // The system rejects an empty range; here it is as valid as an empty fill.
        return Ok(());
    }
    rustix::fs::fallocate(&file, flags, range.start, length).at("punch a hole into", path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{fill, verify_fill};
    use super::*;

    const BLOCK: u64 = 64 * 1024;

    #[test]
    fn a_sparse_file_is_a_hole_and_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        create_sparse(&path, 1 << 40).unwrap();
        assert_eq!(
            extents(&path).unwrap(),
            [Extent {
                range: 0..1 << 40,
                data: false
            }]
        );
        assert_eq!(allocated(&path).unwrap(), 0);
        punch_hole(&path, 512..512).unwrap();
        create_sparse(&path, 0).unwrap();
        assert_eq!(extents(&path).unwrap(), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn holes_are_where_they_were_made(blocks in prop::collection::vec(any::<bool>(), 1..12)) {
            let folder = tempfile::tempdir().unwrap();
            let (punched, written) = (folder.path().join("punched"), folder.path().join("written"));
            let size = blocks.len() as u64 * BLOCK;
            create_sparse(&punched, size).unwrap();
            fill(&punched, 0..size, 1).unwrap();
            create_sparse(&written, size).unwrap();
            let mut expected: Vec<Extent> = Vec::new();
            for (index, data) in blocks.iter().enumerate() {
                let range = index as u64 * BLOCK..(index as u64 + 1) * BLOCK;
                match data {
                    true => fill(&written, range.clone(), 1).unwrap(),
                    false => {
                        punch_hole(&punched, range.clone()).unwrap();
                        verify_fill(&punched, range.clone(), 0).unwrap();
                    }
                }
                match expected.last_mut() {
                    Some(last) if last.data == *data => last.range.end = range.end,
                    _ => expected.push(Extent { range, data: *data }),
                }
            }
            prop_assert_eq!(&extents(&punched).unwrap(), &expected);
            prop_assert_eq!(&extents(&written).unwrap(), &expected);
        }
    }
}
