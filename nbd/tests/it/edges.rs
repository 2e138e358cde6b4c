//! The server at the edges of the protocol: empty, huge, unaligned, and disconnecting.

use std::sync::Arc;
use std::time::Duration;

use nbd::client::{BlockSizes, ClientBuilder, StrictMode};
use nbd::proto::{
    CommandFlags, CommandType as C, Errno, Mode, Request, StatusFilter, TransmissionFlags,
};
use nbd::server::backend::{
    Backend, BackendError, Bytes, FileBackend, MemoryBackend, Piece, ProxyBackend, ZeroBackend,
};
use nbd::server::journal::Closed;
use nbd::server::plan::{Action, FaultPlan, On, Rule};
use nbd::server::{Entry, Event, Export, Server, ServerBuilder};
use nbd::{Client, Uri};

use crate::support::{block_on, short_dir};

const TIMEOUT: Duration = Duration::from_secs(60);

async fn connect(server: &Server, builder: ClientBuilder) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let builder = builder.context("base:allocation");
    builder.connect_stream(ours).await.unwrap()
}

fn provoking(mode: Mode) -> ClientBuilder {
    Client::builder().mode(mode).not_strict(StrictMode::all())
}

fn memory(size: u64) -> ServerBuilder {
    Server::builder().export(Export::new(MemoryBackend::new(size)))
}

#[test]
fn a_request_for_nothing_is_answered_in_every_mode() {
    block_on(async {
        for mode in Mode::ALL {
            for export in [
                Export::new(MemoryBackend::new(4096)),
                Export::new(ZeroBackend::new(4096)),
                Export::new(ZeroBackend::sparse(4096)),
            ] {
                let server = Server::builder().export(export).mode(mode).detached().unwrap();
                let client = connect(&server, provoking(mode)).await;
                assert_eq!(client.read(0, 0).await.unwrap(), [0; 0], "{mode}");
                client.write(0, Vec::new()).await.unwrap();
                client.trim(0, 0).await.unwrap();
                server.finish().await.unwrap();
            }
        }
    });
}

#[test]
fn a_filter_without_contexts_is_refused_and_not_left_unanswered() {
    block_on(async {
        let server = memory(4096).detached().unwrap();
        let client = connect(&server, provoking(Mode::Extended)).await;
        let payload = StatusFilter {
            effect_len: 512,
            contexts: Vec::new(),
        };
        let payload = payload.encode();
        let request = Request {
            flags: CommandFlags::PAYLOAD_LEN,
            command: C::BLOCK_STATUS,
            cookie: 0,
            offset: 0,
            len: payload.len() as u64,
        };
        let error = client.raw(request, payload).await.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    });
}

#[test]
fn a_filter_is_offered_where_there_are_contexts_to_filter() {
    block_on(async {
        let server = memory(4096).detached().unwrap();
        for context in [false, true] {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            server.serve(theirs);
            let builder = Client::builder().mode(Mode::Extended);
            let builder = builder.contexts(context.then_some("base:allocation"));
            let client = builder.connect_stream(ours).await.unwrap();
            let filter = TransmissionFlags::BLOCK_STATUS_PAYLOAD;
            assert_eq!(client.export().flags.contains(filter), context);
        }
    });
}

#[test]
fn a_goodbye_is_a_request_that_rules_can_wait_for() {
    block_on(async {
        for action in [Action::CLOSE, Action::Stall] {
            let rule = Rule::new(On::request(C::DISC), action.clone());
            let server = memory(4096).plan(FaultPlan::new().rule(rule)).detached().unwrap();
            let client = connect(&server, Client::builder()).await;
            let leaving = tokio::spawn(client.disconnect());
            let fired = |e: &Entry| matches!(e.event, Event::Fault { .. });
            let journal = server.journal();
            let seen = tokio::time::timeout(TIMEOUT, journal.wait_for(1, fired)).await;
            seen.expect("the rule was not asked").unwrap();
            let journal = server.finish().await.unwrap();
            let end = match action {
                Action::Stall => Closed::Shutdown,
                _ => Closed::Fault,
            };
            let ended = |e: &Entry| e.event == Event::Closed(end.clone());
            assert_eq!(journal.count(ended), 1, "{}", journal.to_json_lines());
            leaving.await.unwrap().unwrap();
        }
    });
}

