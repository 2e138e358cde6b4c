//! The server's side of the handshake.

use super::export::Export;
use super::journal::{Closed, Event};
use super::layout::Layout;
use super::plan::{Action, Firing, Point, Stage};
use super::wire::{End, Message, Wire, is_flow};
use crate::client::BlockSizes;
use crate::proto::{
    ClientFlags, ExportReply, Greeting, HandshakeFlags, Info, InfoRequest, InfoType,
    MetaContextRequest, Mode, OptionCode, OptionHeader, OptionReply, OptionReplyCode,
    OptionRequest, TransmissionFlags,
};

/// What was agreed on.
pub(super) struct Agreed {
    pub(super) export: Export,
    pub(super) mode: Mode,
    /// Selected contexts; the id is the position.
    pub(super) contexts: Vec<String>,
    /// As the client was told, which may be a lie.
    pub(super) flags: TransmissionFlags,
}

/// What an export is said to be.
struct Described {
    size: u64,
    flags: TransmissionFlags,
    sizes: Option<BlockSizes>,
}

pub(super) struct Negotiator<'a> {
    wire: &'a mut Wire,
    mode: Mode,
    no_zeroes: bool,
    /// Export and contexts of the last `SET_META_CONTEXT`.
    contexts: (String, Vec<String>),
}

