//! Faults that this crate had, each with the test that would have found it. Those of the
//! conversation alone are in `tests/pair.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nbd::client::{BlockSizes, CompareError, Pattern, RequestError};
use nbd::proto::{CommandFlags, CommandType, TransmissionFlags};
use nbd::qemu_nbd::Image;
use nbd::server::backend::{Backend, BackendError, MemoryBackend, Piece, ProxyBackend};
use nbd::server::{Action, Event, Export, FaultPlan, ListeningSocket, On, Rule, Server};
use nbd::uri::{Address, Dialect, QemuDialect};
use nbd::{Client, QemuNbd, Uri};
use tokio::sync::{Barrier, Notify, Semaphore};

use crate::support::{MIB, block_on, chain, each, on_one_thread, raw, short_dir};

/// More than any machine needs; a test that gets here has failed.
const LONG: Duration = Duration::from_secs(60);

/// A disk whose requests wait for the test.
struct Gated {
    begun: Notify,
    go: Semaphore,
    done: AtomicBool,
    /// Reads wait for each other.
    together: Barrier,
    most: AtomicUsize,
    now: AtomicUsize,
}

impl Gated {
    fn new(together: usize) -> Arc<Gated> {
        Arc::new(Gated {
            begun: Notify::new(),
            go: Semaphore::new(0),
            done: AtomicBool::new(false),
            together: Barrier::new(together),
            most: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
        })
    }
}

impl Backend for Gated {
    fn size(&self) -> u64 {
        MIB
    }
    async fn read(&self, _: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.together.wait().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(vec![Piece::Hole(len)])
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
        self.begun.notify_one();
        self.go.acquire().await.unwrap().forget();
        self.done.store(true, Ordering::SeqCst);
        Ok(())
    }
}

async fn connect(server: &Server) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let client = Client::builder().context("base:allocation");
    client.connect_stream(ours).await.unwrap()
}

/// Fault 1: A held reply waits for its trigger alone, whatever rules wait for the next request.
#[test]
fn a_held_reply_is_released_while_other_rules_wait_for_a_request() {
    // One thread: the server waits already when the reply is seen to be due.
    on_one_thread(async {
        let hold = Action::HoldReply("go".into());
        let plan = FaultPlan::new()
            .rule(Rule::new(On::reply(CommandType::READ), hold))
            .rule(Rule::new(On::any_request(), Action::Delay(0)).forever());
        let server = Server::builder()
            .export(Export::new(MemoryBackend::new(MIB)))
            .plan(plan)
            .detached()
            .unwrap();
        let client = connect(&server).await;
        let read = tokio::spawn({
            let client = client.clone();
            async move { client.read(0, 512).await }
        });
        let due = |e: &nbd::server::Entry| matches!(e.event, Event::Reply { .. });
        server.journal().wait_for(1, due).await.unwrap();
        server.trigger("go").set();
        let read = tokio::time::timeout(LONG, read).await;
        read.expect("it is held for ever").unwrap().unwrap();
        server.finish().await.unwrap();
    });
}

/// Fault 3: After waiting for a server's shutdown a caller may inspect what it wrote.
#[test]
fn finish_waits_for_a_write_that_runs() {
    block_on(async {
        let disk = Gated::new(1);
        let server = Server::builder().export(Export::shared(disk.clone()));
        let server = server.detached().unwrap();
        let client = connect(&server).await;
        let write = tokio::spawn(async move { client.write(0, vec![1; 512]).await });
        disk.begun.notified().await;
        let mut end = Box::pin(server.finish());
        // It has been looked at, and is not over.
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(end.as_mut().poll(cx))).await;
        assert!(early.is_pending() && !disk.done.load(Ordering::SeqCst));
        disk.go.add_permits(1);
        drop(end.await.unwrap());
        assert!(disk.done.load(Ordering::SeqCst));
        // Its client gets an answer, one way or the other.
        let _ = write.await.unwrap();
    });
}

/// A disk whose write is carried out in a thread, which cannot be cancelled, when the test allows
/// it.
struct Slow {
    begun: Notify,
    go: std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    done: Arc<AtomicBool>,
}

impl Backend for Slow {
    fn size(&self) -> u64 {
        MIB
    }
    async fn read(&self, _: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        Ok(vec![Piece::Hole(len)])
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
        let (go, done) = (self.go.lock().unwrap().take().unwrap(), self.done.clone());
        let writing = tokio::task::spawn_blocking(move || {
            // An end of the test is one of the write as well.
            let _ = go.recv();
            done.store(true, Ordering::SeqCst);
        });
        self.begun.notify_one();
        writing.await.unwrap();
        Ok(())
    }
}

