//! Dirty bitmaps of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::step::Change;

/// A dirty bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) granularity: u64,
    pub(super) records: bool,
    pub(super) persistent: bool,
    /// The numbers of the bits that must be set.
    pub(super) dirty: BTreeSet<u64>,
    /// A job has written as well, and may have set more.
    pub(super) at_least: bool,
}

impl Bits {
    pub(super) fn set(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            let first = range.start / self.granularity;
            self.dirty.extend(first..range.end.div_ceil(self.granularity));
        }
    }

    /// The dirty bytes, in an image of this size.
    pub(super) fn ranges(&self, size: u64) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        for bit in &self.dirty {
            let range = bit * self.granularity..((bit + 1) * self.granularity).min(size);
            match out.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => out.push(range),
            }
        }
        out
    }

    /// Also what is dirty in another one.
    pub(super) fn merge(&mut self, other: &Bits, size: u64) {
        self.at_least |= other.at_least;
        for range in other.ranges(size) {
            self.set(range);
        }
    }

    /// The digest that QEMU shows of it (`x-debug-block-dirty-bitmap-sha256`), which says where it is dirty: of its bits, in
    /// words of the processor, in an image of this size.
    pub(super) fn sha256(&self, size: u64) -> String {
        let words = size.div_ceil(self.granularity).div_ceil(64).max(1);
        let mut data = vec![0_u64; usize::try_from(words).unwrap_or_default()];
        for bit in &self.dirty {
            let word = usize::try_from(bit / 64).ok();
            if let Some(word) = word.and_then(|word| data.get_mut(word)) {
                *word |= 1 << (bit % 64);
            }
        }
        let bytes: Vec<u8> = data.into_iter().flat_map(u64::to_ne_bytes).collect();
        let mut text = String::new();
        for byte in Sha256::digest(bytes) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl Change {
    /// What it makes of the bitmaps of a node of this size; `other` is that of another node.
    pub(super) fn apply(
        &self,
        name: &str,
        bitmaps: &mut BTreeMap<String, Bits>,
        size: u64,
        other: Option<&Bits>,
    ) {
        let mut edit = |change: &dyn Fn(&mut Bits)| {
            if let Some(bits) = bitmaps.get_mut(name) {
                change(bits);
            }
        };
        match self {
            Change::Clear => edit(&|bits| {
                bits.dirty.clear();
                bits.at_least = false;
            }),
            Change::Enable => edit(&|bits| bits.records = true),
            Change::Disable => edit(&|bits| bits.records = false),
            Change::MergeFrom { .. } => {
                if let Some(other) = other {
                    edit(&|bits| bits.merge(other, size));
                }
            }
            Change::Merge(names) => {
                let named = names.iter().filter_map(|name| bitmaps.get(name));
                let sources: Vec<Bits> = named.cloned().collect();
                if let Some(bits) = bitmaps.get_mut(name) {
                    sources.iter().for_each(|source| bits.merge(source, size));
                }
            }
            Change::Remove => drop(bitmaps.remove(name)),
            Change::Add {
                granularity,
                persistent,
                disabled,
            } => {
                let bits = Bits {
                    granularity: *granularity,
                    records: !disabled,
                    persistent: *persistent,
                    dirty: BTreeSet::new(),
                    at_least: false,
                };
                bitmaps.insert(name.to_owned(), bits);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_says_which_bits_are_set() {
        let mut bits = Bits {
            granularity: 512,
            records: true,
            persistent: false,
            dirty: BTreeSet::new(),
            at_least: false,
        };
        let of_zeroes = "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc";
        assert_eq!(bits.sha256(64 * 512), of_zeroes);
        assert_ne!(bits.sha256(65 * 512), of_zeroes);
        bits.set(0..1);
        let first = bits.sha256(512);
        bits.dirty.clear();
        bits.set(512..513);
        assert_ne!(bits.sha256(1024), first);
    }
}
