//! Our client at the edges: abandoned requests, replies without room for them, and an export that
//! is chosen late.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nbd::Client;
use nbd::client::{BlockSizes, Pattern};
use nbd::client::{ClientBuilder, ConnectionError, Deadlines, RequestError};
use nbd::proto::chunk::Extent;
use nbd::proto::{
    Checks, CommandFlags, CommandType as C, Errno, Greeting, Mode, OptionCode, OptionReplyCode,
    ReplyHeader, Request, TransmissionFlags, Violation,
};
use nbd::server::backend::{BackendError, MemoryBackend, Piece, ZeroBackend};
use nbd::server::plan::{Action, FaultPlan, Malformed, On, Rule, Side};
use nbd::server::{Backend, Entry, Event, Export, Server};

use crate::support::{at_once, block_on, on_one_thread, short_dir};

const MIB: u64 = 1 << 20;

fn server(mode: Mode, plan: FaultPlan) -> Server {
    let export = Export::new(MemoryBackend::new(MIB));
    let server = Server::builder().export(export).mode(mode).plan(plan);
    server.detached().unwrap()
}

async fn connect(server: &Server, builder: ClientBuilder) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    builder.connect_stream(ours).await.unwrap()
}

fn requests(server: &Server) -> usize {
    let request = |e: &Entry| matches!(e.event, Event::Request { .. });
    server.journal().count(request)
}

/// Sends a request, and abandons it.
async fn give_up(client: &Client, server: &Server) {
    let sent = requests(server) + 1;
    let journal = server.journal();
    let replied = |e: &Entry| matches!(e.event, Event::Reply { .. });
    tokio::select! {
        biased;
        read = client.read(0, 512) => panic!("{read:?}"),
        done = journal.wait_for(sent, replied) => done.unwrap(),
    }
}

#[test]
fn a_server_that_never_answers_gets_no_more_requests_than_the_window_has() {
    at_once(async {
        let silence = Rule::new(On::reply(C::READ), Action::Drop).forever();
        let server = server(Mode::Structured, FaultPlan::new().rule(silence));
        let client = connect(&server, Client::builder().in_flight(2)).await;
        give_up(&client, &server).await;
        let error = client.read(0, 512).await.unwrap_err();
        assert!(matches!(error, RequestError::Deadline { .. }), "{error}");
        let error = client.read(0, 512).await.unwrap_err();
        assert!(matches!(error, RequestError::Deadline { .. }), "{error}");
        assert_eq!(requests(&server), 2);
    });
}

#[test]
fn room_in_the_window_comes_back_with_the_reply_to_a_caller_that_gave_up() {
    block_on(async {
        let hold = Rule::new(On::reply(C::READ), Action::HoldReply("go".into()));
        let server = server(Mode::Structured, FaultPlan::new().rule(hold));
        let client = connect(&server, Client::builder().in_flight(1)).await;
        give_up(&client, &server).await;
        let mut flush = std::pin::pin!(client.flush());
        let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(flush.as_mut().poll(cx)));
        assert!(waits.await.is_pending());
        assert_eq!(client.stats().requests, 1, "the next one did not wait");
        server.trigger("go").set();
        flush.await.unwrap();
        assert_eq!(requests(&server), 2);
        server.finish().await.unwrap();
    });
}

#[test]
fn a_window_without_end_is_one_of_all_the_requests_there_can_be() {
    block_on(async {
        let server = server(Mode::Structured, FaultPlan::new());
        let client = connect(&server, Client::builder().in_flight(usize::MAX)).await;
        client.flush().await.unwrap();
    });
}

#[test]
fn a_read_beyond_our_payload_limit_must_not_be_answered_with_data() {
    block_on(async {
        for mode in Mode::ALL {
            for backend in [ZeroBackend::new(1 << 40), ZeroBackend::sparse(1 << 40)] {
                let server = Server::builder().export(Export::new(backend)).mode(mode);
                let server = server.max_payload(4 * MIB).detached().unwrap();
                let builder = Client::builder().max_payload(MIB);
                let client = connect(&server, builder).await;
                let request = |len| Request {
                    flags: CommandFlags::empty(),
                    command: C::READ,
                    cookie: 0,
                    offset: 512,
                    len,
                };
                let data = client.raw(request(MIB), Bytes::new()).await.unwrap();
                assert_eq!(data.len() as u64, MIB);
                let error = client.raw(request(MIB + 1), Bytes::new()).await;
                let error = error.unwrap_err();
                let oversize = Violation::Oversize {
                    len: MIB + 1,
                    limit: MIB,
                };
                assert_eq!(error.violation(), Some(&oversize), "{mode}: {error}");
            }
        }
    });
}