/// Fault 3, for a write that goes on though its task is dropped, as one to a file does.
#[test]
fn finish_waits_for_a_write_in_a_thread_after_its_client_has_gone() {
    // One thread: what can end without the write has ended when the client knows of the end.
    on_one_thread(async {
        let (go, wait) = std::sync::mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let disk = Arc::new(Slow {
            begun: Notify::new(),
            go: std::sync::Mutex::new(Some(wait)),
            done: done.clone(),
        });
        let server = Server::builder().export(Export::shared(disk.clone()));
        let server = server.detached().unwrap();
        let client = connect(&server).await;
        let write = tokio::spawn({
            let client = client.clone();
            async move { client.write(0, vec![1; 512]).await }
        });
        disk.begun.notified().await;
        let finish = tokio::spawn(server.finish());
        client.closed().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!finish.is_finished(), "a write still runs");
        go.send(()).unwrap();
        drop(finish.await.unwrap().unwrap());
        assert!(done.load(Ordering::SeqCst));
        write.await.unwrap().unwrap_err();
    });
}

/// Fault 5: An abandoned fork leaves no daemon, wherever it was interrupted.
#[test]
fn a_fork_that_is_dropped_leaves_nothing_behind() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let socket = dir.path().join("s");
        for tick in 0..40 {
            let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
            let cut = Duration::from_micros(500 * tick);
            if let Ok(forked) = tokio::time::timeout(cut, nbd.fork(&image, &socket)).await {
                assert!(forked.unwrap().daemon().unwrap().stop().await.unwrap());
            }
            assert_eq!(processes_with(&image), 0, "after {cut:?}");
            assert!(!socket.exists(), "after {cut:?}");
        }
    });
}

/// Processes that have this argument.
fn processes_with(argument: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let has = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|a| a == argument.as_bytes())
    };
    all.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| has(entry).then_some(()))
        .count()
}

/// Fault 6: Comparing keeps to the server's limits, and says which part no request can reach.
#[test]
fn verify_and_compare_keep_to_limits_and_alignment() {
    block_on(async {
        let content = vec![5; 1_000_000];
        let sizes = BlockSizes {
            minimum: 4096,
            preferred: 4096,
            maximum: 65536,
        };
        let export = Export::new(MemoryBackend::with_content(&content)).block_sizes(sizes);
        let server = Server::builder().export(export).detached().unwrap();
        let client = connect(&server).await;
        let reachable = client.export().reachable_size();
        assert_eq!(reachable, 1_000_000 / 4096 * 4096);
        let pattern = Pattern::Byte(5);
        assert_eq!(client.verify(0..reachable, pattern).await.unwrap(), None);
        assert_eq!(client.verify(1..77_777, pattern).await.unwrap(), None);
        let error = client.verify(0..1_000_000, pattern).await.unwrap_err();
        assert!(matches!(error, RequestError::Misuse { .. }), "{error}");
        assert!(error.to_string().contains("last 576 bytes"), "{error}");
        let dir = short_dir();
        let path = dir.path().join("file");
        let mut other = content.clone();
        std::fs::write(&path, &other).unwrap();
        let error = client.compare(&path).await.unwrap_err();
        assert!(matches!(error, CompareError::Export(_)), "{error}");
        other[70_000] = 6;
        std::fs::write(&path, &other).unwrap();
        let found = client.compare(&path).await.unwrap().unwrap();
        assert_eq!((found.offset, found.expected, found.found), (70_000, 6, 5));
        let missing = client.compare(&dir.path().join("none")).await.unwrap_err();
        assert!(chain(&missing).contains("none"), "{missing}");
        server.finish().await.unwrap();
    });
}

/// Fault 6: A file that takes its time keeps no other task waiting.
#[test]
fn a_comparison_waits_for_its_file_in_no_thread_of_the_runtime() {
    on_one_thread(async {
        let server = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
        let server = server.detached().unwrap();
        let client = connect(&server).await;
        let dir = short_dir();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (go, wait) = std::sync::mpsc::channel();
        // Opening it for reading blocks until it is opened for writing.
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let is_in_time = wait.recv_timeout(LONG).is_ok();
                drop(std::fs::File::options().write(true).open(path).unwrap());
                is_in_time
            }
        });
        let comparing = tokio::spawn({
            let client = client.clone();
            async move { client.compare(&path).await }
        });
        assert_eq!(client.read(0, 512).await.unwrap(), [0; 512]);
        let _ = go.send(());
        let error = comparing.await.unwrap().unwrap_err();
        assert!(matches!(error, CompareError::File { .. }), "{error}");
        assert!(writer.join().unwrap(), "the runtime waited for the file");
        server.finish().await.unwrap();
    });
}

