//! Every error is produced once, and its message is read: `errors.txt` has them all.
//!
//! `NBD_ERRORS=1 cargo test -p qemu-nbd --all-features --test it -- errors::` rewrites the list.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use imgtools::tools::{Finder, ToolKind};
use nbd::client::{
    CompareError, ConnectError, ConnectionError, Deadlines, HandleError, HandshakeError, Reconnect,
    RequestError,
};
use nbd::proto::client::{Config, Event, Feature, Handshake, Policy};
use nbd::proto::{
    CommandFlags, CommandType as C, DecodeError, Errno, Greeting, HandshakeFlags, Mode, OptionCode,
    OptionReply, OptionReplyCode, ReplyCheck, Request, Violation,
};
use nbd::qemu_nbd::{QemuListing, QemuNbdError};
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::plan::{Action, FaultPlan, Field, IniError, Malformed, On, ReplyKind, Rule};
use nbd::server::{Export, Server, ServerError};
use nbd::tls::ClientTls;
use nbd::uri::{Address, Dialect, QemuDialect};
use nbd::{Client, QemuNbd, Uri};

use crate::support::{MIB, block_on, chain, short_dir};

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/errors.txt");
const SHORT: Duration = Duration::from_millis(30);

/// Where each enum of errors is declared.
const ENUMS: [(&str, &str); 13] = [
    ("UriError", include_str!("../../src/uri/mod.rs")),
    ("QemuRejection", include_str!("../../src/uri/qemu.rs")),
    (
        "IniError",
        include_str!("../../src/server/faults/plan/ini.rs"),
    ),
    ("DecodeError", include_str!("../../src/proto/error.rs")),
    ("Violation", include_str!("../../src/proto/violation.rs")),
    (
        "HandshakeError",
        include_str!("../../src/proto/client/error.rs"),
    ),
    (
        "ConnectionError",
        include_str!("../../src/proto/client/error.rs"),
    ),
    (
        "RequestError",
        include_str!("../../src/proto/client/error.rs"),
    ),
    ("ConnectError", include_str!("../../src/client/error.rs")),
    ("HandleError", include_str!("../../src/client/error.rs")),
    ("CompareError", include_str!("../../src/client/verify.rs")),
    ("ServerError", include_str!("../../src/server/error.rs")),
    ("QemuNbdError", include_str!("../../src/qemu_nbd/error.rs")),
];

/// The variants of an enum, from its source.
fn variants(name: &str, source: &str) -> Vec<String> {
    let (_, body) = source.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let starts = body.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        let named = line.starts_with(|c: char| c.is_ascii_uppercase());
        named.then(|| variant(&line))
    });
    starts.collect()
}

/// The variant of a value, from how it prints.
fn variant(text: &impl std::fmt::Display) -> String {
    let text = text.to_string();
    let name = text.chars().take_while(char::is_ascii_alphanumeric);
    name.collect()
}

/// What was produced: the first message of each variant.
#[derive(Default)]
struct Seen(BTreeMap<String, String>);

impl Seen {
    fn note<E: Error + Debug + 'static>(&mut self, name: &str, error: &E) {
        sound(error);
        let key = format!("{name}::{}", variant(&format!("{error:?}")));
        self.0.entry(key).or_insert_with(|| chain(error));
        // What is inside is an error of its own.
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            self.known::<ConnectError>("ConnectError", error);
            self.known::<HandshakeError>("HandshakeError", error);
            self.known::<RequestError>("RequestError", error);
            self.known::<ConnectionError>("ConnectionError", error);
            self.known::<Violation>("Violation", error);
            self.known::<DecodeError>("DecodeError", error);
            if let Some(ConnectionError::Violation(violation)) = error.downcast_ref() {
                self.violation(violation);
            }
            if let Some(why) = error.downcast_ref::<std::sync::Arc<ConnectionError>>() {
                self.note("ConnectionError", &**why);
            }
            next = error.source();
        }
    }

    fn violation(&mut self, violation: &Violation) {
        self.known::<Violation>("Violation", violation);
        if let Violation::Decode(error) = violation {
            self.known::<DecodeError>("DecodeError", error);
        }
    }

    fn known<E: Error + Debug + 'static>(&mut self, name: &str, error: &(dyn Error + 'static)) {
        if let Some(error) = error.downcast_ref::<E>() {
            let key = format!("{name}::{}", variant(&format!("{error:?}")));
            self.0.entry(key).or_insert_with(|| chain(error));
        }
    }
}