impl<'a> Negotiator<'a> {
    pub(super) fn new(wire: &'a mut Wire) -> Negotiator<'a> {
        Negotiator {
            wire,
            mode: Mode::Oldstyle,
            no_zeroes: false,
            contexts: Default::default(),
        }
    }

    /// Negotiates until an export is chosen.
    pub(super) async fn run(mut self) -> Result<Agreed, End> {
        for firing in self.consult(&Point::Accept, Stage::Whole) {
            self.wire.act(&firing).await?;
        }
        if self.wire.shared.mode == Mode::Oldstyle {
            // There is no way to ask for another one.
            let first = self.wire.shared.exports.first().cloned();
            let export = first.ok_or_else(|| End(Closed::Refused("there is no export".into())))?;
            let told = self.describe(&export);
            let greeting = Greeting::Oldstyle {
                size: told.size,
                flags: told.flags,
            };
            self.send(
                &Point::Greeting,
                Message::new(Layout::Oldstyle, greeting.encode()),
            )
            .await?;
            return Ok(self.agree(export, told));
        }
        self.greet().await?;
        loop {
            if let Some(agreed) = self.option().await? {
                return Ok(agreed);
            }
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        let mut flags = HandshakeFlags::empty();
        if self.wire.shared.mode >= Mode::Simple {
            flags |= HandshakeFlags::FIXED_NEWSTYLE;
            if self.wire.shared.no_zeroes {
                flags |= HandshakeFlags::NO_ZEROES;
            }
        }
        let greeting = Greeting::Newstyle { flags }.encode();
        self.send(&Point::Greeting, Message::new(Layout::Newstyle, greeting))
            .await?;
        let firings = self.consult(&Point::ClientFlags, Stage::Before);
        let bytes = self.wire.receive_with(4, &firings).await?;
        for firing in self.consult(&Point::ClientFlags, Stage::After) {
            self.wire.act(&firing).await?;
        }
        let word = bytes
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let answer = ClientFlags::from_bits_retain(word);
        let offered = ClientFlags::from_bits_retain(u32::from(flags.bits()));
        if !offered.contains(answer) {
            return Err(End(Closed::Refused(format!(
                "client flags {word:#x} were not offered"
            ))));
        }
        self.no_zeroes = answer.contains(ClientFlags::NO_ZEROES);
        self.mode = match answer.contains(ClientFlags::FIXED_NEWSTYLE) {
            true => Mode::Simple,
            false => Mode::ExportName,
        };
        Ok(())
    }

    async fn option(&mut self) -> Result<Option<Agreed>, End> {
        let firings = self.consult(&Point::Option(None), Stage::Before);
        let bytes = self.wire.receive_with(OptionHeader::LEN, &firings).await?;
        let header = OptionHeader::decode(&bytes)?;
        let OptionHeader { code: option, len } = header;
        self.wire
            .shared
            .note(self.wire.number, Event::Option { option, len });
        let firings = self.consult(&Point::Option(Some(option)), Stage::After);
        let (flow, judgement): (Vec<_>, Vec<_>) =
            firings.into_iter().partition(|f| is_flow(&f.action));
        for firing in &flow {
            self.wire.act(firing).await?;
        }
        let data = self.wire.receive(len as usize).await?;
        if self.mode < Mode::Simple && option != OptionCode::EXPORT_NAME {
            return Err(End(Closed::Refused(format!(
                "option {option} without fixed newstyle"
            ))));
        }
        if let Some((firing, others)) = judgement.split_first() {
            // One answer is all there can be.
            for other in others {
                self.wire.shared.misfit(self.wire.number, other);
            }
            return self.judge(option, firing).await.map(|()| None);
        }
        match OptionRequest::decode(option, &data) {
            Ok(request) => self.answer(request).await,
            Err(error) if option == OptionCode::EXPORT_NAME => Err(error.into()),
            Err(error) => {
                self.refuse(option, OptionReplyCode::ERR_INVALID, &error.to_string())
                    .await?;
                Ok(None)
            }
        }
    }

    /// Answers an option as a rule says.
    async fn judge(&mut self, option: OptionCode, firing: &Firing) -> Result<(), End> {
        match &firing.action {
            Action::Refuse(code) => self.refuse(option, *code, "refused by the plan").await,
            Action::Ignore => Ok(()),
            Action::AckAndForget => self.reply(option, OptionReply::Ack).await,
            Action::Bomb(times) => {
                let reply = match option {
                    OptionCode::LIST => OptionReply::Server {
                        name: "bomb".into(),
                        description: "x".repeat(1000),
                    },
                    OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                        OptionReply::MetaContext {
                            id: 0,
                            name: "bomb:bomb".into(),
                        }
                    }
                    _ => OptionReply::Info(Info::Description("x".repeat(1000))),
                };
                for _ in 0..*times {
                    self.reply(option, reply.clone()).await?;
                }
                Ok(())
            }
            _ => {
                self.wire.shared.misfit(self.wire.number, firing);
                Ok(())
            }
        }
    }

    async fn answer(&mut self, request: OptionRequest) -> Result<Option<Agreed>, End> {
        let option = request.code();
        match request {
            OptionRequest::ExportName(name) => {
                if self.mode == Mode::Extended {
                    let why = "EXPORT_NAME after extended headers".to_owned();
                    return Err(End(Closed::Refused(why)));
                }
                let export = self.find(&name)?;
                let told = self.describe(&export);
                let reply = ExportReply {
                    size: told.size,
                    flags: told.flags,
                };
                let bytes = reply.encode(self.no_zeroes);
                let message = Message::new(Layout::ExportReply, bytes);
                self.send(&Point::ExportReply, message).await?;
                return Ok(Some(self.agree(export, told)));
            }
            OptionRequest::Abort => {
                self.reply(option, OptionReply::Ack).await?;
                return Err(End(Closed::Goodbye));
            }
            OptionRequest::List => {
                for export in self.wire.shared.exports.clone() {
                    let (name, description) = (export.name, export.description);
                    self.reply(option, OptionReply::Server { name, description })
                        .await?;
                }
                self.reply(option, OptionReply::Ack).await?;
            }
            OptionRequest::Info(request) => {
                self.inform(option, &request).await?;
            }
            OptionRequest::Go(request) => {
                let informed = self.inform(option, &request).await?;
                return Ok(informed.map(|(export, told)| self.agree(export, told)));
            }
            OptionRequest::StructuredReply if self.mode == Mode::Extended => {
                let code = OptionReplyCode::ERR_EXT_HEADER_REQD;
                self.refuse(option, code, "extended headers are in use")
                    .await?;
            }
            OptionRequest::StructuredReply => self.raise(option, Mode::Structured).await?,
            OptionRequest::ExtendedHeaders => self.raise(option, Mode::Extended).await?,
            OptionRequest::ListMetaContext(request) => self.contexts(option, request).await?,
            OptionRequest::SetMetaContext(request) => self.contexts(option, request).await?,
            OptionRequest::StartTls | OptionRequest::Other { .. } => {
                self.refuse(option, OptionReplyCode::ERR_UNSUP, "").await?;
            }
        }
        Ok(None)
    }

    async fn raise(&mut self, option: OptionCode, mode: Mode) -> Result<(), End> {
        if self.wire.shared.mode < mode {
            return self.refuse(option, OptionReplyCode::ERR_UNSUP, "").await;
        }
        self.mode = mode;
        self.reply(option, OptionReply::Ack).await
    }

    async fn inform(
        &mut self,
        option: OptionCode,
        request: &InfoRequest,
    ) -> Result<Option<(Export, Described)>, End> {
        let Ok(export) = self.find(&request.export) else {
            let text = format!("export '{}' not present", request.export);
            self.refuse(option, OptionReplyCode::ERR_UNKNOWN, &text)
                .await?;
            return Ok(None);
        };
        let told = self.describe(&export);
        for wanted in &request.requests {
            let info = match *wanted {
                InfoType::NAME => Info::Name(export.name.clone()),
                InfoType::DESCRIPTION if !export.description.is_empty() => {
                    Info::Description(export.description.clone())
                }
                _ => continue,
            };
            self.reply(option, OptionReply::Info(info)).await?;
        }
        if let Some(BlockSizes {
            minimum,
            preferred,
            maximum,
        }) = told.sizes
        {
            let info = Info::BlockSize {
                minimum,
                preferred,
                maximum,
            };
            self.reply(option, OptionReply::Info(info)).await?;
        }
        let info = Info::Export {
            size: told.size,
            flags: told.flags,
        };
        self.reply(option, OptionReply::Info(info)).await?;
        self.reply(option, OptionReply::Ack).await?;
        Ok(Some((export, told)))
    }

    async fn contexts(
        &mut self,
        option: OptionCode,
        request: MetaContextRequest,
    ) -> Result<(), End> {
        let set = option == OptionCode::SET_META_CONTEXT;
        if set {
            self.contexts = Default::default();
        }
        if !self.mode.has_chunks() {
            let text = "structured replies come first";
            return self
                .refuse(option, OptionReplyCode::ERR_INVALID, text)
                .await;
        }
        let Ok(export) = self.find(&request.export) else {
            return self
                .refuse(option, OptionReplyCode::ERR_UNKNOWN, "no such export")
                .await;
        };
        let all = export.backend.contexts();
        let everything = !set && request.queries.is_empty();
        let asked = |name: &String| {
            request
                .queries
                .iter()
                .any(|q| q == name || !set && is_wildcard_for(q, name))
        };
        let chosen: Vec<String> = all
            .into_iter()
            .filter(|name| everything || asked(name))
            .collect();
        for (id, name) in chosen.iter().enumerate() {
            let reply = OptionReply::MetaContext {
                id: id as u32,
                name: name.clone(),
            };
            self.reply(option, reply).await?;
        }
        if set {
            self.contexts = (request.export, chosen);
        }
        self.reply(option, OptionReply::Ack).await
    }

    fn find(&self, name: &str) -> Result<Export, End> {
        let found = self.wire.shared.exports.iter().find(|e| e.name == name);
        let missing = || End(Closed::Refused(format!("there is no export {name:?}")));
        found.cloned().ok_or_else(missing)
    }

    /// What the client is told of an export; rules may lie here.
    fn describe(&self, export: &Export) -> Described {
        let (of, contexts) = &self.contexts;
        let selected = *of == export.name && !contexts.is_empty();
        let mut told = Described {
            size: export.backend.size(),
            flags: export.advertised(self.mode, selected),
            sizes: export.sizes(),
        };
        for firing in self.consult(&Point::Export, Stage::Whole) {
            match firing.action {
                Action::LieSize(size) => told.size = size,
                Action::LieFlags { set, clear } => told.flags = (told.flags | set) - clear,
                Action::LieBlockSizes(sizes) => told.sizes = Some(sizes),
                _ => self.wire.shared.misfit(self.wire.number, &firing),
            }
        }
        told
    }

    fn agree(&mut self, export: Export, told: Described) -> Agreed {
        let (name, contexts) = std::mem::take(&mut self.contexts);
        // Contexts of another export do not count (proto.md, `SET_META_CONTEXT`).
        let contexts = if name == export.name {
            contexts
        } else {
            Vec::new()
        };
        let (mode, size) = (self.mode, told.size);
        let event = Event::Transmission {
            mode,
            export: export.name.clone(),
            size,
        };
        self.wire.shared.note(self.wire.number, event);
        Agreed {
            export,
            mode,
            contexts,
            flags: told.flags,
        }
    }

    async fn refuse(
        &mut self,
        option: OptionCode,
        code: OptionReplyCode,
        text: &str,
    ) -> Result<(), End> {
        self.reply(
            option,
            OptionReply::Error {
                code,
                message: text.to_owned(),
            },
        )
        .await
    }

    async fn reply(&mut self, option: OptionCode, reply: OptionReply) -> Result<(), End> {
        let code = reply.code();
        self.wire.shared.note(
            self.wire.number,
            Event::OptionReply {
                option,
                reply: code,
            },
        );
        let info = match &reply {
            OptionReply::Info(info) => Some(info.kind()),
            _ => None,
        };
        let message = Message::new(Layout::OptionReply(code, info), reply.encode(option));
        self.send(&Point::OptionReply(option, code), message).await
    }

    async fn send(&mut self, point: &Point, message: Message) -> Result<(), End> {
        let firings = self.consult(point, Stage::Whole);
        self.wire.send(message, &firings).await
    }

    fn consult(&self, point: &Point, stage: Stage) -> Vec<Firing> {
        self.wire.shared.consult(self.wire.number, point, stage)
    }
}

/// A namespace, or a namespace with the start of a name up to a colon, asks for all in it.
fn is_wildcard_for(query: &str, name: &str) -> bool {
    query.ends_with(':') && name.starts_with(query)
}
