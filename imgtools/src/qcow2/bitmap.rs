//! Persistent bitmaps.

use super::file::{Source, number};
use super::{Extension, Qcow2Error};

/// A bitmap, as the bitmap directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bitmap {
    /// Where its entry of the directory is in the file.
    pub entry_offset: u64,
    /// The offset of its table.
    pub table_offset: u64,
    /// The number of entries of its table.
    pub table_size: u32,
    /// The flags: bit 0 in use, 1 auto, 2 extra data is compatible.
    pub flags: u32,
    /// The type: 1 for a dirty bitmap.
    pub kind: u8,
    /// The bytes that a bit covers, as a power of two.
    pub granularity_bits: u8,
    /// The extra data.
    pub extra: Vec<u8>,
    /// The name.
    pub name: String,
}

/// QEMU's limit for the bitmaps of an image.
const MOST: u64 = 65535;

impl Bitmap {
    /// Whether it was not saved, so that its content cannot be trusted.
    pub fn is_in_use(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether it records writes when the image is opened.
    pub fn is_auto(&self) -> bool {
        self.flags & 2 != 0
    }

    pub(super) fn read_all(
        source: &Source,
        extension: &Extension,
    ) -> Result<Vec<Bitmap>, Qcow2Error> {
        let count = number(&extension.data, 0, 4);
        if count > MOST {
            return Err(source.wrong(format!("it has {count} bitmaps")));
        }
        let (size, start) = (
            number(&extension.data, 8, 8),
            number(&extension.data, 16, 8),
        );
        let directory = source.read("bitmap directory", start, size)?;
        let mut bitmaps = Vec::new();
        let mut rest = directory.as_slice();
        for _ in 0..count {
            let entry_offset = start + (directory.len() - rest.len()) as u64;
            let (extra, name) = (number(rest, 20, 4) as usize, number(rest, 18, 2) as usize);
            let length = 24usize.saturating_add(extra).saturating_add(name);
            let next = length.checked_next_multiple_of(8).unwrap_or(usize::MAX);
            if rest.len() < next {
                return Err(source.wrong("its bitmap directory is cut off"));
            }
            bitmaps.push(Bitmap {
                entry_offset,
                table_offset: number(rest, 0, 8),
                table_size: number(rest, 8, 4) as u32,
                flags: number(rest, 12, 4) as u32,
                kind: rest[16],
                granularity_bits: rest[17],
                extra: rest[24..24 + extra].to_vec(),
                name: String::from_utf8_lossy(&rest[24 + extra..length]).into_owned(),
            });
            rest = &rest[next..];
        }
        Ok(bitmaps)
    }
}

/// An entry of a bitmap table, as stored in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapTableEntry(pub u64);

impl BitmapTableEntry {
    /// The offset of the cluster of bits; `None` if there is none.
    pub fn offset(self) -> Option<u64> {
        Some(self.0 & 0x00ff_ffff_ffff_fe00).filter(|offset| *offset != 0)
    }

    /// Whether, without a cluster, all its bits are set.
    pub fn is_all_ones(self) -> bool {
        self.offset().is_none() && self.0 & 1 != 0
    }
}
