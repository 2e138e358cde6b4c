//! The header of an image and its extensions.

use super::Qcow2Error;
use super::file::{Source, number};

/// The offsets of the header fields in the file, for [`poke`](super::poke). All are big-endian.
pub mod field {
    /// `QFI\xfb`, 4 bytes.
    pub const MAGIC: u64 = 0;
    /// The version, 4 bytes.
    pub const VERSION: u64 = 4;
    /// The offset of the backing file's name, 8 bytes; 0 for none.
    pub const BACKING_FILE_OFFSET: u64 = 8;
    /// The length of that name, 4 bytes.
    pub const BACKING_FILE_SIZE: u64 = 16;
    /// The cluster size as a power of two, 4 bytes.
    pub const CLUSTER_BITS: u64 = 20;
    /// The size that a guest sees, 8 bytes.
    pub const SIZE: u64 = 24;
    /// The encryption method, 4 bytes: none, AES, LUKS.
    pub const CRYPT_METHOD: u64 = 32;
    /// The number of L1 table entries, 4 bytes.
    pub const L1_SIZE: u64 = 36;
    /// The offset of the L1 table, 8 bytes.
    pub const L1_TABLE_OFFSET: u64 = 40;
    /// The offset of the refcount table, 8 bytes.
    pub const REFCOUNT_TABLE_OFFSET: u64 = 48;
    /// The size of the refcount table in clusters, 4 bytes.
    pub const REFCOUNT_TABLE_CLUSTERS: u64 = 56;
    /// The number of internal snapshots, 4 bytes.
    pub const NB_SNAPSHOTS: u64 = 60;
    /// The offset of the snapshot table, 8 bytes.
    pub const SNAPSHOTS_OFFSET: u64 = 64;
    /// Features that a reader must support to open the image, 8 bytes: bit 0 dirty, 1 corrupt, 2
    /// data file, 3 compression type, 4 extended L2 entries. Version 3 and later, like all below.
    pub const INCOMPATIBLE_FEATURES: u64 = 72;
    /// Features that may be ignored, 8 bytes: bit 0 lazy refcounts.
    pub const COMPATIBLE_FEATURES: u64 = 80;
    /// Features that software without support for them clears, 8 bytes: bit 0 bitmaps, 1 raw data
    /// file.
    pub const AUTOCLEAR_FEATURES: u64 = 88;
    /// The width of a refcount in bits as a power of two, 4 bytes.
    pub const REFCOUNT_ORDER: u64 = 96;
    /// The length of the header, 4 bytes.
    pub const HEADER_LENGTH: u64 = 100;
    /// The compression type, 1 byte: zlib, zstd.
    pub const COMPRESSION_TYPE: u64 = 104;
}

/// The header. The names are those of the specification; offsets are bytes in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is explained in `field`.
#[non_exhaustive]
pub struct Header {
    pub version: u32,
    pub backing_file_offset: u64,
    pub backing_file_size: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub crypt_method: u32,
    pub l1_size: u32,
    pub l1_table_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u32,
    pub nb_snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible_features: u64,
    pub compatible_features: u64,
    pub autoclear_features: u64,
    pub refcount_order: u32,
    pub header_length: u32,
    pub compression_type: u8,
}

/// A header extension.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extension {
    /// Its type, such as [`Extension::BITMAPS`].
    pub kind: u32,
    /// The offset of its data in the file.
    pub offset: u64,
    /// Its data.
    pub data: Vec<u8>,
}

