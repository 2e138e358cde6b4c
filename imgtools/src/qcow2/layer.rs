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
        match self.readable_size() {
            Some(size) => self.layer_over(vec![0; size]),
            None => Ok(None),
        }
    }

    /// All that a guest reads: what the image does not hold itself comes from its backing files. `None`
    /// if one of them is not read here: what [`layer`](Self::layer) leaves out, a format that is not
    /// recorded or neither raw nor qcow2, a name that is no plain path, or a chain of more than 64.
    pub fn contents(&self) -> Result<Option<Vec<u8>>, Qcow2Error> {
        self.contents_above(64)
    }

    fn contents_above(&self, files: usize) -> Result<Option<Vec<u8>>, Qcow2Error> {
        let Some(size) = self.readable_size() else {
            return Ok(None);
        };
        let below = match self.backing_file()? {
            None => vec![0; size],
            Some(name) => match self.below(&name, files)? {
                None => return Ok(None),
                Some(mut below) => {
                    below.resize(size, 0);
                    below
                }
            },
        };
        Ok(self.layer_over(below)?.map(|layer| layer.bytes))
    }

    /// What the backing file of this name holds.
    fn below(&self, name: &str, files: usize) -> Result<Option<Vec<u8>>, Qcow2Error> {
        let format = self.extension(Extension::BACKING_FORMAT)?;
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

    /// The size for the guest, if it is one that is read at once, of an image without anything that is
    /// not read here but for compressed clusters.
    fn readable_size(&self) -> Option<usize> {
        /// A data file, compression other than zlib, extended L2 entries.
        const ELSEWHERE: u64 = 0b11100;
        let header = self.header();
        let is_here = header.incompatible_features & ELSEWHERE == 0 && header.crypt_method == 0;
        let is_read = is_here && header.size <= LARGEST;
        usize::try_from(header.size).ok().filter(|_| is_read)
    }

    /// What the image holds by itself, over these bytes, as many as a guest reads.
    fn layer_over(&self, bytes: Vec<u8>) -> Result<Option<Layer>, Qcow2Error> {
        let header = self.header();
        let mut layer = Layer {
            bytes,
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
                    Mapping::Zero { .. } => bytes.fill(0),
                    Mapping::Data { host, .. } => self.source.read_to_the_end(host, bytes)?,
                    Mapping::Compressed { .. } => return Ok(None),
                }
                layer.add(range);
            }
        }
        Ok(Some(layer))
    }
}
