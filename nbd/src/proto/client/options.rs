//! Interpreting the replies to an option.

use super::error::HandshakeError;
use super::export::{BlockSizes, Context, ExportInfo};
use super::handshake::Handshake;
use crate::proto::{
    Info, InfoRequest, InfoType, MetaContextRequest, Mode, OptionCode, OptionReply, OptionRequest,
    limits,
};

/// Asks for an export's information.
pub(crate) fn info_request(export: &str, all: bool) -> InfoRequest {
    let requests = match all {
        true => vec![InfoType::NAME, InfoType::DESCRIPTION, InfoType::BLOCK_SIZE],
        false => Vec::new(),
    };
    InfoRequest {
        export: export.to_owned(),
        requests,
    }
}

pub(crate) fn set_contexts(export: &str, queries: &[impl AsRef<str>]) -> OptionRequest {
    OptionRequest::SetMetaContext(queries_for(export, queries))
}

fn queries_for(export: &str, queries: &[impl AsRef<str>]) -> MetaContextRequest {
    MetaContextRequest {
        export: export.to_owned(),
        queries: queries.iter().map(|q| q.as_ref().to_owned()).collect(),
    }
}

/// Only `ACK` is allowed.
pub(crate) fn nothing(option: OptionCode, replies: &[OptionReply]) -> Result<(), HandshakeError> {
    match replies.first() {
        None => Ok(()),
        Some(reply) => Err(unexpected(option, reply, "only ACK or an error may come")),
    }
}

/// Names and descriptions of a `LIST`.
fn list(replies: Vec<OptionReply>) -> Result<Vec<(String, String)>, HandshakeError> {
    let entry = |reply| match reply {
        OptionReply::Server { name, description } => Ok((name, description)),
        reply => Err(unexpected(OptionCode::LIST, &reply, "a list holds exports")),
    };
    replies.into_iter().map(entry).collect()
}

/// Contexts of a `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
pub(crate) fn contexts(
    option: OptionCode,
    replies: Vec<OptionReply>,
) -> Result<Vec<Context>, HandshakeError> {
    let entry = |reply| match reply {
        OptionReply::MetaContext { id, name } => Ok(Context { id, name }),
        reply => Err(unexpected(option, &reply, "only contexts may come")),
    };
    let found: Vec<Context> = replies.into_iter().map(entry).collect::<Result<_, _>>()?;
    if option != OptionCode::SET_META_CONTEXT {
        return Ok(found);
    }
    for (n, context) in found.iter().enumerate() {
        let same = |c: &Context| c.id == context.id || c.name == context.name;
        if found.len() > limits::MAX_CONTEXTS || found[..n].iter().any(same) {
            return Err(HandshakeError::Unexpected {
                option,
                got: format!("context {} ({})", context.id, context.name),
                detail: "it came twice, or there are too many".into(),
            });
        }
    }
    Ok(found)
}

/// The information of an `INFO` or `GO`.
pub(crate) fn info(
    export: &str,
    mode: Mode,
    option: OptionCode,
    replies: Vec<OptionReply>,
) -> Result<ExportInfo, HandshakeError> {
    let mut info = ExportInfo::empty(export, mode);
    let mut seen_export = false;
    for reply in replies {
        let OptionReply::Info(item) = reply else {
            return Err(unexpected(option, &reply, "only information may come"));
        };
        match item {
            Info::Export { size, flags } => {
                (info.size, info.flags, seen_export) = (size, flags, true);
            }
            Info::Name(name) => info.canonical_name = Some(name),
            Info::Description(text) => info.description = Some(text),
            Info::BlockSize {
                minimum,
                preferred,
                maximum,
            } => {
                if !minimum.is_power_of_two() || preferred < minimum || maximum < minimum {
                    let reply = OptionReply::Info(item);
                    return Err(unexpected(option, &reply, "impossible block sizes"));
                }
                info.block_sizes = Some(BlockSizes {
                    minimum,
                    preferred,
                    maximum,
                });
            }
            Info::Other { .. } => {}
        }
    }
    if !seen_export {
        return Err(HandshakeError::Unexpected {
            option,
            got: "ack".into(),
            detail: "no information on size and flags".into(),
        });
    }
    Ok(info)
}

fn unexpected(option: OptionCode, reply: &OptionReply, detail: &str) -> HandshakeError {
    HandshakeError::Unexpected {
        option,
        got: reply.code().to_string(),
        detail: detail.to_owned(),
    }
}

impl Handshake {
    /// The request for an export's description, without choosing it (`INFO`).
    pub fn info_option(&self, export: &str) -> OptionRequest {
        let asks = self.config().wants(super::Feature::Info);
        OptionRequest::Info(info_request(export, asks))
    }

    /// Interprets the replies to [`Handshake::info_option`].
    pub fn info_of(
        &self,
        export: &str,
        replies: Vec<OptionReply>,
    ) -> Result<ExportInfo, HandshakeError> {
        info(export, self.mode(), OptionCode::INFO, replies)
    }

    /// The request to select contexts (`SET_META_CONTEXT`).
    pub fn set_contexts_option(export: &str, queries: &[impl AsRef<str>]) -> OptionRequest {
        set_contexts(export, queries)
    }

    /// The request for the contexts that match; no query means all (`LIST_META_CONTEXT`).
    pub fn list_contexts_option(export: &str, queries: &[impl AsRef<str>]) -> OptionRequest {
        OptionRequest::ListMetaContext(queries_for(export, queries))
    }

    /// Interprets the replies to these two requests.
    pub fn contexts_of(
        option: &OptionRequest,
        replies: Vec<OptionReply>,
    ) -> Result<Vec<Context>, HandshakeError> {
        contexts(option.code(), replies)
    }

    /// Interprets the replies to `LIST`: names and descriptions.
    pub fn exports_of(replies: Vec<OptionReply>) -> Result<Vec<(String, String)>, HandshakeError> {
        list(replies)
    }
}
