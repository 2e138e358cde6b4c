//! A server's messages before encoding.

use super::layout::Layout;
use super::negotiation::UnderWay;
use super::types::Failure;
use crate::proto::chunk::{Error, Extent, Hole, Status};
use crate::proto::{
    ChunkFlags, ChunkType, CommandFlags, CommandType, Errno, Mode, OptionCode, OptionReply,
    ReplyHeader, Request, SendQueue, limits,
};

/// Part of a read: bytes, or zeroes that need not be sent.
///
/// Consecutive bytes are sent as one chunk without being copied: a backend can return its buffers
/// as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<B> {
    /// Bytes.
    Data(B),
    /// This many zeroes.
    Hole(u64),
}

impl<B: AsRef<[u8]>> Piece<B> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Data(data) => data.as_ref().len() as u64,
            Piece::Hole(len) => *len,
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<B: From<Vec<u8>>> Piece<B> {
    /// With its zeroes written out.
    fn filled(self) -> Piece<B> {
        match self {
            Piece::Hole(len) => Piece::Data(vec![0; len as usize].into()),
            data => data,
        }
    }
}

/// How a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<B> {
    /// Success, without content.
    Done,
    /// The data of a read, in order and without gaps.
    Data(Vec<Piece<B>>),
    /// Extents of each requested context.
    Status(Vec<Status>),
    /// An error.
    Failed {
        /// Which.
        failure: Failure,
        /// Where, for structured and extended replies.
        at: Option<u64>,
    },
}

impl<B> Answer<B> {
    /// An error without an offset.
    pub fn fail(errno: Errno, message: impl Into<String>) -> Answer<B> {
        Failure::new(errno, message).into()
    }

    /// The error number that is sent.
    pub fn errno(&self) -> Errno {
        match self {
            Answer::Failed { failure, .. } => failure.errno,
            _ => Errno::OK,
        }
    }
}

impl<B> From<Failure> for Answer<B> {
    fn from(failure: Failure) -> Answer<B> {
        Answer::Failed { failure, at: None }
    }
}

impl<B> From<Result<(), Failure>> for Answer<B> {
    fn from(result: Result<(), Failure>) -> Answer<B> {
        match result {
            Ok(()) => Answer::Done,
            Err(failure) => failure.into(),
        }
    }
}

impl<B: AsRef<[u8]>> Answer<B> {
    /// Bytes held until it is sent.
    pub(super) fn kept(&self) -> u64 {
        match self {
            Answer::Done => 0,
            Answer::Data(pieces) => pieces.iter().map(Piece::len).sum(),
            Answer::Status(all) => {
                all.iter().map(|status| (status.extents.len() * size_of::<Extent>()) as u64).sum()
            }
            Answer::Failed { failure, .. } => failure.message.len() as u64,
        }
    }

    /// Turns the backend's answer into one that the protocol allows for this request and export
    /// size.
    pub(super) fn legalise(&mut self, asked: &UnderWay, mode: Mode, size: u64) {
        let (request, effect_len) = (&asked.request, asked.effect_len);
        let command = request.command;
        match self {
            Answer::Data(_) if command != CommandType::READ => {
                let text = format!("the backend gave data for a {command}");
                *self = Answer::fail(Errno::EIO, text);
            }
            Answer::Status(_) if command != CommandType::BLOCK_STATUS => {
                let text = format!("the backend gave extents for a {command}");
                *self = Answer::fail(Errno::EIO, text);
            }
            Answer::Status(statuses) if !answers_each(statuses, &asked.contexts) => {
                let text = "the backend gave extents of other contexts than it was asked for";
                *self = Answer::fail(Errno::EIO, text);
            }
            Answer::Data(pieces) => {
                let lengths = pieces.iter().map(Piece::len);
                let total = lengths.fold(0, u64::saturating_add);
                if total != effect_len {
                    let text = format!("the backend gave {total} bytes of {effect_len}");
                    *self = Answer::fail(Errno::EIO, text);
                }
            }
            Answer::Status(statuses) => {
                let one = request.flags.contains(CommandFlags::REQ_ONE);
                let most = match one {
                    true => 1,
                    false => (limits::MAX_SENT_EXTENTS / statuses.len().max(1)).max(1),
                };
                // The export may have shrunk since.
                let room = effect_len.max(size.saturating_sub(request.offset));
                for status in &mut *statuses {
                    limit_extents(status, effect_len, most, one, mode);
                    end_with_export(status, room);
                }
                if statuses.iter().any(|s| s.extents.is_empty()) {
                    *self = Answer::fail(Errno::EIO, "the backend gave no extent");
                }
            }
            Answer::Done if command == CommandType::READ && effect_len > 0 => {
                *self = Answer::fail(Errno::EIO, "the backend gave no data");
            }
            Answer::Done if command == CommandType::BLOCK_STATUS => {
                *self = Answer::fail(Errno::EIO, "the backend gave no extents");
            }
            Answer::Done | Answer::Failed { .. } => {}
        }
    }
}

