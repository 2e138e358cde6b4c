//! Headers of replies: simple, structured, extended.

use super::codes::{ChunkType, Errno, magic};
use super::error::DecodeError;
use super::flags::ChunkFlags;
use super::wire::Reader;

/// The header of a simple reply or of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply; data of a successful `READ` follows.
    Simple {
        /// Outcome.
        error: Errno,
        /// Names the request.
        cookie: u64,
    },
    /// A structured chunk.
    Structured {
        /// `DONE` or not.
        flags: ChunkFlags,
        /// What follows.
        kind: ChunkType,
        /// Names the request.
        cookie: u64,
        /// Bytes that follow.
        len: u32,
    },
    /// An extended chunk.
    Extended {
        /// `DONE` or not.
        flags: ChunkFlags,
        /// What follows.
        kind: ChunkType,
        /// Names the request.
        cookie: u64,
        /// Must be the request's offset.
        offset: u64,
        /// Bytes that follow.
        len: u64,
    },
}

impl ReplyHeader {
    /// The shortest header; this many bytes can be read before the kind is known.
    pub const MIN_LEN: usize = 16;
    /// The longest header.
    pub const MAX_LEN: usize = 32;

    /// Length of the header that starts with these bytes (at least four).
    pub fn len_from_magic(bytes: &[u8]) -> Result<usize, DecodeError> {
        match Reader::new("reply", bytes).u32()? {
            magic::SIMPLE_REPLY => Ok(16),
            magic::STRUCTURED_REPLY => Ok(20),
            magic::EXTENDED_REPLY => Ok(32),
            got => Err(DecodeError::Magic {
                what: "reply",
                expected: u64::from(magic::SIMPLE_REPLY),
                got: u64::from(got),
            }),
        }
    }

    /// Decodes a header of the length that [`ReplyHeader::len_from_magic`] returned.
    pub fn decode(bytes: &[u8]) -> Result<ReplyHeader, DecodeError> {
        let expected = Self::len_from_magic(bytes)?;
        let mut r = Reader::new("reply", bytes);
        r.u32()?;
        let header = match expected {
            16 => ReplyHeader::Simple {
                error: Errno(r.u32()?),
                cookie: r.u64()?,
            },
            20 => ReplyHeader::Structured {
                flags: ChunkFlags::from_bits_retain(r.u16()?),
                kind: ChunkType(r.u16()?),
                cookie: r.u64()?,
                len: r.u32()?,
            },
            _ => ReplyHeader::Extended {
                flags: ChunkFlags::from_bits_retain(r.u16()?),
                kind: ChunkType(r.u16()?),
                cookie: r.u64()?,
                offset: r.u64()?,
                len: r.u64()?,
            },
        };
        r.finish()?;
        Ok(header)
    }

    /// The bytes a server sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::MAX_LEN);
        match *self {
            ReplyHeader::Simple { error, cookie } => {
                out.extend(magic::SIMPLE_REPLY.to_be_bytes());
                out.extend(error.0.to_be_bytes());
                out.extend(cookie.to_be_bytes());
            }
            ReplyHeader::Structured {
                flags,
                kind,
                cookie,
                len,
            } => {
                out.extend(magic::STRUCTURED_REPLY.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
                out.extend(kind.0.to_be_bytes());
                out.extend(cookie.to_be_bytes());
                out.extend(len.to_be_bytes());
            }
            ReplyHeader::Extended {
                flags,
                kind,
                cookie,
                offset,
                len,
            } => {
                out.extend(magic::EXTENDED_REPLY.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
                out.extend(kind.0.to_be_bytes());
                out.extend(cookie.to_be_bytes());
                out.extend(offset.to_be_bytes());
                out.extend(len.to_be_bytes());
            }
        }
        out
    }

    /// The request this belongs to.
    pub fn cookie(&self) -> u64 {
        match *self {
            ReplyHeader::Simple { cookie, .. }
            | ReplyHeader::Structured { cookie, .. }
            | ReplyHeader::Extended { cookie, .. } => cookie,
        }
    }
}
