// What each fuzz target does with its input. Included by the targets and, as bounded property
// tests, by the crate's own tests. A body fails by panicking or by never ending.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nbd::Client;
use nbd::client::{ClientBuilder, Pattern};
use nbd::proto::chunk::{Extent, Status};
use nbd::proto::client::{
    Command, Config, ConnectionError, Event as ClientEvent, Handshake, StrictMode, Transmission,
};
use nbd::proto::server::{Answer, Description, Event, Incoming, Piece};
use nbd::proto::*;
use nbd::server::backend::PatternBackend;
use nbd::server::{Export, FaultPlan, Server, ServerBuilder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) mod pieces;

/// A peer that sends its script and hangs up: all at once, whatever it receives, or the second part
/// after it has received a request, since an unrequested reply ends a connection.
struct Script {
    bytes: Vec<u8>,
    at: usize,
    /// How far it goes before it has heard a request.
    until: usize,
}

impl Script {
    fn new(bytes: Vec<u8>) -> Script {
        let until = bytes.len();
        Script {
            bytes,
            at: 0,
            until,
        }
    }

    fn answering(handshake: &[u8], replies: &[u8]) -> Script {
        Script {
            until: handshake.len(),
            ..Script::new([handshake, replies].concat())
        }
    }
}

/// Whether a client's bytes contain a request.
fn has_request(heard: &[u8]) -> bool {
    let magics = [magic::REQUEST, magic::EXTENDED_REQUEST].map(u32::to_be_bytes);
    heard.windows(4).any(|word| magics.iter().any(|magic| magic == word))
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.at == self.until && self.until < self.bytes.len() {
            // Whoever reads this writes it, and looks again after that.
            return Poll::Pending;
        }
        let n = buf.remaining().min(self.until - self.at);
        buf.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if has_request(buf) {
            self.until = self.bytes.len();
        }
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run<F: Future>(f: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    let all = async {
        let done = f.await;
        // Spawned tasks get their turn, and end.
        tokio::task::yield_now().await;
        done
    };
    RUNTIME.with(|runtime| runtime.block_on(all))
}

fn builder() -> ClientBuilder {
    Client::builder()
        .contexts(["base:allocation", "qemu:"])
        .not_strict(StrictMode::all())
        .max_payload(1 << 20)
}

/// The input is everything that a server sends before transmission.
pub(super) fn client_handshake(data: &[u8]) {
    run(async {
        let _ = builder().connect_stream(Script::new(data.to_vec())).await;
        if let Ok(mut options) = builder().negotiate_stream(Script::new(data.to_vec())).await {
            let _ = options.list().await;
            let _ = options.info("x").await;
            let _ = options.list_contexts("x", &[]).await;
        }
    });
}

/// What a well-behaved server sends until transmission in this mode.
fn server_handshake_of(mode: Mode) -> Vec<u8> {
    let (size, flags) = (1 << 40, TransmissionFlags::all());
    let fixed = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    match mode {
        Mode::Oldstyle => return Greeting::Oldstyle { size, flags }.encode(),
        Mode::ExportName => {
            let mut out = Greeting::Newstyle {
                flags: HandshakeFlags::NO_ZEROES,
            }
            .encode();
            out.extend(ExportReply { size, flags }.encode(true));
            return out;
        }
        _ => {}
    }
    let mut out = Greeting::Newstyle { flags: fixed }.encode();
    let unsup = OptionReply::Error {
        code: OptionReplyCode::ERR_UNSUP,
        message: String::new(),
    };
    let answer = |yes| if yes { OptionReply::Ack } else { unsup.clone() };
    out.extend(answer(mode == Mode::Extended).encode(OptionCode::EXTENDED_HEADERS));
    if mode != Mode::Extended {
        out.extend(answer(mode == Mode::Structured).encode(OptionCode::STRUCTURED_REPLY));
    }
    if mode.has_chunks() {
        let context = OptionReply::MetaContext {
            id: 1,
            name: "base:allocation".into(),
        };
        out.extend(context.encode(OptionCode::SET_META_CONTEXT));
        out.extend(OptionReply::Ack.encode(OptionCode::SET_META_CONTEXT));
    }
    let info = OptionReply::Info(Info::Export { size, flags });
    out.extend(info.encode(OptionCode::GO));
    out.extend(OptionReply::Ack.encode(OptionCode::GO));
    out
}

/// The first byte is the mode, the rest is everything that a server sends in transmission. Returns
/// how many of the requests succeeded.
pub(super) fn client_replies(data: &[u8]) -> usize {
    let Some((first, rest)) = data.split_first() else {
        return 0;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    let script = Script::answering(&server_handshake_of(mode), rest);
    run(async {
        let client = builder().connect_stream(script).await;
        let client = client.expect("the handshake is in order");
        let (read, write, status, whole, flush) = tokio::join!(
            client.read_into(0, 4096, vec![9; 512]),
            client.write(4096, vec![1; 512]),
            client.block_status(0, 1 << 20),
            client.read_with(512, 512, CommandFlags::DF, vec![9; 4096]),
            client.flush(),
        );
        let one = client.block_status_with(0, 4096, CommandFlags::REQ_ONE);
        let one = one.await.is_ok();
        let of_reads = [read.is_ok(), whole.is_ok(), status.is_ok()];
        let all = [&of_reads[..], &[write.is_ok(), flush.is_ok(), one]].concat();
        all.into_iter().filter(|succeeded| *succeeded).count()
    })
}

fn server(mode: Mode) -> ServerBuilder {
    let backend = PatternBackend::new(1 << 20, Pattern::Offset(0));
    Server::builder().export(Export::new(backend).name("x")).mode(mode).max_payload(1 << 20)
}

/// The first byte is the mode, the rest is everything that a client sends.
pub(super) fn server_options(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    run(async {
        let server = server(mode).detached().unwrap();
        let _ = server.serve(Script::new(rest.to_vec())).await;
    });
}

/// What a well-behaved client sends until transmission in this mode.
fn client_handshake_of(mode: Mode) -> Vec<u8> {
    let mut bytes = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    match mode {
        Mode::Extended => bytes.extend(OptionRequest::ExtendedHeaders.encode()),
        Mode::Structured => bytes.extend(OptionRequest::StructuredReply.encode()),
        _ => {}
    }
    let (export, queries) = ("x".to_owned(), vec!["base:allocation".to_owned()]);
    let contexts = MetaContextRequest {
        export: export.clone(),
        queries,
    };
    bytes.extend(OptionRequest::SetMetaContext(contexts).encode());
    bytes.extend(
        OptionRequest::Go(InfoRequest {
            export,
            requests: vec![],
        })
        .encode(),
    );
    bytes
}

/// The first byte is the mode, the rest is everything that a client sends in transmission.
pub(super) fn server_requests(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[2 + usize::from(*first) % 3];
    let mut bytes = client_handshake_of(mode);
    bytes.extend(rest);
    run(async {
        let server = server(mode).detached().unwrap();
        let _ = server.serve(Script::new(bytes)).await;
    });
}

/// The input is a configuration of the old fault injector.
pub(super) fn ini(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = FaultPlan::from_ini(text);
    }
}

/// The input is a URI.
pub(super) fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = nbd::uri::QemuDialect::parse(text);
    if let Ok(uri) = nbd::Uri::parse_legacy(text) {
        let _ = uri.to_legacy();
        let _ = uri.to_image_opts();
    }
    if let Ok(uri) = nbd::Uri::parse(text) {
        assert_eq!(nbd::Uri::parse(&uri.to_string()).as_ref(), Ok(&uri));
    }
}

