//! Checks of an image's whole content, layers and header.

use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgtools::raw;
use serde_json::{Value, json};

use super::handle::Image;
use crate::author::action::Action;
use crate::author::assert::AssertJson;
use crate::author::content::{Content, Wrong, compare};
use crate::author::failure::{CaseResult, Context, Difference, Failure};
use crate::author::storage::{Request, Storage, differs, fits, writes};
use crate::case::Format;

impl Storage for Image {
    #[track_caller]
    fn size(&self) -> Action<'_, u64> {
        Action::new(format!("the size of {self}"), async move {
            let header = self.header().await?;
            let size = header.at("virtual-size")?.as_u64();
            size.ok_or_else(|| Failure::new(format!("{self} has no size: {header}")))
        })
    }

    #[track_caller]
    fn io_all(&self, commands: Vec<String>) -> Action<'_, String> {
        let call = self.io(commands);
        Action::new(format!("qemu-io on {self}"), async move {
            Ok(call.await?.combined_text())
        })
    }

    /// The image must not be open.
    #[track_caller]
    fn write_all<'a>(&'a self, content: impl Into<Content>) -> Action<'a, ()> {
        let content = content.into();
        Action::new(format!("a write to {self}"), async move {
            match self.raw_file() {
                Some(path) => {
                    for (byte, range) in content.to_write() {
                        raw::fill(path, range, byte)?;
                    }
                }
                None => {
                    let requests = writes(&content);
                    if !requests.is_empty() {
                        self.io(requests.iter().map(Request::to_string)).await?;
                    }
                }
            }
            Ok(())
        })
    }

    #[track_caller]
    fn assert_reads<'a>(&'a self, content: impl Into<Content>) -> Action<'a, ()> {
        let content = content.into();
        Action::new(format!("a read of {self}"), async move {
            self.compare_with(&[&content]).await
        })
    }
}

impl Image {
    /// Asserts that each sector matches one of the two contents, for the target of an interrupted
    /// job.
    #[track_caller]
    pub fn assert_reads_either(
        &self,
        one: impl Into<Content>,
        other: impl Into<Content>,
    ) -> Action<'_, ()> {
        let (one, other) = (one.into(), other.into());
        Action::new(format!("a read of {self}"), async move {
            self.compare_with(&[&one, &other]).await
        })
    }

    async fn compare_with(&self, contents: &[&Content]) -> CaseResult {
        let reading = || format!("reading {self}");
        let (data, size): (Box<dyn Read>, u64) = match self.raw_file() {
            Some(path) => {
                let file = File::open(path).context(reading())?;
                let size = file.metadata().context(reading())?.len();
                (Box::new(file), size)
            }
            None => {
                let bytes = self.bytes().await?;
                let size = bytes.len() as u64;
                (Box::new(Cursor::new(bytes)), size)
            }
        };
        for content in contents {
            fits(self, content, size)?;
        }
        let wrong = compare(data, size, contents).context(reading())?;
        self.no_wrong(&wrong)
    }

    fn no_wrong(&self, wrong: &[Wrong]) -> CaseResult {
        match wrong {
            [] => Ok(()),
            wrong => Err(differs(self, wrong)),
        }
    }

    /// Asserts that this layer alone contains exactly this, and that exactly the clusters touched
    /// by the content are allocated. (For a raw image, allocation is up to the file system and not
    /// checked.)
    #[track_caller]
    pub fn assert_layer(&self, content: impl Into<Content>) -> Action<'_, ()> {
        let content = content.into();
        Action::new(format!("a look at {self}"), async move {
            let layer = self.own_layer().await?;
            let size = layer.bytes.len() as u64;
            fits(self, &content, size)?;
            let wrong = compare(&*layer.bytes, size, &[&content])?;
            self.no_wrong(&wrong).context("the data of this layer alone")?;
            let parts = content.extents().into_iter().map(|(_, range)| range);
            let expected = to_clusters(parts, layer.cluster_size, size);
            let found = to_clusters(layer.present.into_iter(), layer.cluster_size, size);
            if self.format() == Format::Raw || found == expected {
                return Ok(());
            }
            let difference = Difference {
                expected: format!("{expected:#x?}"),
                found: format!("{found:#x?}"),
                diff: None,
            };
            let odd = |one: &[Range<u64>], other: &[Range<u64>]| {
                one.iter().find(|range| !other.contains(range)).cloned()
            };
            let headline = match (odd(&found, &expected), odd(&expected, &found)) {
                (Some(range), _) => format!("{self} has {range:#x?} allocated, expected not that"),
                (None, range) => {
                    let range = range.unwrap_or_default();
                    format!("{self} has no allocation in {range:#x?}, expected one")
                }
            };
            Err(Failure::differs(headline, difference))
        })
    }

    /// Asserts that its header records this image as its backing file, with its format. Returns the
    /// whole header.
    #[track_caller]
    pub fn assert_backing<'a>(&'a self, backing: &'a Image) -> Action<'a, Value> {
        Action::new(format!("the header of {self}"), async move {
            let header = self.header().await?;
            let mut expected = json!({"backing-filename": backing});
            // qed can record only that the backing file is raw and must not be probed.
            if self.format() != Format::Qed || backing.format() == Format::Raw {
                expected["backing-filename-format"] = backing.format().name().into();
            }
            header.assert_includes(&expected).context(format!("the header of {self}"))?;
            Ok(header)
        })
    }

    /// Records the bytes of its file, to check later that they are unchanged.
    ///
    /// # Errors
    /// If the file cannot be read.
    #[track_caller]
    pub fn file_bytes(&self) -> CaseResult<FileBytes> {
        let (image, bytes) = (self.clone(), self.read_file()?);
        Ok(FileBytes { image, bytes })
    }

    fn read_file(&self) -> CaseResult<Sparse> {
        Sparse::read(self.file()).context(format!("reading {self}"))
    }
}

