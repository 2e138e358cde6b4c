//! Storage that can be written and read: an image, a node or disk of a machine, an export.

use std::fmt;
use std::ops::Range;
use std::panic::Location;

use super::action::Action;
use super::content::{Content, Wrong};
use super::failure::{CaseResult, Difference, Failure};
use super::image::pieces;

/// A request to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Fills the range with this byte.
    Write(u8, Range<u64>),
    /// Writes zeroes, with a write-zeroes request.
    Zero(Range<u64>),
    /// Discards the range; reading it afterwards may return anything.
    Discard(Range<u64>),
    /// Waits until all written data is on stable storage.
    Flush,
    /// Reads the range, where every byte must be this one.
    Read(u8, Range<u64>),
}

impl Request {
    /// The range that it affects, in bytes.
    #[must_use]
    pub fn range(&self) -> Option<Range<u64>> {
        match self {
            Request::Write(_, range)
            | Request::Zero(range)
            | Request::Discard(range)
            | Request::Read(_, range) => Some(range.clone()),
            Request::Flush => None,
        }
    }
}

/// As a qemu-io command.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, range) = match self {
            Request::Flush => return f.write_str("flush"),
            Request::Write(byte, range) => (format!("write -P {byte:#04x}"), range),
            Request::Zero(range) => ("write -z".to_owned(), range),
            Request::Discard(range) => ("discard".to_owned(), range),
            Request::Read(byte, range) => (format!("read -P {byte:#04x}"), range),
        };
        write!(f, "{verb} {} {}", range.start, range.end - range.start)
    }
}

/// Something that holds data and accepts qemu-io commands: an image, a node or disk of a machine,
/// an export. All are written and checked in the same way.
pub trait Storage: fmt::Display {
    /// Its current size, in bytes.
    fn size(&self) -> Action<'_, u64>;

    /// Runs these qemu-io commands on it one after another; each must succeed. Returns what they
    /// printed.
    fn io_all(&self, commands: Vec<String>) -> Action<'_, String>;

