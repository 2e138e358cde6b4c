//! The handshake: greeting, flags, options.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::builder::{Builder, Feature};
use super::connection::Client;
use super::error::{HandshakeError, Phase};
use super::export::{BlockSizes, Context, ExportInfo};
use super::transport::Stream;
use crate::proto::{
    ClientFlags, ExportReply, Greeting, GreetingKind, HandshakeFlags, Info, InfoRequest, InfoType,
    MetaContextRequest, Mode, OptionCode, OptionReply, OptionReplyCode, OptionReplyHeader,
    OptionRequest, limits,
};

/// So long that nobody sees the end, and short enough to be added to the time of day.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A connection in the option phase.
///
/// The usual way is [`Builder::connect`]; this is for listing and for tests of the negotiation.
pub struct Negotiation {
    stream: Stream,
    builder: Builder,
    deadline: Instant,
    mode: Mode,
    no_zeroes: bool,
    /// What an oldstyle server said at once.
    oldstyle: Option<ExportReply>,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    selected: (String, Vec<Context>),
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
                let (replies, bytes) = (replies.len(), total);
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

    async fn simple_option(&mut self, option: &OptionRequest) -> Result<(), HandshakeError> {
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

    fn info_request(&self, export: &str) -> InfoRequest {
        let requests = match self.builder.wants(Feature::Info) {
            true => vec![InfoType::NAME, InfoType::DESCRIPTION, InfoType::BLOCK_SIZE],
            false => Vec::new(),
        };
        InfoRequest {
            export: export.to_owned(),
            requests,
        }
    }

    fn gather(
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
        queries: &[String],
    ) -> Result<Vec<Context>, HandshakeError> {
        let option = OptionRequest::SetMetaContext(MetaContextRequest {
            export: export.to_owned(),
            queries: queries.to_vec(),
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

    async fn send(&mut self, bytes: &[u8], phase: Phase) -> Result<(), HandshakeError> {
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

    async fn read(&mut self, len: usize, phase: Phase) -> Result<Vec<u8>, HandshakeError> {
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

fn missing(feature: Feature, detail: &'static str) -> HandshakeError {
    HandshakeError::Feature { feature, detail }
}

fn unexpected(option: OptionCode, reply: &OptionReply, detail: &str) -> HandshakeError {
    let (got, detail) = (reply.code().to_string(), detail.to_owned());
    HandshakeError::Unexpected {
        option,
        got,
        detail,
    }
}