impl Extension {
    /// The backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// The names of feature bits.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// The location of the bitmap directory.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// The location of the LUKS header.
    pub const CRYPTO: u32 = 0x0537_be77;
    /// The name of the data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

impl Header {
    pub(super) fn read(source: &Source) -> Result<Header, Qcow2Error> {
        let data = source.read("header", 0, source.size().min(112))?;
        if data.len() < 72 || data[..4] != *b"QFI\xfb" {
            return Err(source.wrong("it does not have the magic of one"));
        }
        let at = |field: u64, bytes| number(&data, field as usize, bytes);
        // Fields of 32 bits fit by their length.
        let at32 = |field: u64| at(field, 4) as u32;
        let version = at32(field::VERSION);
        if !(2..=3).contains(&version) {
            return Err(source.wrong(format!("it is of version {version}, not 2 or 3")));
        }
        let v3 = version >= 3;
        let since_v3 = |field, bytes, before| if v3 { at(field, bytes) } else { before };
        let header = Header {
            version,
            backing_file_offset: at(field::BACKING_FILE_OFFSET, 8),
            backing_file_size: at32(field::BACKING_FILE_SIZE),
            cluster_bits: at32(field::CLUSTER_BITS),
            size: at(field::SIZE, 8),
            crypt_method: at32(field::CRYPT_METHOD),
            l1_size: at32(field::L1_SIZE),
            l1_table_offset: at(field::L1_TABLE_OFFSET, 8),
            refcount_table_offset: at(field::REFCOUNT_TABLE_OFFSET, 8),
            refcount_table_clusters: at32(field::REFCOUNT_TABLE_CLUSTERS),
            nb_snapshots: at32(field::NB_SNAPSHOTS),
            snapshots_offset: at(field::SNAPSHOTS_OFFSET, 8),
            incompatible_features: since_v3(field::INCOMPATIBLE_FEATURES, 8, 0),
            compatible_features: since_v3(field::COMPATIBLE_FEATURES, 8, 0),
            autoclear_features: since_v3(field::AUTOCLEAR_FEATURES, 8, 0),
            refcount_order: since_v3(field::REFCOUNT_ORDER, 4, 4) as u32,
            header_length: since_v3(field::HEADER_LENGTH, 4, 72) as u32,
            compression_type: 0,
        };
        if !(9..=21).contains(&header.cluster_bits) {
            return Err(source.wrong(format!("its clusters have 2^{} bytes", header.cluster_bits)));
        }
        if header.refcount_order > 6 {
            return Err(source.wrong(format!(
                "its refcounts have 2^{} bits",
                header.refcount_order
            )));
        }
        let has_type = u64::from(header.header_length) > field::COMPRESSION_TYPE;
        let compression_type = if has_type {
            at(field::COMPRESSION_TYPE, 1) as u8
        } else {
            0
        };
        Ok(Header {
            compression_type,
            ..header
        })
    }

    /// The size of a cluster in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether L2 entries have subclusters, and are thus 16 bytes long.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible_features & (1 << 4) != 0
    }

    /// Whether its data is in another file, to which data offsets then refer.
    pub fn has_data_file(&self) -> bool {
        self.incompatible_features & (1 << 2) != 0
    }

    /// Whether it is marked as not closed cleanly.
    pub fn is_dirty(&self) -> bool {
        self.incompatible_features & 1 != 0
    }

    /// Whether it is marked as corrupt.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible_features & 2 != 0
    }

    /// The number of entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() / if self.has_extended_l2() { 16 } else { 8 }
    }

    /// The number of refcounts in a refcount block.
    pub fn refcount_block_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    pub(super) fn extensions(&self, source: &Source) -> Result<Vec<Extension>, Qcow2Error> {
        let mut found = Vec::new();
        let mut offset = u64::from(self.header_length);
        // They are in the first cluster, before the name of the backing file.
        let end = match self.backing_file_offset {
            0 => self.cluster_size(),
            name => name.min(self.cluster_size()),
        };
        while offset + 8 <= end {
            let head = source.read("header extension", offset, 8)?;
            let (kind, length) = (number(&head, 0, 4) as u32, number(&head, 4, 4));
            if kind == 0 {
                break;
            }
            let data = source.read("header extension", offset + 8, length)?;
            found.push(Extension {
                kind,
                offset: offset + 8,
                data,
            });
            offset += 8 + length.next_multiple_of(8);
        }
        Ok(found)
    }
}