/// Checks every message: it is not empty, is readable, and states its reason only once.
fn sound(error: &(dyn Error + 'static)) {
    let text = error.to_string();
    assert!(!text.trim().is_empty() && !text.ends_with('.'), "{text:?}");
    // How Rust prints values is for us, not for users.
    for debris in [
        "Some(",
        "None,",
        "Err(",
        "Errno(",
        "OptionCode(",
        " { ",
        "Arc",
        "Kind(",
    ] {
        assert!(!text.contains(debris), "{text:?} has {debris:?}");
    }
    if let Some(source) = error.source() {
        let why = source.to_string();
        assert!(!text.contains(&why), "{text:?} repeats its source {why:?}");
        sound(source);
    }
}

#[test]
fn every_error_is_produced_and_its_message_read() {
    let mut seen = Seen::default();
    texts(&mut seen);
    handshakes(&mut seen);
    checks(&mut seen);
    block_on(async {
        lies(&mut seen).await;
        connections(&mut seen).await;
        requests(&mut seen).await;
        handles(&mut seen).await;
        servers(&mut seen).await;
        if let Ok(tool) = Finder::new().find(ToolKind::Nbd) {
            qemu(&mut seen, QemuNbd::new(tool)).await;
        }
    });
    let mut all = BTreeSet::new();
    for (name, source) in ENUMS {
        for variant in variants(name, source) {
            all.insert(format!("{name}::{variant}"));
        }
    }
    assert!(all.len() > 80, "{all:?}");
    // Paths and the like differ from run to run.
    let lines = seen.0.iter().map(|(key, text)| format!("{key}: {}\n", neutral(text)));
    let list: String = lines.collect();
    if std::env::var_os("NBD_ERRORS").is_some() {
        std::fs::write(LIST, &list).unwrap();
    }
    let qemu = Finder::new().find(ToolKind::Nbd).is_ok();
    let missing = all.iter().filter(|key| !seen.0.contains_key(*key));
    let missing: Vec<_> = missing.filter(|key| qemu || !key.starts_with("QemuNbd")).collect();
    assert!(missing.is_empty(), "never produced: {missing:#?}");
    let written = std::fs::read_to_string(LIST).unwrap();
    for line in list.lines() {
        let key = line.split(": ").next().unwrap_or_default();
        let known = written.lines().find(|l| l.split(": ").next() == Some(key));
        // What qemu-nbd prints depends on its version.
        if !key.starts_with("QemuNbdError") || known.is_none() {
            assert_eq!(known, Some(line));
        }
    }
}

fn neutral(text: &str) -> String {
    let mut out = String::new();
    for (n, word) in text.split_inclusive(' ').enumerate() {
        let path = word.find("/tmp/").or_else(|| word.find("127.0.0.1:"));
        match path {
            Some(at) => {
                let end = word.trim_end_matches([' ', ':', ',', '`', ')', '\'', '\n']);
                out += &word[..at];
                out += "PLACE";
                out += &word[end.len()..];
            }
            None if n > 0
                && word.trim_end_matches([' ', ':']).parse::<u32>().is_ok_and(|n| n > 1000)
                && out.ends_with("process ") =>
            {
                out += "PID "
            }
            None => out += word,
        }
    }
    out.replace('\n', " / ").replace("/usr/bin/", "")
}

/// URIs, old names and old grammars.
fn texts(seen: &mut Seen) {
    for text in [
        "x",
        "http://h/",
        "nbd:///x",
        "nbd+unix://h/x?socket=/s",
        "nbd://[::1/x",
        "nbd://h:0/",
        "nbd+unix:///x",
        "nbd://h/?socket=/s",
        "nbd://h/?y=1",
        "nbds://h/?tls-type=what",
        "nbds://h/?tls-verify-peer=what",
        "nbd://h/%zz",
        "nbd://h/x#y",
        "nbd://h/a b",
    ] {
        let error = Uri::parse(text).expect_err(text);
        seen.note("UriError", &error);
    }
    seen.note("UriError", &Uri::parse_legacy("nbd:").unwrap_err());
    for text in ["nbd", "nbds://h/x", "nbd://h/x?y=1", "nbd:///x"] {
        let error = QemuDialect::parse_as(text, Dialect::Glib).expect_err(text);
        seen.note("QemuRejection", &error);
    }
    for text in [
        "[inject-error]\nwhat",
        "event=1",
        "[inject-error]\nevent=neg1\nevent=neg1",
        "[other]\nevent=neg1",
        "[inject-error]\nwhen=before",
        "[inject-error]\nevent=nothing",
    ] {
        let error: IniError = FaultPlan::from_ini(text).expect_err(text);
        seen.note("IniError", &error);
    }
}

/// How a client interprets bytes.
fn hear(bytes: &[u8], then: impl FnOnce(&mut Handshake)) -> HandshakeError {
    hear_with(Config::default(), bytes, then)
}

fn hear_with(config: Config, bytes: &[u8], then: impl FnOnce(&mut Handshake)) -> HandshakeError {
    let mut machine = Handshake::new(config);
    machine.receive(bytes);
    let mut then = Some(then);
    loop {
        match machine.event() {
            Err(error) => return error,
            Ok(Some(Event::Ready)) => {
                if let Err(error) = machine.go("disk") {
                    return error;
                }
            }
            Ok(Some(Event::Answer(Err(error)))) => return error,
            Ok(Some(_)) => {}
            Ok(None) => match then.take() {
                Some(then) => then(&mut machine),
                None => machine.end_of_stream(),
            },
        }
    }
}

fn handshakes(seen: &mut Seen) {
    let nothing = |_: &mut Handshake| {};
    let fixed = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let greeting = Greeting::Newstyle { flags: fixed }.encode();
    let refusal = |code| {
        let error = OptionReply::Error {
            code,
            message: "no".into(),
        };
        error.encode(OptionCode::EXTENDED_HEADERS)
    };
    let heard = |rest: &[u8]| hear(&[&greeting[..], rest].concat(), nothing);
    let header = |len: u32, data: &[u8]| {
        let mut bytes = OptionReply::Ack.encode(OptionCode::EXTENDED_HEADERS);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&len.to_be_bytes());
        bytes.extend(data);
        bytes
    };
    let mut errors = vec![
        hear(&[], nothing),
        hear(&[], |m| m.io_failed(io::ErrorKind::HostUnreachable.into())),
        hear(&[], |m| m.timed_out(SHORT)),
        hear(&[0; 18], nothing),
        heard(&refusal(OptionReplyCode::ERR_POLICY)),
        heard(&refusal(OptionReplyCode::ERR_TLS_REQD)),
        heard(&OptionReply::Ack.encode(OptionCode::LIST)),
        heard(&header(u32::MAX, &[])),
        heard(&header(4, b"what")),
    ];
    let mut tls = Config::default();
    tls.policies.insert(Feature::Tls, Policy::Require);
    let mut start = greeting.clone();
    start.extend(OptionReply::Ack.encode(OptionCode::STARTTLS));
    start.extend(b"more");
    errors.push(hear_with(tls.clone(), &start, nothing));
    let plain = Greeting::Newstyle {
        flags: HandshakeFlags::NO_ZEROES,
    };
    errors.push(hear_with(tls, &plain.encode(), nothing));
    for error in &errors {
        seen.note("HandshakeError", error);
    }
    // Messages that are too short, and strings that are none.
    let server = |data: &[u8]| OptionReply::decode(OptionReplyCode::SERVER, data).unwrap_err();
    for error in [server(&[0]), server(&[0, 0, 0, 1, 0xff])] {
        seen.note("DecodeError", &error);
    }
    let status = nbd::proto::chunk::Status::decode(&[0; 7], false).unwrap_err();
    seen.note("DecodeError", &status);
    // Seven extents are announced, and one is there.
    let lie = [&[0, 0, 0, 1, 0, 0, 0, 7][..], &[0; 16]].concat();
    let status = nbd::proto::chunk::Status::decode(&lie, true).unwrap_err();
    seen.note("DecodeError", &status);
}