/// Whether each requested context is answered exactly once, and no other.
fn answers_each(statuses: &[Status], asked: &[u32]) -> bool {
    let answered = |id: &u32| statuses.iter().any(|status| status.context == *id);
    statuses.len() == asked.len() && asked.iter().all(answered)
}

/// Keeps the extents within the request. Only the last one may extend beyond it, and not even that
/// with `REQ_ONE` (proto.md, `NBD_CMD_FLAG_REQ_ONE`).
fn limit_extents(status: &mut Status, effect_len: u64, most: usize, one: bool, mode: Mode) {
    let mut covered = 0u64;
    status.extents.retain(|extent| {
        let keep = extent.len > 0 && covered < effect_len;
        covered = covered.saturating_add(extent.len);
        keep
    });
    status.extents.truncate(most);
    if let Some(last) = status.extents.last_mut() {
        if mode != Mode::Extended {
            last.len = last.len.min(limits::MAX_COMPACT_LEN);
        }
        if one {
            last.len = last.len.min(effect_len);
        }
    }
}

/// Truncates the last extent at the end of the export.
fn end_with_export(status: &mut Status, room: u64) {
    if let Some((last, others)) = status.extents.split_last_mut() {
        // Those before the last one end within the request.
        let before: u64 = others.iter().map(|extent| extent.len).sum();
        last.len = last.len.min(room.saturating_sub(before));
    }
}

/// Which kind of reply is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum ReplyKind {
    /// Simple.
    Simple,
    /// Structured.
    Structured,
    /// Extended.
    Extended,
}

/// One chunk.
#[derive(Clone, Debug)]
pub(crate) struct Chunk<B> {
    pub(crate) kind: ChunkType,
    pub(crate) flags: ChunkFlags,
    pub(crate) fixed: Vec<u8>,
    /// In the order in which it is sent.
    pub(crate) data: Vec<B>,
}

impl<B> Chunk<B> {
    pub(crate) fn new(kind: ChunkType, fixed: Vec<u8>) -> Chunk<B> {
        Chunk {
            kind,
            flags: ChunkFlags::empty(),
            fixed,
            data: Vec::new(),
        }
    }

    pub(crate) fn data(offset: u64, data: B) -> Chunk<B> {
        let fixed = offset.to_be_bytes().to_vec();
        Chunk {
            data: vec![data],
            ..Chunk::new(ChunkType::OFFSET_DATA, fixed)
        }
    }

    pub(crate) fn hole(offset: u64, len: u64) -> Chunk<B> {
        let len = len as u32;
        Chunk::new(ChunkType::OFFSET_HOLE, Hole { offset, len }.encode())
    }

    pub(crate) fn error(failure: &Failure, at: Option<u64>) -> Chunk<B> {
        let kind = match at {
            Some(_) => ChunkType::ERROR_OFFSET,
            None => ChunkType::ERROR,
        };
        let body = Error {
            errno: failure.errno,
            message: shorten(&failure.message).to_owned(),
            offset: at,
        };
        Chunk::new(kind, body.encode())
    }
}

