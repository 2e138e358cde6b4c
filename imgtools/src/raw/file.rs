//! Content: writing what can be recognised, and recognising it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::{At, RawError};

/// The bytes of a sector.
pub const SECTOR: u64 = 512;

/// How much is read or written at once.
const CHUNK: usize = 1 << 20;

/// The first byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wrong {
    /// Where it is.
    pub offset: u64,
    /// What it should be.
    pub expected: u8,
    /// What it is; `None` behind the end of the file.
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

/// What a marked image has in this sector: the number of the sector at its beginning and at its end,
/// both as 32 bits, big-endian, and zeroes between. (As `create_image` of QEMU's iotests.py.)
pub fn marker(sector: u64) -> [u8; SECTOR as usize] {
    let number = (sector as u32).to_be_bytes();
    let mut data = [0; SECTOR as usize];
    data[..4].copy_from_slice(&number);
    data[508..].copy_from_slice(&number);
    data
}

/// Makes a fully allocated raw image in which each sector can be told from all others. A last part
/// of a sector has the beginning of its marker.
pub fn create_marked(path: impl AsRef<Path>, size: u64) -> Result<(), RawError> {
    let path = path.as_ref();
    let mut file = BufWriter::with_capacity(CHUNK, File::create(path).at("create", path)?);
    for sector in 0..size.div_ceil(SECTOR) {
        let length = (size - sector * SECTOR).min(SECTOR) as usize;
        file.write_all(&marker(sector)[..length])
            .at("write", path)?;
    }
    file.flush().at("write", path)
}

/// Verifies that a file has the markers of these sectors where [`create_marked`] puts them.
pub fn verify_marked(path: impl AsRef<Path>, sectors: Range<u64>) -> Result<(), RawError> {
    let range = sectors.start * SECTOR..sectors.end * SECTOR;
    verify(path.as_ref(), range, |mut offset, mut bytes| {
        while !bytes.is_empty() {
            let marker = marker(offset / SECTOR);
            let rest = &marker[(offset % SECTOR) as usize..];
            let (sector, behind) = bytes.split_at_mut(rest.len().min(bytes.len()));
            sector.copy_from_slice(&rest[..sector.len()]);
            offset += sector.len() as u64;
            bytes = behind;
        }
    })
}

/// Makes a file of this size in which all bytes are this one; of zeroes as well it is fully allocated.
pub fn create_filled(path: impl AsRef<Path>, size: u64, byte: u8) -> Result<(), RawError> {
    let path = path.as_ref();
    File::create(path).at("create", path)?;
    fill(path, 0..size, byte)
}

