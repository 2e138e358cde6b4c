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
    ExportReply, GreetingKind, Mode, OptionCode, OptionReply, OptionReplyHeader, OptionRequest,
};

mod steps;

/// An event of a handshake.
#[derive(Clone, Debug)]
pub enum Event {
    /// Start TLS on the stream now; then call [`Handshake::tls_started`].
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
        /// A reply whose data has not arrived completely.
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
    /// What an oldstyle server announced in its greeting.
    oldstyle: Option<ExportReply>,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    selected: (String, Vec<Context>),
    /// Contexts for the export that is being chosen.
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

    /// Whether the connection uses TLS.
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

    /// `n` bytes have arrived.
    pub fn filled(&mut self, n: usize) {
        self.intake.filled(n);
        self.advance();
    }

    /// Processes received bytes, all of them.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !matches!(self.state, State::Failed(_)) {
            let n = self.intake.feed(bytes);
            self.advance();
            if n == 0 {
                // The buffer is full of unrequested data.
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

    /// The deadline has passed.
    pub fn timed_out(&mut self, after: Duration) {
        let phase = self.phase();
        self.fail(HandshakeError::Deadline { phase, after });
    }

    /// Bytes to be sent, all at once; empty if there are none.
    #[must_use]
    pub fn transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The next event, returned once.
    ///
    /// # Errors
    /// Why the handshake has failed, on each call; the same as [`Handshake::failure`].
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

    /// TLS is active on the stream; the negotiation continues over it.
    pub fn tls_started(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.tls = true;
            self.next_feature();
            self.advance();
        }
    }

    /// Sends an option; its replies arrive as [`Event::Answer`].
    ///
    /// # Errors
    /// When options cannot be sent: before [`Event::Ready`], or without fixed newstyle.
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
    /// When it is too early, or a required feature is not available in this mode.
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

    /// The transmission phase of the chosen export.
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

    /// Sends raw bytes, to see how the server reacts.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// What the conversation is waiting for, for errors.
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

    /// The first reason is kept.
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
}

pub(super) fn missing(feature: Feature, detail: &'static str) -> HandshakeError {
    HandshakeError::Feature { feature, detail }
}
