//! From the greeting to the choice of an export.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, Feature};
use super::error::{HandshakeError, Phase};
use super::export::{Context, ExportInfo};
use super::transmission::Transmission;
use crate::proto::intake::Intake;
use crate::proto::{
    ClientFlags, ExportReply, Greeting, GreetingKind, HandshakeFlags, Mode, OptionCode,
    OptionReply, OptionReplyCode, OptionReplyHeader, OptionRequest, limits,
};

/// What a handshake has come to.
#[derive(Clone, Debug)]
pub enum Event {
    /// TLS is to be started on the stream now; then [`Handshake::tls_started`].
    StartTls,
    /// Options can be sent, or an export chosen.
    Ready,
    /// The replies to an option that the caller sent, without the final `ACK`; an error is
    /// [`HandshakeError::Refused`] and leaves the handshake ready.
    Answer(Result<Vec<OptionReply>, HandshakeError>),
    /// An export is chosen: [`Handshake::into_transmission`].
    Chosen,
}

#[derive(Debug)]
enum State {
    Greeting(Option<GreetingKind>),
    /// Collects the replies to an option.
    Option {
        code: OptionCode,
        then: Then,
        replies: Vec<OptionReply>,
        bytes: usize,
        /// A reply whose data has not come wholly.
        header: Option<OptionReplyHeader>,
    },
    /// Waits for the driver.
    Upgrade,
    Ready,
    ExportReply,
    Chosen(Box<ExportInfo>),
    Failed(HandshakeError),
}

/// What an option was sent for.
#[derive(Debug)]
enum Then {
    Tls,
    Headers(Feature, Mode),
    Contexts,
    Go,
    Caller,
}

/// A connection before its export is chosen.
#[derive(Debug)]
pub struct Handshake {
    config: Config,
    intake: Intake,
    out: Vec<u8>,
    state: State,
    event: Option<Event>,
    mode: Mode,
    tls: bool,
    no_zeroes: bool,
    /// What an oldstyle server said at once.
    oldstyle: Option<ExportReply>,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    selected: (String, Vec<Context>),
    /// Contexts that go with the export that is being chosen.
    contexts: Vec<Context>,
}

impl Handshake {
    /// A connection on which no byte has been exchanged.
    pub fn new(config: Config) -> Handshake {
        Handshake {
            config,
            intake: Intake::new(),
            out: Vec::new(),
            state: State::Greeting(None),
            event: None,
            mode: Mode::Oldstyle,
            tls: false,
            no_zeroes: false,
            oldstyle: None,
            selected: Default::default(),
            contexts: Vec::new(),
        }
    }

    /// What has been agreed on so far.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the connection is protected.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// What is negotiated.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The contexts of the last `SET_META_CONTEXT`, with the export they were selected for.
    pub fn selected(&self) -> (&str, &[Context]) {
        (&self.selected.0, &self.selected.1)
    }

    /// Where the next bytes from the server belong.
    pub fn space(&mut self) -> &mut [u8] {
        self.intake.space()
    }

    /// So many bytes have come.
    pub fn filled(&mut self, n: usize) {
        self.intake.filled(n);
        self.advance();
    }

