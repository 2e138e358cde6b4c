//! What an image holds by itself: the data of its clusters.

use std::ops::Range;

use super::file::LARGEST;
use super::{Image, Mapping, Qcow2Error};

/// What an image holds by itself: what it would take from its backing file reads as zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// What of that is in the image, data or zeroes; ascending, and nothing touches.
    pub present: Vec<Range<u64>>,
}

impl Layer {
    /// Adds a range to what is present, behind all others.
    fn add(&mut self, range: Range<u64>) {
        match self.present.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.present.push(range),
        }
    }
}

impl Image {
    /// All that the image holds by itself; `None` if that is more than 256 MiB, or has parts that are
    /// not read here: encryption, a data file, compressed clusters, extended L2 entries.
    pub fn layer(&self) -> Result<Option<Layer>, Qcow2Error> {
        /// A data file, compression other than zlib, extended L2 entries.
        const ELSEWHERE: u64 = 0b11100;
        let header = self.header();
        let is_elsewhere = header.incompatible_features & ELSEWHERE != 0;
        let Some(bytes) = usize::try_from(header.size)
            .ok()
            .filter(|_| header.size <= LARGEST && header.crypt_method == 0 && !is_elsewhere)
        else {
            return Ok(None);
        };
        let mut layer = Layer {
            bytes: vec![0; bytes],
            present: Vec::new(),
        };
        let (size, entries) = (header.cluster_size(), header.l2_entries());
        for (index, first) in (0..header.size)
            .step_by((size * entries) as usize)
            .enumerate()
        {
            let Some((_, table)) = self.l2_table(index)? else {
                continue;
            };
            for (start, entry) in (first..header.size).step_by(size as usize).zip(table) {
                let range = start..header.size.min(start + size);
                let bytes = &mut layer.bytes[range.start as usize..range.end as usize];
                match entry.mapping(header) {
                    Mapping::Unallocated => continue,
                    Mapping::Zero { .. } => {}
                    Mapping::Data { host, .. } => self.source.read_to_the_end(host, bytes)?,
                    Mapping::Compressed { .. } => return Ok(None),
                }
                layer.add(range);
            }
        }
        Ok(Some(layer))
    }
}
