//! Checks of an image's whole content, layers and header.

use std::ops::Range;

use imgtools::raw;
use serde_json::{Value, json};

use super::handle::Image;
use super::stream::Stream;
use crate::author::action::Action;
use crate::author::assert::AssertJson;
use crate::author::content::{Content, compare};
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
        self.assert_holds(self.stream().await?, contents)
    }

    fn assert_holds(&self, found: Stream, contents: &[&Content]) -> CaseResult {
        for content in contents {
            fits(self, content, found.size)?;
        }
        let wrong = compare(found.data, found.size, contents);
        match &*wrong.context(format!("reading {self}"))? {
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
            let size = layer.data.size;
            self.assert_holds(layer.data, &[&content]).context("the data of this layer alone")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_widened_to_clusters() {
        let ranges = [1..2, 100..300, 1000..1010].into_iter();
        assert_eq!(to_clusters(ranges, 256, 1010), [0..512, 768..1010]);
    }
}
