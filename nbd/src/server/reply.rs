//! Replies before they are bytes: chunks that can still be tampered with.

use bytes::Bytes;

use super::backend::{BackendError, Piece};
use super::layout::Layout;
use super::plan::ReplyKind;
use super::wire::Message;
use crate::proto::chunk::{Error, Hole, Status};
use crate::proto::{ChunkFlags, ChunkType, CommandFlags, Errno, Mode, ReplyHeader, Request};

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Data(Vec<Piece>),
    Status(Vec<Status>),
    Failed {
        error: BackendError,
        at: Option<u64>,
    },
}

impl Answer {
    pub(super) fn fail(errno: Errno, message: &str) -> Answer {
        Answer::Failed {
            error: BackendError::new(errno, message),
            at: None,
        }
    }

    pub(super) fn errno(&self) -> Errno {
        match self {
            Answer::Failed { error, .. } => error.errno,
            _ => Errno::OK,
        }
    }
}

impl From<Result<(), BackendError>> for Answer {
    fn from(result: Result<(), BackendError>) -> Answer {
        match result {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed { error, at: None },
        }
    }
}

/// One chunk.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) kind: ChunkType,
    pub(super) flags: ChunkFlags,
    pub(super) fixed: Vec<u8>,
    pub(super) data: Bytes,
}

impl Chunk {
    pub(super) fn new(kind: ChunkType, fixed: Vec<u8>) -> Chunk {
        Chunk {
            kind,
            flags: ChunkFlags::empty(),
            fixed,
            data: Bytes::new(),
        }
    }

    pub(super) fn data(offset: u64, data: Bytes) -> Chunk {
        let fixed = offset.to_be_bytes().to_vec();
        Chunk {
            data,
            ..Chunk::new(ChunkType::OFFSET_DATA, fixed)
        }
    }

    pub(super) fn hole(offset: u64, len: u64) -> Chunk {
        Chunk::new(
            ChunkType::OFFSET_HOLE,
            Hole {
                offset,
                len: len as u32,
            }
            .encode(),
        )
    }

    pub(super) fn error(error: &BackendError, at: Option<u64>) -> Chunk {
        let kind = if at.is_some() {
            ChunkType::ERROR_OFFSET
        } else {
            ChunkType::ERROR
        };
        let body = Error {
            errno: error.errno,
            message: error.message.clone(),
            offset: at,
        };
        Chunk::new(kind, body.encode())
    }
}

/// A reply that can still be tampered with.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) request: Request,
    pub(super) kind: ReplyKind,
    /// Used by simple replies.
    errno: Errno,
    /// Used by simple replies.
    pieces: Vec<Piece>,
    pub(super) chunks: Vec<Chunk>,
}

impl Reply {
    pub(super) fn new(request: Request, mode: Mode, answer: Answer) -> Reply {
        let kind = match mode {
            Mode::Extended => ReplyKind::Extended,
            Mode::Structured => ReplyKind::Structured,
            _ => ReplyKind::Simple,
        };
        let mut reply = Reply {
            request,
            kind,
            errno: answer.errno(),
            pieces: Vec::new(),
            chunks: Vec::new(),
        };
        reply.fill(answer, mode);
        if reply.chunks.is_empty() {
            // Nothing was asked for. That has to be said all the same, or the client waits for it.
            reply.chunks.push(Chunk::new(ChunkType::NONE, Vec::new()));
        }
        if let Some(last) = reply.chunks.last_mut() {
            last.flags = ChunkFlags::DONE;
        }
        reply
    }

    fn fill(&mut self, answer: Answer, mode: Mode) {
        let wide = mode == Mode::Extended;
        let status = if wide {
            ChunkType::BLOCK_STATUS_EXT
        } else {
            ChunkType::BLOCK_STATUS
        };
        match answer {
            Answer::Done => self.chunks.push(Chunk::new(ChunkType::NONE, Vec::new())),
            Answer::Failed { error, at } => self.chunks.push(Chunk::error(&error, at)),
            Answer::Status(all) => {
                let chunk = |s: Status| Chunk::new(status, s.encode(wide));
                self.chunks.extend(all.into_iter().map(chunk));
            }
            Answer::Data(pieces) => {
                let mut at = self.request.offset;
                let whole = self.request.flags.contains(CommandFlags::DF) && pieces.len() > 1;
                let pieces = if whole {
                    vec![Piece::Data(flatten(&pieces))]
                } else {
                    pieces
                };
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    self.chunks.push(match piece {
                        Piece::Data(data) => Chunk::data(at, data.clone()),
                        Piece::Hole(len) => Chunk::hole(at, *len),
                    });
                    at += piece.len();
                }
                self.pieces = pieces;
            }
        }
    }

    /// The messages on the wire.
    pub(super) fn messages(self) -> Vec<Message> {
        let Request { cookie, offset, .. } = self.request;
        if self.kind == ReplyKind::Simple {
            let head = ReplyHeader::Simple {
                error: self.errno,
                cookie,
            }
            .encode();
            let data = match <[Piece; 1]>::try_from(self.pieces) {
                Ok([Piece::Data(data)]) => data,
                Ok(pieces) => flatten(&pieces),
                Err(pieces) => flatten(&pieces),
            };
            return vec![Message {
                layout: Layout::Simple,
                head,
                data,
            }];
        }
        let extended = self.kind == ReplyKind::Extended;
        let message = |chunk: Chunk| {
            let Chunk {
                kind,
                flags,
                fixed,
                data,
            } = chunk;
            let len = fixed.len() + data.len();
            let (layout, header) = match extended {
                true => {
                    let len = len as u64;
                    let header = ReplyHeader::Extended {
                        flags,
                        kind,
                        cookie,
                        offset,
                        len,
                    };
                    (Layout::Extended(kind), header)
                }
                false => {
                    let len = len as u32;
                    let header = ReplyHeader::Structured {
                        flags,
                        kind,
                        cookie,
                        len,
                    };
                    (Layout::Structured(kind), header)
                }
            };
            let mut head = header.encode();
            head.extend(fixed);
            Message { layout, head, data }
        };
        self.chunks.into_iter().map(message).collect()
    }
}

fn flatten(pieces: &[Piece]) -> Bytes {
    let mut all = Vec::with_capacity(pieces.iter().map(|p| p.len() as usize).sum());
    for piece in pieces {
        match piece {
            Piece::Data(data) => all.extend_from_slice(data),
            Piece::Hole(len) => all.resize(all.len() + *len as usize, 0),
        }
    }
    all.into()
}
