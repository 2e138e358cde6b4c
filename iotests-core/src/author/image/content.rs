//! The content of an image: writing, reading, comparing.

use std::ops::Range;
use std::panic::Location;
use std::path::Path;

use imgtools::image::ImageSpec;
use imgtools::process::Output;
use imgtools::qcow2;

use super::handle::Image;
use super::stream::Stream;
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Context, Failure};
use crate::author::storage::{Request, Storage};
use crate::author::tool::ToolCall;
use crate::case::{Format, ToolKind};

impl Image {
    /// Runs qemu-io on it with these commands.
    #[track_caller]
    pub fn io(&self, commands: impl IntoIterator<Item = impl AsRef<str>>) -> ToolCall {
        let mut call = ToolCall::new(&self.0.shared, ToolKind::Io);
        if self.0.read_only {
            call = call.arg("--read-only");
        }
        for command in commands {
            call = call.args(["-c", command.as_ref()]);
        }
        self.0.shared.with_io_defaults(self.named(call))
    }

    /// Writes this byte to a range.
    #[track_caller]
    pub fn write(&self, pattern: u8, range: Range<u64>) -> Action<'_, ()> {
        let call = self.io(pieces(&range).map(|piece| Request::Write(pattern, piece).to_string()));
        Action::new(format!("a write to {self}"), async move {
            call.await?;
            Ok(())
        })
    }

    /// Asserts that every byte of the range is this one.
    #[track_caller]
    pub fn assert_pattern(&self, pattern: u8, range: Range<u64>) -> Action<'_, ()> {
        let call = self.io(pieces(&range).map(|piece| Request::Read(pattern, piece).to_string()));
        Action::new(format!("a read of {self}"), async move {
            match wrong(&call.any_status().await?) {
                None => Ok(()),
                Some(why) => Err(Failure::new(format!(
                    "{self} does not hold {pattern:#04x} in {range:?}: {why}"
                ))),
            }
        })
    }

    /// Asserts that each range contains only its byte.
    #[track_caller]
    pub fn assert_patterns(&self, patterns: &[(u8, Range<u64>)]) -> Action<'_, ()> {
        let (place, patterns) = (Location::caller(), patterns.to_vec());
        let all = patterns.iter().flat_map(|(pattern, range)| {
            pieces(range).map(|piece| Request::Read(*pattern, piece).to_string())
        });
        let call = self.io(all.collect::<Vec<_>>());
        Action::at(place, format!("a read of {self}"), async move {
            let Some(why) = wrong(&call.any_status().await?) else {
                return Ok(());
            };
            // Checks one range at a time, to find and report the wrong one.
            for (pattern, range) in patterns {
                self.assert_pattern(pattern, range).await?;
            }
            Err(Failure::new(format!("{self}: {why}")))
        })
    }

    /// Asserts that every byte of the image is this one.
    #[track_caller]
    pub fn assert_fill(&self, pattern: u8) -> Action<'_, ()> {
        let place = Location::caller();
        Action::at(place, format!("a read of {self}"), async move {
            let size = Storage::size(self).await?;
            self.assert_pattern(pattern, 0..size).await
        })
    }

    /// Fills a raw image with numbered sectors.
    pub(super) async fn write_markers(&self) -> CaseResult {
        if self.0.format != Format::Raw {
            return Err(Failure::new(format!(
                "{self} is not raw, so it has no sectors to number"
            )));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.0.size)?);
        for sector in 0..u32::try_from(self.0.size / 512)? {
            bytes.extend(sector.to_be_bytes());
            bytes.extend([0; 504]);
            bytes.extend(sector.to_be_bytes());
        }
        std::fs::write(&self.0.file, bytes).context(format!("numbering the sectors of {self}"))
    }

    /// Its whole content, as a guest would read it. The image must not be open for writing.
    #[track_caller]
    pub fn bytes(&self) -> Action<'_, Vec<u8>> {
        Action::new(format!("a read of {self}"), async move {
            self.stream().await?.bytes().context(format!("reading {self}"))
        })
    }

    /// Its whole content, as a guest would read it.
    pub(super) async fn stream(&self) -> CaseResult<Stream> {
        if let Some(path) = self.raw_file() {
            return Stream::open(path);
        }
        let read = self.qcow2_file().map(qcow2::Image::open).transpose()?;
        match read.map(|image| image.contents()).transpose()?.flatten() {
            Some(contents) => Ok(contents.into()),
            None => self.converted(self.spec()?).await,
        }
    }

    /// A raw copy of this image, made by qemu-img.
    pub(super) async fn converted(&self, of: ImageSpec) -> CaseResult<Stream> {
        let number = self.0.shared.next_number();
        let copy = self.0.shared.directories.file(&format!("bytes{number}"))?;
        let call = self.0.shared.img()?.convert(of, Path::new(copy.as_str()));
        call.output_format("raw").run().await?;
        Stream::open(Path::new(copy.as_str())).context(format!("the copy of {self}"))
    }
}

/// What is wrong, if qemu-io did not read the expected data; its status alone does not show that.
fn wrong(output: &Output) -> Option<String> {
    let text = output.combined_text();
    let failure = imgtools::io::failures(&text).first().copied();
    match failure {
        None if output.status.is_success() => None,
        failure => Some(failure.unwrap_or(text.trim_end()).to_owned()),
    }
}

/// Splits the range into pieces that fit into one request; QEMU refuses longer ones.
pub(crate) fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    split(range.clone(), 1 << 30)
}

/// Splits the range into pieces of at most so many bytes.
pub(super) fn split(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    range
        .step_by(most as usize)
        .map(move |start| start..end.min(start.saturating_add(most)))
}
