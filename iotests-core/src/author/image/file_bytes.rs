//! A snapshot of the file of an image, to see later whether it has changed.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgtools::raw;

use super::content::split;
use super::handle::Image;
use crate::author::content::{Wrong, is_filled};
use crate::author::failure::{CaseResult, Context, Failure};

/// How much is read and compared at once.
const AT_ONCE: u64 = 64 * 1024;

/// A snapshot of all bytes of an image's file: data, tables, header.
pub struct FileBytes {
    image: Image,
    bytes: Sparse,
}

/// The bytes of a file without its holes: most of a new image is holes.
struct Sparse {
    size: u64,
    data: Vec<(Range<u64>, Piece)>,
}

/// The bytes of a range.
enum Piece {
    /// All the same, as in most clusters that a case writes.
    Fill(u8),
    Other(Vec<u8>),
}

impl Image {
    /// Records the bytes of its file, to check later that they are unchanged.
    ///
    /// # Errors
    /// If the file cannot be read.
    #[track_caller]
    pub fn file_bytes(&self) -> CaseResult<FileBytes> {
        let bytes = Sparse::read(self.file()).context(format!("reading {self}"))?;
        let image = self.clone();
        Ok(FileBytes { image, bytes })
    }
}

impl FileBytes {
    /// Asserts that the bytes of the file are unchanged. A hole is the same as zeroes.
    ///
    /// # Errors
    /// States where the first change is.
    #[track_caller]
    pub fn assert_unchanged(&self) -> CaseResult {
        let (image, was) = (&self.image, self.bytes.size);
        let (changed, is) =
            self.bytes.first_change(image.file()).context(format!("reading {image}"))?;
        match changed {
            Some(Wrong {
                range,
                found,
                expected,
            }) => Err(Failure::new(format!(
                "the file {image} holds {found:#04x} at {:#x}, expected {expected:#04x} as before",
                range.start
            ))),
            None if is != was => Err(Failure::new(format!(
                "the file {image} has {is} bytes, expected {was} as before"
            ))),
            None => Ok(()),
        }
    }
}

impl Sparse {
    fn read(path: &Path) -> CaseResult<Sparse> {
        let file = File::open(path)?;
        let (size, data) = data(path)?;
        let mut buffer = [0; AT_ONCE as usize];
        let mut read = |range: Range<u64>| {
            let bytes = &mut buffer[..(range.end - range.start) as usize];
            file.read_exact_at(bytes, range.start)?;
            let piece = match is_filled(bytes, bytes[0]) {
                true => Piece::Fill(bytes[0]),
                false => Piece::Other(bytes.to_vec()),
            };
            Ok((range, piece))
        };
        let pieces = data.into_iter().flat_map(|range| split(range, AT_ONCE));
        Ok(Sparse {
            size,
            data: pieces.map(&mut read).collect::<CaseResult<_>>()?,
        })
    }

    /// The first byte that the file has changed, as far as both reach, and the size of the file.
    fn first_change(&self, path: &Path) -> CaseResult<(Option<Wrong>, u64)> {
        let file = File::open(path)?;
        let (size, mut ranges) = data(path)?;
        ranges.extend(self.data.iter().map(|(range, _)| range.clone()));
        ranges.sort_unstable_by_key(|range| range.start);
        let (mut found, mut expected) = ([0; AT_ONCE as usize], [0; AT_ONCE as usize]);
        let mut done = 0;
        for range in ranges {
            let end = range.end.min(size).min(self.size);
            for range in split(range.start.max(done)..end, AT_ONCE) {
                let length = (range.end - range.start) as usize;
                let (found, expected) = (&mut found[..length], &mut expected[..length]);
                file.read_exact_at(found, range.start)?;
                self.copy_to(expected, range.start);
                if found != expected {
                    let mut pairs = found.iter().zip(expected.iter());
                    let place = pairs.position(|(a, b)| a != b).unwrap_or_default();
                    let at = range.start + place as u64;
                    let wrong = Wrong {
                        range: at..at + 1,
                        found: found[place],
                        expected: expected[place],
                    };
                    return Ok((Some(wrong), size));
                }
            }
            done = done.max(end);
        }
        Ok((None, size))
    }

    /// Copies what was at this offset.
    fn copy_to(&self, buffer: &mut [u8], offset: u64) {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (range, piece) in &self.data {
            let (from, to) = (offset.max(range.start), end.min(range.end));
            if from >= to {
                continue;
            }
            let part = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            match piece {
                Piece::Fill(byte) => part.fill(*byte),
                Piece::Other(bytes) => {
                    let bytes = &bytes[(from - range.start) as usize..(to - range.start) as usize];
                    part.copy_from_slice(bytes);
                }
            }
        }
    }
}

/// The size of a file, and where it has data.
fn data(path: &Path) -> CaseResult<(u64, Vec<Range<u64>>)> {
    let extents = raw::extents(path)?;
    let size = extents.last().map_or(0, |last| last.range.end);
    let data = extents.into_iter().filter(|extent| extent.data);
    Ok((size, data.map(|extent| extent.range).collect()))
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBytes({}, {})", self.image, self.bytes.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 16 * 1024;

    /// What happens to a block: a hole, a fill, or its first byte is another.
    type Step = (u64, Option<u8>, bool);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0..12_u64, proptest::option::of(0_u8..3), any::<bool>());
        proptest::collection::vec(step, 0..8)
    }

    fn apply(path: &Path, steps: &[Step]) {
        for (block, fill, is_whole) in steps {
            let range = block * BLOCK..(block + 1) * BLOCK;
            match (fill, is_whole) {
                (Some(byte), true) => raw::fill(path, range, *byte).unwrap(),
                (Some(byte), false) => {
                    raw::fill(path, range.start..range.start + 1, *byte).unwrap()
                }
                (None, true) => raw::punch_hole(path, range).unwrap(),
                (None, false) => {
                    File::options().write(true).open(path).unwrap().set_len(range.end).unwrap();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_first_change_is_the_one_that_comparing_all_bytes_finds(before in steps(), after in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            raw::create_sparse(&path, 5 * BLOCK + 7).unwrap();
            apply(&path, &before);
            let (recorded, was) = (Sparse::read(&path).unwrap(), std::fs::read(&path).unwrap());
            apply(&path, &after);
            let is = std::fs::read(&path).unwrap();
            let expected = was.iter().zip(&is).position(|(a, b)| a != b).map(|at| (at as u64, is[at], was[at]));
            let (change, size) = recorded.first_change(&path).unwrap();
            prop_assert_eq!(change.map(|it| (it.range.start, it.found, it.expected)), expected);
            prop_assert_eq!((recorded.size, size), (was.len() as u64, is.len() as u64));
        }
    }
}