#[test]
fn extents_beyond_all_numbers_are_survived_where_they_are_tolerated() {
    block_on(async {
        for mode in [Mode::Structured, Mode::Extended] {
            let lie = Action::Malform(Malformed::HugeExtents);
            let rule = Rule::new(On::reply(C::BLOCK_STATUS), lie);
            let server = server(mode, FaultPlan::new().rule(rule));
            let builder = Client::builder().tolerate(Checks::STATUS);
            let client = connect(&server, builder.context("base:allocation")).await;
            let map = client.map("base:allocation", 0..MIB).await.unwrap();
            assert_eq!((map.len(), map[0].len), (1, MIB));
        }
    });
}

#[test]
fn what_a_file_has_beyond_the_end_of_the_export_must_be_zero() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![0; MIB as usize + 4096]).unwrap();
        let server = server(Mode::Structured, FaultPlan::new());
        let builder = Client::builder().context("base:allocation");
        let client = connect(&server, builder).await;
        assert_eq!(client.compare(&path).await.unwrap(), None);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[5], MIB + 4000).unwrap();
        let found = client.compare(&path).await.unwrap().unwrap();
        assert_eq!((found.offset, found.expected), (MIB + 4000, 5));
    });
}

#[test]
fn an_export_and_its_contexts_can_be_chosen_when_they_are_known() {
    block_on(async {
        let server = Server::builder()
            .export(Export::new(ZeroBackend::new(512)).name("a"))
            .export(Export::new(ZeroBackend::new(1024)).name("b"))
            .detached()
            .unwrap();
        for context in [false, true] {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            server.serve(theirs);
            let mut options = Client::builder().negotiate_stream(ours).await.unwrap();
            let exports = options.list().await.unwrap();
            let (last, _) = exports.last().unwrap();
            let contexts = options.list_contexts(last, &[]).await.unwrap();
            assert_eq!(contexts, ["base:allocation"]);
            // Those of another export do not count.
            let of = if context { last } else { "a" };
            options.set_contexts(of, &contexts).await.unwrap();
            let client = options.go_to(last).await.unwrap();
            let export = client.export();
            assert_eq!((export.name.as_str(), export.size), ("b", 1024));
            assert_eq!(export.contexts.len(), usize::from(context));
            assert_eq!(client.block_status(0, 512).await.is_ok(), context);
        }
    });
}

/// Says how often it was flushed.
struct Flushes(Arc<AtomicU32>);

