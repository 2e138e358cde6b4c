//! What one layer records and holds by itself, read from its file.
//!
//! A process of a tool for every look at an image would cost more than all that the case is about;
//! and what QEMU wrote is better judged by somebody else. So raw and plain qcow2 files are read here,
//! and qemu-img is asked about what is left: other formats, encryption, other protocols.

use std::ops::Range;
use std::path::Path;

use imgtools::img::MapExtent;
use imgtools::qcow2::{self, Extension};
use imgtools::raw;
use serde_json::{Value, json};

use super::handle::Image;
use crate::author::action::Action;
use crate::author::content::CLUSTER;
use crate::author::failure::{CaseResult, Context, Failure};
use crate::author::storage::Storage;
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
        let image = qcow2::Image::open(path)?;
        let cluster_size = image.header().cluster_size();
        Ok(image.layer()?.map(|layer| Layer {
            bytes: layer.bytes,
            present: layer.present,
            cluster_size,
        }))
    }

    /// From what qemu-img says.
    fn mapped(bytes: Vec<u8>, map: &[MapExtent]) -> Self {
        let mut layer = Layer::new(bytes, CLUSTER);
        for extent in map.iter().filter(|extent| extent.present == Some(true)) {
            layer.add(extent.start..extent.end());
        }
        layer
    }
}

/// The size and the backing file in a header, as `qemu-img info` calls them.
fn qcow2_record(path: &Path) -> CaseResult<Value> {
    let image = qcow2::Image::open(path)?;
    let mut record = json!({"virtual-size": image.header().size});
    if let Some(name) = image.backing_file()? {
        record["backing-filename"] = name.into();
    }
    if let Some(format) = image.extension(Extension::BACKING_FORMAT)? {
        let name = String::from_utf8_lossy(&format.data).into_owned();
        record["backing-filename-format"] = name.into();
    }
    Ok(record)
}

impl Image {
    /// Its file, if that holds nothing but what a guest reads.
    #[must_use]
    pub fn raw_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Raw && self.is_file();
        plain.then_some(&*self.0.file)
    }

    pub(super) fn qcow2_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Qcow2 && self.is_file();
        plain.then_some(&*self.0.file)
    }

    /// How large its overlay is by default: as large as it is now, where that is read here.
    pub(super) async fn size_as_backing(&self) -> CaseResult<u64> {
        let size = match self.raw_file().or_else(|| self.qcow2_file()) {
            Some(_) => self.size().await?,
            None => self.0.size,
        };
        Ok(size.next_multiple_of(raw::SECTOR))
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
            let bytes = self.converted(self.own_spec()?).await?;
            Ok(Layer::mapped(bytes, &self.own_map().await?))
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
        let info = self.info().json();
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
