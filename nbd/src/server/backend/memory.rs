//! Content in memory, sparse.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::{Backend, BackendError, HOLE, Piece, ZEROES, push};
use crate::proto::chunk::Extent;
use crate::proto::{CommandFlags, Errno};

/// Granularity of allocation in bytes.
const BLOCK: u64 = ZEROES.len() as u64;

/// Most zeroes that one request may allocate, since it sends no payload for them.
const MOST_ZEROES: u64 = 1 << 34;

/// Memory, allocated in blocks of 64 KiB when written. Zeroes that must be allocated
/// ([`CommandFlags::NO_HOLE`]) count as allocated and take almost no memory; a request for more
/// than 16 GiB of them fails with [`Errno::ENOSPC`].
///
/// Writes are atomic with respect to reads.
#[derive(Debug)]
pub struct MemoryBackend {
    size: u64,
    blocks: Mutex<Blocks>,
}

/// Allocated blocks by number; those without content are zeroes.
type Blocks = BTreeMap<u64, Option<Bytes>>;

impl MemoryBackend {
    /// `size` bytes, all unallocated.
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

    /// A copy of a range, for tests that bypass the server.
    pub fn snapshot(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        let blocks = self.lock();
        for (index, at, range) in parts(offset, len) {
            if let Some(Some(block)) = blocks.get(&index) {
                let n = range.len();
                out[at..at + n].copy_from_slice(&block[range]);
            }
        }
        out
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let mut blocks = self.lock();
        for (index, at, range) in parts(offset, data.len() as u64) {
            let n = range.len();
            let written = &data[at..at + n];
            edit(blocks.entry(index).or_default(), |block| {
                block[range].copy_from_slice(written);
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits a range into blocks: index, position in the range, range in the block.
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

/// Changes a block; readers that still hold it keep what they have read.
fn edit(block: &mut Option<Bytes>, change: impl FnOnce(&mut [u8])) {
    let mut own = match block.take().map(Bytes::try_into_mut) {
        Some(Ok(own)) => own,
        Some(Err(shared)) => BytesMut::from(&*shared),
        None => BytesMut::zeroed(BLOCK as usize),
    };
    change(&mut own);
    *block = Some(own.freeze());
}

/// Part of a block. A small part is copied, so that holding it does not keep the whole block alive.
fn part(block: &Bytes, range: std::ops::Range<usize>) -> Bytes {
    match 2 * range.len() as u64 >= BLOCK {
        true => block.slice(range),
        false => Bytes::copy_from_slice(&block[range]),
    }
}

/// Deallocates the blocks entirely inside a range, however large it is.
fn release(blocks: &mut Blocks, offset: u64, len: u64) {
    let whole = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
    if whole.is_empty() {
        return;
    }
    let gone: Vec<u64> = blocks.range(whole).map(|(index, _)| *index).collect();
    for index in gone {
        blocks.remove(&index);
    }
}

impl Backend for MemoryBackend {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let blocks = self.lock();
        let mut pieces: Vec<Piece> = Vec::new();
        for (index, _, range) in parts(offset, len) {
            let n = range.len();
            let piece = match (blocks.get(&index), pieces.last_mut()) {
                (Some(Some(block)), _) => Piece::Data(part(block, range)),
                (Some(None), _) => Piece::Data(Bytes::from_static(&ZEROES[..n])),
                (None, Some(Piece::Hole(hole))) => {
                    *hole += n as u64;
                    continue;
                }
                (None, _) => Piece::Hole(n as u64),
            };
            pieces.push(piece);
        }
        Ok(pieces)
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), BackendError> {
        self.put(offset, &data);
        Ok(())
    }

    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError> {
        let mut blocks = self.lock();
        if flags.contains(CommandFlags::NO_HOLE) {
            if len > MOST_ZEROES {
                let text = "too much to allocate at once";
                return Err(BackendError::new(Errno::ENOSPC, text));
            }
            for (index, _, range) in parts(offset, len) {
                match blocks.entry(index).or_default() {
                    block @ Some(_) if (range.len() as u64) < BLOCK => {
                        edit(block, |block| block[range].fill(0));
                    }
                    block => *block = None,
                }
            }
            return Ok(());
        }
        release(&mut blocks, offset, len);
        for at in [offset, (offset + len).saturating_sub(1)] {
            let start = at - at % BLOCK;
            if let Some(block @ Some(_)) = blocks.get_mut(&(at / BLOCK)) {
                let (from, to) = (
                    offset.max(start),
                    (offset + len).min(start.saturating_add(BLOCK)),
                );
                let range = (from - start) as usize..(to - start) as usize;
                edit(block, |block| block[range].fill(0));
            }
        }
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        release(&mut self.lock(), offset, len);
        Ok(())
    }

    async fn status(
        &self,
        _: &str,
        offset: u64,
        len: u64,
        _one: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        let blocks = self.lock();
        let mut extents = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let index = at / BLOCK;
            // Runs of unallocated blocks are skipped as a whole: exports can be huge.
            let (end, status) = match blocks.range(index..).next() {
                Some((first, _)) if *first == index => ((index + 1).saturating_mul(BLOCK), 0),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 3 * BLOCK + 100;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u8),
        Zero(CommandFlags),
        Trim,
    }

    fn op() -> impl Strategy<Value = (Op, u64, u64)> {
        let op = prop_oneof![
            (1u8..).prop_map(Op::Write),
            Just(Op::Zero(CommandFlags::empty())),
            Just(Op::Zero(CommandFlags::NO_HOLE)),
            Just(Op::Trim),
        ];
        // Some ranges end at a block boundary.
        let edge = prop_oneof![0..=SIZE, (0..=3u64).prop_map(|n| n * BLOCK)];
        (op, edge.clone(), edge).prop_map(|(op, a, b)| (op, a.min(b), a.max(b) - a.min(b)))
    }

    proptest! {
        #[test]
        fn content_and_allocation_agree_with_a_plain_buffer(ops in prop::collection::vec(op(), 0..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let memory = MemoryBackend::new(SIZE);
            let mut plain = vec![0u8; SIZE as usize];
            let mut allocated = [false; 4];
            for (op, offset, len) in ops {
                let range = offset as usize..(offset + len) as usize;
                let whole = |n: &usize| {
                    let start = *n as u64 * BLOCK;
                    offset <= start && start + BLOCK <= offset + len
                };
                let touched = |n: &usize| {
                    let start = *n as u64 * BLOCK;
                    offset < start + BLOCK && start < offset + len
                };
                let done = match op {
                    Op::Write(byte) => {
                        plain[range].fill(byte);
                        (0..4).filter(touched).for_each(|n| allocated[n] = true);
                        runtime.block_on(memory.write(offset, vec![byte; len as usize].into(), false))
                    }
                    Op::Zero(flags) => {
                        plain[range].fill(0);
                        match flags.contains(CommandFlags::NO_HOLE) {
                            true => (0..4).filter(touched).for_each(|n| allocated[n] = true),
                            false => (0..4).filter(whole).for_each(|n| allocated[n] = false),
                        }
                        runtime.block_on(memory.zero(offset, len, flags))
                    }
                    Op::Trim => {
                        for n in (0..4).filter(whole) {
                            allocated[n] = false;
                            plain[n * BLOCK as usize..(n + 1) * BLOCK as usize].fill(0);
                        }
                        runtime.block_on(memory.trim(offset, len))
                    }
                };
                prop_assert_eq!(done, Ok(()));
            }
            prop_assert_eq!(memory.snapshot(0, SIZE), &*plain);
            let mut read = Vec::new();
            for piece in runtime.block_on(memory.read(0, SIZE)).unwrap() {
                match piece {
                    Piece::Data(data) => read.extend_from_slice(&data),
                    Piece::Hole(len) => read.resize(read.len() + len as usize, 0),
                }
            }
            prop_assert_eq!(read, plain);
            for (n, allocated) in allocated.iter().enumerate() {
                let status = runtime.block_on(memory.status("", n as u64 * BLOCK, 1, false)).unwrap();
                prop_assert_eq!(status[0].status, if *allocated { 0 } else { HOLE });
            }
        }
    }
}
