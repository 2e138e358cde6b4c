//! Replies to options.

use super::codes::{InfoType, OptionCode, OptionReplyCode, magic};
use super::error::DecodeError;
use super::flags::TransmissionFlags;
use super::limits::MAX_OPTION_DATA;
use super::wire::{Reader, limit, put_counted};

/// The fixed part of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: OptionCode,
    /// How.
    pub reply: OptionReplyCode,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Length on the wire.
    pub const LEN: usize = 20;

    /// Decodes a header; the length is checked against [`MAX_OPTION_DATA`].
    pub fn decode(bytes: &[u8]) -> Result<OptionReplyHeader, DecodeError> {
        let mut r = Reader::new("option reply", bytes);
        r.magic64(magic::OPTION_REPLY)?;
        let header = OptionReplyHeader {
            option: OptionCode(r.u32()?),
            reply: OptionReplyCode(r.u32()?),
            len: r.u32()?,
        };
        r.finish()?;
        limit(
            "option reply data",
            u64::from(header.len),
            MAX_OPTION_DATA as u64,
        )?;
        Ok(header)
    }

    /// The bytes a server sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = magic::OPTION_REPLY.to_be_bytes().to_vec();
        out.extend(self.option.0.to_be_bytes());
        out.extend(self.reply.0.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// One piece of information on an export (proto.md, `NBD_REP_INFO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size and flags.
    Export {
        /// Bytes of the export.
        size: u64,
        /// What it can do.
        flags: TransmissionFlags,
    },
    /// Canonical name.
    Name(String),
    /// Human-readable text.
    Description(String),
    /// Size constraints in bytes.
    BlockSize {
        /// Alignment of every request.
        minimum: u32,
        /// Alignment that is fast.
        preferred: u32,
        /// Largest payload.
        maximum: u32,
    },
    /// Anything else.
    Other {
        /// The number.
        kind: InfoType,
        /// The data.
        data: Vec<u8>,
    },
}

impl Info {
    /// The number of this kind of information.
    pub fn kind(&self) -> InfoType {
        match self {
            Info::Export { .. } => InfoType::EXPORT,
            Info::Name(_) => InfoType::NAME,
            Info::Description(_) => InfoType::DESCRIPTION,
            Info::BlockSize { .. } => InfoType::BLOCK_SIZE,
            Info::Other { kind, .. } => *kind,
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Info, DecodeError> {
        Ok(match InfoType(r.u16()?) {
            InfoType::EXPORT => Info::Export {
                size: r.u64()?,
                flags: TransmissionFlags::from_bits_retain(r.u16()?),
            },
            InfoType::NAME => Info::Name(r.rest_string()?),
            InfoType::DESCRIPTION => Info::Description(r.rest_string()?),
            InfoType::BLOCK_SIZE => Info::BlockSize {
                minimum: r.u32()?,
                preferred: r.u32()?,
                maximum: r.u32()?,
            },
            kind => Info::Other {
                kind,
                data: r.rest().to_vec(),
            },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.kind().0.to_be_bytes());
        match self {
            Info::Export { size, flags } => {
                out.extend(size.to_be_bytes());
                out.extend(flags.bits().to_be_bytes());
            }
            Info::Name(text) | Info::Description(text) => out.extend(text.as_bytes()),
            Info::BlockSize {
                minimum,
                preferred,
                maximum,
            } => {
                for value in [minimum, preferred, maximum] {
                    out.extend(value.to_be_bytes());
                }
            }
            Info::Other { data, .. } => out.extend(data),
        }
    }
}

/// A reply to an option with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// Done.
    Ack,
    /// One export of a list.
    Server {
        /// Its name.
        name: String,
        /// Human-readable text; QEMU sends the export's description.
        description: String,
    },
    /// Information on an export.
    Info(Info),
    /// A metadata context.
    MetaContext {
        /// Number to be used in transmission; meaningless in a list.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The option failed.
    Error {
        /// Which error.
        code: OptionReplyCode,
        /// Human-readable text; may be empty.
        message: String,
    },
    /// A reply of unknown kind.
    Other {
        /// The number.
        code: OptionReplyCode,
        /// The data.
        data: Vec<u8>,
    },
}

impl OptionReply {
    /// The number of this kind of reply.
    pub fn code(&self) -> OptionReplyCode {
        match self {
            OptionReply::Ack => OptionReplyCode::ACK,
            OptionReply::Server { .. } => OptionReplyCode::SERVER,
            OptionReply::Info(_) => OptionReplyCode::INFO,
            OptionReply::MetaContext { .. } => OptionReplyCode::META_CONTEXT,
            OptionReply::Error { code, .. } | OptionReply::Other { code, .. } => *code,
        }
    }

    /// Bytes of text and data that it holds.
    pub(super) fn kept(&self) -> u64 {
        let len = match self {
            OptionReply::Ack => 0,
            OptionReply::Server { name, description } => name.len() + description.len(),
            OptionReply::Info(Info::Name(text) | Info::Description(text)) => text.len(),
            OptionReply::MetaContext { name, .. } => name.len(),
            OptionReply::Error { message, .. } => message.len(),
            OptionReply::Info(Info::Other { data, .. }) | OptionReply::Other { data, .. } => {
                data.len()
            }
            OptionReply::Info(Info::Export { .. } | Info::BlockSize { .. }) => 0,
        };
        len as u64
    }

    /// Decodes the data after a header with this code.
    pub fn decode(code: OptionReplyCode, data: &[u8]) -> Result<OptionReply, DecodeError> {
        let mut r = Reader::new("option reply data", data);
        let reply = match code {
            OptionReplyCode::ACK => OptionReply::Ack,
            OptionReplyCode::SERVER => OptionReply::Server {
                name: r.counted_string()?,
                description: r.rest_string()?,
            },
            OptionReplyCode::INFO => OptionReply::Info(Info::decode(&mut r)?),
            OptionReplyCode::META_CONTEXT => OptionReply::MetaContext {
                id: r.u32()?,
                name: r.rest_string()?,
            },
            code if code.is_error() => OptionReply::Error {
                code,
                message: r.rest_string()?,
            },
            code => OptionReply::Other {
                code,
                data: r.rest().to_vec(),
            },
        };
        r.finish()?;
        Ok(reply)
    }

    /// Header and data as a server sends them.
    pub fn encode(&self, option: OptionCode) -> Vec<u8> {
        let mut data = Vec::new();
        match self {
            OptionReply::Ack => {}
            OptionReply::Server { name, description } => {
                put_counted(&mut data, name);
                data.extend(description.as_bytes());
            }
            OptionReply::Info(info) => info.encode(&mut data),
            OptionReply::MetaContext { id, name } => {
                data.extend(id.to_be_bytes());
                data.extend(name.as_bytes());
            }
            OptionReply::Error { message, .. } => data.extend(message.as_bytes()),
            OptionReply::Other { data: raw, .. } => data.extend(raw),
        }
        let header = OptionReplyHeader {
            option,
            reply: self.code(),
            len: data.len() as u32,
        };
        let mut out = header.encode();
        out.extend(data);
        out
    }
}