/// Rules that no fault of a server breaks by itself.
fn checks(seen: &mut Seen) {
    let read = |flags, len| Request {
        flags,
        command: C::READ,
        cookie: 1,
        offset: 0,
        len,
    };
    let plain = CommandFlags::empty();
    let mut whole = ReplyCheck::new(read(CommandFlags::DF, 100), 100, Mode::Structured, vec![]);
    whole.content(0, 50).unwrap();
    seen.violation(&whole.content(50, 50).unwrap_err());
    let len = 1 << 25;
    let mut many = ReplyCheck::new(read(plain, len), len, Mode::Structured, vec![]);
    let error = (0..len).find_map(|n| many.content(n * 2, 1).err());
    seen.violation(&error.unwrap());
}

fn server(mode: Mode, rule: Rule) -> Server {
    let export = Export::new(MemoryBackend::new(MIB));
    let server = Server::builder().export(export).mode(mode);
    server.plan(FaultPlan::new().rule(rule)).detached().unwrap()
}

async fn client_of(server: &Server) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let builder = Client::builder().context("base:allocation");
    builder.connect_stream(ours).await.unwrap()
}

async fn lies(seen: &mut Seen) {
    use Malformed as M;
    let read = [
        M::MissingDone,
        M::Half,
        M::Overlap,
        M::OutOfRange,
        M::Oversize,
        M::ForeignChunk,
        M::ErrorZero,
        M::TextTooLong,
        M::NoneWithPayload,
    ];
    let status = [
        M::ZeroExtent,
        M::HugeExtents,
        M::NoExtents,
        M::RepeatedContext,
        M::MissingContext,
    ];
    let read = read.map(|lie| (C::READ, Action::Malform(lie)));
    let status = status.map(|lie| (C::BLOCK_STATUS, Action::Malform(lie)));
    let others = [
        (C::FLUSH, Action::set(Field::Magic, 5)),
        (C::FLUSH, Action::set(Field::Cookie, 5)),
        (C::FLUSH, Action::set(Field::EchoedOffset, 5)),
        (C::FLUSH, Action::WrongKind(ReplyKind::Simple)),
        (C::FLUSH, Action::Truncate(3)),
        (C::BLOCK_STATUS, Action::set(Field::ContextId, 9)),
        (C::BLOCK_STATUS, Action::set(Field::Count, 7)),
        (C::FLUSH, Action::set(Field::Flags, 0)),
    ];
    for (command, action) in read.into_iter().chain(status).chain(others) {
        for mode in [Mode::Structured, Mode::Extended] {
            let lie = Rule::new(On::reply(command), action.clone()).optional();
            let mut plan = FaultPlan::new().rule(lie);
            // A reply that is not complete ends with its connection.
            if [Action::Malform(M::MissingDone), Action::Truncate(3)].contains(&action) {
                plan = plan.rule(Rule::new(On::reply(command), Action::CLOSE).after());
            }
            let export = Export::new(MemoryBackend::new(MIB));
            let server = Server::builder().export(export).mode(mode);
            let server = server.plan(plan).detached().unwrap();
            let client = client_of(&server).await;
            let ended = match command {
                C::READ => client.read(4096, 8192).await.map(drop),
                C::FLUSH => client.flush().await,
                _ => client.block_status(0, 65536).await.map(drop),
            };
            if let Err(error) = ended {
                seen.note("RequestError", &error);
            }
        }
    }
    let twice = server(
        Mode::Simple,
        Rule::new(On::reply(C::FLUSH), Action::Duplicate),
    );
    let client = client_of(&twice).await;
    client.flush().await.unwrap();
    seen.note("ConnectionError", &*client.closed().await);
    // More data than may be received.
    let server = Server::builder().export(Export::new(ZeroBackend::new(MIB)));
    let server = server.mode(Mode::Simple).detached().unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let client = Client::builder().max_payload(4096).connect_stream(ours).await;
    let request = Request {
        flags: CommandFlags::empty(),
        command: C::READ,
        cookie: 0,
        offset: 0,
        len: 8192,
    };
    let error = client.unwrap().raw(request, Vec::new()).await.unwrap_err();
    seen.note("RequestError", &error);
}

