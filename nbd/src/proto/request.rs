//! Requests of the transmission phase.

use super::codes::{CommandType, magic};
use super::error::DecodeError;
use super::flags::CommandFlags;
use super::wire::Reader;

/// Which headers were negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderStyle {
    /// 28-byte requests, 32-bit lengths.
    Compact,
    /// 32-byte requests, 64-bit lengths.
    Extended,
}

impl HeaderStyle {
    /// Length of a request header.
    pub fn request_len(self) -> usize {
        match self {
            HeaderStyle::Compact => 28,
            HeaderStyle::Extended => 32,
        }
    }
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Modifiers.
    pub flags: CommandFlags,
    /// What to do.
    pub command: CommandType,
    /// Names the reply.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// Length in bytes: of the payload if there is one, else of the affected range.
    pub len: u64,
}

impl Request {
    /// Decodes a header of [`HeaderStyle::request_len`] bytes.
    pub fn decode(style: HeaderStyle, bytes: &[u8]) -> Result<Request, DecodeError> {
        let mut r = Reader::new("request", bytes);
        let (got, expected) = match style {
            HeaderStyle::Compact => (r.u32()?, magic::REQUEST),
            HeaderStyle::Extended => (r.u32()?, magic::EXTENDED_REQUEST),
        };
        if got != expected {
            let (expected, got) = (u64::from(expected), u64::from(got));
            return Err(DecodeError::Magic {
                what: "request",
                expected,
                got,
            });
        }
        let request = Request {
            flags: CommandFlags::from_bits_retain(r.u16()?),
            command: CommandType(r.u16()?),
            cookie: r.u64()?,
            offset: r.u64()?,
            len: match style {
                HeaderStyle::Compact => u64::from(r.u32()?),
                HeaderStyle::Extended => r.u64()?,
            },
        };
        r.finish()?;
        Ok(request)
    }

    /// The bytes a client sends. A compact header keeps the lower 32 bits of the length.
    pub fn encode(&self, style: HeaderStyle) -> Vec<u8> {
        let magic = match style {
            HeaderStyle::Compact => magic::REQUEST,
            HeaderStyle::Extended => magic::EXTENDED_REQUEST,
        };
        let mut out = Vec::with_capacity(32);
        out.extend(magic.to_be_bytes());
        out.extend(self.flags.bits().to_be_bytes());
        out.extend(self.command.0.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        match style {
            HeaderStyle::Compact => out.extend((self.len as u32).to_be_bytes()),
            HeaderStyle::Extended => out.extend(self.len.to_be_bytes()),
        }
        out
    }

    /// Bytes of payload that follow this header.
    ///
    /// A `WRITE` always has one, and with extended headers so does any request with `PAYLOAD_LEN`.
    /// proto.md requires that flag for an extended `WRITE` too, but QEMU's client (at least up to
    /// 10.0) sends the data without setting it, so its absence cannot mean that there is none.
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        let flagged =
            style == HeaderStyle::Extended && self.flags.contains(CommandFlags::PAYLOAD_LEN);
        if flagged || self.command == CommandType::WRITE {
            self.len
        } else {
            0
        }
    }
}

/// Payload of a `BLOCK_STATUS` that selects contexts (extended headers only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFilter {
    /// Length of the affected range, since the header's length is that of the payload.
    pub effect_len: u64,
    /// Context ids from the negotiation.
    pub contexts: Vec<u32>,
}

impl StatusFilter {
    /// Decodes a payload.
    pub fn decode(bytes: &[u8]) -> Result<StatusFilter, DecodeError> {
        let len = bytes.len() as u64;
        if bytes.len() < 8 || !bytes.len().is_multiple_of(4) {
            let expected = "8 + 4 * n";
            return Err(DecodeError::Length {
                what: "block status payload",
                len,
                expected,
            });
        }
        let mut r = Reader::new("block status payload", bytes);
        let effect_len = r.u64()?;
        let mut contexts = Vec::with_capacity(r.left() / 4);
        while r.left() > 0 {
            contexts.push(r.u32()?);
        }
        Ok(StatusFilter {
            effect_len,
            contexts,
        })
    }

    /// The bytes a client sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.effect_len.to_be_bytes().to_vec();
        for id in &self.contexts {
            out.extend(id.to_be_bytes());
        }
        out
    }
}