#[test]
fn huge_ranges_of_a_sparse_export_cost_nothing() {
    block_on(async {
        let server = memory(1 << 60).detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        client.write((1 << 59) + 1000, vec![7; 512]).await.unwrap();
        client.write(1 << 16, vec![7; 512]).await.unwrap();
        client.trim(1 << 17, (1 << 60) - (1 << 17)).await.unwrap();
        let flags = CommandFlags::empty();
        client.write_zeroes(512, 1 << 50, flags).await.unwrap();
        let map = client.map("base:allocation", 0..1 << 60).await.unwrap();
        assert_eq!(map.len(), 1, "{map:?}");
        // What has to be allocated is another matter.
        let flags = CommandFlags::NO_HOLE;
        let error = client.write_zeroes(0, 1 << 59, flags).await.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOSPC));
        client.write_zeroes(0, 1 << 20, flags).await.unwrap();
        let map = client.map("base:allocation", 0..1 << 60).await.unwrap();
        assert_eq!((map.len(), map[0].len, map[0].status), (2, 1 << 20, 0));
    });
}

#[test]
fn a_proxy_splits_what_its_server_cannot_take_at_once() {
    block_on(async {
        let behind = Server::builder()
            .export(Export::new(ZeroBackend::new(1 << 40)))
            .mode(Mode::Structured)
            .detached()
            .unwrap();
        let client = connect(&behind, Client::builder()).await;
        let proxy = Server::builder().export(Export::new(ProxyBackend::new(client)));
        let proxy = proxy.detached().unwrap();
        let client = connect(&proxy, Client::builder().mode(Mode::Extended)).await;
        let (at, len) = (512, 10 << 30);
        client.trim(at, len).await.unwrap();
        client.cache(at, len).await.unwrap();
        let flags = CommandFlags::empty();
        client.write_zeroes(at, len, flags).await.unwrap();
        for command in [C::TRIM, C::CACHE, C::WRITE_ZEROES] {
            let entries = behind.journal().entries();
            let parts = entries.iter().filter_map(|e| match e.event {
                Event::Request {
                    command: c,
                    offset,
                    len,
                    ..
                } if c == command => Some((offset, len)),
                _ => None,
            });
            let mut next = at;
            for (offset, len) in parts {
                assert_eq!(offset, next, "{command}");
                next += len;
            }
            assert_eq!(next, at + len, "{command}");
        }
    });
}

#[test]
fn a_proxy_offers_what_its_own_client_can_use() {
    block_on(async {
        let behind = memory(4096).detached().unwrap();
        for mode in Mode::ALL {
            let backend = ProxyBackend::new(connect(&behind, Client::builder()).await);
            let proxy = Server::builder().export(Export::new(backend)).mode(mode);
            let proxy = proxy.detached().unwrap();
            let flags = connect(&proxy, Client::builder()).await.export().flags;
            let unfragmented = flags.contains(TransmissionFlags::SEND_DF);
            assert_eq!(unfragmented, mode.has_chunks(), "{mode}");
            let filter = flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
            assert_eq!(filter, mode == Mode::Extended, "{mode}");
        }
    });
}

