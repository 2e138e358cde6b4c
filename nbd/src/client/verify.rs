//! Comparing an export with its expected content, skipping holes.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::connection::Client;
use super::handle::next_step;
use super::status::MapEntry;
use crate::proto::BaseAllocation;
use crate::proto::client::RequestError;

/// Content that is computed instead of stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The same byte everywhere (what `qemu-io -P` writes).
    Byte(u8),
    /// Each aligned eight bytes hold their own offset plus this seed, big-endian.
    Offset(u64),
}

impl Pattern {
    /// Fills `data` with the expected content at `offset`.
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
}

/// The first byte that differs from the expected content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} is {found:#04x}, expected {expected:#04x}")]
pub struct Difference {
    /// Where.
    pub offset: u64,
    /// The expected byte.
    pub expected: u8,
    /// The actual byte.
    pub found: u8,
}

/// An export could not be compared with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The export could not be read.
    #[error("failed to read the export")]
    Export(#[from] RequestError),
    /// The file could not be read.
    #[error("failed to read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Bytes per read, where the server allows that much.
const STEP: u64 = 1 << 20;
/// Reads in flight at once.
const DEPTH: usize = 8;

/// What is expected at each offset.
#[derive(Clone)]
enum Expected {
    Pattern(Pattern),
    File(Arc<File>),
}

impl Expected {
    async fn at(self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self {
            Expected::Pattern(pattern) => {
                let mut data = vec![0; len];
                pattern.fill(offset, &mut data);
                Ok(data)
            }
            Expected::File(file) => blocking(move || read_file(&file, offset, len)).await,
        }
    }
}

/// Runs blocking code on the blocking thread pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

/// Bytes of a file, zeroes beyond its end.
fn read_file(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut data[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(data)
}

impl Client {
    /// Compares a range with a pattern; `None` means that everything matches.
    ///
    /// Reads follow the server's size limits and alignment. With `base:allocation` selected, zeroes
    /// that the server reports are not read.
    ///
    /// # Errors
    /// Also when the range ends in a part of the export that no request can address
    /// ([`ExportInfo::reachable_size`](super::ExportInfo::reachable_size)) and everything before it
    /// matches.
    pub async fn verify(
        &self,
        range: Range<u64>,
        pattern: Pattern,
    ) -> Result<Option<Difference>, RequestError> {
        let end = range.end;
        for piece in self.pieces(range).await? {
            if is_zero(&piece) && pattern == Pattern::Byte(0) {
                continue;
            }
            let expected = Expected::Pattern(pattern);
            let found = match self.compare_piece(&piece, &expected).await {
                Ok(found) => found,
                Err(CompareError::Export(error)) => return Err(error),
                // A pattern cannot fail.
                Err(CompareError::File { .. }) => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        self.export().reaches(end, self.peer()).map(|()| None)
    }

    /// Compares the whole export with a file; the excess of the longer one must be zero. Zeroes
    /// that the server reports are not read.
    ///
    /// # Errors
    /// As [`Client::verify`], and those of the file.
    pub async fn compare(&self, path: &Path) -> Result<Option<Difference>, CompareError> {
        let failed = |source| CompareError::File {
            path: path.to_owned(),
            source,
        };
        let opened = path.to_owned();
        let file = blocking(move || File::open(opened)).await.map_err(failed)?;
        let file = Arc::new(file);
        let size = self.export().size;
        for piece in self.pieces(0..size).await? {
            let found = if is_zero(&piece) {
                let file = file.clone();
                let looked = blocking(move || file_is_zero(&file, &piece)).await;
                looked.map_err(failed)?
            } else {
                let expected = Expected::File(file.clone());
                match self.compare_piece(&piece, &expected).await {
                    Err(CompareError::File { source, .. }) => return Err(failed(source)),
                    found => found?,
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        let beyond = move || {
            let end = nix::unistd::lseek(&*file, 0, nix::unistd::Whence::SeekEnd)? as u64;
            let beyond = MapEntry {
                offset: size,
                len: end.saturating_sub(size),
                status: 0,
            };
            file_is_zero(&file, &beyond)
        };
        let found = blocking(beyond).await.map_err(failed)?;
        if found.is_none() {
            self.export().reaches(size, self.peer())?;
        }
        Ok(found)
    }

    /// Splits a range by status, or returns the whole range if the status is unknown.
    async fn pieces(&self, range: Range<u64>) -> Result<Vec<MapEntry>, RequestError> {
        let reachable = match range.end <= self.export().size {
            true => self.export().reachable_size(),
            // A range that no request may cover is rejected as such.
            false => range.end,
        };
        let range = range.start..range.end.min(reachable);
        let has_map = self.export().context_id("base:allocation").is_some();
        if !has_map || range.is_empty() {
            let (offset, len) = (range.start, range.end.saturating_sub(range.start));
            return Ok(vec![MapEntry {
                offset,
                len,
                status: 0,
            }]);
        }
        let wide = self.widen(range.start, range.end - range.start);
        let mut pieces = self.map("base:allocation", wide.0..wide.0 + wide.1).await?;
        for piece in &mut pieces {
            let (start, end) = (piece.offset.max(range.start), piece.end().min(range.end));
            (piece.offset, piece.len) = (start, end.saturating_sub(start));
        }
        pieces.retain(|piece| piece.len > 0);
        Ok(pieces)
    }

    /// The smallest range around this one that a request may cover.
    fn widen(&self, offset: u64, len: u64) -> (u64, u64) {
        let minimum = u64::from(self.export().sizes().minimum.max(1));
        let start = offset - offset % minimum;
        let end = (offset + len).checked_next_multiple_of(minimum);
        let end = end.unwrap_or(u64::MAX);
        (start, end - start)
    }

    /// Reads a range that need not be aligned.
    async fn read_unaligned(&self, offset: u64, len: u64) -> Result<Vec<u8>, RequestError> {
        let (start, wide) = self.widen(offset, len);
        let mut data = self.read(start, wide).await?;
        data.drain(..(offset - start) as usize);
        data.truncate(len as usize);
        Ok(data)
    }

    async fn compare_piece(
        &self,
        piece: &MapEntry,
        expected: &Expected,
    ) -> Result<Option<Difference>, CompareError> {
        let sizes = self.export().sizes();
        let minimum = u64::from(sizes.minimum.max(1));
        let step = STEP.min(u64::from(sizes.maximum)) / minimum * minimum;
        let step = step.max(minimum);
        let mut reads = VecDeque::new();
        let mut next = piece.offset;
        loop {
            while next < piece.end() && reads.len() < DEPTH {
                // Steps end on block boundaries, so only the first and the last read are widened.
                let end = next_step(next, step).min(piece.end());
                let (at, len) = (next, end - next);
                let (client, expected) = (self.clone(), expected.clone());
                reads.push_back(AbortOnDrop(tokio::spawn(async move {
                    let found = client.read_unaligned(at, len).await?;
                    let want = expected.at(at, found.len()).await;
                    let want = want.map_err(|source| CompareError::File {
                        path: PathBuf::new(),
                        source,
                    })?;
                    Ok(difference(at, &want, &found))
                })));
                next = end;
            }
            let Some(mut read) = reads.pop_front() else {
                return Ok(None);
            };
            let found: Result<_, CompareError> = match (&mut read.0).await {
                Ok(found) => found,
                // The task is not cancelled while we wait for it, so it has panicked.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            if let Some(found) = found? {
                return Ok(Some(found));
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

fn is_zero(piece: &MapEntry) -> bool {
    piece.base().contains(BaseAllocation::ZERO)
}

fn difference(at: u64, want: &[u8], found: &[u8]) -> Option<Difference> {
    if want == found {
        return None;
    }
    let n = want.iter().zip(found).position(|(a, b)| a != b)?;
    Some(Difference {
        offset: at + n as u64,
        expected: want[n],
        found: found[n],
    })
}

/// Searches a part of a file that should read as zeroes for data; holes are skipped.
fn file_is_zero(file: &File, piece: &MapEntry) -> std::io::Result<Option<Difference>> {
    use nix::unistd::{Whence, lseek};
    let mut at = piece.offset;
    let mut data = vec![0; STEP as usize];
    while at < piece.end() {
        at = match lseek(file, at as i64, Whence::SeekData) {
            Ok(found) => found as u64,
            Err(nix::errno::Errno::ENXIO) => return Ok(None),
            // A file system without holes: everything is data.
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
