//! Content in memory, sparse.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Backend, BackendError, HOLE, Piece, push};
use crate::proto::CommandFlags;
use crate::proto::chunk::Extent;

/// Granularity of allocation in bytes.
const BLOCK: u64 = 64 * 1024;

/// Memory, allocated in blocks of 64 KiB when written.
///
/// A write is seen by a reader wholly or not at all.
#[derive(Debug)]
pub struct MemoryBackend {
    size: u64,
    blocks: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl MemoryBackend {
    /// So many bytes, all unallocated.
    pub fn new(size: u64) -> MemoryBackend {
        MemoryBackend {
            size,
            blocks: Mutex::default(),
        }
    }

    /// This content.
    pub fn with_content(content: &[u8]) -> MemoryBackend {
        let memory = MemoryBackend::new(content.len() as u64);
        memory.put(0, content);
        memory
    }

    /// A copy of a range, for tests that look behind the server's back.
    pub fn snapshot(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        let blocks = self.lock();
        for (index, at, range) in parts(offset, len) {
            if let Some(block) = blocks.get(&index) {
                let n = range.len();
                out[at..at + n].copy_from_slice(&block[range]);
            }
        }
        out
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let mut blocks = self.lock();
        for (index, at, range) in parts(offset, data.len() as u64) {
            let block = blocks
                .entry(index)
                .or_insert_with(|| vec![0; BLOCK as usize].into());
            let n = range.len();
            block[range].copy_from_slice(&data[at..at + n]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Box<[u8]>>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a range into blocks: index, position in the range, range in the block.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let (index, start) = ((offset + at) / BLOCK, (offset + at) % BLOCK);
        let n = (BLOCK - start).min(len - at);
        let part = (index, at as usize, start as usize..(start + n) as usize);
        at += n;
        Some(part)
    })
}

#[async_trait]
impl Backend for MemoryBackend {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let blocks = self.lock();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        for (index, _, range) in parts(offset, len) {
            match blocks.get(&index) {
                Some(block) => {
                    data.reserve_exact(if data.is_empty() { len as usize } else { 0 });
                    data.extend_from_slice(&block[range]);
                }
                None => {
                    if !data.is_empty() {
                        pieces.push(Piece::Data(std::mem::take(&mut data).into()));
                    }
                    match pieces.last_mut() {
                        Some(Piece::Hole(hole)) => *hole += range.len() as u64,
                        _ => pieces.push(Piece::Hole(range.len() as u64)),
                    }
                }
            }
        }
        if !data.is_empty() {
            pieces.push(Piece::Data(data.into()));
        }
        Ok(pieces)
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), BackendError> {
        self.put(offset, &data);
        Ok(())
    }

    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError> {
        let keep = flags.contains(CommandFlags::NO_HOLE);
        let mut blocks = self.lock();
        for (index, _, range) in parts(offset, len) {
            if range.len() as u64 == BLOCK && !keep {
                blocks.remove(&index);
            } else if keep {
                let block = blocks
                    .entry(index)
                    .or_insert_with(|| vec![0; BLOCK as usize].into());
                block[range].fill(0);
            } else if let Some(block) = blocks.get_mut(&index) {
                block[range].fill(0);
            }
        }
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        let mut blocks = self.lock();
        for (index, _, range) in parts(offset, len) {
            if range.len() as u64 == BLOCK {
                blocks.remove(&index);
            }
        }
        Ok(())
    }

    async fn status(&self, _: &str, offset: u64, len: u64) -> Result<Vec<Extent>, BackendError> {
        let blocks = self.lock();
        let mut extents = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let index = at / BLOCK;
            // Runs of unallocated blocks are skipped as a whole: exports can be huge.
            let (end, status) = match blocks.range(index..).next() {
                Some((first, _)) if *first == index => ((index + 1) * BLOCK, 0),
                Some((first, _)) => (first * BLOCK, HOLE),
                None => (u64::MAX, HOLE),
            };
            let end = end.min(offset + len);
            push(&mut extents, end - at, status);
            at = end;
        }
        Ok(extents)
    }
}