#[test]
fn errors_are_those_of_the_specification() {
    block_on(async {
        let sizes = BlockSizes {
            minimum: 512,
            preferred: 4096,
            maximum: 1 << 20,
        };
        let backend = ZeroBackend::new(1 << 26);
        let export = Export::new(backend).block_sizes(sizes);
        let server = Server::builder().export(export).max_payload(1 << 20);
        let server = server.detached().unwrap();
        let client = connect(&server, provoking(Mode::Structured)).await;
        let none = CommandFlags::empty();
        let size = 1 << 26;
        let read = async |at, len, flags| {
            let read = client.read_with(at, len, flags, Vec::new()).await;
            read.err().and_then(|error| error.errno())
        };
        assert_eq!(read(0, 1 << 20, none).await, None);
        assert_eq!(read(0, 1 << 21, none).await, Some(Errno::EINVAL));
        let unfragmented = CommandFlags::DF;
        assert_eq!(read(0, 1 << 21, unfragmented).await, Some(Errno::EOVERFLOW));
        assert_eq!(read(1, 512, none).await, Some(Errno::EINVAL), "unaligned");
        assert_eq!(read(0, 511, none).await, Some(Errno::EINVAL), "unaligned");
        assert_eq!(read(size, 512, none).await, Some(Errno::EINVAL));
        let errno = |error: nbd::client::RequestError| error.errno();
        let write = client.write(512, vec![1; 100]).await.unwrap_err();
        assert_eq!(errno(write), Some(Errno::EINVAL), "unaligned");
        let write = client.write(size, vec![1; 512]).await.unwrap_err();
        assert_eq!(errno(write), Some(Errno::ENOSPC));
        let zeroes = client.write_zeroes(size, 512, none).await.unwrap_err();
        assert_eq!(errno(zeroes), Some(Errno::ENOSPC));
        let trim = client.trim(size, 512).await.unwrap_err();
        assert_eq!(errno(trim), Some(Errno::EINVAL));
        server.finish().await.unwrap();

        let backend = FileBackend::open("/dev/null", false);
        let server = Server::builder().export(Export::new(backend.unwrap()));
        let server = server.detached().unwrap();
        let client = connect(&server, provoking(Mode::Structured)).await;
        let fast = CommandFlags::FAST_ZERO;
        let error = client.write_zeroes(0, 0, fast).await.unwrap_err();
        assert_eq!(errno(error), Some(Errno::EINVAL), "it is not advertised");
    });
}

#[test]
fn an_oldstyle_server_serves_its_first_export_whatever_its_name() {
    block_on(async {
        let export = Export::new(ZeroBackend::new(4096)).name("disk");
        let server = Server::builder().export(export).mode(Mode::Oldstyle);
        let server = server.detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        assert_eq!(client.export().size, 4096);
        server.finish().await.unwrap();
    });
}

#[test]
fn a_reconnection_is_seen_though_others_came_to_nothing() {
    block_on(async {
        let dir = short_dir();
        let plan = FaultPlan::new()
            .rule(Rule::new(On::Greeting, Action::CLOSE).connection(2))
            .rule(Rule::new(On::request(C::READ), Action::CLOSE).connection(1));
        let server = memory(4096).plan(plan);
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let uri = server.uri().unwrap();
        let first = Client::builder().connect_uri(&uri).await.unwrap();
        assert!(first.read(0, 512).await.is_err());
        assert!(Client::builder().connect_uri(&uri).await.is_err());
        let _third = Client::builder().connect_uri(&uri).await.unwrap();
        server.expect_reconnect(TIMEOUT).await.unwrap();
    });
}

/// Connects at once when its connection is closed.
fn connect_again(uri: &Uri) -> std::io::Result<std::os::unix::net::UnixStream> {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;
    let path = uri.socket_path().unwrap();
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(&[0; 4])?;
    // Polled constantly, since waking up takes longer than the window in which the server could be
    // slow.
    stream.set_nonblocking(true)?;
    let mut said = [0; 64];
    loop {
        match stream.read(&mut said) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(n) if n > 0 => {}
            _ => return UnixStream::connect(path),
        }
    }
}

#[test]
fn who_sees_its_connection_close_finds_nobody_listening() {
    block_on(async {
        for n in 0..300 {
            let action = match n % 3 {
                0 => Action::RestartOn("never".into()),
                1 => Action::RestartAfter(1_000_000),
                _ => Action::Die,
            };
            let dir = short_dir();
            let rule = Rule::new(On::ClientFlags, action).after();
            let server = memory(4096).plan(FaultPlan::new().rule(rule));
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let uri = server.uri().unwrap();
            let again = tokio::task::spawn_blocking(move || connect_again(&uri));
            let again = again.await.unwrap();
            assert!(again.is_err(), "a connection was accepted: {again:?}");
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_socket_that_somebody_else_made_meanwhile_is_left_alone() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let server = memory(4096).listen_unix(&path).unwrap();
        server.stop_listening().await.unwrap();
        assert!(!path.exists());
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        server.stop_listening().await.unwrap();
        assert!(path.exists(), "stopping again has removed it");
        server.finish().await.unwrap();
        assert!(path.exists(), "the end of the server has removed it");
        let shared = Arc::new(MemoryBackend::new(512));
        std::fs::remove_file(&path).unwrap();
        let server = Server::builder().export(Export::shared(shared));
        let server = server.listen_unix(&path).unwrap();
        drop(server);
        assert!(!path.exists(), "our own stays behind");
    });
}

#[test]
fn a_read_only_export_is_said_to_be_one_and_takes_no_writes() {
    block_on(async {
        let memory = Arc::new(MemoryBackend::new(4096));
        let export = Export::shared(memory.clone());
        let server = Server::builder().export(export.clone()).detached().unwrap();
        let before = connect(&server, Client::builder()).await;
        export.set_read_only(true);
        let after = connect(&server, provoking(Mode::Structured)).await;
        assert!(after.export().is_read_only());
        let error = after.write(0, vec![1; 512]).await.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EPERM), "{error}");
        assert_eq!(memory.snapshot(0, 512), [0; 512]);
        // Existing connections are not affected.
        before.write(0, vec![1; 512]).await.unwrap();
        server.finish().await.unwrap();
        let server = memory_read_only().detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        assert!(client.export().is_read_only());
    });
}

