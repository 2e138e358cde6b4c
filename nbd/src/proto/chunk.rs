//! Payloads of reply chunks, other than the data itself.

use super::codes::Errno;
use super::error::DecodeError;
use super::limits::{MAX_EXTENTS, MAX_STRING};
use super::wire::{Reader, limit};

/// Length of the offset in front of the data of an `OFFSET_DATA` chunk.
pub const DATA_PREFIX: u64 = 8;
/// Length of an `OFFSET_HOLE` payload.
pub const HOLE_LEN: u64 = 12;

/// Zeroes at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u32,
}

impl Hole {
    /// Decodes a payload.
    pub fn decode(bytes: &[u8]) -> Result<Hole, DecodeError> {
        let mut r = Reader::new("hole chunk", bytes);
        let hole = Hole {
            offset: r.u64()?,
            len: r.u32()?,
        };
        r.finish()?;
        Ok(hole)
    }

    /// The bytes a server sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.offset.to_be_bytes().to_vec();
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// One piece of an export with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Meaning depends on the context.
    pub status: u64,
}

/// Consecutive extents of one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Id from the negotiation.
    pub context: u32,
    /// Starting at the request's offset.
    pub extents: Vec<Extent>,
}

impl Status {
    /// Whether a status payload may have this length; checked before it is read.
    pub fn check_len(len: u64, wide: bool) -> Result<(), DecodeError> {
        let (what, head, each, expected) = if wide {
            ("extended block status chunk", 8, 16, "8 + 16 * n")
        } else {
            ("block status chunk", 4, 8, "4 + 8 * n")
        };
        limit(what, len, head + each * MAX_EXTENTS as u64)?;
        if len <= head || !(len - head).is_multiple_of(each) {
            return Err(DecodeError::Length {
                what,
                len,
                expected,
            });
        }
        Ok(())
    }

    /// Decodes a payload; `wide` is the 64-bit form.
    pub fn decode(bytes: &[u8], wide: bool) -> Result<Status, DecodeError> {
        Self::check_len(bytes.len() as u64, wide)?;
        let mut r = Reader::new("block status chunk", bytes);
        let context = r.u32()?;
        let count = if wide {
            r.u32()? as usize
        } else {
            r.left() / 8
        };
        let mut extents = Vec::with_capacity(r.left() / if wide { 16 } else { 8 });
        while r.left() > 0 {
            extents.push(if wide {
                Extent {
                    len: r.u64()?,
                    status: r.u64()?,
                }
            } else {
                Extent {
                    len: u64::from(r.u32()?),
                    status: u64::from(r.u32()?),
                }
            });
        }
        if extents.len() != count {
            let detail = format!("count says {count}, there are {}", extents.len());
            return Err(DecodeError::Value {
                what: "block status chunk",
                detail,
            });
        }
        Ok(Status { context, extents })
    }

    /// The bytes a server sends; the 32-bit form keeps the lower halves.
    pub fn encode(&self, wide: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.extents.len() * if wide { 16 } else { 8 });
        out.extend(self.context.to_be_bytes());
        if wide {
            out.extend((self.extents.len() as u32).to_be_bytes());
        }
        for extent in &self.extents {
            if wide {
                out.extend(extent.len.to_be_bytes());
                out.extend(extent.status.to_be_bytes());
            } else {
                out.extend((extent.len as u32).to_be_bytes());
                out.extend((extent.status as u32).to_be_bytes());
            }
        }
        out
    }
}

/// An error chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Which error.
    pub errno: Errno,
    /// Human-readable text; may be empty.
    pub message: String,
    /// Where, for `ERROR_OFFSET`.
    pub offset: Option<u64>,
}

impl Error {
    /// Whether an error payload may have this length; checked before it is read.
    pub fn check_len(len: u64, with_offset: bool) -> Result<(), DecodeError> {
        let fixed: u64 = if with_offset { 14 } else { 6 };
        limit("error chunk", len, fixed + MAX_STRING as u64)?;
        if len < fixed {
            let expected = "long enough";
            return Err(DecodeError::Length {
                what: "error chunk",
                len,
                expected,
            });
        }
        Ok(())
    }

    /// Decodes a payload. Unknown error chunks start the same way; the rest is ignored, as proto.md
    /// requires ("clients SHOULD treat an unknown error chunk as an error").
    pub fn decode(bytes: &[u8], with_offset: bool, known: bool) -> Result<Error, DecodeError> {
        let mut r = Reader::new("error chunk", bytes);
        let errno = Errno(r.u32()?);
        let len = usize::from(r.u16()?);
        let message = r.string(len)?;
        let offset = if with_offset { Some(r.u64()?) } else { None };
        if known {
            r.finish()?;
        }
        Ok(Error {
            errno,
            message,
            offset,
        })
    }

    /// The bytes a server sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.errno.0.to_be_bytes().to_vec();
        out.extend((self.message.len() as u16).to_be_bytes());
        out.extend(self.message.as_bytes());
        if let Some(offset) = self.offset {
            out.extend(offset.to_be_bytes());
        }
        out
    }
}