/// Writes this byte over a range of a file, which grows if it must.
pub fn fill(path: impl AsRef<Path>, range: Range<u64>, byte: u8) -> Result<(), RawError> {
    let path = path.as_ref();
    let mut file = OpenOptions::new().write(true).open(path).at("open", path)?;
    file.seek(SeekFrom::Start(range.start))
        .at("seek in", path)?;
    let mut left = range.end.saturating_sub(range.start);
    let chunk = vec![byte; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
    while left > 0 {
        let length = chunk.len().min(usize::try_from(left).unwrap_or(CHUNK));
        file.write_all(&chunk[..length]).at("write", path)?;
        left -= length as u64;
    }
    Ok(())
}

/// Verifies that all bytes of a range of a file are this one.
pub fn verify_fill(path: impl AsRef<Path>, range: Range<u64>, byte: u8) -> Result<(), RawError> {
    verify(path.as_ref(), range, |_, bytes| bytes.fill(byte))
}

/// `expect` fills in what should be at an offset.
fn verify(path: &Path, range: Range<u64>, expect: impl Fn(u64, &mut [u8])) -> Result<(), RawError> {
    let wrong = |offset, expected, found| RawError::Wrong {
        path: path.to_owned(),
        wrong: Wrong {
            offset,
            expected,
            found,
        },
    };
    let mut file = File::open(path).at("open", path)?;
    file.seek(SeekFrom::Start(range.start))
        .at("seek in", path)?;
    let mut offset = range.start;
    let (mut found, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    while offset < range.end {
        let want = found
            .len()
            .min(usize::try_from(range.end - offset).unwrap_or(CHUNK));
        let count = file.read(&mut found[..want]).at("read", path)?;
        let expected = &mut expected[..count.max(1)];
        expect(offset, expected);
        if count == 0 {
            return Err(wrong(offset, expected[0], None));
        }
        let found = &found[..count];
        // All at once: byte by byte it takes its time where nothing is optimised.
        if found != expected {
            let same = found.iter().zip(&*expected).take_while(|(a, b)| a == b);
            let first = same.count();
            let at = offset + first as u64;
            return Err(wrong(at, expected[first], Some(found[first])));
        }
        offset += count as u64;
    }
    Ok(())
}

/// Where two files differ first, if they do. A shorter one differs where it ends.
pub fn first_difference(a: impl AsRef<Path>, b: impl AsRef<Path>) -> Result<Option<u64>, RawError> {
    let open = |path: &Path| -> Result<BufReader<File>, RawError> {
        Ok(BufReader::with_capacity(
            CHUNK,
            File::open(path).at("open", path)?,
        ))
    };
    let (path_a, path_b) = (a.as_ref(), b.as_ref());
    let (mut a, mut b) = (open(path_a)?, open(path_b)?);
    let (mut data_a, mut data_b) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        read_chunk(&mut a, &mut data_a).at("read", path_a)?;
        read_chunk(&mut b, &mut data_b).at("read", path_b)?;
        if data_a != data_b {
            let same = data_a
                .iter()
                .zip(&data_b)
                .take_while(|(a, b)| a == b)
                .count();
            return Ok(Some(offset + same as u64));
        }
        if data_a.is_empty() {
            return Ok(None);
        }
        offset += data_a.len() as u64;
    }
}

/// Reads as much as there is, up to a chunk.
fn read_chunk(file: &mut impl Read, data: &mut Vec<u8>) -> std::io::Result<()> {
    data.clear();
    file.take(CHUNK as u64).read_to_end(data).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_marked_image_has_the_number_of_each_sector_at_both_ends_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        create_marked(&path, 3 * SECTOR + 2).unwrap();
        let data = std::fs::read(&path).unwrap();
        assert_eq!(data.len(), 3 * 512 + 2);
        assert_eq!(
            (&data[1024..1028], &data[1532..1536]),
            (&[0, 0, 0, 2][..], &[0, 0, 0, 2][..])
        );
        assert!(data[1028..1532].iter().all(|byte| *byte == 0));
        verify_marked(&path, 0..3).unwrap();
        fill(&path, 1535..1536, 9).unwrap();
        let RawError::Wrong { wrong, .. } = verify_marked(&path, 0..3).unwrap_err() else {
            panic!()
        };
        assert_eq!(
            wrong,
            Wrong {
                offset: 1535,
                expected: 2,
                found: Some(9)
            }
        );
        verify_marked(&path, 0..2).unwrap();
        // More than is read at once.
        create_marked(&path, 1 << 20).unwrap();
        verify_marked(&path, 3..2048).unwrap();
        fill(&path, 700_000..700_001, 9).unwrap();
        let error = verify_marked(&path, 3..2048).unwrap_err().to_string();
        assert!(error.contains("at offset 700000 "), "{error}");
    }

    #[test]
    fn a_file_that_ends_too_early_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        create_filled(&path, 1000, 7).unwrap();
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
            create_filled(&path, size, 1).unwrap();
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

        #[test]
        fn the_first_difference_is_the_first(
            data in prop::collection::vec(any::<u8>(), 1..2000),
            index in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (a, b) = (folder.path().join("a"), folder.path().join("b"));
            let index = index.index(data.len());
            let mut other = data.clone();
            if cut { other.truncate(index) } else { other[index] ^= 0x80 }
            std::fs::write(&a, &data).unwrap();
            std::fs::write(&b, &other).unwrap();
            prop_assert_eq!(first_difference(&a, &b).unwrap(), Some(index as u64));
            prop_assert_eq!(first_difference(&b, &a).unwrap(), Some(index as u64));
            prop_assert_eq!(first_difference(&a, &a).unwrap(), None);
        }
    }
}
