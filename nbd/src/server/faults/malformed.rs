//! Replies that are well-formed and wrong.

use bytes::Bytes;

use super::plan::{Malformed, ReplyKind};
use crate::proto::chunk::{Error, Extent, Status};
use crate::proto::server::{Chunk, Reply};
use crate::proto::{ChunkFlags, ChunkType, CommandType, Errno};

/// Corrupts a reply; `false` if that is not possible with this one.
pub(super) fn apply(how: Malformed, reply: &mut Reply<Bytes>) -> bool {
    if reply.kind == ReplyKind::Simple {
        return false;
    }
    let is_read = reply.request.command == CommandType::READ;
    let is_status = reply.request.command == CommandType::BLOCK_STATUS;
    let done = match how {
        Malformed::MissingDone => {
            for chunk in &mut reply.chunks {
                chunk.flags = ChunkFlags::empty();
            }
            return true;
        }
        Malformed::AfterDone => {
            finish(reply);
            let late = Chunk {
                flags: ChunkFlags::DONE,
                ..Chunk::new(ChunkType::NONE, vec![])
            };
            reply.chunks.push(late);
            return true;
        }
        Malformed::Empty => replace(reply, vec![Chunk::new(ChunkType::NONE, vec![])]),
        Malformed::UnknownChunk => {
            reply.chunks.insert(0, Chunk::new(ChunkType(0x7ff), vec![0; 8]));
            true
        }
        Malformed::ForeignChunk => {
            let chunk = match is_read {
                true => Chunk::new(ChunkType::BLOCK_STATUS, vec![0; 12]),
                false => Chunk::hole(reply.request.offset, reply.request.len.max(1)),
            };
            reply.chunks.insert(0, chunk);
            true
        }
        Malformed::ErrorZero => error(reply, Errno::OK, None, 0),
        Malformed::ErrorElsewhere => error(reply, Errno::EIO, Some(u64::MAX / 2), 0),
        Malformed::TextTooLong => error(reply, Errno::EIO, None, 200),
        Malformed::NoneWithPayload => replace(reply, vec![Chunk::new(ChunkType::NONE, vec![0; 8])]),
        _ if is_read => read(how, reply),
        _ if is_status => status(how, reply),
        _ => false,
    };
    if done {
        finish(reply);
    }
    done
}

/// Marks the last chunk, and only that, as the last.
fn finish(reply: &mut Reply<Bytes>) {
    let last = reply.chunks.len().saturating_sub(1);
    for (n, chunk) in reply.chunks.iter_mut().enumerate() {
        chunk.flags = if n == last {
            ChunkFlags::DONE
        } else {
            ChunkFlags::empty()
        };
    }
}

fn replace(reply: &mut Reply<Bytes>, chunks: Vec<Chunk<Bytes>>) -> bool {
    reply.chunks = chunks;
    true
}

fn error(reply: &mut Reply<Bytes>, errno: Errno, offset: Option<u64>, longer: u8) -> bool {
    let kind = if offset.is_some() {
        ChunkType::ERROR_OFFSET
    } else {
        ChunkType::ERROR
    };
    let mut body = Error {
        errno,
        message: String::new(),
        offset,
    }
    .encode();
    if longer > 0 {
        // The length of the text is at 4..6; no text follows it.
        body[5] = longer;
    }
    replace(reply, vec![Chunk::new(kind, body)])
}

fn read(how: Malformed, reply: &mut Reply<Bytes>) -> bool {
    let (offset, len) = (reply.request.offset, reply.request.len);
    let whole = whole(reply);
    let cut = |from: u64, to: u64| whole.slice(from as usize..to as usize);
    let half = len / 2;
    if len < 4 || whole.len() as u64 != len {
        return false;
    }
    let data = |at: u64, to: u64| Chunk::data(offset + at, cut(at, to));
    let chunks = match how {
        Malformed::Half => vec![data(0, half)],
        Malformed::Gap => vec![data(0, half - 1), data(half + 1, len)],
        Malformed::Overlap => vec![data(0, half), data(0, half), data(half, len)],
        Malformed::OutOfRange => vec![Chunk::data(offset.wrapping_sub(512), cut(0, len))],
        Malformed::Oversize => {
            let more = [&whole[..], &[0; 512]].concat();
            vec![Chunk::data(offset, more.into())]
        }
        Malformed::EmptyHole => vec![Chunk::hole(offset, 0), data(0, len)],
        Malformed::HoleForData => vec![Chunk::hole(offset, len)],
        _ => return false,
    };
    replace(reply, chunks)
}

/// All data of a read, holes included.
fn whole(reply: &Reply<Bytes>) -> Bytes {
    let mut all = Vec::new();
    for chunk in &reply.chunks {
        match chunk.kind {
            ChunkType::OFFSET_DATA => {
                for part in &chunk.data {
                    all.extend_from_slice(part);
                }
            }
            ChunkType::OFFSET_HOLE => {
                let len = crate::proto::chunk::Hole::decode(&chunk.fixed).map_or(0, |h| h.len);
                all.resize(all.len() + len as usize, 0);
            }
            _ => {}
        }
    }
    all.into()
}

fn status(how: Malformed, reply: &mut Reply<Bytes>) -> bool {
    let wide = reply.kind == ReplyKind::Extended;
    let Some(first) = reply.chunks.first_mut() else {
        return false;
    };
    let Ok(mut status) = Status::decode(&first.fixed, wide) else {
        return false;
    };
    match how {
        Malformed::ZeroExtent => status.extents.insert(0, Extent { len: 0, status: 0 }),
        Malformed::HugeExtents => {
            let len = if wide { u64::MAX } else { u64::from(u32::MAX) };
            status.extents = vec![Extent { len, status: 0 }, Extent { len, status: 1 }];
        }
        Malformed::NoExtents => status.extents.clear(),
        Malformed::RepeatedContext => {
            let again = first.clone();
            reply.chunks.insert(0, again);
            return true;
        }
        Malformed::MissingContext => {
            reply.chunks.remove(0);
            if reply.chunks.is_empty() {
                reply.chunks.push(Chunk::new(ChunkType::NONE, vec![]));
            }
            return true;
        }
        _ => return false,
    }
    first.fixed = status.encode(wide);
    true
}
