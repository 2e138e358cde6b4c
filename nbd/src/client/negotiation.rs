//! The handshake: greeting, flags, and the way to transmission.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::builder::{Builder, Feature};
use super::connection::Client;
use super::error::{HandshakeError, Phase};
use super::export::{Context, ExportInfo};
use super::transport::Stream;
use crate::proto::{
    ClientFlags, ExportReply, Greeting, GreetingKind, HandshakeFlags, Mode, OptionCode,
    OptionReplyCode, OptionRequest,
};

/// So long that nobody sees the end, and short enough to be added to the time of day.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A connection in the option phase.
///
/// The usual way is [`Builder::connect`]; this is for listing and for tests of the negotiation.
pub struct Negotiation {
    stream: Stream,
    pub(super) builder: Builder,
    deadline: Instant,
    pub(super) mode: Mode,
    no_zeroes: bool,
    /// What an oldstyle server said at once.
    oldstyle: Option<ExportReply>,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    pub(super) selected: (String, Vec<Context>),
}

impl std::fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Negotiation");
        f.field("mode", &self.mode)
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl Negotiation {
    /// Reads the greeting and agrees on structured replies or extended headers.
    pub(super) async fn start(stream: Stream, builder: Builder) -> Result<Self, HandshakeError> {
        let deadline = Instant::now() + builder.deadlines.handshake.min(FOREVER);
        let mut this = Negotiation {
            stream,
            builder,
            deadline,
            mode: Mode::Oldstyle,
            no_zeroes: false,
            oldstyle: None,
            selected: Default::default(),
        };
        this.greet().await?;
        if this.mode >= Mode::Simple {
            this.choose_headers().await?;
        }
        Ok(this)
    }

    /// What has been agreed on so far.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    async fn greet(&mut self) -> Result<(), HandshakeError> {
        let phase = Phase::Greeting;
        let decode = |source| HandshakeError::Decode { phase, source };
        let mut bytes = self.read(Greeting::PREFIX_LEN, phase).await?;
        let kind = Greeting::kind(&bytes).map_err(decode)?;
        if kind == GreetingKind::Oldstyle && self.builder.requires(Feature::Newstyle) {
            return Err(missing(Feature::Newstyle, "the server is oldstyle"));
        }
        let rest = Greeting::len_of(kind) - Greeting::PREFIX_LEN;
        bytes.extend(self.read(rest, phase).await?);
        let flags = match Greeting::decode(&bytes).map_err(decode)? {
            Greeting::Oldstyle { size, flags } => {
                self.oldstyle = Some(ExportReply { size, flags });
                return Ok(());
            }
            Greeting::Newstyle { flags } => flags,
        };
        if !self.builder.wants(Feature::Newstyle) {
            return Err(missing(
                Feature::Newstyle,
                "forbidden, but the server is newstyle",
            ));
        }
        let mut answer = ClientFlags::empty();
        if self.agree(
            Feature::FixedNewstyle,
            flags.contains(HandshakeFlags::FIXED_NEWSTYLE),
        )? {
            answer |= ClientFlags::FIXED_NEWSTYLE;
            self.mode = Mode::Simple;
        } else {
            self.mode = Mode::ExportName;
        }
        if self.agree(Feature::NoZeroes, flags.contains(HandshakeFlags::NO_ZEROES))? {
            answer |= ClientFlags::NO_ZEROES;
            self.no_zeroes = true;
        }
        self.send(&answer.bits().to_be_bytes(), phase).await
    }

    fn agree(&self, feature: Feature, offered: bool) -> Result<bool, HandshakeError> {
        if !offered && self.builder.requires(feature) {
            return Err(missing(feature, "the server does not offer it"));
        }
        Ok(offered && self.builder.wants(feature))
    }

    async fn choose_headers(&mut self) -> Result<(), HandshakeError> {
        let ladder = [
            (
                Feature::ExtendedHeaders,
                OptionRequest::ExtendedHeaders,
                Mode::Extended,
            ),
            (
                Feature::StructuredReplies,
                OptionRequest::StructuredReply,
                Mode::Structured,
            ),
        ];
        for (feature, option, mode) in ladder {
            if self.mode < mode && self.builder.wants(feature) {
                match self.simple_option(&option).await {
                    Ok(()) => self.mode = mode,
                    Err(HandshakeError::Refused { .. }) if !self.builder.requires(feature) => {}
                    Err(HandshakeError::Refused { .. }) => {
                        return Err(missing(feature, "the server refuses it"));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Like [`Negotiation::go`], for this export instead of the builder's.
    pub async fn go_to(mut self, export: impl Into<String>) -> Result<Client, HandshakeError> {
        self.builder.export = export.into();
        self.go().await
    }

    /// Chooses the builder's export and starts transmission.
    pub async fn go(mut self) -> Result<Client, HandshakeError> {
        let export = self.builder.export.clone();
        let contexts = self.select_contexts(&export).await?;
        let mut info = match self.oldstyle {
            Some(reply) => self.info_of(&export, reply),
            None => self.choose(&export).await?,
        };
        info.contexts = contexts;
        Ok(Client::start(self.stream, self.builder, info))
    }

    async fn select_contexts(&mut self, export: &str) -> Result<Vec<Context>, HandshakeError> {
        let wanted = self.builder.contexts.clone();
        if wanted.is_empty() && self.selected.0 == export {
            return Ok(std::mem::take(&mut self.selected.1));
        }
        if wanted.is_empty() || !self.builder.wants(Feature::MetaContexts) {
            return Ok(Vec::new());
        }
        let required = self.builder.requires(Feature::MetaContexts);
        if !self.mode.has_chunks() {
            return match required {
                true => Err(missing(
                    Feature::MetaContexts,
                    "they need structured replies",
                )),
                false => Ok(Vec::new()),
            };
        }
        let found = match self.set_contexts(export, &wanted).await {
            Err(HandshakeError::Refused { .. }) if !required => Vec::new(),
            result => result?,
        };
        let has = |query: &String| {
            found
                .iter()
                .any(|c| &c.name == query || query.ends_with(':') && c.name.starts_with(query))
        };
        if required && !wanted.iter().all(has) {
            return Err(missing(
                Feature::MetaContexts,
                "the server does not have all of them",
            ));
        }
        Ok(found)
    }

    async fn choose(&mut self, export: &str) -> Result<ExportInfo, HandshakeError> {
        if self.mode >= Mode::Simple && self.builder.wants(Feature::Go) {
            let option = OptionRequest::Go(self.info_request(export));
            match self.option(&option).await {
                Err(HandshakeError::Refused {
                    code: OptionReplyCode::ERR_UNSUP,
                    ..
                }) if self.mode != Mode::Extended && !self.builder.requires(Feature::Go) => {}
                result => return self.gather(export, option.code(), result?),
            }
        }
        let option = OptionRequest::ExportName(export.to_owned());
        let phase = Phase::Option(option.code());
        self.send(&option.encode(), phase).await?;
        let bytes = self
            .read(ExportReply::wire_len(self.no_zeroes), phase)
            .await?;
        let reply = ExportReply::decode(&bytes)
            .map_err(|source| HandshakeError::Decode { phase, source })?;
        Ok(self.info_of(export, reply))
    }

    fn info_of(&self, export: &str, reply: ExportReply) -> ExportInfo {
        let empty = ExportInfo::empty(export, self.mode);
        ExportInfo {
            size: reply.size,
            flags: reply.flags,
            ..empty
        }
    }

    /// Says goodbye politely.
    pub async fn abort(mut self) -> Result<(), HandshakeError> {
        if self.mode < Mode::Simple {
            return Ok(());
        }
        match self.simple_option(&OptionRequest::Abort).await {
            // Servers may close at once (proto.md, `NBD_OPT_ABORT`).
            Err(HandshakeError::Closed { .. } | HandshakeError::Io { .. }) => Ok(()),
            result => result,
        }
    }

    /// Sends bytes as they are, to see what the server does about them.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.send(bytes, Phase::Option(OptionCode(0))).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8], phase: Phase) -> Result<(), HandshakeError> {
        let sending = async {
            self.stream.tx.write_all(bytes).await?;
            self.stream.tx.flush().await
        };
        within(
            self.deadline,
            self.builder.deadlines.handshake,
            phase,
            sending,
        )
        .await
    }

    pub(super) async fn read(
        &mut self,
        len: usize,
        phase: Phase,
    ) -> Result<Vec<u8>, HandshakeError> {
        let mut bytes = vec![0; len];
        let reading = async { self.stream.rx.read_exact(&mut bytes).await.map(drop) };
        within(
            self.deadline,
            self.builder.deadlines.handshake,
            phase,
            reading,
        )
        .await?;
        Ok(bytes)
    }
}

async fn within(
    deadline: Instant,
    after: Duration,
    phase: Phase,
    io: impl Future<Output = std::io::Result<()>>,
) -> Result<(), HandshakeError> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match tokio::time::timeout_at(deadline, io).await {
        Err(_) => Err(HandshakeError::Deadline { phase, after }),
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(match source.kind() {
            UnexpectedEof | BrokenPipe | ConnectionReset => HandshakeError::Closed { phase },
            _ => HandshakeError::Io { phase, source },
        }),
    }
}

pub(super) fn missing(feature: Feature, detail: &'static str) -> HandshakeError {
    HandshakeError::Feature { feature, detail }
}
