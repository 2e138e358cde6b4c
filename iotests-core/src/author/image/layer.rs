//! The metadata and data of one layer, read from its file.
//!
//! Running a tool for every check of an image would cost more than the rest of the case, and
//! independent code is a better judge of what QEMU wrote. So raw and plain qcow2 files are read
//! here, and qemu-img is used for the rest: other formats, encryption, other protocols.

use std::ops::Range;
use std::path::Path;

use imgtools::img::MapExtent;
use imgtools::qcow2::{self, Extension};
use imgtools::raw;
use serde_json::{Value, json};

use super::handle::Image;
use super::stream::Stream;
use crate::author::action::Action;
use crate::author::content::CLUSTER;
use crate::author::failure::{CaseResult, Context, Failure};
use crate::author::storage::Storage;
use crate::case::Format;

/// What a layer alone contains; see [`Image::assert_layer`] for its data.
#[derive(Debug)]
pub struct Layer {
    /// Its own bytes: ranges that would come from its backing image read as zeroes.
    pub(super) data: Stream,
    /// The ranges that are present in the layer, as data or zeroes; ascending, not adjacent.
    pub present: Vec<Range<u64>>,
    /// The unit of allocation, in bytes.
    pub cluster_size: u64,
}

impl Layer {
    fn raw(path: &Path) -> CaseResult<Self> {
        let data = Stream::open(path)?;
        let all = 0..data.size;
        Ok(Layer {
            data,
            present: [all].into_iter().filter(|all| !all.is_empty()).collect(),
            cluster_size: 1,
        })
    }

    /// `None` if the image has features that are not supported here.
    fn qcow2(path: &Path) -> CaseResult<Option<Self>> {
        let image = qcow2::Image::open(path)?;
        let cluster_size = image.header().cluster_size();
        Ok(image.layer()?.map(|contents| Layer {
            present: contents.present(),
            data: contents.into(),
            cluster_size,
        }))
    }

    /// From the output of qemu-img.
    fn mapped(data: Stream, map: &[MapExtent]) -> Self {
        let mut present: Vec<Range<u64>> = Vec::new();
        for extent in map.iter().filter(|extent| extent.present == Some(true)) {
            match present.last_mut() {
                Some(last) if last.end == extent.start => last.end = extent.end(),
                _ => present.push(extent.start..extent.end()),
            }
        }
        Layer {
            data,
            present,
            cluster_size: CLUSTER,
        }
    }
}

/// The size and the backing file in a header, with the names used by `qemu-img info`.
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
    /// Its file, if that contains nothing but the guest's data.
    #[must_use]
    pub fn raw_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Raw && self.is_file();
        plain.then_some(&*self.0.file)
    }

    pub(super) fn qcow2_file(&self) -> Option<&Path> {
        let plain = self.format() == Format::Qcow2 && self.is_file();
        plain.then_some(&*self.0.file)
    }

    /// The default size of its overlay: its own current size, if that can be read here.
    pub(super) async fn size_as_backing(&self) -> CaseResult<u64> {
        let size = match self.raw_file().or_else(|| self.qcow2_file()) {
            Some(_) => self.size().await?,
            None => self.0.size,
        };
        Ok(size.next_multiple_of(raw::SECTOR))
    }

    /// Where this layer alone has something. The image must not be open for writing.
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
            let data = self.converted(self.own_spec()?).await?;
            Ok(Layer::mapped(data, &self.own_map().await?))
        })
    }

    /// Asserts that this layer is empty: it reads as zeroes, or as the layers below.
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

    /// The contents of its header: `virtual-size`, and for an overlay `backing-filename` and
    /// `backing-filename-format`, named as in [`Image::info`] (which has more).
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
