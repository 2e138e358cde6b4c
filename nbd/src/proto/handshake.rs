//! The greeting, and the reply to `NBD_OPT_EXPORT_NAME`.

use super::codes::magic;
use super::error::DecodeError;
use super::flags::{HandshakeFlags, TransmissionFlags};
use super::limits::ZEROES;
use super::wire::Reader;

/// Which negotiation the first sixteen bytes of a server announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GreetingKind {
    /// Size and flags follow.
    Oldstyle,
    /// Handshake flags follow.
    Newstyle,
}

/// The first message of every server (proto.md, "Handshake phase").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The server's only export follows.
    Oldstyle {
        /// Bytes of the export.
        size: u64,
        /// Only the lower 16 of the 32 bits have a meaning.
        flags: TransmissionFlags,
    },
    /// Options follow.
    Newstyle {
        /// What the server can do.
        flags: HandshakeFlags,
    },
}

impl Greeting {
    /// Length of the two magics, which determine how long the rest is.
    pub const PREFIX_LEN: usize = 16;
    /// Length of an oldstyle greeting.
    pub const OLDSTYLE_LEN: usize = 28 + ZEROES;
    /// Length of a newstyle greeting.
    pub const NEWSTYLE_LEN: usize = 18;

    /// Reads the two magics.
    pub fn kind(prefix: &[u8]) -> Result<GreetingKind, DecodeError> {
        let mut r = Reader::new("greeting", prefix);
        r.magic64(magic::NBD)?;
        match r.u64()? {
            magic::OPTION => Ok(GreetingKind::Newstyle),
            magic::OLDSTYLE => Ok(GreetingKind::Oldstyle),
            got => Err(DecodeError::Magic {
                what: "greeting",
                expected: magic::OPTION,
                got,
            }),
        }
    }

    /// Length of a greeting of this kind, its prefix included.
    pub fn len_of(kind: GreetingKind) -> usize {
        match kind {
            GreetingKind::Oldstyle => Self::OLDSTYLE_LEN,
            GreetingKind::Newstyle => Self::NEWSTYLE_LEN,
        }
    }

    /// Decodes a whole greeting.
    pub fn decode(bytes: &[u8]) -> Result<Greeting, DecodeError> {
        let kind = Self::kind(bytes)?;
        let mut r = Reader::new("greeting", bytes);
        r.take(Self::PREFIX_LEN)?;
        let greeting = match kind {
            GreetingKind::Newstyle => Greeting::Newstyle {
                flags: HandshakeFlags::from_bits_retain(r.u16()?),
            },
            GreetingKind::Oldstyle => {
                let size = r.u64()?;
                let flags = TransmissionFlags::from_bits_retain(r.u32()? as u16);
                r.take(ZEROES)?;
                Greeting::Oldstyle { size, flags }
            }
        };
        r.finish()?;
        Ok(greeting)
    }

    /// The bytes a server sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = magic::NBD.to_be_bytes().to_vec();
        match *self {
            Greeting::Newstyle { flags } => {
                out.extend(magic::OPTION.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
            }
            Greeting::Oldstyle { size, flags } => {
                out.extend(magic::OLDSTYLE.to_be_bytes());
                out.extend(size.to_be_bytes());
                out.extend(u32::from(flags.bits()).to_be_bytes());
                out.extend([0; ZEROES]);
            }
        }
        out
    }
}

/// The reply to `EXPORT_NAME`, which starts transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportReply {
    /// Bytes of the export.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
}

impl ExportReply {
    /// Length without the zeroes.
    pub const LEN: usize = 10;

    /// Length on the wire.
    pub fn wire_len(no_zeroes: bool) -> usize {
        if no_zeroes {
            Self::LEN
        } else {
            Self::LEN + ZEROES
        }
    }

    /// Decodes a reply of [`ExportReply::wire_len`] bytes. The padding's content is ignored, as in
    /// every client.
    pub fn decode(bytes: &[u8]) -> Result<ExportReply, DecodeError> {
        let mut r = Reader::new("reply to EXPORT_NAME", bytes);
        let size = r.u64()?;
        let flags = TransmissionFlags::from_bits_retain(r.u16()?);
        Ok(ExportReply { size, flags })
    }

    /// The bytes a server sends.
    pub fn encode(&self, no_zeroes: bool) -> Vec<u8> {
        let mut out = self.size.to_be_bytes().to_vec();
        out.extend(self.flags.bits().to_be_bytes());
        out.resize(Self::wire_len(no_zeroes), 0);
        out
    }
}
