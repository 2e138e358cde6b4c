//! What is read from an image: its own content, or what a guest reads. Only the extents are held in
//! memory.

use std::io::{self, Read};
use std::ops::Range;

use super::file::{LARGEST, Source};
use super::{Extension, Image, Mapping, Qcow2Error};

/// The content of an image, as a stream and at any offset: [`Image::layer`], [`Image::contents`].
///
/// Where it is was read from the tables when this was made, the bytes are read from the files when
/// they are asked for: the image must not change in between. An error of [`Read`] has a
/// [`Qcow2Error`] inside.
#[derive(Debug)]
pub struct Contents {
    /// The image, then its backing files from top to bottom. Never empty.
    layers: Vec<Layer>,
    position: u64,
}

/// One image of a chain.
#[derive(Debug)]
struct Layer {
    source: Source,
    size: u64,
    /// Ascending. Between them the layer below is visible.
    extents: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    range: Range<u64>,
    /// The offset of its data in the file; `None` for zeroes.
    host: Option<u64>,
}

impl Extent {
    /// Whether `next` continues this one, in the image and in the file.
    fn continues_in(&self, next: &Extent) -> bool {
        let length = self.range.end - self.range.start;
        self.range.end == next.range.start && self.host.map(|host| host + length) == next.host
    }
}

impl Layer {
    fn raw(source: Source) -> Layer {
        let size = source.size();
        let all = Extent {
            range: 0..size,
            host: Some(0),
        };
        Layer {
            source,
            size,
            extents: vec![all],
        }
    }

    fn add(&mut self, extent: Extent) {
        match self.extents.last_mut() {
            Some(last) if last.continues_in(&extent) => last.range.end = extent.range.end,
            _ => self.extents.push(extent),
        }
    }
}

impl Contents {
    fn of(layers: Vec<Layer>) -> Contents {
        Contents {
            layers,
            position: 0,
        }
    }

    /// The guest-visible size in bytes.
    pub fn size(&self) -> u64 {
        self.layers[0].size
    }

    /// The ranges present in the image itself, as data or zeroes; ascending and not adjacent.
    pub fn present(&self) -> Vec<Range<u64>> {
        let mut present: Vec<Range<u64>> = Vec::new();
        for Extent { range, .. } in &self.layers[0].extents {
            match present.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => present.push(range.clone()),
            }
        }
        present
    }

    /// Fills the buffer from this offset, as far as there is something. Returns how far that is.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Qcow2Error> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let (mut rest, mut offset) = (&mut buffer[..length], offset);
        while !rest.is_empty() {
            let (found, length) = self.look_up(offset, rest.len() as u64);
            let (part, after) = rest.split_at_mut(length as usize);
            match found {
                Some((source, host)) => source.read_to_the_end(host, part)?,
                None => part.fill(0),
            }
            offset += length;
            rest = after;
        }
        Ok(length)
    }

    /// All of it, in at most 256 MiB of memory.
    pub fn to_vec(&self) -> Result<Vec<u8>, Qcow2Error> {
        let mut bytes = vec![0; self.size() as usize];
        self.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Where the bytes at this offset are, if not zeroes, and for how many that holds.
    fn look_up(&self, at: u64, mut length: u64) -> (Option<(&Source, u64)>, u64) {
        for layer in &self.layers {
            // Behind the end of a layer nothing below it is visible.
            if at >= layer.size {
                break;
            }
            length = length.min(layer.size - at);
            let next = layer.extents.partition_point(|extent| extent.range.end <= at);
            match layer.extents.get(next) {
                Some(Extent { range, host }) if range.start <= at => {
                    let place = host.map(|host| (&layer.source, host + (at - range.start)));
                    return (place, length.min(range.end - at));
                }
                Some(next) => length = length.min(next.range.start - at),
                None => {}
            }
        }
        (None, length)
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.read_at(buffer, self.position).map_err(io::Error::other)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Image {
    /// The image's own content: parts from its backing file read as zeroes. `None` if it exceeds
    /// 256 MiB, or has parts that are not supported here: encryption, a data file, compressed
    /// clusters, extended L2 entries.
    pub fn layer(&self) -> Result<Option<Contents>, Qcow2Error> {
        Ok(self.own_extents()?.map(|layer| Contents::of(vec![layer])))
    }

    /// Everything that a guest reads, including parts from backing files. `None` if one of them is
    /// not supported here: the exclusions of [`layer`](Self::layer), for a qcow2 image; a format
    /// that is not recorded or neither raw nor qcow2; a name that is not a plain path; or a chain of
    /// more than 64.
    pub fn contents(&self) -> Result<Option<Contents>, Qcow2Error> {
        Ok(self.with_layers_below(64)?.map(Contents::of))
    }

    fn with_layers_below(&self, files: usize) -> Result<Option<Vec<Layer>>, Qcow2Error> {
        let Some(own) = self.own_extents()? else {
            return Ok(None);
        };
        let mut layers = vec![own];
        if let Some(name) = self.backing_file()? {
            match self.layers_of(&name, files)? {
                Some(below) => layers.extend(below),
                None => return Ok(None),
            }
        }
        Ok(Some(layers))
    }

    /// The backing file of this name, and what is below it.
    fn layers_of(&self, name: &str, files: usize) -> Result<Option<Vec<Layer>>, Qcow2Error> {
        let format = self.extension(Extension::BACKING_FORMAT)?;
        // A colon before the first slash makes it a protocol.
        let is_path = !name.split('/').next().unwrap_or_default().contains(':');
        let (Some(format), true, 1..) = (format, is_path, files) else {
            return Ok(None);
        };
        let path = self.source.path().with_file_name(name);
        match &*format.data {
            b"qcow2" => Image::open(path)?.with_layers_below(files - 1),
            b"raw" => Ok(Some(vec![Layer::raw(Source::open(&path)?)])),
            _ => Ok(None),
        }
    }

    /// The image's own extents. `None` if it is too large, or has parts that are not supported.
    fn own_extents(&self) -> Result<Option<Layer>, Qcow2Error> {
        /// A data file, compression other than zlib, extended L2 entries.
        const ELSEWHERE: u64 = 0b11100;
        let header = self.header();
        let is_here = header.incompatible_features & ELSEWHERE == 0 && header.crypt_method == 0;
        // The size bounds the number of extents as well.
        if !is_here || header.size > LARGEST {
            return Ok(None);
        }
        let mut layer = Layer {
            source: self.source.clone(),
            size: header.size,
            extents: Vec::new(),
        };
        let (size, entries) = (header.cluster_size(), header.l2_entries());
        let firsts = (0..header.size).step_by((size * entries) as usize);
        for (first, l1) in firsts.zip(self.l1_table()?) {
            let Some((_, table)) = self.l2_table_of(l1)? else {
                continue;
            };
            for (start, entry) in (first..header.size).step_by(size as usize).zip(table) {
                let host = match entry.mapping(header) {
                    Mapping::Unallocated => continue,
                    Mapping::Zero { .. } => None,
                    Mapping::Data { host, .. } => Some(host),
                    Mapping::Compressed { .. } => return Ok(None),
                };
                let range = start..header.size.min(start + size);
                layer.add(Extent { range, host });
            }
        }
        Ok(Some(layer))
    }
}