async fn connections(seen: &mut Seen) {
    let dir = short_dir();
    let nobody = Address::Unix(dir.path().join("nobody"));
    let quick = Deadlines {
        connect: SHORT,
        handshake: SHORT,
        request: SHORT,
    };
    let quick = Client::builder().deadlines(quick);
    let error = quick.connect(&nobody).await.unwrap_err();
    seen.note("ConnectError", &error);
    // No room among those that wait to be accepted.
    let path = dir.path().join("full");
    let full = accepts_nobody(&path);
    let error = loop {
        match quick.connect(&Address::Unix(path.clone())).await {
            Err(error @ ConnectError::Deadline { .. }) => break error,
            // Nobody accepts it, so it takes a place among those that wait.
            Err(ConnectError::Handshake { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    seen.note("ConnectError", &error);
    drop(full);
    let flood = Rule::new(On::option(OptionCode::LIST), Action::Flood(u64::MAX));
    let server = server(Mode::Structured, flood);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let mut negotiation = Client::builder().negotiate_stream(ours).await.unwrap();
    seen.note("HandshakeError", &negotiation.list().await.unwrap_err());
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let wrong = Client::builder().export("nobody").connect_stream(ours).await;
    seen.note("ConnectError", &wrong.unwrap_err());
    let uri: Uri = "nbds://localhost/?tls-psk-file=/keys".parse().unwrap();
    let error = Client::builder().connect_uri(&uri).await.unwrap_err();
    seen.note("ConnectError", &error);
    let missing = ClientTls::from_certificates("/nonexistent", "localhost").unwrap_err();
    sound(&missing);
}

/// A socket that accepts no clients.
fn accepts_nobody(path: &std::path::Path) -> std::os::unix::net::UnixListener {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let backlog = nix::sys::socket::Backlog::new(0).unwrap();
    nix::sys::socket::listen(&listener, backlog).unwrap();
    listener
}

async fn requests(seen: &mut Seen) {
    let eio = server(
        Mode::Structured,
        Rule::new(On::request(C::READ), Action::error(Errno::EIO)),
    );
    let client = client_of(&eio).await;
    seen.note("RequestError", &client.read(0, 512).await.unwrap_err());
    seen.note("RequestError", &client.read(MIB, 512).await.unwrap_err());
    drop(eio);
    seen.note("ConnectionError", &*client.closed().await);
    let ending = server(
        Mode::Structured,
        Rule::new(On::request(C::READ), Action::error(Errno::ESHUTDOWN)),
    );
    let client = client_of(&ending).await;
    client.read(0, 512).await.unwrap_err();
    let error = client.read(0, 512).await.unwrap_err();
    seen.note("RequestError", &error);
    seen.note("ConnectionError", &*client.closed().await);
    let left = server(Mode::Structured, Rule::new(On::Greeting, Action::Dribble));
    let client = client_of(&left).await;
    client.clone().disconnect().await.unwrap();
    seen.note("RequestError", &client.read(0, 512).await.unwrap_err());
    let half = server(
        Mode::Simple,
        Rule::new(On::reply(C::FLUSH), Action::CLOSE).at_byte(7),
    );
    let client = client_of(&half).await;
    seen.note("RequestError", &client.flush().await.unwrap_err());
    let silent = server(Mode::Simple, Rule::new(On::reply(C::FLUSH), Action::Drop));
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    silent.serve(theirs);
    let quick = Deadlines {
        request: SHORT,
        ..Deadlines::default()
    };
    let client = Client::builder().deadlines(quick).connect_stream(ours).await;
    seen.note("RequestError", &client.unwrap().flush().await.unwrap_err());
}

async fn handles(seen: &mut Seen) {
    let dir = short_dir();
    let plan = FaultPlan::new()
        .rule(Rule::new(On::request(C::READ), Action::error(Errno::EIO)))
        .rule(Rule::new(On::request(C::READ), Action::CLOSE).nth(2))
        .rule(Rule::new(On::Export, Action::AdvertiseSize(512)).connection(2));
    let server = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
    let server = server.plan(plan).listen_unix(dir.path().join("s")).unwrap();
    let uri = server.uri().unwrap();
    let again = Reconnect::Within(Duration::from_secs(60));
    let handle = Client::builder().handle().reconnect(again).connect_uri(&uri).await;
    let handle = handle.unwrap();
    let error: HandleError = handle.read(0, 512).await.unwrap_err();
    seen.note("HandleError", &error);
    seen.note("HandleError", &handle.read(0, 512).await.unwrap_err());
    let nowhere = dir.path().join("no/such");
    let error = handle.copy_to_file(&nowhere, |_, _| {}).await.unwrap_err();
    seen.note("HandleError", &error);
    let large = dir.path().join("large");
    std::fs::write(&large, vec![0; MIB as usize + 512]).unwrap();
    let error = handle.copy_from_file(&large, |_, _| {}).await.unwrap_err();
    seen.note("HandleError", &error);
    let client = Client::builder().connect_uri(&uri).await.unwrap();
    let error: CompareError = client.compare(&nowhere).await.unwrap_err();
    seen.note("CompareError", &error);
    let file = dir.path().join("f");
    std::fs::write(&file, vec![0; MIB as usize]).unwrap();
    drop(server);
    client.closed().await;
    let error = client.compare(&file).await.unwrap_err();
    seen.note("CompareError", &error);
    let quick = Reconnect::Within(SHORT);
    let server = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
    let server = server.listen_unix(dir.path().join("t")).unwrap();
    let uri = server.uri().unwrap();
    let handle = Client::builder().handle().reconnect(quick).connect_uri(&uri).await;
    let handle = handle.unwrap();
    server.finish().await.unwrap();
    seen.note("HandleError", &handle.read(0, 512).await.unwrap_err());
}

async fn servers(seen: &mut Seen) {
    let dir = short_dir();
    let path = dir.path().join("s");
    let server = Server::builder().listen_unix(&path).unwrap();
    let error: ServerError = Server::builder().listen_unix(&path).unwrap_err();
    seen.note("ServerError", &error);
    let export = || Export::new(MemoryBackend::new(512)).name("a");
    let twice = Server::builder().export(export()).export(export());
    seen.note("ServerError", &twice.detached().unwrap_err());
    server.stop_listening().await.unwrap();
    std::fs::write(&path, "in the way").unwrap();
    seen.note("ServerError", &server.listen_again().await.unwrap_err());
    let drops = Rule::new(On::reply(C::TRIM), Action::Drop);
    let server = Server::builder().plan(FaultPlan::new().rule(drops)).detached().unwrap();
    let missing = server.expect_requests(C::TRIM, 1, Duration::ZERO).await;
    seen.note("ServerError", &missing.unwrap_err());
    seen.note("ServerError", &server.finish().await.unwrap_err());
    let error = Action::Error {
        errno: Errno::EIO,
        text: "no".into(),
        offset: None,
    };
    let vain = server_with(Rule::new(On::Greeting, error));
    drop(client_of(&vain).await);
    seen.note("ServerError", &vain.finish().await.unwrap_err());
    // A path that is taken when it is to listen again by itself.
    let path = dir.path().join("r");
    let restart = Rule::new(On::request(C::FLUSH), Action::RestartOn("back".into()));
    let server = Server::builder().export(Export::new(MemoryBackend::new(512)));
    let server = server.plan(FaultPlan::new().rule(restart)).listen_unix(&path).unwrap();
    let client = Client::builder().connect_uri(&server.uri().unwrap()).await.unwrap();
    client.flush().await.unwrap_err();
    std::fs::write(&path, "in the way").unwrap();
    server.trigger("back").set();
    let failed = |e: &nbd::server::Entry| matches!(e.event, nbd::server::Event::Failed { .. });
    server.journal().wait_for(1, failed).await.unwrap();
    seen.note("ServerError", &server.finish().await.unwrap_err());
}

fn server_with(rule: Rule) -> Server {
    server(Mode::Structured, rule)
}

async fn qemu(seen: &mut Seen, nbd: QemuNbd) {
    let dir = short_dir();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("raw"), vec![0; 4096]).unwrap();
    let raw = nbd.clone().format("raw");
    std::fs::write(path("taken"), "").unwrap();
    let error: QemuNbdError = raw.clone().serve_unix(path("raw"), path("taken")).await.unwrap_err();
    seen.note("QemuNbdError", &error);
    let error = raw.clone().serve_unix(path("none"), path("a")).await.unwrap_err();
    seen.note("QemuNbdError", &error);
    let error = QemuListing::parse("exports available: 1\nwhat\n").unwrap_err();
    seen.note("QemuNbdError", &error);
    // What takes a broken machine is put together by hand, of a real process.
    use imgtools::process::Command;
    let error = Command::new("/nonexistent").run().await.unwrap_err();
    seen.note("QemuNbdError", &QemuNbdError::from(error));
    let ended = Command::new("/bin/sh").args(["-c", "echo why >&2; exit 3"]);
    let output = Box::new(ended.run().await.unwrap());
    let (pid, after) = (7, SHORT);
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let file = QemuNbdError::File {
        path: "/run/pid".into(),
        source: denied(),
    };
    let watch = QemuNbdError::Watch {
        pid,
        source: denied(),
    };
    let late = QemuNbdError::NotReady {
        output: output.clone(),
        after,
    };
    for error in [file, watch, late, QemuNbdError::Killed(output)] {
        seen.note("QemuNbdError", &error);
    }
}
