//! What an image holds by itself: the data of its clusters.

use std::ops::Range;

use super::file::{LARGEST, Source};
use super::{Extension, Image, Mapping, Qcow2Error};

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
        let firsts = (0..header.size).step_by((size * entries) as usize);
        for (first, l1) in firsts.zip(self.l1_table()?) {
            let Some((_, table)) = self.l2_table_of(l1)? else {
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

impl Image {
    /// All that a guest reads: what the image does not hold itself comes from its backing files. `None`
    /// if one of them is not read here: what [`layer`](Self::layer) leaves out, a format that is not
    /// recorded or neither raw nor qcow2, a name that is no plain path, or a chain of more than 64.
    pub fn contents(&self) -> Result<Option<Vec<u8>>, Qcow2Error> {
        self.contents_above(64)
    }

    fn contents_above(&self, files: usize) -> Result<Option<Vec<u8>>, Qcow2Error> {
        let Some(Layer { mut bytes, present }) = self.layer()? else {
            return Ok(None);
        };
        let Some(backing) = self.backing_file()? else {
            return Ok(Some(bytes));
        };
        let Some(below) = self.below(&backing, files)? else {
            return Ok(None);
        };
        let end = bytes.len() as u64;
        let starts = present.iter().map(|range| range.end);
        let ends = present.iter().map(|range| range.start);
        for (start, end) in std::iter::once(0).chain(starts).zip(ends.chain([end])) {
            let end = end.min(below.len() as u64).max(start);
            let hole = start as usize..end as usize;
            if let Some(data) = below.get(hole.clone()) {
                bytes[hole].copy_from_slice(data);
            }
        }
        Ok(Some(bytes))
    }

    /// What the backing file of this name holds.
    fn below(&self, name: &str, files: usize) -> Result<Option<Vec<u8>>, Qcow2Error> {
        let extensions = self.extensions()?;
        let format = extensions
            .iter()
            .find(|extension| extension.kind == Extension::BACKING_FORMAT);
        // A colon before the first slash makes it the name of a protocol.
        let is_path = !name.split('/').next().unwrap_or_default().contains(':');
        let (Some(format), true, 1..) = (format, is_path, files) else {
            return Ok(None);
        };
        let path = self.source.path().with_file_name(name);
        match &*format.data {
            b"qcow2" => Image::open(path)?.contents_above(files - 1),
            b"raw" => Source::open(&path)?.all(),
            _ => Ok(None),
        }
    }
}