    /// Sends it these requests one after another; each must succeed.
    #[track_caller]
    fn request_all(&self, requests: Vec<Request>) -> Action<'_, ()> {
        let commands = requests.iter().map(Request::to_string).collect();
        let first = requests.first().map(Request::to_string).unwrap_or_default();
        let done = self.io_all(commands);
        Action::new(format!("\"{first}\" on {self}"), async move {
            done.await.map(drop)
        })
    }

    /// Writes all of this content, in the order in which it was built; holes are not written.
    #[track_caller]
    fn write_all<'a>(&'a self, content: impl Into<Content>) -> Action<'a, ()>
    where
        Self: Sized,
    {
        let requests = writes(&content.into());
        Action::new(format!("a write to {self}"), async move {
            if !requests.is_empty() {
                self.request_all(requests).await?;
            }
            Ok(())
        })
    }

    /// Asserts that it reads as exactly this content, from start to end; holes read as zeroes.
    #[track_caller]
    fn assert_reads<'a>(&'a self, content: impl Into<Content>) -> Action<'a, ()>
    where
        Self: Sized,
    {
        let (place, content) = (Location::caller(), content.into());
        Action::at(place, format!("a read of {self}"), async move {
            let size = self.size().await?;
            fits(self, &content, size)?;
            let reads = content.reads(size);
            let requests = reads.iter().cloned().flat_map(read).collect();
            let Err(failure) = self.request_all(requests).await else {
                return Ok(());
            };
            // Finds the part that differs, and its actual bytes, where a tool can read them.
            for (byte, range) in reads {
                match self.look_for(byte, range).await {
                    Ok(Some(wrong)) => return Err(differs(self, &[wrong])),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            Err(failure)
        })
    }
}

/// The search for a mismatch.
trait Search: Storage {
    /// Finds the first byte in a range that differs from the expected one: bisects by reading
    /// halves until only a few bytes are left, and prints those.
    async fn look_for(&self, expected: u8, range: Range<u64>) -> CaseResult<Option<Wrong>> {
        const FEW: u64 = 4096;
        let mut range = range;
        if !self.is_wrong(expected, &range).await? {
            return Ok(None);
        }
        while range.end - range.start > FEW {
            let middle = range.start + ((range.end - range.start) / 2).next_multiple_of(512);
            let first = range.start..middle;
            range = match self.is_wrong(expected, &first).await? {
                true => first,
                false => middle..range.end,
            };
        }
        let length = range.end - range.start;
        let dump = self.io_all(vec![format!("read -v {} {length}", range.start)]).await?;
        let bytes = dumped(&dump);
        let Some(at) = bytes.iter().position(|byte| *byte != expected) else {
            return Ok(None);
        };
        let found = bytes[at];
        let same = bytes[at..].iter().take_while(|byte| **byte == found).count() as u64;
        let start = range.start + at as u64;
        let range = start..start + same;
        Ok(Some(Wrong {
            range,
            found,
            expected,
        }))
    }

    async fn is_wrong(&self, byte: u8, range: &Range<u64>) -> CaseResult<bool> {
        let reads = read((byte, range.clone())).collect();
        Ok(self.request_all(reads).await.is_err())
    }
}

impl<S: Storage> Search for S {}

/// The bytes in the output of `read -v`: offset, sixteen bytes, and the same as text.
fn dumped(text: &str) -> Vec<u8> {
    let line = |line: &str| {
        let (_, bytes) = line.split_once(":  ")?;
        let (bytes, _) = bytes.split_once("  ")?;
        let byte = |text| u8::from_str_radix(text, 16).ok();
        bytes.split(' ').map(byte).collect::<Option<Vec<u8>>>()
    };
    text.lines().filter_map(line).flatten().collect()
}

/// The requests that write this.
pub(crate) fn writes(content: &Content) -> Vec<Request> {
    content.to_write().into_iter().flat_map(write).collect()
}

fn write((byte, range): (u8, Range<u64>)) -> impl Iterator<Item = Request> {
    pieces(&range).map(move |piece| match byte {
        0 => Request::Zero(piece),
        byte => Request::Write(byte, piece),
    })
}

fn read((byte, range): (u8, Range<u64>)) -> impl Iterator<Item = Request> {
    pieces(&range).map(move |piece| Request::Read(byte, piece))
}

/// Checks that the content fits into this size.
pub(crate) fn fits(storage: &impl fmt::Display, content: &Content, size: u64) -> CaseResult {
    match content.end() {
        end if end <= size => Ok(()),
        end => Err(Failure::new(format!(
            "{storage} has {size} bytes, expected {end} at least"
        ))),
    }
}

/// A failure that shows unexpected data.
pub(crate) fn differs(storage: &impl fmt::Display, wrong: &[Wrong]) -> Failure {
    let (expected, found) = Wrong::both(wrong);
    let first = wrong.first().map(Wrong::to_string).unwrap_or_default();
    let difference = Difference {
        expected,
        found,
        diff: None,
    };
    Failure::differs(format!("{storage} holds {first}"), difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_written_as_such_and_long_ranges_in_pieces() {
        const GIB: u64 = 1 << 30;
        let requests = write((0, 0..512)).chain(write((7, 1..GIB + 3)));
        let lines: Vec<String> = requests.map(|request| request.to_string()).collect();
        assert_eq!(
            lines,
            [
                "write -z 0 512",
                "write -P 0x07 1 1073741824",
                "write -P 0x07 1073741825 2"
            ]
        );
    }

    #[test]
    fn a_dump_of_qemu_io_is_read() {
        let text = "00000200:  11 11 00 0a ff 11 11 11 11 11 11 11 11 11 11 11  ..  ............\n\
                    00000210:  01 02  ..\nread 18/18 bytes at offset 512\n";
        let bytes = dumped(text);
        assert_eq!(
            (bytes.len(), &bytes[..5]),
            (18, &[0x11, 0x11, 0, 0x0a, 0xff][..])
        );
        assert_eq!(bytes[16..], [1, 2]);
    }
}
