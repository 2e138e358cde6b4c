//! Entries of the L1 and L2 tables.

use super::Header;

/// Bits 9 to 55: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Set if the entry's target is used exactly once, and may be written in place.
pub(super) const COPIED: u64 = 1 << 63;

/// Set in an L2 entry of compressed data.
const COMPRESSED: u64 = 1 << 62;

/// Set in an L2 entry of a cluster that reads as zeroes, whether or not it is allocated in the
/// file.
pub(super) const ZERO: u64 = 1;

/// Reserved bits of an L1 entry, an L2 entry and a refcount table entry.
pub(super) const RESERVED_L1: u64 = !(OFFSET | COPIED);
pub(super) const RESERVED_L2: u64 = !(OFFSET | COPIED | COMPRESSED | ZERO);
pub(super) const RESERVED_REFCOUNT: u64 = 0x1ff;

/// An entry of an L1 table, as stored in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Entry(pub u64);

impl L1Entry {
    /// The offset of the L2 table; `None` if there is none.
    pub fn l2_offset(self) -> Option<u64> {
        Some(self.0 & OFFSET).filter(|offset| *offset != 0)
    }

    /// Whether the L2 table is used exactly once.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }
}

/// An entry of an L2 table, as stored in the file, and the bitmap of its subclusters (0 without
/// them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct L2Entry {
    /// The entry.
    pub entry: u64,
    /// The subclusters: the lower 32 bits mark allocated ones, the upper 32 zero ones.
    pub subclusters: u64,
}

/// The state of a part of an image, by its L2 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mapping {
    /// Not allocated here: reads from the backing file, or as zeroes.
    Unallocated,
    /// Reads as zeroes.
    Zero {
        /// The preallocated cluster, if there is one.
        host: Option<u64>,
    },
    /// Data in a cluster of the file, or of the data file if there is one.
    Data {
        /// Where.
        host: u64,
        /// Whether it is used exactly once.
        copied: bool,
    },
    /// Compressed data.
    Compressed {
        /// Where it begins; not on any boundary.
        host: u64,
        /// How many sectors of 512 bytes it touches at most.
        sectors: u64,
    },
}

impl L2Entry {
    /// Whether it points to compressed data.
    pub fn is_compressed(self) -> bool {
        self.entry & COMPRESSED != 0
    }

    /// Whether its target is used exactly once.
    pub fn is_copied(self) -> bool {
        self.entry & COPIED != 0
    }

    /// The state of its cluster as a whole, in an image with this header. For a cluster with
    /// subclusters only whether it is allocated; see [`L2Entry::subcluster`].
    pub fn mapping(self, header: &Header) -> Mapping {
        if self.is_compressed() {
            let split = 62 - (header.cluster_bits.clamp(9, 21) - 8);
            let host = self.entry & ((1 << split) - 1);
            let more = (self.entry & (COMPRESSED - 1)) >> split;
            return Mapping::Compressed {
                host,
                sectors: more + 1,
            };
        }
        let copied = self.is_copied();
        let host = Some(self.entry & OFFSET).filter(|offset| *offset != 0);
        match host {
            host if self.entry & ZERO != 0 => Mapping::Zero { host },
            Some(host) => Mapping::Data { host, copied },
            // Offset 0 of an image is its header, but a data file may have data there.
            None if copied && header.has_data_file() => Mapping::Data { host: 0, copied },
            None => Mapping::Unallocated,
        }
    }

    /// The state of one of its 32 subclusters: whether it is allocated, and whether it is zero.
    pub fn subcluster(self, index: u32) -> (bool, bool) {
        let bit = |position: u32| self.subclusters.checked_shr(position).unwrap_or(0) & 1 != 0;
        (index < 32 && bit(index), index < 32 && bit(index + 32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(entry: u64) -> L2Entry {
        L2Entry {
            entry,
            subclusters: 0,
        }
    }

    fn header(cluster_bits: u32, incompatible_features: u64) -> Header {
        Header {
            version: 3,
            backing_file_offset: 0,
            backing_file_size: 0,
            cluster_bits,
            size: 0,
            crypt_method: 0,
            l1_size: 0,
            l1_table_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            nb_snapshots: 0,
            snapshots_offset: 0,
            incompatible_features,
            compatible_features: 0,
            autoclear_features: 0,
            refcount_order: 4,
            header_length: 104,
            compression_type: 0,
        }
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_put_together(
            cluster_bits in 9u32..=21, cluster in 1u64..1 << 28, copied: bool, more in 0u64..2,
        ) {
            let host = cluster << cluster_bits;
            let flag = u64::from(copied) << 63;
            let (plain, data_file) = (header(cluster_bits, 0), header(cluster_bits, 1 << 2));
            let map = |value| entry(value).mapping(&plain);
            prop_assert_eq!(map(COPIED), Mapping::Unallocated);
            prop_assert_eq!(entry(0).mapping(&data_file), Mapping::Unallocated);
            prop_assert_eq!(entry(COPIED).mapping(&data_file), Mapping::Data { host: 0, copied: true });
            prop_assert_eq!(map(0), Mapping::Unallocated);
            prop_assert_eq!(map(1), Mapping::Zero { host: None });
            prop_assert_eq!(map(host | flag), Mapping::Data { host, copied });
            prop_assert_eq!(map(host | flag | 1), Mapping::Zero { host: Some(host) });
            let split = 62 - (cluster_bits - 8);
            let compressed = (1 << 62) | (more << split) | (host + 7);
            prop_assert_eq!(map(compressed), Mapping::Compressed { host: host + 7, sectors: more + 1 });
            prop_assert_eq!(L1Entry(host | flag).l2_offset(), Some(host));
            prop_assert_eq!(L1Entry(host | flag).is_copied(), copied);
            prop_assert_eq!(L1Entry(flag).l2_offset(), None);
        }

        #[test]
        fn no_entry_is_too_strange(
            value: u64, subclusters: u64, bits: u32, features: u64, index: u32,
        ) {
            let entry = L2Entry { entry: value, subclusters };
            entry.mapping(&header(bits, features));
            let (allocated, zero) = entry.subcluster(index % 32);
            prop_assert_eq!(allocated, subclusters >> (index % 32) & 1 == 1);
            prop_assert_eq!(zero, subclusters >> (index % 32 + 32) & 1 == 1);
            entry.subcluster(index);
        }
    }
}
