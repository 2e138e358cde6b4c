//! An image: its tables, and the file offset of each of their entries.

use std::path::Path;

use super::entry::RESERVED_REFCOUNT;
use super::file::{LARGEST, Source, number};
use super::{
    Bitmap, BitmapTableEntry, Extension, Header, L1Entry, L2Entry, Mapping, Qcow2Error, Snapshot,
};

/// The incompatible features that are supported here: dirty, corrupt, data file, compression type
/// and extended L2 entries.
const KNOWN_FEATURES: u64 = 0b1_1111;

/// A qcow2 image, open for reading.
#[derive(Debug)]
pub struct Image {
    pub(super) source: Source,
    header: Header,
}

impl Image {
    /// Opens a file and reads its header. Unknown incompatible features are an error.
    pub fn open(path: impl AsRef<Path>) -> Result<Image, Qcow2Error> {
        let image = Image::open_with_any_features(path)?;
        let bits = image.header.incompatible_features & !KNOWN_FEATURES;
        match bits {
            0 => Ok(image),
            bits => Err(Qcow2Error::UnknownFeatures {
                path: image.source.path().to_owned(),
                bits,
                features: image.feature_names(bits),
            }),
        }
    }

    /// The bits, each with its name from the image.
    fn feature_names(&self, bits: u64) -> String {
        let table = self.extension(Extension::FEATURE_NAMES).ok().flatten();
        let name = |bit: u8| {
            let entries = table.iter().flat_map(|table| table.data.chunks_exact(48));
            // The kind of feature, 0 for the incompatible ones; the bit; the name, padded by zeroes.
            let entry = entries.into_iter().find(|entry| entry[..2] == [0, bit])?;
            let name = entry[2..].split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        };
        let named = (0..64u8).filter(|bit| bits >> bit & 1 == 1).map(|bit| match name(bit) {
            Some(name) => format!("bit {bit} ({name})"),
            None => format!("bit {bit}"),
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Opens a file and reads its header, whatever features it has: its content may then be
    /// misinterpreted.
    pub fn open_with_any_features(path: impl AsRef<Path>) -> Result<Image, Qcow2Error> {
        let source = Source::open(path.as_ref())?;
        let header = Header::read(&source)?;
        Ok(Image { source, header })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The name of the backing file, as recorded in the image.
    pub fn backing_file(&self) -> Result<Option<String>, Qcow2Error> {
        if self.header.backing_file_offset == 0 {
            return Ok(None);
        }
        let (offset, size) = (
            self.header.backing_file_offset,
            self.header.backing_file_size,
        );
        let name = self.source.read("backing file name", offset, size.into())?;
        Ok(Some(String::from_utf8_lossy(&name).into_owned()))
    }

    /// The header extensions.
    pub fn extensions(&self) -> Result<Vec<Extension>, Qcow2Error> {
        self.header.extensions(&self.source)
    }

    /// The first header extension of this kind.
    pub fn extension(&self, kind: u32) -> Result<Option<Extension>, Qcow2Error> {
        let mut all = self.extensions()?.into_iter();
        Ok(all.find(|extension| extension.kind == kind))
    }

    /// The L1 table.
    pub fn l1_table(&self) -> Result<Vec<L1Entry>, Qcow2Error> {
        let table = self.source.table(
            "L1 table",
            self.header.l1_table_offset,
            self.header.l1_size.into(),
        )?;
        Ok(table.into_iter().map(L1Entry).collect())
    }

    /// The file offset of an L2 table, and the table; `None` if there is none.
    pub fn l2_table(&self, l1_index: usize) -> Result<Option<(u64, Vec<L2Entry>)>, Qcow2Error> {
        match self.l1_table()?.get(l1_index) {
            Some(entry) => {
                let table = self.l2_table_of(*entry)?;
                Ok(table.map(|(offset, entries)| (offset, entries.collect())))
            }
            None => Ok(None),
        }
    }

    /// The L2 table of an L1 entry, and its offset.
    pub(super) fn l2_table_of(
        &self,
        l1: L1Entry,
    ) -> Result<Option<(u64, impl Iterator<Item = L2Entry>)>, Qcow2Error> {
        let Some(offset) = l1.l2_offset() else {
            return Ok(None);
        };
        let table = self.source.read("L2 table", offset, self.header.cluster_size())?;
        // Decoded one by one: most users look at each entry once, and need no second table.
        let word = move |number: usize| u64::from_be_bytes(table.as_chunks().0[number]);
        let is_extended = self.header.has_extended_l2();
        let entries = (0..self.header.l2_entries() as usize).map(move |number| match is_extended {
            false => L2Entry {
                entry: word(number),
                subclusters: 0,
            },
            true => L2Entry {
                entry: word(2 * number),
                subclusters: word(2 * number + 1),
            },
        });
        Ok(Some((offset, entries)))
    }

    /// The file offset of the L2 entry for this guest offset, and the entry; `None` if there is no
    /// L2 table for it.
    pub fn l2_entry(&self, guest: u64) -> Result<Option<(u64, L2Entry)>, Qcow2Error> {
        let (entries, cluster) = (self.header.l2_entries(), guest >> self.header.cluster_bits);
        let Ok(l1_index) = usize::try_from(cluster / entries) else {
            return Ok(None);
        };
        let Some(l1) = self.l1_table()?.get(l1_index).copied() else {
            return Ok(None);
        };
        let Some((table, mut found)) = self.l2_table_of(l1)? else {
            return Ok(None);
        };
        let index = cluster % entries;
        let width = self.header.cluster_size() / entries;
        Ok(found.nth(index as usize).map(|entry| (table + index * width, entry)))
    }

    /// The mapping of this guest offset.
    pub fn lookup(&self, guest: u64) -> Result<Mapping, Qcow2Error> {
        Ok(match self.l2_entry(guest)? {
            Some((_, entry)) => entry.mapping(&self.header),
            None => Mapping::Unallocated,
        })
    }

    /// The refcount table: the offset of each refcount block, 0 for none.
    pub fn refcount_table(&self) -> Result<Vec<u64>, Qcow2Error> {
        let entries =
            (self.header.cluster_size() / 8) * u64::from(self.header.refcount_table_clusters);
        self.source.table("refcount table", self.header.refcount_table_offset, entries)
    }

    /// The location of the refcount of the cluster at this file offset: the offset of a byte, and
    /// for refcounts of less than 8 bits the number of bits below it in that byte. `None` if there
    /// is no refcount block for it.
    pub fn refcount_position(&self, host: u64) -> Result<Option<(u64, u32)>, Qcow2Error> {
        let cluster = host >> self.header.cluster_bits;
        let entries = self.header.refcount_block_entries();
        let Ok(index) = usize::try_from(cluster / entries) else {
            return Ok(None);
        };
        let block = self.refcount_table()?.get(index).map_or(0, |entry| entry & !RESERVED_REFCOUNT);
        if block == 0 {
            return Ok(None);
        }
        let bit = (cluster % entries) << self.header.refcount_order;
        Ok(Some((block.saturating_add(bit / 8), (bit % 8) as u32)))
    }

    /// The refcount of the cluster at this file offset.
    pub fn refcount(&self, host: u64) -> Result<u64, Qcow2Error> {
        let Some((offset, shift)) = self.refcount_position(host)? else {
            return Ok(0);
        };
        let bytes = self.refcount_bits().div_ceil(8);
        let data = self.source.read("refcount", offset, bytes)?;
        Ok(self.refcount_in(&data, shift.into()))
    }

    fn refcount_bits(&self) -> u64 {
        1 << self.header.refcount_order
    }

    /// The refcount that begins at this bit.
    fn refcount_in(&self, data: &[u8], bit: u64) -> u64 {
        let bits = self.refcount_bits();
        let value = number(data, (bit / 8) as usize, bits.div_ceil(8) as usize) >> (bit % 8);
        match bits {
            1..8 => value & ((1 << bits) - 1),
            _ => value,
        }
    }

    /// The refcounts of all clusters of the file.
    pub fn refcounts(&self) -> Result<Vec<u64>, Qcow2Error> {
        let clusters = self.source.size().div_ceil(self.header.cluster_size());
        let entries = self.header.refcount_block_entries();
        if clusters.saturating_mul(8) > LARGEST {
            return Err(Qcow2Error::TooLarge {
                what: "refcounts",
                path: self.source.path().to_owned(),
                offset: self.header.refcount_table_offset,
                length: clusters.saturating_mul(8),
            });
        }
        let mut blocks = self.refcount_table()?.into_iter();
        let mut counts = Vec::new();
        for first in (0..clusters).step_by(entries as usize) {
            let count = entries.min(clusters - first);
            let block = blocks.next().unwrap_or(0) & !RESERVED_REFCOUNT;
            if block == 0 {
                counts.extend((0..count).map(|_| 0));
                continue;
            }
            let bits = self.refcount_bits();
            let bytes = (count * bits).div_ceil(8);
            let data = self.source.read("refcount block", block, bytes)?;
            counts.extend((0..count).map(|index| self.refcount_in(&data, index * bits)));
        }
        Ok(counts)
    }

    /// The internal snapshots.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, Qcow2Error> {
        Snapshot::read_all(&self.source, &self.header)
    }

    /// The persistent bitmaps.
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, Qcow2Error> {
        match self.extension(Extension::BITMAPS)? {
            Some(extension) => Bitmap::read_all(&self.source, &extension),
            None => Ok(Vec::new()),
        }
    }

    /// The table of a bitmap: the location of each of its clusters.
    pub fn bitmap_table(&self, bitmap: &Bitmap) -> Result<Vec<BitmapTableEntry>, Qcow2Error> {
        let entries = u64::from(bitmap.table_size);
        let table = self.source.table("bitmap table", bitmap.table_offset, entries)?;
        Ok(table.into_iter().map(BitmapTableEntry).collect())
    }
}
