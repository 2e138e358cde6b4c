//! An image's own content: the data of its clusters.

use std::ops::Range;

use super::file::{LARGEST, Source};
use super::{Extension, Image, Mapping, Qcow2Error};

/// An image's own content: parts from its backing file read as zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// The ranges present in the image, data or zeroes; ascending and not adjacent.
    pub present: Vec<Range<u64>>,
}

impl Layer {
    /// Adds a range to `present`, after all others.
    fn add(&mut self, range: Range<u64>) {
        match self.present.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.present.push(range),
        }
    }
}

impl Image {
    /// The image's own content; `None` if it exceeds 256 MiB, or has parts that are not supported
    /// here: encryption, a data file, compressed clusters, extended L2 entries.
    pub fn layer(&self) -> Result<Option<Layer>, Qcow2Error> {
        match self.readable_size() {
            Some(size) => self.layer_over(vec![0; size]),
            None => Ok(None),
        }
    }

    /// Everything that a guest reads, including parts from backing files. `None` if one of them is
    /// not supported here: the exclusions of [`layer`](Self::layer), a format that is not recorded
    /// or neither raw nor qcow2, a name that is not a plain path, or a chain of more than 64.
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

    /// The content of the backing file of this name.
    fn below(&self, name: &str, files: usize) -> Result<Option<Vec<u8>>, Qcow2Error> {
        let format = self.extension(Extension::BACKING_FORMAT)?;
        // A colon before the first slash makes it a protocol.
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

    /// The guest-visible size, if small enough to read at once, and if the image has no unsupported
    /// parts other than compressed clusters.
    fn readable_size(&self) -> Option<usize> {
        /// A data file, compression other than zlib, extended L2 entries.
        const ELSEWHERE: u64 = 0b11100;
        let header = self.header();
        let is_here = header.incompatible_features & ELSEWHERE == 0 && header.crypt_method == 0;
        let is_read = is_here && header.size <= LARGEST;
        usize::try_from(header.size).ok().filter(|_| is_read)
    }

    /// The image's own content over these bytes, which cover the guest-visible size.
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
