//! Comparing an export with what it should hold, holes skipped.

use std::convert::Infallible;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::connection::Client;
use super::error::RequestError;
use super::status::MapEntry;
use crate::proto::BaseAllocation;

/// Content that is known without being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The same byte everywhere (what `qemu-io -P` writes).
    Byte(u8),
    /// Each aligned eight bytes hold their own offset plus this seed, big-endian.
    Offset(u64),
}

impl Pattern {
    /// Writes what should stand at `offset`.
    pub fn fill(self, offset: u64, data: &mut [u8]) {
        match self {
            Pattern::Byte(byte) => data.fill(byte),
            Pattern::Offset(seed) => {
                let mut at = offset;
                let mut rest = data;
                while !rest.is_empty() {
                    let word = (at & !7).wrapping_add(seed).to_be_bytes();
                    let skip = (at & 7) as usize;
                    let n = rest.len().min(8 - skip);
                    let (head, tail) = rest.split_at_mut(n);
                    head.copy_from_slice(&word[skip..skip + n]);
                    at += n as u64;
                    rest = tail;
                }
            }
        }
    }

    fn is_zero(self) -> bool {
        self == Pattern::Byte(0)
    }
}

/// The first byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} is {found:#04x}, expected {expected:#04x}")]
pub struct Difference {
    /// Where.
    pub offset: u64,
    /// What should be there.
    pub expected: u8,
    /// What is there.
    pub found: u8,
}

/// Bytes per read: large enough to be fast, small enough for every server.
const STEP: u64 = 1 << 20;
/// Reads under way at once.
const DEPTH: usize = 8;

impl Client {
    /// Compares a range with a pattern; `None` means that all is as it should be.
    ///
    /// With `base:allocation` selected, zeroes that the server knows of are not read.
    pub async fn verify(
        &self,
        range: Range<u64>,
        pattern: Pattern,
    ) -> Result<Option<Difference>, RequestError> {
        for piece in self.pieces(range).await? {
            if zeroes(&piece) && pattern.is_zero() {
                continue;
            }
            let expected = |at: u64, data: &mut [u8]| -> Result<(), Infallible> {
                pattern.fill(at, data);
                Ok(())
            };
            let Ok(found) = self.compare_piece(&piece, &expected).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Compares the whole export with a file; what the longer one has beyond the end of the other
    /// must be zero.
    ///
    /// Zeroes that the server knows of are not read from it.
    pub async fn compare(&self, path: &Path) -> std::io::Result<Option<Difference>> {
        let file = File::open(path)?;
        let expected = |at: u64, data: &mut [u8]| -> std::io::Result<()> {
            let mut done = 0;
            while done < data.len() {
                match file.read_at(&mut data[done..], at + done as u64)? {
                    0 => break,
                    n => done += n,
                }
            }
            data[done..].fill(0);
            Ok(())
        };
        let size = self.export().size;
        let pieces = self.pieces(0..size).await.map_err(std::io::Error::other)?;
        for piece in pieces {
            let found = if zeroes(&piece) {
                file_is_zero(&file, &piece)?
            } else {
                self.compare_piece(&piece, &expected)
                    .await
                    .map_err(std::io::Error::other)??
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        let end = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekEnd)? as u64;
        let beyond = MapEntry {
            offset: size,
            len: end.saturating_sub(size),
            status: 0,
        };
        file_is_zero(&file, &beyond)
    }

    async fn pieces(&self, range: Range<u64>) -> Result<Vec<MapEntry>, RequestError> {
        let has_map = self.export().context_id("base:allocation").is_some();
        match has_map && !range.is_empty() {
            true => self.map("base:allocation", range).await,
            false => {
                let (offset, len) = (range.start, range.end.saturating_sub(range.start));
                Ok(vec![MapEntry {
                    offset,
                    len,
                    status: 0,
                }])
            }
        }
    }

    /// The outer error is the connection's, the inner one that of what is compared with.
    async fn compare_piece<E>(
        &self,
        piece: &MapEntry,
        expected: &impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Result<Option<Difference>, E>, RequestError> {
        let mut reads = std::collections::VecDeque::new();
        let mut next = piece.offset;
        let mut want = vec![0; STEP as usize];
        loop {
            while next < piece.end() && reads.len() < DEPTH {
                let (at, len) = (next, STEP.min(piece.end() - next));
                let client = self.clone();
                reads.push_back((
                    at,
                    AbortOnDrop(tokio::spawn(async move { client.read(at, len).await })),
                ));
                next += len;
            }
            let Some((at, mut read)) = reads.pop_front() else {
                return Ok(Ok(None));
            };
            let found = match (&mut read.0).await {
                Ok(found) => found?,
                // The task is not cancelled while we wait for it, so it has panicked.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            let want = &mut want[..found.len()];
            if let Err(error) = expected(at, want) {
                return Ok(Err(error));
            }
            if found != want {
                return Ok(Ok(difference(at, want, &found)));
            }
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn zeroes(piece: &MapEntry) -> bool {
    piece.base().contains(BaseAllocation::ZERO)
}

fn difference(at: u64, want: &[u8], found: &[u8]) -> Option<Difference> {
    let n = want.iter().zip(found).position(|(a, b)| a != b)?;
    Some(Difference {
        offset: at + n as u64,
        expected: want[n],
        found: found[n],
    })
}

/// Looks for data in a part of a file that should read as zeroes; holes are skipped.
fn file_is_zero(file: &File, piece: &MapEntry) -> std::io::Result<Option<Difference>> {
    use nix::unistd::{Whence, lseek};
    let mut at = piece.offset;
    let mut data = vec![0; STEP as usize];
    while at < piece.end() {
        at = match lseek(file, at as i64, Whence::SeekData) {
            Ok(found) => found as u64,
            Err(nix::errno::Errno::ENXIO) => return Ok(None),
            // A file system without holes: all of it is data.
            Err(nix::errno::Errno::EINVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let hole = lseek(file, at as i64, Whence::SeekHole).map_or(piece.end(), |h| h as u64);
        let end = hole.min(piece.end());
        while at < end {
            let want = &mut data[..STEP.min(end - at) as usize];
            let n = file.read_at(want, at)?;
            if n == 0 {
                return Ok(None);
            }
            if let Some(bad) = want[..n].iter().position(|b| *b != 0) {
                let offset = at + bad as u64;
                return Ok(Some(Difference {
                    offset,
                    expected: want[bad],
                    found: 0,
                }));
            }
            at += n as u64;
        }
    }
    Ok(None)
}
