//! How a server answers each option, and how an export is chosen.

use super::{Chosen, Question, Server, State};
use crate::proto::client::BlockSizes;
use crate::proto::server::reply::Outgoing;
use crate::proto::server::requests::OVERHEAD;
use crate::proto::server::types::{Advertised, Closed, Description, Event, TlsPolicy};
use crate::proto::{
    DecodeError, ExportReply, Greeting, Info, InfoRequest, InfoType, MetaContextRequest, Mode,
    OptionCode, OptionReply, OptionReplyCode, OptionRequest, TransmissionFlags,
};

impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Server<B> {
    pub(super) fn answer_option(
        &mut self,
        option: OptionCode,
        request: Result<OptionRequest, DecodeError>,
    ) {
        let untrusted = self.config.tls == TlsPolicy::Required && !self.tls;
        let request = match request {
            Ok(OptionRequest::Abort) => {
                self.reply_option(option, OptionReply::Ack);
                return self.close(Closed::Goodbye);
            }
            // There is no other way to refuse it (proto.md, "FORCEDTLS").
            _ if untrusted && option == OptionCode::EXPORT_NAME => {
                return self.refuse_client("EXPORT_NAME before TLS");
            }
            Err(error) if option == OptionCode::EXPORT_NAME => {
                return self.refuse_client(error.to_string());
            }
            Ok(OptionRequest::StartTls) if self.config.tls != TlsPolicy::Off => {
                return self.start_tls(option);
            }
            _ if untrusted => {
                let text = "TLS comes first";
                return self.refuse(option, OptionReplyCode::ERR_TLS_REQD, text);
            }
            Err(error) => {
                return self.refuse(option, OptionReplyCode::ERR_INVALID, &error.to_string());
            }
            Ok(request) => request,
        };
        match request {
            OptionRequest::ExportName(name) => {
                if self.mode == Mode::Extended {
                    return self.refuse_client("EXPORT_NAME after extended headers");
                }
                self.ask_about(Question::ExportName, name);
            }
            OptionRequest::List => self.ask(Question::List),
            OptionRequest::Info(request) | OptionRequest::Go(request) => {
                let name = request.export.clone();
                self.ask_about(Question::Inform(option, request), name);
            }
            OptionRequest::ListMetaContext(request) | OptionRequest::SetMetaContext(request) => {
                if option == OptionCode::SET_META_CONTEXT {
                    self.selected = Default::default();
                }
                if !self.mode.has_chunks() {
                    let text = "structured replies come first";
                    return self.refuse(option, OptionReplyCode::ERR_INVALID, text);
                }
                let name = request.export.clone();
                self.ask_about(Question::Contexts(option, request), name);
            }
            OptionRequest::StructuredReply if self.mode == Mode::Extended => {
                let code = OptionReplyCode::ERR_EXT_HEADER_REQD;
                self.refuse(option, code, "extended headers are in use");
            }
            OptionRequest::StructuredReply => self.raise(option, Mode::Structured),
            OptionRequest::ExtendedHeaders => self.raise(option, Mode::Extended),
            OptionRequest::Abort | OptionRequest::StartTls | OptionRequest::Other { .. } => {
                self.refuse(option, OptionReplyCode::ERR_UNSUP, "");
            }
        }
    }

    fn start_tls(&mut self, option: OptionCode) {
        if self.tls {
            return self.refuse(option, OptionReplyCode::ERR_INVALID, "TLS is in use");
        }
        if self.intake.pending() > 0 {
            // It was sent to be mistaken for protected data.
            return self.refuse_client("data in plain text after STARTTLS");
        }
        self.reply_option(option, OptionReply::Ack);
        self.state = State::Upgrade;
        self.events.push_back(Event::StartTls);
    }

    /// TLS is active on the stream. What was negotiated before is void.
    pub fn tls_started(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.tls = true;
            self.mode = Mode::Simple;
            self.selected = Default::default();
            self.await_message(State::OptionHeader);
            self.advance();
        }
    }

    fn raise(&mut self, option: OptionCode, mode: Mode) {
        if self.config.mode < mode {
            return self.refuse(option, OptionReplyCode::ERR_UNSUP, "");
        }
        self.mode = mode;
        self.reply_option(option, OptionReply::Ack);
        self.await_message(State::OptionHeader);
    }

    pub(super) fn ask(&mut self, question: Question) {
        let event = match question {
            Question::List => Event::List,
            _ => Event::Describe {
                export: String::new(),
                advertise: true,
            },
        };
        self.events.push_back(event);
        self.state = State::Asking(question);
    }

    fn ask_about(&mut self, question: Question, export: String) {
        let advertise = !matches!(question, Question::Contexts(..));
        self.events.push_back(Event::Describe { export, advertise });
        self.state = State::Asking(question);
    }

    /// Answers [`Event::List`]: names and descriptions.
    pub fn list(&mut self, exports: impl IntoIterator<Item = (String, String)>) {
        if !matches!(self.state, State::Asking(Question::List)) {
            return;
        }
        let option = OptionCode::LIST;
        for (name, description) in exports {
            self.reply_option(option, OptionReply::Server { name, description });
        }
        self.reply_option(option, OptionReply::Ack);
        self.await_message(State::OptionHeader);
        self.advance();
    }

    /// Answers [`Event::Describe`]; `None` means that there is no such export.
    pub fn describe(&mut self, export: Option<Description>) {
        self.describe_with(export, |advertised| advertised);
    }

    /// Like [`Server::describe`], with a hook that may change what is advertised.
    pub fn describe_with(
        &mut self,
        export: Option<Description>,
        tell: impl FnOnce(Advertised) -> Advertised,
    ) {
        let question = match std::mem::replace(&mut self.state, State::Ended) {
            State::Asking(question) if !matches!(question, Question::List) => question,
            state => {
                self.state = state;
                return;
            }
        };
        self.state = State::OptionHeader;
        match (question, export) {
            (Question::Oldstyle | Question::List, None) => {
                self.refuse_client("there is no export");
            }
            (Question::ExportName, None) => self.refuse_client("there is no such export"),
            (Question::Inform(option, request), None) => {
                let text = format!("export '{}' not present", request.export);
                self.refuse(option, OptionReplyCode::ERR_UNKNOWN, &text);
            }
            (Question::Contexts(option, _), None) => {
                self.refuse(option, OptionReplyCode::ERR_UNKNOWN, "no such export");
            }
            (Question::Oldstyle | Question::List, Some(export)) => {
                let told = tell(self.advertise(&export));
                let greeting = Greeting::Oldstyle {
                    size: told.size,
                    flags: told.flags,
                };
                let (oldstyle, bytes) = (true, greeting.encode());
                self.out.push_back(Outgoing::Greeting { oldstyle, bytes });
                self.begin(export, told);
            }
            (Question::ExportName, Some(export)) => {
                let told = tell(self.advertise(&export));
                let reply = ExportReply {
                    size: told.size,
                    flags: told.flags,
                };
                let bytes = reply.encode(self.no_zeroes);
                self.out.push_back(Outgoing::ExportReply(bytes));
                self.begin(export, told);
            }
            (Question::Inform(option, request), Some(export)) => {
                let told = tell(self.advertise(&export));
                self.inform(option, &request, &export, told);
                match option {
                    OptionCode::GO => self.begin(export, told),
                    _ => self.await_message(State::OptionHeader),
                }
            }
            (Question::Contexts(option, request), Some(export)) => {
                self.contexts(option, request, export);
                self.await_message(State::OptionHeader);
            }
        }
        self.advance();
    }

    /// What is advertised of an export in this mode.
    fn advertise(&self, export: &Description) -> Advertised {
        let selected = self.selected.0 == export.name && !self.selected.1.is_empty();
        let mut flags = export.flags;
        if !export.exact_flags {
            use TransmissionFlags as F;
            flags |= F::HAS_FLAGS | F::SEND_DF.only_if(self.mode.has_chunks());
            flags |= F::BLOCK_STATUS_PAYLOAD.only_if(self.mode == Mode::Extended && selected);
        }
        Advertised {
            size: export.size,
            flags,
            block_sizes: export.block_sizes,
        }
    }

    fn inform(
        &mut self,
        option: OptionCode,
        request: &InfoRequest,
        export: &Description,
        told: Advertised,
    ) {
        for wanted in &request.requests {
            let info = match *wanted {
                InfoType::NAME => Info::Name(export.name.clone()),
                InfoType::DESCRIPTION if !export.description.is_empty() => {
                    Info::Description(export.description.clone())
                }
                _ => continue,
            };
            self.reply_option(option, OptionReply::Info(info));
        }
        if let Some(BlockSizes {
            minimum,
            preferred,
            maximum,
        }) = told.block_sizes
        {
            let info = Info::BlockSize {
                minimum,
                preferred,
                maximum,
            };
            self.reply_option(option, OptionReply::Info(info));
        }
        let info = Info::Export {
            size: told.size,
            flags: told.flags,
        };
        self.reply_option(option, OptionReply::Info(info));
        self.reply_option(option, OptionReply::Ack);
    }

    fn contexts(&mut self, option: OptionCode, request: MetaContextRequest, export: Description) {
        let set = option == OptionCode::SET_META_CONTEXT;
        let everything = !set && request.queries.is_empty();
        let asked = |name: &String| {
            let by = |q: &String| q == name || !set && is_wildcard_for(q, name);
            everything || request.queries.iter().any(by)
        };
        let chosen: Vec<String> = export.contexts.into_iter().filter(asked).collect();
        for (id, name) in chosen.iter().enumerate() {
            let (id, name) = (id as u32, name.clone());
            self.reply_option(option, OptionReply::MetaContext { id, name });
        }
        self.reply_option(option, OptionReply::Ack);
        if set {
            self.selected = (export.name, chosen);
        }
    }

    fn begin(&mut self, export: Description, advertised: Advertised) {
        let (name, contexts) = std::mem::take(&mut self.selected);
        // Contexts of another export do not count (proto.md, `SET_META_CONTEXT`).
        let contexts = match name == export.name {
            true => contexts,
            false => Vec::new(),
        };
        self.export = Some(Chosen {
            size: export.size,
            minimum: u64::from(export.block_sizes.map_or(1, |s| s.minimum.max(1))),
            flags: advertised.flags,
            contexts: contexts.len(),
        });
        self.events.push_back(Event::Transmission {
            export,
            mode: self.mode,
            advertised,
            contexts,
        });
        self.await_message(State::Request);
    }

    fn refuse(&mut self, option: OptionCode, code: OptionReplyCode, text: &str) {
        let message = text.to_owned();
        self.reply_option(option, OptionReply::Error { code, message });
        self.await_message(State::OptionHeader);
    }

    pub(super) fn reply_option(&mut self, option: OptionCode, reply: OptionReply) {
        let cost = OVERHEAD + reply.kept();
        self.kept += cost;
        self.out.push_back(Outgoing::OptionReply {
            option,
            reply,
            cost,
        });
    }
}

/// A namespace, or a namespace plus a name prefix up to a colon, matches everything in it.
fn is_wildcard_for(query: &str, name: &str) -> bool {
    query.ends_with(':') && name.starts_with(query)
}
