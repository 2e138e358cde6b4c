//! What one layer records and holds by itself, read from its file.
//!
//! A process of a tool for every look at an image would cost more than all that the case is about;
//! and what QEMU wrote is better judged by somebody else. So raw and plain qcow2 files are read here,
//! and qemu-img is asked about what is left: other formats, encryption, other protocols.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgtools::qcow2::{self, Extension, Mapping};
use serde_json::{Value, json};

use super::handle::Image;
use crate::author::action::Action;
use crate::author::content::CLUSTER;
use crate::author::failure::{CaseResult, Context, Failure};
use crate::case::Format;

/// What a layer holds by itself: what it would take from its backing image reads as zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// What of that is in the layer, data or zeroes; ascending, and nothing touches.
    pub present: Vec<Range<u64>>,
    /// In which unit it is allocated, in bytes.
    pub cluster_size: u64,
}

impl Layer {
    fn new(bytes: Vec<u8>, cluster_size: u64) -> Self {
        Layer {
            bytes,
            present: Vec::new(),
            cluster_size,
        }
    }

    fn add(&mut self, range: Range<u64>) {
        match self.present.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.present.push(range),
        }
    }

    fn raw(path: &Path) -> CaseResult<Self> {
        let bytes = std::fs::read(path).context(format!("reading {}", path.display()))?;
        let all = 0..bytes.len() as u64;
        let mut layer = Layer::new(bytes, 1);
        if !all.is_empty() {
            layer.add(all);
        }
        Ok(layer)
    }

    /// Nothing if the image has parts that are not read here.
    fn qcow2(path: &Path) -> CaseResult<Option<Self>> {
        /// A data file, compression other than zlib, extended L2 entries.
        const ELSEWHERE: u64 = 0b11100;
        let image = qcow2::Image::open(path)?;
        let header = image.header();
        if header.crypt_method != 0 || header.incompatible_features & ELSEWHERE != 0 {
            return Ok(None);
        }
        let file = File::open(path).context(format!("opening {}", path.display()))?;
        let bytes = vec![0; usize::try_from(header.size)?];
        let mut layer = Layer::new(bytes, header.cluster_size());
        let (size, entries) = (header.cluster_size(), header.l2_entries());
        let tables = header.size.div_ceil(size * entries);
        for index in 0..tables {
            let Some((_, table)) = image.l2_table(usize::try_from(index)?)? else {
                continue;
            };
            for (start, entry) in (index * size * entries..header.size)
                .step_by(usize::try_from(size)?)
                .zip(table)
            {
                let range = start..header.size.min(start + size);
                let bytes = &mut layer.bytes[range.start as usize..range.end as usize];
                match entry.mapping(header) {
                    Mapping::Unallocated => continue,
                    Mapping::Zero { .. } => {}
                    Mapping::Data { host, .. } => read_at(&file, host, bytes)?,
                    Mapping::Compressed { .. } => return Ok(None),
                }
                layer.add(range);
            }
        }
        Ok(Some(layer))
    }

    /// From what qemu-img says.
    fn mapped(bytes: Vec<u8>, map: &Value) -> Self {
        let mut layer = Layer::new(bytes, CLUSTER);
        for extent in map.as_array().into_iter().flatten() {
            let number = |key: &str| extent[key].as_u64().unwrap_or_default();
            if extent["present"] == true {
                layer.add(number("start")..number("start") + number("length"));
            }
        }
        layer
    }
}

/// Behind the end of the file there are zeroes.
fn read_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> CaseResult {
    while !bytes.is_empty() {
        let count = file
            .read_at(bytes, offset)
            .context("reading a cluster of an image")?;
        if count == 0 {
            bytes.fill(0);
            break;
        }
        offset += count as u64;
        bytes = &mut bytes[count..];
    }
    Ok(())
}

/// The size and the backing file in a header, as `qemu-img info` calls them.
fn qcow2_record(path: &Path) -> CaseResult<Value> {
    let image = qcow2::Image::open(path)?;
    let mut record = json!({"virtual-size": image.header().size});
    if let Some(name) = image.backing_file()? {
        record["backing-filename"] = name.into();
    }
    let extensions = image.extensions()?;
    let format = extensions
        .iter()
        .find(|extension| extension.kind == Extension::BACKING_FORMAT);
    if let Some(format) = format {
        let name = String::from_utf8_lossy(&format.data).into_owned();
        record["backing-filename-format"] = name.into();
    }
    Ok(record)
}

impl Image {
    /// Its file, if that holds nothing but what a guest reads.
    #[must_use]
    pub fn raw_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Raw && self.0.served.uri().is_none();
        plain.then_some(&*self.0.file)
    }

    fn qcow2_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Qcow2 && self.0.served.uri().is_none();
        plain.then_some(&*self.0.file)
    }

    /// What this layer holds by itself. Nobody may have the image open for writing.
    #[track_caller]
    pub fn own_layer(&self) -> Action<'_, Layer> {
        Action::new(format!("a look at {self}"), async move {
            if let Some(path) = self.raw_file() {
                return Layer::raw(path);
            }
            if let Some(path) = self.qcow2_file()
                && let Some(layer) = Layer::qcow2(path)?
            {
                return Ok(layer);
            }
            Ok(Layer::mapped(
                self.own_bytes().await?,
                &self.own_map().await?,
            ))
        })
    }

    /// Nothing is in this layer: it reads as zeroes, or as what is below it.
    #[track_caller]
    pub fn assert_empty(&self) -> Action<'_, ()> {
        let layer = self.own_layer();
        Action::new(format!("a look at {self}"), async move {
            match layer.await?.present.first() {
                None => Ok(()),
                Some(range) => Err(Failure::new(format!(
                    "{self} should hold nothing, and has something at {range:?}"
                ))),
            }
        })
    }

    /// What its header records: `virtual-size`, and of an overlay `backing-filename` and
    /// `backing-filename-format`, called as [`Image::info`] has them (which has more).
    #[track_caller]
    pub fn header(&self) -> Action<'_, Value> {
        let info = self.info();
        Action::new(format!("the header of {self}"), async move {
            if let Some(path) = self.raw_file() {
                let file = std::fs::metadata(path).context(format!("looking at {self}"))?;
                return Ok(json!({"virtual-size": file.len()}));
            }
            match self.qcow2_file() {
                Some(path) => qcow2_record(path),
                None => info.await,
            }
        })
    }
}
