//! How a handshake processes each message of the server.

use super::{Event, Handshake, State, Then, missing};
use crate::proto::client::config::Feature;
use crate::proto::client::error::HandshakeError;
use crate::proto::client::export::{Context, ExportInfo};
use crate::proto::client::options;
use crate::proto::{
    ClientFlags, ExportReply, Greeting, GreetingKind, HandshakeFlags, Mode, OptionCode,
    OptionReply, OptionReplyCode, OptionReplyHeader, OptionRequest, limits,
};

impl Handshake {
    /// Consumes the received bytes, as far as possible.
    pub(super) fn advance(&mut self) {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Takes one message; `false` if it is incomplete.
    fn step(&mut self) -> Result<bool, HandshakeError> {
        let phase = self.phase();
        let decode = |source| HandshakeError::Decode { phase, source };
        match &mut self.state {
            State::Greeting(None) => {
                let Some(bytes) = self.intake.peek(Greeting::PREFIX_LEN) else {
                    return Ok(false);
                };
                let kind = Greeting::kind(bytes).map_err(decode)?;
                if kind == GreetingKind::Oldstyle {
                    for feature in [Feature::Newstyle, Feature::Tls] {
                        if self.config.requires(feature) {
                            return Err(missing(feature, "the server is oldstyle"));
                        }
                    }
                }
                self.state = State::Greeting(Some(kind));
            }
            State::Greeting(Some(kind)) => {
                let Some(bytes) = self.intake.take(Greeting::len_of(*kind)) else {
                    return Ok(false);
                };
                let greeting = Greeting::decode(bytes).map_err(decode)?;
                self.greet(greeting)?;
            }
            State::Option { header, .. } if header.is_none() => {
                let Some(bytes) = self.intake.take(OptionReplyHeader::LEN) else {
                    return Ok(false);
                };
                let reply = OptionReplyHeader::decode(bytes).map_err(decode)?;
                self.begin_reply(reply)?;
            }
            State::Option { header, .. } => {
                let Some(data) = self.intake.finish() else {
                    return Ok(false);
                };
                if let Some(header) = header.take() {
                    let reply = OptionReply::decode(header.reply, &data).map_err(decode)?;
                    self.take_reply(reply)?;
                }
            }
            State::ExportReply => {
                let len = ExportReply::wire_len(self.no_zeroes);
                let Some(bytes) = self.intake.take(len) else {
                    return Ok(false);
                };
                let reply = ExportReply::decode(bytes).map_err(decode)?;
                self.chosen(ExportInfo {
                    size: reply.size,
                    flags: reply.flags,
                    ..ExportInfo::empty(&self.config.export, self.mode)
                });
            }
            State::Upgrade if self.intake.pending() > 0 => return Err(self.unasked()),
            State::Upgrade | State::Ready | State::Chosen(_) | State::Failed(_) => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn greet(&mut self, greeting: Greeting) -> Result<(), HandshakeError> {
        let flags = match greeting {
            Greeting::Oldstyle { size, flags } => {
                self.oldstyle = Some(ExportReply { size, flags });
                self.ready();
                return Ok(());
            }
            Greeting::Newstyle { flags } => flags,
        };
        if !self.config.wants(Feature::Newstyle) {
            return Err(missing(
                Feature::Newstyle,
                "forbidden, but the server is newstyle",
            ));
        }
        let mut answer = ClientFlags::empty();
        let fixed = flags.contains(HandshakeFlags::FIXED_NEWSTYLE);
        if self.agree(Feature::FixedNewstyle, fixed)? {
            answer |= ClientFlags::FIXED_NEWSTYLE;
            self.mode = Mode::Simple;
        } else {
            self.mode = Mode::ExportName;
            if self.config.requires(Feature::Tls) {
                return Err(missing(Feature::Tls, "the server has no fixed newstyle"));
            }
        }
        if self.agree(Feature::NoZeroes, flags.contains(HandshakeFlags::NO_ZEROES))? {
            answer |= ClientFlags::NO_ZEROES;
            self.no_zeroes = true;
        }
        self.out.extend(answer.bits().to_be_bytes());
        if self.mode < Mode::Simple {
            self.ready();
        } else if self.config.wants(Feature::Tls) {
            self.send(&OptionRequest::StartTls, Then::Tls);
        } else {
            self.next_feature();
        }
        Ok(())
    }

    fn agree(&self, feature: Feature, offered: bool) -> Result<bool, HandshakeError> {
        if !offered && self.config.requires(feature) {
            return Err(missing(feature, "the server does not offer it"));
        }
        Ok(offered && self.config.wants(feature))
    }

    /// Requests the best headers that have not been requested yet.
    pub(super) fn next_feature(&mut self) {
        if self.config.wants(Feature::ExtendedHeaders) {
            let then = Then::Headers(Feature::ExtendedHeaders, Mode::Extended);
            return self.send(&OptionRequest::ExtendedHeaders, then);
        }
        self.structured();
    }

    fn structured(&mut self) {
        if self.mode < Mode::Structured && self.config.wants(Feature::StructuredReplies) {
            let then = Then::Headers(Feature::StructuredReplies, Mode::Structured);
            return self.send(&OptionRequest::StructuredReply, then);
        }
        self.ready();
    }

    fn ready(&mut self) {
        self.state = State::Ready;
        self.event = Some(Event::Ready);
    }

    pub(super) fn send(&mut self, option: &OptionRequest, then: Then) {
        self.out.extend(option.encode());
        self.state = State::Option {
            code: option.code(),
            then,
            replies: Vec::new(),
            bytes: 0,
            header: None,
        };
    }

    fn begin_reply(&mut self, reply: OptionReplyHeader) -> Result<(), HandshakeError> {
        let State::Option {
            code,
            replies,
            bytes,
            header,
            ..
        } = &mut self.state
        else {
            return Ok(());
        };
        let option = *code;
        if reply.option != option {
            return Err(HandshakeError::Unexpected {
                option,
                got: reply.reply.to_string(),
                detail: format!("it answers {}", reply.option),
            });
        }
        // Small replies take more memory than wire bytes, so each is counted by its memory.
        *bytes += reply.len as usize + std::mem::size_of::<OptionReply>();
        if *bytes > limits::MAX_OPTION_REPLY_TOTAL {
            return Err(HandshakeError::Endless {
                option,
                replies: replies.len(),
                bytes: *bytes,
            });
        }
        *header = Some(reply);
        self.intake.begin(Vec::new(), 0, reply.len as usize);
        Ok(())
    }

    fn take_reply(&mut self, reply: OptionReply) -> Result<(), HandshakeError> {
        let State::Option { code, replies, .. } = &mut self.state else {
            return Ok(());
        };
        let option = *code;
        let outcome = match reply {
            OptionReply::Ack => Ok(std::mem::take(replies)),
            OptionReply::Error { code, message } => Err(HandshakeError::Refused {
                option,
                code,
                message,
            }),
            reply => {
                replies.push(reply);
                return Ok(());
            }
        };
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Option { then, .. } => self.answered(option, then, outcome),
            _ => Ok(()),
        }
    }

    fn answered(
        &mut self,
        option: OptionCode,
        then: Then,
        outcome: Result<Vec<OptionReply>, HandshakeError>,
    ) -> Result<(), HandshakeError> {
        if let Err(HandshakeError::Refused {
            code: OptionReplyCode::ERR_TLS_REQD,
            ..
        }) = &outcome
            && !self.tls
            && !matches!(then, Then::Caller)
        {
            return Err(HandshakeError::TlsRequired { option });
        }
        match then {
            Then::Caller => {
                if option == OptionCode::SET_META_CONTEXT
                    && let Ok(replies) = &outcome
                {
                    self.selected.1 = options::contexts(option, replies.clone())?;
                }
                self.event = Some(Event::Answer(outcome));
            }
            Then::Tls => match outcome {
                Ok(replies) => {
                    options::nothing(option, &replies)?;
                    self.state = State::Upgrade;
                    self.event = Some(Event::StartTls);
                }
                Err(_) if !self.config.requires(Feature::Tls) => self.next_feature(),
                Err(_) => return Err(missing(Feature::Tls, "the server does not offer it")),
            },
            Then::Headers(feature, mode) => match outcome {
                Ok(replies) => {
                    options::nothing(option, &replies)?;
                    self.mode = mode;
                    self.ready();
                }
                Err(_) if self.config.requires(feature) => {
                    return Err(missing(feature, "the server refuses it"));
                }
                Err(_) if mode == Mode::Extended => self.structured(),
                Err(_) => self.ready(),
            },
            Then::Contexts => {
                let required = self.config.requires(Feature::MetaContexts);
                let found = match outcome {
                    Ok(replies) => options::contexts(option, replies)?,
                    Err(_) if !required => Vec::new(),
                    Err(error) => return Err(error),
                };
                let has = |query: &String| {
                    let wild = |c: &Context| query.ends_with(':') && c.name.starts_with(query);
                    found.iter().any(|c| &c.name == query || wild(c))
                };
                if required && !self.config.contexts.iter().all(has) {
                    return Err(missing(
                        Feature::MetaContexts,
                        "the server does not have all of them",
                    ));
                }
                self.contexts = found;
                self.choose();
            }
            Then::Go => match outcome {
                Err(HandshakeError::Refused {
                    code: OptionReplyCode::ERR_UNSUP,
                    ..
                }) if self.mode != Mode::Extended && !self.config.requires(Feature::Go) => {
                    self.export_name();
                }
                outcome => {
                    let name = self.config.export.clone();
                    let info = options::info(&name, self.mode, option, outcome?)?;
                    self.chosen(info);
                }
            },
        }
        Ok(())
    }

    pub(super) fn choose(&mut self) {
        if let Some(reply) = self.oldstyle {
            return self.chosen(ExportInfo {
                size: reply.size,
                flags: reply.flags,
                ..ExportInfo::empty(&self.config.export, self.mode)
            });
        }
        if self.mode >= Mode::Simple && self.config.wants(Feature::Go) {
            let asks = self.config.wants(Feature::Info);
            let option = OptionRequest::Go(options::info_request(&self.config.export, asks));
            return self.send(&option, Then::Go);
        }
        self.export_name();
    }

    fn export_name(&mut self) {
        let option = OptionRequest::ExportName(self.config.export.clone());
        self.out.extend(option.encode());
        self.state = State::ExportReply;
    }

    fn chosen(&mut self, mut info: ExportInfo) {
        info.contexts = std::mem::take(&mut self.contexts);
        info.tls = self.tls;
        self.state = State::Chosen(Box::new(info));
        self.event = Some(Event::Chosen);
    }
}