/// Truncates text to what a message may carry (proto.md, "Values").
fn shorten(text: &str) -> &str {
    let mut end = text.len().min(limits::MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A reply before encoding.
#[derive(Clone, Debug)]
pub struct Reply<B> {
    pub(crate) request: Request,
    pub(crate) kind: ReplyKind,
    /// The request's number within the connection.
    pub(crate) id: u64,
    /// The request's cost until its reply is sent.
    pub(crate) cost: u64,
    /// Used by simple replies.
    pub(crate) errno: Errno,
    /// Used by simple replies.
    pieces: Vec<Piece<B>>,
    pub(crate) chunks: Vec<Chunk<B>>,
}

impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Reply<B> {
    pub(crate) fn new(request: Request, mode: Mode, answer: Answer<B>) -> Reply<B> {
        let kind = match mode {
            Mode::Extended => ReplyKind::Extended,
            Mode::Structured => ReplyKind::Structured,
            _ => ReplyKind::Simple,
        };
        let mut reply = Reply {
            request,
            kind,
            id: 0,
            cost: 0,
            errno: answer.errno(),
            pieces: Vec::new(),
            chunks: Vec::new(),
        };
        reply.fill(answer, mode);
        if reply.chunks.is_empty() {
            // A read of zero bytes still needs a reply, or the client keeps waiting.
            reply.chunks.push(Chunk::new(ChunkType::NONE, Vec::new()));
        }
        if let Some(last) = reply.chunks.last_mut() {
            last.flags = ChunkFlags::DONE;
        }
        reply
    }

    fn fill(&mut self, answer: Answer<B>, mode: Mode) {
        let wide = mode == Mode::Extended;
        let status = match wide {
            true => ChunkType::BLOCK_STATUS_EXT,
            false => ChunkType::BLOCK_STATUS,
        };
        match answer {
            Answer::Done => self.chunks.push(Chunk::new(ChunkType::NONE, Vec::new())),
            Answer::Failed { failure, at } => self.chunks.push(Chunk::error(&failure, at)),
            Answer::Status(all) => {
                let chunk = |s: Status| Chunk::new(status, s.encode(wide));
                self.chunks.extend(all.into_iter().map(chunk));
            }
            Answer::Data(mut pieces) => {
                if self.request.flags.contains(CommandFlags::DF) && pieces.len() > 1 {
                    pieces = pieces.into_iter().map(Piece::filled).collect();
                }
                let mut at = self.request.offset;
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    match (piece, self.chunks.last_mut()) {
                        (Piece::Data(data), Some(last)) if last.kind == ChunkType::OFFSET_DATA => {
                            last.data.push(data.clone());
                        }
                        (Piece::Data(data), _) => self.chunks.push(Chunk::data(at, data.clone())),
                        // A read is never above 4 GiB, so its holes are not either.
                        (Piece::Hole(len), _) => self.chunks.push(Chunk::hole(at, *len)),
                    }
                    at += piece.len();
                }
                self.pieces = pieces;
            }
        }
    }

    /// The messages on the wire.
    pub(crate) fn messages(self) -> Vec<Message<B>> {
        let Request { cookie, offset, .. } = self.request;
        if self.kind == ReplyKind::Simple {
            let error = self.errno;
            let head = ReplyHeader::Simple { error, cookie }.encode();
            let parts = self.pieces.into_iter().filter_map(|piece| match piece.filled() {
                Piece::Data(data) => Some(data),
                Piece::Hole(_) => None,
            });
            let data = parts.collect();
            return vec![Message {
                layout: Layout::Simple,
                head,
                data,
            }];
        }
        let extended = self.kind == ReplyKind::Extended;
        let message = |chunk: Chunk<B>| {
            let Chunk {
                kind,
                flags,
                fixed,
                data,
            } = chunk;
            let len = fixed.len() + bytes_of(&data);
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

fn bytes_of<B: AsRef<[u8]>>(parts: &[B]) -> usize {
    parts.iter().map(|part| part.as_ref().len()).sum()
}

/// An encoded message.
#[derive(Clone, Debug)]
pub(crate) struct Message<B> {
    #[cfg_attr(
        not(feature = "faults"),
        expect(dead_code, reason = "only faults look at it")
    )]
    pub(crate) layout: Layout,
    /// Header and fixed part.
    pub(crate) head: Vec<u8>,
    /// Data of a read, in the order in which it is sent.
    pub(crate) data: Vec<B>,
}

#[cfg(feature = "faults")]
impl<B: AsRef<[u8]>> Message<B> {
    pub(crate) fn new(layout: Layout, head: Vec<u8>) -> Message<B> {
        Message {
            layout,
            head,
            data: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.head.len() + bytes_of(&self.data)
    }
}

/// Something to be sent.
#[derive(Clone, Debug)]
pub enum Outgoing<B> {
    /// The greeting, encoded.
    Greeting {
        /// Whether it is oldstyle.
        oldstyle: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A reply to an option.
    OptionReply {
        /// The option.
        option: OptionCode,
        /// The reply.
        reply: OptionReply,
        /// To be passed to [`super::Server::sent`] when it is sent.
        cost: u64,
    },
    /// The reply to `EXPORT_NAME`, encoded.
    ExportReply(Vec<u8>),
    /// The reply to a request.
    Reply(Reply<B>),
}

impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Outgoing<B> {
    /// Appends the message to the send queue; its cost must be passed to [`super::Server::sent`]
    /// once it is written.
    pub fn enqueue(self, queue: &mut SendQueue<B>) {
        match self {
            Outgoing::Greeting { bytes, .. } | Outgoing::ExportReply(bytes) => {
                queue.push(bytes, None, 0);
            }
            Outgoing::OptionReply {
                option,
                reply,
                cost,
            } => queue.push(reply.encode(option), None, cost),
            Outgoing::Reply(reply) => {
                let cost = reply.cost;
                let mut messages = reply.messages();
                let last = messages.pop();
                for message in messages {
                    queue.push_parts(message.head, message.data, 0);
                }
                if let Some(last) = last {
                    queue.push_parts(last.head, last.data, cost);
                }
            }
        }
    }
}