fn memory_read_only() -> ServerBuilder {
    Server::builder().export(Export::new(MemoryBackend::new(512)).read_only())
}

/// A device has a size of its own, unlike what its metadata says.
#[test]
fn a_block_device_is_as_large_as_the_kernel_says() {
    let devices = std::fs::read_dir("/sys/class/block").into_iter().flatten();
    let mut seen = 0;
    for device in devices.flatten() {
        let name = device.file_name();
        let sectors = std::fs::read_to_string(device.path().join("size"));
        let sectors: u64 = sectors.unwrap_or_default().trim().parse().unwrap_or(0);
        let path = std::path::Path::new("/dev").join(&name);
        let Ok(backend) = FileBackend::open(&path, true) else {
            continue;
        };
        assert_eq!(backend.size(), sectors * 512, "{}", path.display());
        seen += usize::from(sectors > 0);
    }
    if seen == 0 {
        println!("skipped: there is no block device that may be read");
    }
}

/// Records which writes requested FUA; reads fail.
struct Notes(std::sync::Mutex<Vec<(u64, usize, bool)>>);

impl Backend for Notes {
    fn size(&self) -> u64 {
        1 << 20
    }
    async fn read(&self, _: u64, _: u64) -> Result<Vec<Piece>, BackendError> {
        panic!("it panics at once, which is what the test is about")
    }
    async fn write(&self, at: u64, data: Bytes, fua: bool) -> Result<(), BackendError> {
        self.0.lock().unwrap().push((at, data.len(), fua));
        Ok(())
    }
    async fn cache(&self, _: u64, _: u64) -> Result<(), BackendError> {
        tokio::task::yield_now().await;
        panic!("it panics later, which is what the test is about")
    }
}

#[test]
fn a_backend_knows_what_is_to_be_stable_and_of_zeroes_it_is_the_last() {
    block_on(async {
        let notes = Arc::new(Notes(std::sync::Mutex::default()));
        let server = Server::builder().export(Export::shared(notes.clone()));
        let server = server.detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        let (piece, fua) = (65536, CommandFlags::FUA);
        client.write_zeroes(512, 65536 + 1024, fua).await.unwrap();
        let written = std::mem::take(&mut *notes.0.lock().unwrap());
        assert_eq!(written, [(512, piece, false), (66048, 1024, true)]);
        let none = CommandFlags::empty();
        client.write_zeroes(0, 1024, none).await.unwrap();
        client.write_with(0, vec![1; 512], fua).await.unwrap();
        client.write(0, vec![1; 512]).await.unwrap();
        let written = notes.0.lock().unwrap();
        assert_eq!(
            *written,
            [(0, 1024, false), (0, 512, true), (0, 512, false)]
        );
    });
}

#[test]
fn a_backend_that_panics_fails_its_request_and_nothing_else() {
    block_on(async {
        let notes = Notes(std::sync::Mutex::default());
        let server = Server::builder().export(Export::new(notes)).detached().unwrap();
        let client = connect(&server, Client::builder()).await;
        for _ in 0..2 {
            let error = client.read(0, 512).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
            assert!(error.to_string().contains("panicked"), "{error}");
            let error = client.cache(0, 512).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
        }
        client.write(0, vec![1; 512]).await.unwrap();
        client.disconnect().await.unwrap();
        server.finish().await.unwrap();
    });
}