    /// Bytes have come; all of them are taken.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !matches!(self.state, State::Failed(_)) {
            let n = self.intake.feed(bytes);
            self.advance();
            if n == 0 {
                // The buffer is full of what nobody asked for.
                return self.fail(self.unasked());
            }
            bytes = &bytes[n..];
        }
    }

    /// The server has closed the connection.
    pub fn end_of_stream(&mut self) {
        let phase = self.phase();
        self.fail(HandshakeError::Closed { phase });
    }

    /// The connection broke.
    pub fn io_failed(&mut self, error: io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let phase = self.phase();
        self.fail(match error.kind() {
            UnexpectedEof | BrokenPipe | ConnectionReset => HandshakeError::Closed { phase },
            _ => HandshakeError::Io {
                phase,
                source: Arc::new(error),
            },
        });
    }

    /// The time is up.
    pub fn timed_out(&mut self, after: Duration) {
        let phase = self.phase();
        self.fail(HandshakeError::Deadline { phase, after });
    }

    /// Bytes to be sent, all at once; empty if there are none.
    #[must_use]
    pub fn transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// What has happened, once.
    pub fn event(&mut self) -> Result<Option<Event>, HandshakeError> {
        self.failure()?;
        Ok(self.event.take())
    }

    /// Why the handshake has failed, if it has.
    pub fn failure(&self) -> Result<(), HandshakeError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// TLS runs on the stream; the negotiation goes on under it.
    pub fn tls_started(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.tls = true;
            self.next_feature();
            self.advance();
        }
    }

    /// Sends an option; its replies come as [`Event::Answer`].
    ///
    /// # Errors
    /// Where options cannot be sent: before [`Event::Ready`], or without fixed newstyle.
    pub fn option(&mut self, option: &OptionRequest) -> Result<(), HandshakeError> {
        self.usable()?;
        if self.mode < Mode::Simple {
            return Err(missing(Feature::FixedNewstyle, "options need it"));
        }
        if let OptionRequest::SetMetaContext(request) = option {
            self.selected = (request.export.clone(), Vec::new());
        }
        self.send(option, Then::Caller);
        self.advance();
        Ok(())
    }

    /// Chooses an export; [`Event::Chosen`] follows.
    ///
    /// # Errors
    /// Where it is too early, or what is required cannot be had in this mode.
    pub fn go(&mut self, export: &str) -> Result<(), HandshakeError> {
        self.usable()?;
        self.config.export = export.to_owned();
        let wanted = self.config.contexts.clone();
        if wanted.is_empty() && self.selected.0 == export {
            self.contexts = std::mem::take(&mut self.selected.1);
        } else if !wanted.is_empty() && self.config.wants(Feature::MetaContexts) {
            if self.mode.has_chunks() {
                let option = super::options::set_contexts(export, &wanted);
                self.send(&option, Then::Contexts);
                self.advance();
                return Ok(());
            }
            if self.config.requires(Feature::MetaContexts) {
                return Err(missing(
                    Feature::MetaContexts,
                    "they need structured replies",
                ));
            }
        }
        self.choose();
        self.advance();
        Ok(())
    }

    /// The transmission phase of the export that was chosen.
    ///
    /// # Errors
    /// The reason of the failure, or [`HandshakeError::Feature`] before [`Event::Chosen`].
    pub fn into_transmission<B: AsRef<[u8]>>(self) -> Result<Transmission<B>, HandshakeError> {
        match self.state {
            State::Chosen(export) => Ok(Transmission::new(*export, self.config, self.intake)),
            State::Failed(error) => Err(error),
            _ => Err(missing(Feature::Go, "no export is chosen yet")),
        }
    }

    /// Bytes as they are, to see what the server does about them.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// What the conversation waits for, for errors.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Greeting(_) => Phase::Greeting,
            State::Option { code, .. } => Phase::Option(*code),
            State::Upgrade => Phase::Tls,
            State::ExportReply => Phase::Option(OptionCode::EXPORT_NAME),
            State::Ready | State::Chosen(_) | State::Failed(_) => Phase::Option(OptionCode::GO),
        }
    }

    fn usable(&self) -> Result<(), HandshakeError> {
        match &self.state {
            State::Ready => Ok(()),
            State::Failed(error) => Err(error.clone()),
            _ => Err(missing(
                Feature::Newstyle,
                "the negotiation is not ready for an option",
            )),
        }
    }

    /// The first reason stays.
    fn fail(&mut self, error: HandshakeError) {
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(error);
        }
    }

    fn unasked(&self) -> HandshakeError {
        match self.state {
            State::Upgrade => HandshakeError::Injected {
                bytes: self.intake.pending(),
            },
            _ => HandshakeError::Unexpected {
                option: OptionCode(0),
                got: format!("{} bytes", self.intake.pending()),
                detail: "nothing was asked for".into(),
            },
        }
    }

    /// Consumes what has come, as far as it goes.
    fn advance(&mut self) {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Takes one message; `false` if it has not come wholly.
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

    /// Asks for the best headers that have not been asked for.
    fn next_feature(&mut self) {
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

    fn send(&mut self, option: &OptionRequest, then: Then) {
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
        // Small replies cost more memory than wire bytes, so each counts for what it costs.
        *bytes += reply.len as usize + std::mem::size_of::<OptionReply>();
        if *bytes > limits::MAX_OPTION_REPLY_TOTAL || replies.len() >= limits::MAX_OPTION_REPLIES {
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
                    self.selected.1 = super::options::contexts(option, replies.clone())?;
                }
                self.event = Some(Event::Answer(outcome));
            }
            Then::Tls => match outcome {
                Ok(replies) => {
                    super::options::nothing(option, &replies)?;
                    self.state = State::Upgrade;
                    self.event = Some(Event::StartTls);
                }
                Err(_) if !self.config.requires(Feature::Tls) => self.next_feature(),
                Err(_) => return Err(missing(Feature::Tls, "the server does not offer it")),
            },
            Then::Headers(feature, mode) => match outcome {
                Ok(replies) => {
                    super::options::nothing(option, &replies)?;
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
                    Ok(replies) => super::options::contexts(option, replies)?,
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
                    let info = super::options::info(&name, self.mode, option, outcome?)?;
                    self.chosen(info);
                }
            },
        }
        Ok(())
    }

    fn choose(&mut self) {
        if let Some(reply) = self.oldstyle {
            return self.chosen(ExportInfo {
                size: reply.size,
                flags: reply.flags,
                ..ExportInfo::empty(&self.config.export, self.mode)
            });
        }
        if self.mode >= Mode::Simple && self.config.wants(Feature::Go) {
            let asks = self.config.wants(Feature::Info);
            let option = OptionRequest::Go(super::options::info_request(&self.config.export, asks));
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

pub(super) fn missing(feature: Feature, detail: &'static str) -> HandshakeError {
    HandshakeError::Feature { feature, detail }
}
