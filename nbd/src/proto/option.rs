//! Options: what a client asks for before transmission.

use super::codes::{InfoType, OptionCode, magic};
use super::error::DecodeError;
use super::limits::MAX_OPTION_DATA;
use super::wire::{Reader, limit, put_counted};

/// The fixed part of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub code: OptionCode,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Length on the wire.
    pub const LEN: usize = 16;

    /// Decodes a header; the length is checked against [`MAX_OPTION_DATA`].
    pub fn decode(bytes: &[u8]) -> Result<OptionHeader, DecodeError> {
        let mut r = Reader::new("option", bytes);
        r.magic64(magic::OPTION)?;
        let header = OptionHeader {
            code: OptionCode(r.u32()?),
            len: r.u32()?,
        };
        r.finish()?;
        limit("option data", u64::from(header.len), MAX_OPTION_DATA as u64)?;
        Ok(header)
    }

    /// The bytes a client sends.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = magic::OPTION.to_be_bytes().to_vec();
        out.extend(self.code.0.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// Data of `INFO` and `GO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InfoRequest {
    /// Name of the export; empty means the default one.
    pub export: String,
    /// The information that the client requests.
    pub requests: Vec<InfoType>,
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// Name of the export; empty means the default one.
    pub export: String,
    /// Context names, or namespaces such as `base:` as wildcards.
    pub queries: Vec<String>,
}

/// An option with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionRequest {
    /// `EXPORT_NAME`.
    ExportName(String),
    /// `ABORT`.
    Abort,
    /// `LIST`.
    List,
    /// `STARTTLS`.
    StartTls,
    /// `INFO`.
    Info(InfoRequest),
    /// `GO`.
    Go(InfoRequest),
    /// `STRUCTURED_REPLY`.
    StructuredReply,
    /// `LIST_META_CONTEXT`.
    ListMetaContext(MetaContextRequest),
    /// `SET_META_CONTEXT`.
    SetMetaContext(MetaContextRequest),
    /// `EXTENDED_HEADERS`.
    ExtendedHeaders,
    /// Anything else, uninterpreted.
    Other {
        /// The number.
        code: OptionCode,
        /// The data.
        data: Vec<u8>,
    },
}

impl OptionRequest {
    /// The option's number.
    pub fn code(&self) -> OptionCode {
        match self {
            OptionRequest::ExportName(_) => OptionCode::EXPORT_NAME,
            OptionRequest::Abort => OptionCode::ABORT,
            OptionRequest::List => OptionCode::LIST,
            OptionRequest::StartTls => OptionCode::STARTTLS,
            OptionRequest::Info(_) => OptionCode::INFO,
            OptionRequest::Go(_) => OptionCode::GO,
            OptionRequest::StructuredReply => OptionCode::STRUCTURED_REPLY,
            OptionRequest::ListMetaContext(_) => OptionCode::LIST_META_CONTEXT,
            OptionRequest::SetMetaContext(_) => OptionCode::SET_META_CONTEXT,
            OptionRequest::ExtendedHeaders => OptionCode::EXTENDED_HEADERS,
            OptionRequest::Other { code, .. } => *code,
        }
    }

    /// Decodes the data after a header with this code.
    ///
    /// An error means that the data is malformed; its length on the wire was right, so a server
    /// answers `ERR_INVALID` and continues. Data after `ABORT` is ignored, as proto.md requires.
    pub fn decode(code: OptionCode, data: &[u8]) -> Result<OptionRequest, DecodeError> {
        let mut r = Reader::new("option data", data);
        let request = match code {
            OptionCode::EXPORT_NAME => OptionRequest::ExportName(r.rest_string()?),
            OptionCode::ABORT => {
                r.rest();
                OptionRequest::Abort
            }
            OptionCode::LIST => OptionRequest::List,
            OptionCode::STARTTLS => OptionRequest::StartTls,
            OptionCode::INFO => OptionRequest::Info(InfoRequest::decode(&mut r)?),
            OptionCode::GO => OptionRequest::Go(InfoRequest::decode(&mut r)?),
            OptionCode::STRUCTURED_REPLY => OptionRequest::StructuredReply,
            OptionCode::LIST_META_CONTEXT => {
                OptionRequest::ListMetaContext(MetaContextRequest::decode(&mut r)?)
            }
            OptionCode::SET_META_CONTEXT => {
                OptionRequest::SetMetaContext(MetaContextRequest::decode(&mut r)?)
            }
            OptionCode::EXTENDED_HEADERS => OptionRequest::ExtendedHeaders,
            code => OptionRequest::Other {
                code,
                data: r.rest().to_vec(),
            },
        };
        r.finish()?;
        Ok(request)
    }

    /// Header and data as a client sends them.
    pub fn encode(&self) -> Vec<u8> {
        let data = match self {
            OptionRequest::ExportName(name) => name.as_bytes().to_vec(),
            OptionRequest::Info(info) | OptionRequest::Go(info) => info.encode(),
            OptionRequest::ListMetaContext(meta) | OptionRequest::SetMetaContext(meta) => {
                meta.encode()
            }
            OptionRequest::Other { data, .. } => data.clone(),
            _ => Vec::new(),
        };
        let mut out = OptionHeader {
            code: self.code(),
            len: data.len() as u32,
        }
        .encode();
        out.extend(data);
        out
    }
}

impl InfoRequest {
    fn decode(r: &mut Reader<'_>) -> Result<InfoRequest, DecodeError> {
        let export = r.counted_string()?;
        let count = r.u16()?;
        let mut requests = Vec::with_capacity(usize::from(count).min(r.left() / 2));
        for _ in 0..count {
            requests.push(InfoType(r.u16()?));
        }
        Ok(InfoRequest { export, requests })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_counted(&mut out, &self.export);
        out.extend((self.requests.len() as u16).to_be_bytes());
        for request in &self.requests {
            out.extend(request.0.to_be_bytes());
        }
        out
    }
}

impl MetaContextRequest {
    fn decode(r: &mut Reader<'_>) -> Result<MetaContextRequest, DecodeError> {
        let export = r.counted_string()?;
        let count = r.u32()?;
        // Each query takes at least its length field, so the data bounds the count.
        let mut queries = Vec::with_capacity((count as usize).min(r.left() / 4));
        for _ in 0..count {
            queries.push(r.counted_string()?);
        }
        Ok(MetaContextRequest { export, queries })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_counted(&mut out, &self.export);
        out.extend((self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            put_counted(&mut out, query);
        }
        out
    }
}