impl Backend for Flushes {
    fn size(&self) -> u64 {
        4096
    }
    async fn read(&self, _: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        Ok(vec![Piece::Hole(len)])
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
        Ok(())
    }
    async fn zero(&self, _: u64, _: u64, _: CommandFlags) -> Result<(), BackendError> {
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64) -> Result<(), BackendError> {
        Ok(())
    }
    async fn flush(&self) -> Result<(), BackendError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_trim_with_fua_is_stable_when_it_is_answered() {
    block_on(async {
        let flushes = Arc::new(AtomicU32::new(0));
        let export = Export::new(Flushes(flushes.clone()));
        let server = Server::builder().export(export).detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        client.trim(0, 4096).await.unwrap();
        assert_eq!(flushes.load(Ordering::Relaxed), 0);
        client.trim_with(0, 4096, CommandFlags::FUA).await.unwrap();
        assert_eq!(flushes.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn requests_fail_at_once_when_the_server_has_stopped_receiving() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let deaf = Rule::new(On::reply(C::READ), Action::HalfClose(Side::Rx)).after();
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.plan(FaultPlan::new().rule(deaf));
        let server = server.listen_unix(&path).unwrap();
        let deadlines = Deadlines {
            request: Duration::from_secs(1000),
            ..Deadlines::default()
        };
        let builder = Client::builder().deadlines(deadlines);
        let client = builder.connect_unix(&path).await.unwrap();
        client.read(0, 512).await.unwrap();
        let fault = |e: &Entry| matches!(e.event, Event::Fault { .. });
        server.journal().wait_for(1, fault).await.unwrap();

        for _ in 0..2 {
            let error = client.read(0, 512).await.unwrap_err();
            let RequestError::Connection { source, .. } = &error else {
                panic!("{error}");
            };
            assert!(matches!(**source, ConnectionError::Io(_)), "{error}");
        }
        // It waits for its client's end, of which it is never notified.
        drop(server);
    });
}

#[test]
fn a_connection_that_a_violation_has_ended_is_closed_though_its_client_is_kept() {
    at_once(async {
        let lie = Rule::new(On::reply(C::READ), Action::Malform(Malformed::Gap));
        let server = server(Mode::Structured, FaultPlan::new().rule(lie));
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let serving = server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        let error = client.read(0, 8192).await.unwrap_err();
        assert!(error.violation().is_some(), "{error}");
        let ended = tokio::time::timeout(Duration::from_secs(60), serving).await;
        ended.expect("the server still has a client").unwrap();
        assert!(client.error().is_some());
    });
}

/// An oldstyle server whose requests all fail.
struct Failing(std::os::unix::net::UnixStream);

impl Failing {
    fn greet(mut stream: std::os::unix::net::UnixStream) -> Failing {
        let flags = TransmissionFlags::HAS_FLAGS;
        let greeting = Greeting::Oldstyle { size: MIB, flags };
        stream.write_all(&greeting.encode()).unwrap();
        Failing(stream)
    }

    /// Waits for a request.
    fn request(&mut self) -> Request {
        let style = Mode::Oldstyle.header_style();
        let mut bytes = [0; 28];
        self.0.read_exact(&mut bytes).unwrap();
        Request::decode(style, &bytes).unwrap()
    }

    fn fail(&mut self, request: &Request) {
        let reply = ReplyHeader::Simple {
            error: Errno::EIO,
            cookie: request.cookie,
        };
        self.0.write_all(&reply.encode()).unwrap();
    }
}

#[test]
fn the_last_reply_is_read_though_the_next_request_cannot_be_written() {
    // One thread, so nothing is noticed between what the server does and the next request.
    on_one_thread(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut server = Failing::greet(theirs);
        let client = Client::builder().connect_fd(ours.into()).await.unwrap();
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.read(0, 512).await }
        });
        let received = tokio::task::spawn_blocking(move || {
            let request = server.request();
            (server, request)
        });
        let (mut server, request) = received.await.unwrap();
        server.fail(&request);
        drop(server);
        let second = client.read(512, 512).await.unwrap_err();
        assert!(second.connection().is_some(), "{second}");
        let first = first.await.unwrap().unwrap_err();
        assert_eq!(first.errno(), Some(Errno::EIO), "{first}");
    });
}

#[test]
fn a_blocking_client_reads_the_last_reply_as_well() {
    let dir = short_dir();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // The second request is answered at once.
    let serving = std::thread::spawn(move || {
        let mut server = Failing::greet(listener.accept().unwrap().0);
        let (first, second) = (server.request(), server.request());
        server.fail(&second);
        (server, first)
    });
    let address = nbd::uri::Address::Unix(path);
    let mut client = Client::builder().connect_blocking(&address).unwrap();
    let read = |at| nbd::client::Command::read(at, 512);
    let first = client.submit(read(0)).unwrap();
    let second = client.submit(read(512)).unwrap();
    let second = client.wait(second).unwrap_err();
    assert_eq!(second.errno(), Some(Errno::EIO), "{second}");
    let (mut server, request) = serving.join().unwrap();
    server.fail(&request);
    drop(server);
    let third = client.submit(read(1024)).unwrap();
    let third = client.wait(third).unwrap_err();
    assert!(third.connection().is_some(), "{third}");
    let first = client.wait(first).unwrap_err();
    assert_eq!(first.errno(), Some(Errno::EIO), "{first}");
}

