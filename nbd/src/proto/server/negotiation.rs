//! The server's machine, and its part of the handshake.

use std::collections::{HashMap, VecDeque};

use super::reply::Outgoing;
use super::types::{Advertised, Closed, Config, Description, Event, TlsPolicy};
use crate::proto::client::BlockSizes;
use crate::proto::intake::Intake;
use crate::proto::{
    ClientFlags, DecodeError, ExportReply, Greeting, HandshakeFlags, Info, InfoRequest, InfoType,
    MetaContextRequest, Mode, OptionCode, OptionHeader, OptionReply, OptionReplyCode,
    OptionRequest, Request, TransmissionFlags,
};

/// What the machine waits for.
#[derive(Debug)]
pub(super) enum State {
    ClientFlags,
    OptionHeader,
    OptionData(OptionHeader),
    /// The owner's word about an option ([`Config::intercept`]).
    Decide(OptionCode, Result<OptionRequest, DecodeError>),
    /// The owner's answer to a question.
    Asking(Question),
    Upgrade,
    Request,
    /// The owner's word about a request ([`Config::intercept`]).
    Proceed(u64, Request),
    /// That less is under way.
    Room(u64, Request),
    Payload(u64, Request),
    Ended,
}

/// Why the owner is asked about exports.
#[derive(Debug)]
pub(super) enum Question {
    List,
    Oldstyle,
    ExportName,
    Inform(OptionCode, InfoRequest),
    Contexts(OptionCode, MetaContextRequest),
}

/// One connection, as its server sees it.
#[derive(Debug)]
pub struct Server<B> {
    pub(super) config: Config,
    pub(super) intake: Intake,
    pub(super) state: State,
    pub(super) out: VecDeque<Outgoing<B>>,
    pub(super) events: VecDeque<Event>,
    pub(super) mode: Mode,
    tls: bool,
    no_zeroes: bool,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    selected: (String, Vec<String>),
    /// The export in transmission, its size as it is now.
    pub(super) export: Option<Chosen>,
    pub(super) last_id: u64,
    /// Requests that were handed out, with what they count for.
    pub(super) under_way: HashMap<u64, (Request, u64, u64)>,
    /// Bytes kept for requests and replies.
    pub(super) kept: u64,
    /// How many messages were begun; tells the owner when a new one is awaited.
    pub(super) messages: u64,
}

/// The export that transmission is about.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) size: u64,
    pub(super) minimum: u64,
    pub(super) flags: TransmissionFlags,
    pub(super) contexts: usize,
}

impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Server<B> {
    /// A connection that was just accepted. The greeting is the first thing to be sent; an oldstyle
    /// server first asks for its export.
    pub fn new(config: Config) -> Server<B> {
        let mut this = Server {
            intake: Intake::new().exact(config.exact),
            state: State::ClientFlags,
            out: VecDeque::new(),
            events: VecDeque::new(),
            mode: Mode::Oldstyle,
            tls: false,
            no_zeroes: false,
            selected: Default::default(),
            export: None,
            last_id: 0,
            under_way: HashMap::new(),
            kept: 0,
            messages: 1,
            config,
        };
        if this.config.mode == Mode::Oldstyle {
            // There is no way to ask for another one.
            this.ask(Question::Oldstyle);
        } else {
            let flags = this.handshake_flags();
            let bytes = Greeting::Newstyle { flags }.encode();
            let oldstyle = false;
            this.out.push_back(Outgoing::Greeting { oldstyle, bytes });
            this.advance();
        }
        this
    }

    fn handshake_flags(&self) -> HandshakeFlags {
        if self.config.mode < Mode::Simple {
            return HandshakeFlags::empty();
        }
        HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES.only_if(self.config.no_zeroes)
    }

    /// Where the next bytes from the client belong.
    pub fn space(&mut self) -> &mut [u8] {
        self.intake.space()
    }

    /// Whether more from the client is wanted now.
    pub fn wants_input(&self) -> bool {
        matches!(
            self.state,
            State::ClientFlags
                | State::OptionHeader
                | State::OptionData(_)
                | State::Request
                | State::Payload(..)
        )
    }

    /// So many bytes have come.
    pub fn filled(&mut self, n: usize) {
        self.intake.filled(n);
        self.advance();
    }

    /// Bytes have come; returns how many were taken. The rest has to wait for
    /// [`Server::wants_input`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.wants_input() {
            taken += self.intake.feed(&bytes[taken..]);
            self.advance();
        }
        taken
    }

    /// The client has closed the connection, or it broke.
    pub fn end_of_stream(&mut self) {
        self.close(Closed::Peer);
    }

    /// What is needed or has happened, once.
    #[must_use]
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be sent next, once.
    #[must_use]
    pub fn outgoing(&mut self) -> Option<Outgoing<B>> {
        self.out.pop_front()
    }

    /// Whether the client's part is over.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether the connection is protected.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the client has no way to name an export.
    pub fn is_oldstyle(&self) -> bool {
        self.config.mode == Mode::Oldstyle
    }

    /// Ends the client's part; the first reason stays.
    pub fn close(&mut self, why: Closed) {
        if !self.is_ended() {
            self.state = State::Ended;
            self.intake.abandon();
            self.events.push_back(Event::Closed(why));
        }
    }

    pub(super) fn refuse_client(&mut self, why: impl Into<String>) {
        self.close(Closed::Refused(why.into()));
    }

    pub(super) fn await_message(&mut self, state: State) {
        self.state = state;
        self.messages += 1;
        self.intake.rest();
    }

    /// Consumes what has come, as far as it goes.
    pub(super) fn advance(&mut self) {
        while self.step() {}
    }

    /// Takes one part of a message; `false` if it has not come wholly, or nothing is wanted.
    fn step(&mut self) -> bool {
        match &self.state {
            State::ClientFlags => {
                let Some(bytes) = self.intake.take(4) else {
                    return false;
                };
                let word = bytes.iter().fold(0, |word, b| word << 8 | u32::from(*b));
                self.client_flags(word);
            }
            State::OptionHeader => {
                let Some(bytes) = self.intake.take(OptionHeader::LEN) else {
                    return false;
                };
                match OptionHeader::decode(bytes) {
                    Ok(header) => {
                        self.intake.begin(Vec::new(), 0, header.len as usize);
                        self.state = State::OptionData(header);
                    }
                    Err(error) => self.refuse_client(error.to_string()),
                }
            }
            State::OptionData(header) => {
                let header = *header;
                let Some(data) = self.intake.finish() else {
                    return false;
                };
                self.option(header, &data);
            }
            State::Request | State::Payload(..) | State::Room(..) => return self.step_request(),
            State::Decide(..)
            | State::Asking(_)
            | State::Upgrade
            | State::Proceed(..)
            | State::Ended => return false,
        }
        true
    }

    fn client_flags(&mut self, word: u32) {
        let answer = ClientFlags::from_bits_retain(word);
        let offered = u32::from(self.handshake_flags().bits());
        if !ClientFlags::from_bits_retain(offered).contains(answer) {
            return self.refuse_client(format!("client flags {word:#x} were not offered"));
        }
        self.no_zeroes = answer.contains(ClientFlags::NO_ZEROES);
        self.mode = match answer.contains(ClientFlags::FIXED_NEWSTYLE) {
            true => Mode::Simple,
            false => Mode::ExportName,
        };
        self.await_message(State::OptionHeader);
    }

    fn option(&mut self, header: OptionHeader, data: &[u8]) {
        let OptionHeader { code, len } = header;
        if self.mode < Mode::Simple && code != OptionCode::EXPORT_NAME {
            return self.refuse_client(format!("option {code} without fixed newstyle"));
        }
        let request = OptionRequest::decode(code, data);
        if self.config.intercept {
            self.state = State::Decide(code, request);
            let option = code;
            self.events.push_back(Event::Option { option, len });
            return;
        }
        self.answer_option(code, request);
    }

    /// Goes on with what was intercepted.
    pub fn proceed(&mut self) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Decide(code, request) => {
                self.state = State::OptionHeader;
                self.answer_option(code, request);
            }
            State::Proceed(id, request) => {
                self.state = State::Request;
                self.admit(id, request);
            }
            state => self.state = state,
        }
        self.advance();
    }

    /// Answers an option that was intercepted with these replies, and does nothing about it.
    pub fn answer(&mut self, replies: impl IntoIterator<Item = OptionReply>) {
        if let State::Decide(option, _) = self.state {
            for reply in replies {
                self.reply_option(option, reply);
            }
            self.await_message(State::OptionHeader);
            self.advance();
        }
    }

    fn answer_option(&mut self, option: OptionCode, request: Result<OptionRequest, DecodeError>) {
        let untrusted = self.config.tls == TlsPolicy::Required && !self.tls;
        let request = match request {
            Ok(OptionRequest::Abort) => {
                self.reply_option(option, OptionReply::Ack);
                return self.close(Closed::Goodbye);
            }
            // It has no way to be refused but this (proto.md, "FORCEDTLS").
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
            // Whoever sent it wants it to be taken for what is protected.
            return self.refuse_client("data in plain text after STARTTLS");
        }
        self.reply_option(option, OptionReply::Ack);
        self.state = State::Upgrade;
        self.events.push_back(Event::StartTls);
    }

    /// TLS runs on the stream. What was agreed on before does not count any more.
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

    fn ask(&mut self, question: Question) {
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

    /// Answers [`Event::Describe`]; `None` is that there is no such export.
    pub fn describe(&mut self, export: Option<Description>) {
        self.describe_with(export, |advertised| advertised);
    }

    /// Like [`Server::describe`], with a last word about what the client is told.
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

    /// What a client is told of an export in this mode.
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

    fn reply_option(&mut self, option: OptionCode, reply: OptionReply) {
        self.out.push_back(Outgoing::OptionReply { option, reply });
    }
}

/// A namespace, or a namespace with the start of a name up to a colon, asks for all in it.
fn is_wildcard_for(query: &str, name: &str) -> bool {
    query.ends_with(':') && name.starts_with(query)
}

/// What fault injection looks at.
#[cfg(feature = "server")]
impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Server<B> {
    /// How many messages of the client were begun, the one that is awaited included.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes of the message at hand that have come.
    pub(crate) fn progress(&self) -> usize {
        match &self.state {
            State::OptionData(_) => OptionHeader::LEN + self.intake.progress(0),
            _ => self.intake.progress(0),
        }
    }

    /// The request whose payload is awaited.
    pub(crate) fn awaits_payload_of(&self) -> Option<&Request> {
        match &self.state {
            State::Payload(_, request) => Some(request),
            _ => None,
        }
    }

    /// Whether the header of a request is awaited, and else, before transmission, whether that of
    /// an option is.
    pub(crate) fn awaits_request(&self) -> bool {
        matches!(self.state, State::Request)
    }

    pub(crate) fn awaits_option(&self) -> bool {
        matches!(self.state, State::OptionHeader)
    }

    pub(crate) fn awaits_client_flags(&self) -> bool {
        matches!(self.state, State::ClientFlags)
    }
}