/// The clusters that these ranges touch, as ranges that are not adjacent.
fn to_clusters(
    ranges: impl Iterator<Item = Range<u64>>,
    cluster: u64,
    size: u64,
) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = range.start / cluster * cluster;
        let end = range.end.next_multiple_of(cluster).min(size);
        match out.last_mut() {
            Some(last) if last.end >= start => last.end = end.max(last.end),
            _ => out.push(start..end),
        }
    }
    out
}

/// A snapshot of all bytes of an image's file: data, tables, header.
pub struct FileBytes {
    image: Image,
    bytes: Sparse,
}

/// The bytes of a file without its holes: most of a new image is holes.
#[derive(PartialEq, Eq)]
struct Sparse {
    size: u64,
    data: Vec<(u64, Vec<u8>)>,
}

impl Sparse {
    fn read(path: &Path) -> CaseResult<Sparse> {
        let file = File::open(path)?;
        let extents = raw::extents(path)?;
        let size = extents.last().map_or(0, |last| last.range.end);
        let read = |extent: raw::Extent| {
            let mut bytes = vec![0; (extent.range.end - extent.range.start) as usize];
            file.read_exact_at(&mut bytes, extent.range.start)?;
            Ok((extent.range.start, bytes))
        };
        let data = extents.into_iter().filter(|extent| extent.data).map(read);
        Ok(Sparse {
            size,
            data: data.collect::<CaseResult<_>>()?,
        })
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = vec![0; self.size as usize];
        for (start, bytes) in &self.data {
            whole[*start as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        whole
    }
}

impl FileBytes {
    /// Asserts that the bytes of the file are unchanged.
    ///
    /// # Errors
    /// States where the first change is.
    #[track_caller]
    pub fn assert_unchanged(&self) -> CaseResult {
        let (image, bytes) = (&self.image, self.image.read_file()?);
        if self.bytes == bytes {
            return Ok(());
        }
        // Perhaps only a hole was filled with zeroes, or zeroes became a hole.
        let (was, is) = (self.bytes.whole(), bytes.whole());
        if was == is {
            return Ok(());
        }
        let differs = was.iter().zip(&is).position(|(a, b)| a != b);
        Err(Failure::new(match differs {
            Some(at) => format!(
                "the file {image} holds {:#04x} at {at:#x}, expected {:#04x} as before",
                is[at], was[at]
            ),
            None => format!(
                "the file {image} has {} bytes, expected {} as before",
                is.len(),
                was.len()
            ),
        }))
    }
}

impl std::fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileBytes({}, {})", self.image, self.bytes.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_widened_to_clusters() {
        let ranges = [1..2, 100..300, 1000..1010].into_iter();
        assert_eq!(to_clusters(ranges, 256, 1010), [0..512, 768..1010]);
    }
}