/// The input determines which of the two state machines does what next, where the bytes between
/// them are split, and which of them are corrupted. Whatever happens, each request finishes once;
/// and unless bytes were corrupted, or a request was invalid, neither machine violates the protocol
/// from the other's point of view.
pub(super) fn conversation(data: &[u8]) {
    let Some((first, script)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    let mut pair = Conversation::new(mode, first & 0x80 != 0);
    let mut script = script.iter().copied();
    while let Some(step) = script.next() {
        let argument = script.next().unwrap_or(0);
        pair.step(step, argument);
        pair.look();
    }
    pair.end();
}

struct Conversation {
    handshake: Option<Handshake>,
    client: Option<Transmission<Vec<u8>>>,
    server: server::Server<Vec<u8>>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// What the server's owner has not answered yet.
    requests: Vec<Incoming>,
    submitted: BTreeSet<u64>,
    now: Instant,
    /// Something was sent that no machine would send, or the stream was cut.
    is_disturbed: bool,
}

const DISK: u64 = 1 << 20;

impl Conversation {
    fn new(mode: Mode, intercept: bool) -> Conversation {
        let mut config = Config {
            contexts: vec!["base:allocation".into()],
            strict: StrictMode::empty(),
            in_flight: 4,
            max_payload: 1 << 16,
            ..Config::default()
        };
        config.set_mode(mode);
        let server = server::Config {
            mode,
            in_flight: 3,
            max_payload: 1 << 16,
            intercept,
            exact: intercept,
            ..server::Config::default()
        };
        Conversation {
            handshake: Some(Handshake::new(config)),
            client: None,
            server: server::Server::new(server),
            to_server: Vec::new(),
            to_client: Vec::new(),
            requests: Vec::new(),
            submitted: BTreeSet::new(),
            now: Instant::now(),
            is_disturbed: false,
        }
    }

    fn step(&mut self, step: u8, argument: u8) {
        let (few, at) = (usize::from(argument), u64::from(argument) << 12);
        let deadline = (step & 0x80 != 0).then(|| {
            let after = Duration::from_secs(1);
            (self.now + after, after)
        });
        let flags = CommandFlags::from_bits_retain(u16::from(step >> 5 & 3) << 2);
        let command = match step % 20 {
            0..4 => return self.deliver_to_server(few.max(1)),
            4..8 => return self.deliver_to_client(few.max(1)),
            8 => Command::read(at, 1 << (argument % 18)).flags(flags),
            9 => Command::write(at, vec![argument; few * 100]).flags(flags),
            10 => Command::block_status(at, 1 << (argument % 40)).flags(flags),
            11 => Command::flush(),
            12 => Command::write_zeroes(at, 1 << (argument % 40)),
            13 => {
                self.is_disturbed = true;
                let request = Request {
                    flags: CommandFlags::from_bits_retain(few as u16),
                    command: CommandType(u16::from(step >> 4)),
                    cookie: 0,
                    offset: at,
                    len: few as u64,
                };
                Command::raw(request, vec![7; few])
            }
            14 | 15 => return self.answer(argument),
            16 => {
                let wire = match step & 0x20 {
                    0 => &mut self.to_server,
                    _ => &mut self.to_client,
                };
                if let Some(byte) = wire.get_mut(few) {
                    self.is_disturbed = true;
                    *byte ^= 1 << (step >> 5);
                }
                return;
            }
            17 => return self.pass(few),
            18 => return self.goodbye(argument),
            _ => return self.server.resize(at * 2),
        };
        if let Some(client) = &mut self.client
            && let Ok(cookie) = client.submit(command, deadline)
        {
            assert!(self.submitted.insert(cookie), "a cookie is used twice");
        }
    }

    fn deliver_to_server(&mut self, few: usize) {
        let count = self.to_server.len().min(few);
        let taken = self.server.receive(&self.to_server[..count]);
        self.to_server.drain(..taken);
    }

    fn deliver_to_client(&mut self, few: usize) {
        let count = self.to_client.len().min(few);
        let bytes: Vec<u8> = self.to_client.drain(..count).collect();
        match (&mut self.handshake, &mut self.client) {
            (Some(handshake), _) => handshake.receive(&bytes),
            (_, Some(client)) => client.receive(&bytes),
            _ => {}
        }
    }

    /// Time passes.
    fn pass(&mut self, few: usize) {
        self.now += Duration::from_millis(few as u64 * 10);
        if let Some(client) = &mut self.client {
            client.timeout(self.now);
        }
    }

    fn goodbye(&mut self, argument: u8) {
        match (argument % 5, &mut self.client) {
            (0, Some(client)) => client.disconnect(),
            (1, Some(client)) => {
                // It may come in the middle of a reply.
                self.is_disturbed = true;
                client.end_of_stream();
            }
            (2, _) => self.server.end_of_stream(),
            (3, _) => self.server.close(server::Closed::Shutdown),
            _ => {}
        }
    }

    /// Answers one of the requests, in any order, and not always as it should.
    fn answer(&mut self, argument: u8) {
        if self.requests.is_empty() {
            return;
        }
        let at = usize::from(argument >> 4) % self.requests.len();
        let incoming = self.requests.remove(at);
        let len = incoming.effect_len;
        let extent = |len| Extent { len, status: 1 };
        let status = |extents| Status {
            context: 0,
            extents,
        };
        let answer = match (argument % 8, incoming.command()) {
            (0, _) => Answer::fail(Errno::EIO, "no"),
            (1, _) => Answer::fail(Errno::ESHUTDOWN, ""),
            (2, _) => Answer::Data(vec![Piece::Hole(len), Piece::Hole(u64::MAX)]),
            (3, _) => Answer::Status(vec![status(vec![extent(u64::MAX); 2])]),
            (4, CommandType::READ) if len > 1 => Answer::Data(vec![
                Piece::Data(vec![1; len as usize / 2]),
                Piece::Hole(len - len / 2),
            ]),
            (_, CommandType::READ) => Answer::Data(vec![Piece::Data(vec![1; len as usize])]),
            (_, CommandType::BLOCK_STATUS) => {
                Answer::Status(vec![status(vec![extent(len / 2 + 1); 2])])
            }
            _ => Answer::Done,
        };
        self.server.reply(incoming.id, answer);
    }

    /// What each of them has to say.
    fn look(&mut self) {
        while let Some(event) = self.server.event() {
            match event {
                Event::Option { .. } | Event::Received { .. } => self.server.proceed(),
                Event::List => self.server.list([("disk".to_owned(), "text".to_owned())]),
                Event::Describe { export, .. } => {
                    let description = Description {
                        name: export,
                        size: DISK,
                        flags: TransmissionFlags::all() - TransmissionFlags::READ_ONLY,
                        contexts: vec!["base:allocation".into()],
                        ..Description::default()
                    };
                    self.server.describe(Some(description));
                }
                Event::Request(incoming) => self.requests.push(incoming),
                Event::StartTls | Event::Transmission { .. } | Event::Closed(_) => {}
            }
        }
        assert!(self.server.under_way() <= 3, "more than allowed at once");
        self.to_client.extend(self.server.transmit());
        if let Some(handshake) = &mut self.handshake {
            let mut chosen = false;
            loop {
                match handshake.event() {
                    Ok(Some(ClientEvent::Ready)) => {
                        let _ = handshake.go("disk");
                    }
                    Ok(Some(ClientEvent::Chosen)) => chosen = true,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            self.to_server.extend(handshake.transmit());
            if chosen {
                let handshake = self.handshake.take();
                self.client = handshake.and_then(|h| h.into_transmission().ok());
            }
        }
        if let Some(client) = &mut self.client {
            self.to_server.extend(client.transmit());
            while let Some(notice) = client.notice() {
                let known = self.submitted.remove(&notice.cookie);
                assert!(known, "{} has ended twice", notice.cookie);
            }
            if !self.is_disturbed {
                let why = client.error();
                let violated = matches!(why.as_deref(), Some(ConnectionError::Violation(_)));
                assert!(!violated, "{why:?}");
            }
        }
    }

    fn end(mut self) {
        self.look();
        self.is_disturbed = true;
        if let Some(client) = &mut self.client {
            client.end_of_stream();
        }
        self.look();
        let left = &self.submitted;
        assert!(
            left.is_empty(),
            "{left:?} have not ended with the connection"
        );
    }
}
