//! The server's state machine, and its part of the handshake.

use std::collections::{HashMap, VecDeque};

use super::reply::Outgoing;
use super::types::{Closed, Config, Event, TlsPolicy};
use crate::proto::intake::Intake;
use crate::proto::{
    ClientFlags, DecodeError, Greeting, HandshakeFlags, InfoRequest, MetaContextRequest, Mode,
    OptionCode, OptionHeader, OptionReply, OptionRequest, Request, TransmissionFlags, limits,
};

mod options;

/// What the state machine is waiting for.
#[derive(Debug)]
pub(super) enum State {
    ClientFlags,
    OptionHeader,
    OptionData(OptionHeader),
    /// The owner's decision about an option ([`Config::intercept`]).
    Decide(OptionCode, Result<OptionRequest, DecodeError>),
    /// The owner's answer to a question.
    Asking(Question),
    Upgrade,
    Request,
    /// The owner's decision about a request ([`Config::intercept`]).
    Proceed(u64, Request),
    /// Fewer requests in flight.
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

/// One connection, seen from the server.
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
    /// The export in transmission, with its current size.
    pub(super) export: Option<Chosen>,
    pub(super) last_id: u64,
    /// Requests handed out and not answered.
    pub(super) under_way: HashMap<u64, UnderWay>,
    /// Bytes kept for requests and replies.
    pub(super) kept: u64,
    /// How many messages have begun; tells the owner when a new one is expected.
    pub(super) messages: u64,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) request: Request,
    pub(super) effect_len: u64,
    /// Its cost.
    pub(super) cost: u64,
    /// Contexts that a block status requests.
    pub(super) contexts: Vec<u32>,
}

/// The export being served.
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
        if this.config.mode == Mode::Oldstyle && this.config.tls == TlsPolicy::Required {
            this.refuse_client("TLS is required, and there is none without a negotiation");
        } else if this.config.mode == Mode::Oldstyle {
            // The client has no way to request another one.
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

    /// Whether more input from the client can be accepted now.
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::ClientFlags | State::OptionData(_) | State::Request | State::Payload(..) => true,
            State::OptionHeader => self.is_heard(),
            _ => false,
        }
    }

    /// Whether the client has read enough of its option replies for another option to be accepted.
    fn is_heard(&self) -> bool {
        self.kept <= limits::MAX_UNREAD_OPTION_REPLIES
    }

    /// `n` bytes have arrived.
    pub fn filled(&mut self, n: usize) {
        self.intake.filled(n);
        self.advance();
    }

    /// Processes received bytes; returns how many were consumed. The rest has to wait for
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

    /// The next event, returned once.
    #[must_use]
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message to be sent, returned once.
    #[must_use]
    pub fn outgoing(&mut self) -> Option<Outgoing<B>> {
        self.out.pop_front()
    }

    /// Whether the client's side has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the client has no way to name an export.
    pub fn is_oldstyle(&self) -> bool {
        self.config.mode == Mode::Oldstyle
    }

    /// Ends the client's side; the first reason is kept.
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

    /// Consumes the received bytes, as far as possible.
    pub(super) fn advance(&mut self) {
        while self.step() {}
    }

    /// Takes one part of a message; `false` if it is incomplete, or input is not accepted.
    fn step(&mut self) -> bool {
        match &self.state {
            State::ClientFlags => {
                let Some(bytes) = self.intake.take(4) else {
                    return false;
                };
                let word = bytes.iter().fold(0, |word, b| word << 8 | u32::from(*b));
                self.client_flags(word);
            }
            State::OptionHeader if !self.is_heard() => return false,
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

    /// Continues with what was intercepted.
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

    /// Answers an intercepted option with these replies, without acting on it.
    pub fn answer(&mut self, replies: impl IntoIterator<Item = OptionReply>) {
        if let State::Decide(option, _) = self.state {
            for reply in replies {
                self.reply_option(option, reply);
            }
            self.await_message(State::OptionHeader);
            self.advance();
        }
    }
}

/// What fault injection inspects.
#[cfg(feature = "server")]
impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Server<B> {
    /// How many messages of the client have begun, including the one expected next.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Received bytes of the current message.
    pub(crate) fn progress(&self) -> usize {
        match &self.state {
            State::OptionData(_) => OptionHeader::LEN + self.intake.progress(0),
            _ => self.intake.progress(0),
        }
    }

    /// The request whose payload is expected.
    pub(crate) fn awaits_payload_of(&self) -> Option<&Request> {
        match &self.state {
            State::Payload(_, request) => Some(request),
            _ => None,
        }
    }

    /// Whether a request header is expected next or, before transmission, an option header.
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
