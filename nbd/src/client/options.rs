//! Options and what comes back: one by one, and as lists, information and contexts.

use super::builder::Feature;
use super::error::{HandshakeError, Phase};
use super::export::{BlockSizes, Context, ExportInfo};
use super::negotiation::{Negotiation, missing};
use crate::proto::{
    Info, InfoRequest, InfoType, MetaContextRequest, Mode, OptionCode, OptionReply,
    OptionReplyHeader, OptionRequest, limits,
};

impl Negotiation {
    /// Sends an option and collects every reply up to the final one, which is dropped if it is
    /// `ACK` and returned as [`HandshakeError::Refused`] if it is an error.
    pub async fn option(
        &mut self,
        option: &OptionRequest,
    ) -> Result<Vec<OptionReply>, HandshakeError> {
        let code = option.code();
        let phase = Phase::Option(code);
        if self.mode < Mode::Simple {
            return Err(missing(Feature::FixedNewstyle, "options need it"));
        }
        self.send(&option.encode(), phase).await?;
        let (mut replies, mut total) = (Vec::new(), 0);
        loop {
            let reply = self.option_reply(code, replies.len(), &mut total).await?;
            match reply {
                OptionReply::Ack => return Ok(replies),
                OptionReply::Error {
                    code: error,
                    message,
                } => {
                    return Err(HandshakeError::Refused {
                        option: code,
                        code: error,
                        message,
                    });
                }
                reply => replies.push(reply),
            }
            if replies.len() > limits::MAX_OPTION_REPLIES {
                let (replies, bytes) = (limits::MAX_OPTION_REPLIES, total);
                return Err(HandshakeError::Endless {
                    option: code,
                    replies,
                    bytes,
                });
            }
        }
    }

    async fn option_reply(
        &mut self,
        option: OptionCode,
        replies: usize,
        total: &mut usize,
    ) -> Result<OptionReply, HandshakeError> {
        let phase = Phase::Option(option);
        let decode = |source| HandshakeError::Decode { phase, source };
        let header = self.read(OptionReplyHeader::LEN, phase).await?;
        let header = OptionReplyHeader::decode(&header).map_err(decode)?;
        if header.option != option {
            return Err(HandshakeError::Unexpected {
                option,
                got: header.reply.to_string(),
                detail: format!("it answers {}", header.option),
            });
        }
        // Small replies cost more memory than wire bytes, so each counts for what it costs.
        *total += header.len as usize + std::mem::size_of::<OptionReply>();
        if *total > limits::MAX_OPTION_REPLY_TOTAL {
            return Err(HandshakeError::Endless {
                option,
                replies,
                bytes: *total,
            });
        }
        let data = self.read(header.len as usize, phase).await?;
        OptionReply::decode(header.reply, &data).map_err(decode)
    }

    pub(super) async fn simple_option(
        &mut self,
        option: &OptionRequest,
    ) -> Result<(), HandshakeError> {
        match self.option(option).await?.first() {
            None => Ok(()),
            Some(reply) => Err(unexpected(
                option.code(),
                reply,
                "only ACK or an error may come",
            )),
        }
    }

    /// Names and descriptions of the exports (`LIST`).
    pub async fn list(&mut self) -> Result<Vec<(String, String)>, HandshakeError> {
        let option = OptionRequest::List;
        let replies = self.option(&option).await?;
        let entry = |reply| match reply {
            OptionReply::Server { name, description } => Ok((name, description)),
            reply => Err(unexpected(option.code(), &reply, "a list holds exports")),
        };
        replies.into_iter().map(entry).collect()
    }

    /// What the server says of an export, without choosing it (`INFO`).
    pub async fn info(&mut self, export: &str) -> Result<ExportInfo, HandshakeError> {
        let option = OptionRequest::Info(self.info_request(export));
        let replies = self.option(&option).await?;
        self.gather(export, option.code(), replies)
    }

    pub(super) fn info_request(&self, export: &str) -> InfoRequest {
        let requests = match self.builder.wants(Feature::Info) {
            true => vec![InfoType::NAME, InfoType::DESCRIPTION, InfoType::BLOCK_SIZE],
            false => Vec::new(),
        };
        InfoRequest {
            export: export.to_owned(),
            requests,
        }
    }

    pub(super) fn gather(
        &self,
        export: &str,
        option: OptionCode,
        replies: Vec<OptionReply>,
    ) -> Result<ExportInfo, HandshakeError> {
        let mut info = ExportInfo::empty(export, self.mode);
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
                    let sizes = BlockSizes {
                        minimum,
                        preferred,
                        maximum,
                    };
                    if !minimum.is_power_of_two() || preferred < minimum || maximum < minimum {
                        let reply = OptionReply::Info(item);
                        return Err(unexpected(option, &reply, "impossible block sizes"));
                    }
                    info.block_sizes = Some(sizes);
                }
                Info::Other { .. } => {}
            }
        }
        if !seen_export {
            let detail = "no information on size and flags".to_owned();
            return Err(HandshakeError::Unexpected {
                option,
                got: "ack".into(),
                detail,
            });
        }
        Ok(info)
    }

    /// Contexts that match the queries; no query means all (`LIST_META_CONTEXT`).
    pub async fn list_contexts(
        &mut self,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<String>, HandshakeError> {
        let option = OptionRequest::ListMetaContext(MetaContextRequest {
            export: export.to_owned(),
            queries: queries.iter().map(|q| (*q).to_owned()).collect(),
        });
        let found = self.contexts(&option).await?;
        Ok(found.into_iter().map(|context| context.name).collect())
    }

    /// Selects contexts for the transmission phase (`SET_META_CONTEXT`), instead of those that were
    /// selected before. [`Negotiation::go`] asks for the builder's own, if it has any.
    pub async fn set_contexts(
        &mut self,
        export: &str,
        queries: &[impl AsRef<str>],
    ) -> Result<Vec<Context>, HandshakeError> {
        let option = OptionRequest::SetMetaContext(MetaContextRequest {
            export: export.to_owned(),
            queries: queries.iter().map(|q| q.as_ref().to_owned()).collect(),
        });
        self.selected = Default::default();
        let found = self.contexts(&option).await?;
        for (n, context) in found.iter().enumerate() {
            let twice = found[..n]
                .iter()
                .any(|c| c.id == context.id || c.name == context.name);
            if twice || found.len() > limits::MAX_CONTEXTS {
                return Err(HandshakeError::Unexpected {
                    option: option.code(),
                    got: format!("context {} ({})", context.id, context.name),
                    detail: "it came twice, or there are too many".into(),
                });
            }
        }
        self.selected = (export.to_owned(), found.clone());
        Ok(found)
    }

    async fn contexts(&mut self, option: &OptionRequest) -> Result<Vec<Context>, HandshakeError> {
        let entry = |reply| match reply {
            OptionReply::MetaContext { id, name } => Ok(Context { id, name }),
            reply => Err(unexpected(option.code(), &reply, "only contexts may come")),
        };
        self.option(option).await?.into_iter().map(entry).collect()
    }
}

fn unexpected(option: OptionCode, reply: &OptionReply, detail: &str) -> HandshakeError {
    let (got, detail) = (reply.code().to_string(), detail.to_owned());
    HandshakeError::Unexpected {
        option,
        got,
        detail,
    }
}