#[test]
fn a_blocking_goodbye_that_a_server_does_not_follow_is_given_up() {
    let dir = short_dir();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = std::thread::spawn(move || Failing::greet(listener.accept().unwrap().0));
    let deadlines = Deadlines {
        request: Duration::from_millis(20),
        ..Deadlines::default()
    };
    let builder = Client::builder().deadlines(deadlines);
    let address = nbd::uri::Address::Unix(path);
    let client = builder.connect_blocking(&address).unwrap();
    let _stays = serving.join().unwrap();
    let error = client.disconnect().unwrap_err();
    let late = std::io::ErrorKind::TimedOut;
    let given_up = matches!(&*error, ConnectionError::Io(why) if why.kind() == late);
    assert!(given_up, "{error:?}");
}

#[test]
fn zeroes_that_the_server_reports_are_not_another_pattern() {
    block_on(async {
        let server = server(Mode::Structured, FaultPlan::new());
        let builder = Client::builder().context("base:allocation");
        let client = connect(&server, builder).await;
        let zeroes = client.verify(0..MIB, Pattern::Byte(0)).await.unwrap();
        assert_eq!(zeroes, None);
        let found = client.verify(4096..MIB, Pattern::Byte(5)).await.unwrap();
        let found = found.expect("zeroes are no fives");
        assert_eq!((found.offset, found.expected, found.found), (4096, 5, 0));
    });
}

/// Knows of the first bytes of a range only, of one context more than of the other.
struct Reaches;

impl Reaches {
    fn of(context: &str) -> u64 {
        if context == "x:short" { 4096 } else { 8192 }
    }
}

impl Backend for Reaches {
    fn size(&self) -> u64 {
        MIB
    }
    fn contexts(&self) -> Vec<String> {
        vec!["x:long".into(), "x:short".into()]
    }
    async fn read(&self, _: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        Ok(vec![Piece::Hole(len)])
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
        Ok(())
    }
    async fn status(
        &self,
        context: &str,
        offset: u64,
        len: u64,
        _: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        let len = len.min(Reaches::of(context));
        let status = offset / 4096 % 2;
        Ok(vec![Extent { len, status }])
    }
}

#[test]
fn the_map_of_a_context_has_no_gap_where_another_one_was_known_further() {
    block_on(async {
        let server = Server::builder().export(Export::new(Reaches)).detached().unwrap();
        let builder = Client::builder().contexts(["x:long", "x:short"]);
        let client = connect(&server, builder).await;
        for (context, map) in client.maps(0..65536).await.unwrap() {
            let mut at = 0;
            for piece in map {
                assert_eq!(piece.offset, at, "{context}");
                at = piece.end();
            }
            assert_eq!(at, 65536, "{context}");
        }
    });
}

#[test]
fn what_is_not_aligned_is_refused_before_it_is_sent() {
    block_on(async {
        let sizes = BlockSizes {
            minimum: 512,
            preferred: 4096,
            maximum: 65536,
        };
        let export = Export::new(MemoryBackend::new(MIB)).block_sizes(sizes);
        let server = Server::builder().export(export).detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        for (at, len) in [(1, 512), (0, 511), (MIB - 1, 1)] {
            let error = client.read(at, len).await.unwrap_err();
            assert!(matches!(error, RequestError::Misuse { .. }), "{error}");
        }
        client.read(512, 512).await.unwrap();
        assert_eq!(requests(&server), 1);
    });
}

#[test]
fn a_server_that_shuts_down_while_it_is_listed_has_no_empty_entry() {
    block_on(async {
        for (code, option) in [
            (OptionReplyCode::ERR_SHUTDOWN, OptionCode::INFO),
            (OptionReplyCode::ERR_SHUTDOWN, OptionCode::LIST_META_CONTEXT),
            (OptionReplyCode::ERR_POLICY, OptionCode::INFO),
        ] {
            let rule = Rule::new(On::option(option), Action::Refuse(code));
            let export = Export::new(MemoryBackend::new(MIB)).name("disk");
            let server = Server::builder().export(export);
            let server = server.plan(FaultPlan::new().rule(rule)).listen_tcp().unwrap();
            let listed = nbd::client::list(&server.uri().unwrap()).await;
            if code == OptionReplyCode::ERR_SHUTDOWN {
                let error = listed.unwrap_err();
                assert!(error.handshake().is_some(), "{error}");
            } else {
                let listing = listed.unwrap();
                assert_eq!(listing.exports[0].name, "disk");
                assert_eq!(listing.exports[0].info, None);
            }
            server.finish().await.unwrap();
        }
    });
}
