//! Content: writing a pattern, and verifying it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::{At, RawError};

/// The size of a sector in bytes.
pub const SECTOR: u64 = 512;

/// How much is read or written at once: less than what malloc gives back to the kernel.
const CHUNK: usize = 64 * 1024;

/// The first byte that differs from the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wrong {
    /// Where it is.
    pub offset: u64,
    /// The expected byte.
    pub expected: u8,
    /// The actual byte; `None` beyond the end of the file.
    pub found: Option<u8>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong {
            offset,
            expected,
            found,
        } = self;
        write!(
            f,
            "at offset {offset} ({offset:#x}) there should be {expected:#04x}, "
        )?;
        match found {
            Some(found) => write!(f, "and there is {found:#04x}"),
            None => f.write_str("and the file ends before"),
        }
    }
}

/// Fills a range of a file with this byte; the file grows if necessary.
pub fn fill(path: impl AsRef<Path>, range: Range<u64>, byte: u8) -> Result<(), RawError> {
    let path = path.as_ref();
    let mut file = OpenOptions::new().write(true).open(path).at("open", path)?;
    file.seek(SeekFrom::Start(range.start)).at("seek in", path)?;
    let mut left = range.end.saturating_sub(range.start);
    let chunk = vec![byte; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
    while left > 0 {
        let length = chunk.len().min(usize::try_from(left).unwrap_or(CHUNK));
        file.write_all(&chunk[..length]).at("write", path)?;
        left -= length as u64;
    }
    Ok(())
}

/// Verifies that all bytes of a range of a file have this value.
pub fn verify_fill(path: impl AsRef<Path>, range: Range<u64>, byte: u8) -> Result<(), RawError> {
    let path = path.as_ref();
    let wrong = |offset, found| RawError::Wrong {
        path: path.to_owned(),
        wrong: Wrong {
            offset,
            expected: byte,
            found,
        },
    };
    let mut file = File::open(path).at("open", path)?;
    file.seek(SeekFrom::Start(range.start)).at("seek in", path)?;
    let mut offset = range.start;
    let (mut found, expected) = (vec![0; CHUNK], vec![byte; CHUNK]);
    while offset < range.end {
        let want = found.len().min(usize::try_from(range.end - offset).unwrap_or(CHUNK));
        let count = file.read(&mut found[..want]).at("read", path)?;
        if count == 0 {
            return Err(wrong(offset, None));
        }
        let found = &found[..count];
        // All at once: byte by byte is slow in unoptimised builds.
        if *found != expected[..count] {
            let first = found.iter().take_while(|found| **found == byte).count();
            return Err(wrong(offset + first as u64, Some(found[first])));
        }
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Creates a file filled with this byte.
    fn filled(path: &Path, size: u64, byte: u8) {
        File::create(path).unwrap();
        fill(path, 0..size, byte).unwrap();
    }

    #[test]
    fn a_file_that_ends_too_early_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        filled(&path, 1000, 7);
        verify_fill(&path, 0..1000, 7).unwrap();
        let error = verify_fill(&path, 10..1001, 7).unwrap_err().to_string();
        assert!(
            error
                .ends_with("at offset 1000 (0x3e8) there should be 0x07, and the file ends before")
        );
        assert!(verify_fill(folder.path().join("y"), 0..1, 7).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_fill_is_found_where_it_is_and_only_there(
            before in 0u64..3000, length in 1u64..3000, after in 1u64..3000, wide in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            let length = if wide { length + 2 * CHUNK as u64 } else { length };
            let size = before + length + after;
            filled(&path, size, 1);
            fill(&path, before..before + length, 2).unwrap();
            prop_assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
            prop_assert!(verify_fill(&path, 0..before, 1).is_ok());
            prop_assert!(verify_fill(&path, before..before + length, 2).is_ok());
            prop_assert!(verify_fill(&path, before + length..size, 1).is_ok());
            match verify_fill(&path, 0..size, 1) {
                Err(RawError::Wrong { wrong, .. }) => prop_assert_eq!(wrong.offset, before),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