/// Fault 7: A proxy passes REQ_ONE on. (What a server makes of it is in `tests/pair.rs`.)
#[test]
fn a_proxy_passes_the_flags_of_a_block_status_on() {
    block_on(async {
        let real = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
        let real = real.detached().unwrap();
        let backend = ProxyBackend::new(connect(&real).await);
        let proxy = Server::builder().export(Export::new(backend)).detached().unwrap();
        let client = connect(&proxy).await;
        let one = CommandFlags::REQ_ONE;
        client.block_status_with(0, 4096, one).await.unwrap();
        let passed_on = |e: &nbd::server::Entry| {
            let status = CommandType::BLOCK_STATUS;
            matches!(e.event, Event::Request { command, flags, .. } if command == status && flags == one)
        };
        assert_eq!(real.journal().count(passed_on), 1);
    });
}

/// Fault 8: Requests of one connection are carried out at once: each of these waits for all others.
#[test]
fn eight_reads_of_one_connection_are_under_way_at_once() {
    block_on(async {
        let disk = Gated::new(8);
        let server = Server::builder().export(Export::shared(disk.clone()));
        let server = server.detached().unwrap();
        let client = connect(&server).await;
        let reads = (0..8).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.read(n * 512, 512).await })
        });
        for read in reads.collect::<Vec<_>>() {
            assert_eq!(read.await.unwrap().unwrap(), [0; 512]);
        }
        assert_eq!(disk.most.load(Ordering::SeqCst), 8);
    });
}

/// Fault 9: A journal keeps the newest entries only, and a wait in vain ends with an error.
#[test]
fn a_journal_is_bounded_and_ends_with_its_server() {
    block_on(async {
        let server = Server::builder()
            .export(Export::new(MemoryBackend::new(MIB)))
            .journal_limit(10)
            .detached()
            .unwrap();
        let client = connect(&server).await;
        for _ in 0..50 {
            client.flush().await.unwrap();
        }
        let journal = server.journal();
        assert_eq!(journal.entries().len(), 10);
        assert!(journal.dropped() >= 90, "{}", journal.dropped());
        let waiting = tokio::spawn({
            let journal = journal.clone();
            async move { journal.wait_for(1, |e| e.event == Event::Listening).await }
        });
        server.finish().await.unwrap();
        let ended = tokio::time::timeout(LONG, waiting).await;
        let ended = ended.expect("it waits for ever").unwrap().unwrap_err();
        assert_eq!((ended.found, ended.wanted), (0, 1));
    });
}

/// Fault 10: Any address, and paths of any length, on both sides and for the wrapper.
#[test]
fn any_address_and_a_path_of_any_length_will_do() {
    each(|tools, dir| async move {
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let export = || Export::new(MemoryBackend::new(MIB));
        let (host, port) = ("127.0.0.2".to_owned(), 0);
        let addresses = [
            Address::Tcp { host, port },
            Address::Unix(deep.join("s")),
            Address::Abstract(format!("nbd test {}", std::process::id()).into()),
        ];
        let server = Server::builder().export(export()).listen_all(addresses);
        let server = server.unwrap();
        for address in server.addresses() {
            let client = Client::builder().connect(address).await.unwrap();
            assert_eq!(client.export().size, MIB, "{address}");
        }
        server.finish().await.unwrap();
        assert!(!deep.join("s").exists());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = ListeningSocket::Tcp(listener);
        let adopted = Server::builder().export(export()).from_listener(socket);
        let adopted = adopted.unwrap();
        let client = Client::builder().connect_tcp("127.0.0.1", port).await;
        assert_eq!(client.unwrap().export().size, MIB);
        adopted.finish().await.unwrap();
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let real = nbd.serve_unix(image, deep.join("q")).await.unwrap();
        let client = Client::builder().connect_uri(&real.uri()).await.unwrap();
        assert_eq!(client.export().size, MIB);
        real.stop().await.unwrap();
    });
}

