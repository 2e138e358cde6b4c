//! How a reply can break the protocol.

use super::Mode;
use super::codes::{ChunkType, CommandType};
use super::error::DecodeError;
use super::limits::MAX_FRAGMENTS;

/// How a reply broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// No request with this cookie was ever sent.
    #[error("reply with the unknown cookie {cookie:#x}")]
    UnknownCookie {
        /// What the reply said.
        cookie: u64,
    },
    /// The request with this cookie was already answered.
    #[error("second reply to the cookie {cookie:#x}, which is answered already")]
    DuplicateReply {
        /// What the reply said.
        cookie: u64,
    },
    /// Simple, structured and extended replies were mixed up.
    #[error("{got} reply to {command} in {mode} mode")]
    WrongKind {
        /// What was received.
        got: &'static str,
        /// The request.
        command: CommandType,
        /// What had been negotiated.
        mode: Mode,
    },
    /// A chunk that does not belong in the reply to this command.
    #[error("{kind} chunk in the reply to {command}")]
    UnexpectedChunk {
        /// What was received.
        kind: ChunkType,
        /// The request.
        command: CommandType,
    },
    /// A chunk whose length is wrong for its kind.
    #[error("{kind} chunk of {len} bytes, expected {expected}")]
    ChunkLength {
        /// What was received.
        kind: ChunkType,
        /// How long it claims to be.
        len: u64,
        /// The valid lengths.
        expected: String,
    },
    /// Data or zeroes outside the request.
    #[error("reply covers {start}..{end}, the request was {from}..{to}")]
    OutOfRange {
        /// First byte of the reply.
        start: u64,
        /// End of the reply.
        end: u64,
        /// First byte of the request.
        from: u64,
        /// End of the request.
        to: u64,
    },
    /// Success for a read above the payload limit, which the server should have refused.
    #[error("reply covers the first {len} bytes of the request, the limit is {limit}")]
    Oversize {
        /// Bytes from the start of the request.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// Bytes received twice.
    #[error("reply covers {start}..{end} twice")]
    Overlap {
        /// First byte of the chunk.
        start: u64,
        /// End of the chunk.
        end: u64,
    },
    /// Bytes never received.
    #[error("reply is complete without {start}..{end}")]
    Gap {
        /// First missing byte.
        start: u64,
        /// End of the gap.
        end: u64,
    },
    /// More separate pieces than [`super::limits::MAX_FRAGMENTS`].
    #[error("reply in more than {MAX_FRAGMENTS} separate pieces")]
    TooManyFragments,
    /// More than one content chunk in reply to a request with `DF`.
    #[error("reply in several pieces though DF was asked for")]
    Fragmented,
    /// A `NONE` chunk that is not the last one.
    #[error("NONE chunk without the DONE flag")]
    MissingDone,
    /// The connection ended within a reply.
    #[error("connection closed before the last chunk of the reply to cookie {cookie:#x}")]
    Unfinished {
        /// Which reply.
        cookie: u64,
    },
    /// An error chunk without an error.
    #[error("error chunk with error 0")]
    ErrorZero,
    /// An extended reply names another offset than its request.
    #[error("extended reply names offset {got}, the request was for {expected}")]
    EchoedOffset {
        /// Offset of the request.
        expected: u64,
        /// What was received.
        got: u64,
    },
    /// Status of a context that was not requested.
    #[error("block status of context {context}, which was not asked for")]
    UnknownContext {
        /// What was received.
        context: u32,
    },
    /// Status of a context received twice.
    #[error("block status of context {context} twice")]
    DuplicateContext {
        /// Which one.
        context: u32,
    },
    /// Status of a context never received.
    #[error("block status reply is complete without context {context}")]
    MissingContext {
        /// Which one.
        context: u32,
    },
    /// Impossible extents: empty, too long, or too many.
    #[error("block status of context {context}: {detail}")]
    Extents {
        /// Which context.
        context: u32,
        /// What is wrong.
        detail: String,
    },
    /// Bytes that do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