/// Fault 11: A name that a QEMU would resolve is not said in a URI, and each dialect is predicted.
#[test]
fn dot_segments_are_resolved_as_each_qemu_does_and_said_in_words_that_all_understand() {
    for (name, glib) in [
        ("a/../b", "b"),
        ("a/./b", "a/b"),
        ("./b", "b"),
        ("a/..", ""),
        ("a/b", "a/b"),
    ] {
        let uri = Uri::unix("/s", name);
        let text = uri.to_string();
        let read = |dialect| QemuDialect::parse_as(&text, dialect).unwrap().uri.export;
        assert_eq!(read(Dialect::UriC), name);
        assert_eq!(read(Dialect::Glib), glib);
        assert_eq!(uri.to_qemu().is_some(), name == glib, "{name}");
    }
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let server = nbd.export_name("a/../b").serve_unix(image, dir.path().join("s"));
        let server = server.await.unwrap();
        let uri = server.uri();
        assert_eq!(uri.to_qemu(), None);
        let opens = async |arguments: &[&str]| {
            let command = tools.img.command().arg("info").args(arguments);
            command.run().await.unwrap().status.is_success()
        };
        let dialect = match tools.major {
            ..=8 => Dialect::UriC,
            _ => Dialect::Glib,
        };
        let text = uri.to_string();
        let predicted = QemuDialect::parse_as(&text, dialect).unwrap().uri == uri;
        assert_eq!(opens(&[&text]).await, predicted, "{}", tools.name);
        let opts = uri.to_image_opts().unwrap();
        assert!(opens(&["--image-opts", &opts]).await, "{}", tools.name);
    });
    let mut safe = Uri::tcp("h", 1, "x");
    safe.tls = true;
    assert_eq!(
        safe.to_image_opts(),
        None,
        "a plain connection was asked for"
    );
    let opts = safe.to_image_opts_with_tls("t0").unwrap();
    assert!(opts.ends_with("export=x,tls-creds=t0"), "{opts}");
}

/// Fault 12: A path names exactly that file, and a socket that another server has made at the path
/// since stays.
#[test]
fn a_file_is_no_protocol_and_what_others_made_since_is_not_removed() {
    each(|tools, dir| async move {
        std::fs::write(dir.path().join("a:b.raw"), vec![0; MIB as usize]).unwrap();
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let nbd = nbd.current_dir(dir.path());
        let socket = dir.path().join("s");
        let server = nbd.clone().serve_unix("a:b.raw", &socket).await.unwrap();
        // Another server takes the path.
        std::fs::remove_file(&socket).unwrap();
        let other = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
        let other = other.listen_unix(&socket).unwrap();
        server.stop().await.unwrap().check().unwrap();
        Client::builder().connect_unix(&socket).await.unwrap();
        std::fs::remove_file(&socket).unwrap();
        let json = r#"json:{"driver": "raw", "file": {"driver": "null-co", "size": 4096}}"#;
        let again = QemuNbd::new(tools.nbd.clone());
        let again = again.serve_unix(Image::verbatim(json), &socket).await;
        let again = again.unwrap();
        other.finish().await.unwrap();
        let client = Client::builder().connect_unix(&socket).await.unwrap();
        assert_eq!(client.export().size, 4096);
        again.stop().await.unwrap();
        assert!(!socket.exists());
    });
}

/// Fault 13: What `qemu-nbd --list` prints of a description with lines is read as that.
#[test]
fn a_description_with_lines_is_read_as_one() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone());
        let text = "one\n two: three\n\nfour";
        let server = nbd.clone().format("raw").description(text);
        let server = server.serve_unix(image, dir.path().join("s")).await.unwrap();
        let list = nbd.clone().list(server.address()).await.unwrap();
        assert_eq!(list.exports[0].description.as_deref(), Some(text));
        assert_eq!(list.exports[0].size, Some(MIB));
        let own = nbd::list(&server.uri()).await.unwrap();
        assert_eq!(own.exports[0].comment, text);
    });
}

#[test]
fn exports_come_and_go_and_change_their_size_while_clients_are_connected() {
    struct Growing(AtomicUsize);
    impl Backend for Growing {
        fn size(&self) -> u64 {
            self.0.load(Ordering::SeqCst) as u64
        }
        fn flags(&self) -> TransmissionFlags {
            TransmissionFlags::SEND_FLUSH
        }
        async fn read(&self, _: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
            Ok(vec![Piece::Hole(len)])
        }
        async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
            Ok(())
        }
    }
    block_on(async {
        let disk = Arc::new(Growing(AtomicUsize::new(8192)));
        let export = Export::shared(disk.clone()).name("disk");
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let uri = server.uri().unwrap();
        let client = Client::builder().connect_uri(&uri).await.unwrap();
        client.read(4096, 4096).await.unwrap();
        disk.0.store(4096, Ordering::SeqCst);
        assert!(client.read(4096, 4096).await.is_err(), "it has shrunk");
        assert!(server.remove_export("disk"));
        client.read(0, 4096).await.unwrap();
        assert!(Client::builder().connect_uri(&uri).await.is_err());
        server.add_export(Export::shared(disk).name("other"));
        let names = nbd::list(&uri).await.unwrap();
        assert_eq!(names.exports.len(), 1);
        assert_eq!(names.exports[0].name, "other");
        server.finish().await.unwrap();
    });
}
