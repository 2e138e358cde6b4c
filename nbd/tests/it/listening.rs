//! Sockets that a server is given, and those between virtual machines.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use imgtools::process::{Command, Stream};
use nbd::client::{ConnectError, Deadlines};
use nbd::proto::CommandType;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Entry, Event, Export, Server, ServerError};
use nbd::uri::Address;
use nbd::{Client, Uri};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{MIB, at_once, block_on, chain, on_one_thread, short_dir};

/// More than any machine needs; a test that gets here has failed.
const LONG: Duration = Duration::from_secs(120);

fn export() -> Export {
    Export::new(MemoryBackend::with_content(&vec![0x5a; MIB as usize]))
}

#[test]
fn a_server_takes_the_sockets_that_systemd_hands_over() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let script = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
        let itself = std::env::current_exe().unwrap();
        let server = Command::new("/bin/sh").args(["-c", script, "sh"]);
        let server = server.arg(itself).args(["--ignored", "--exact"]);
        let server = server.arg("listening::a_server_that_was_activated");
        let server = server.fd(unix, 3).fd(tcp, 4);
        let server = server.pdeathsig(true).spawn_async().await.unwrap();
        for address in [
            Address::Unix(path.clone()),
            Address::Tcp {
                host: "127.0.0.1".into(),
                port,
            },
        ] {
            let client = Client::builder().connect(&address).await.unwrap();
            assert_eq!(client.read(0, 512).await.unwrap(), [0x5a; 512]);
            client.disconnect().await.unwrap();
        }
        server.wait().await.unwrap().check().unwrap();
        assert!(path.exists(), "the file is not ours to remove");
    });
}

#[test]
#[ignore = "run by another test, which hands it sockets"]
fn a_server_that_was_activated() {
    if std::env::var_os("LISTEN_PID").is_none() {
        return;
    }
    block_on(async {
        let server = Server::builder().export(export()).from_activation();
        let server = server.unwrap();
        assert_eq!(server.addresses().len(), 2);
        let gone = |e: &nbd::server::Entry| matches!(e.event, Event::Closed(_));
        server.journal().wait_for(2, gone).await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn who_was_handed_no_socket_is_told_so() {
    block_on(async {
        let none = Server::builder().export(export()).from_activation();
        let text = chain(&none.unwrap_err());
        assert!(text.contains("LISTEN_PID"), "{text}");
    });
}

#[test]
fn a_vsock_has_an_address_in_every_form() {
    for (text, cid, port) in [
        ("nbd+vsock:///", 2, 10809),
        ("nbd+vsock://3/x", 3, 10809),
        (
            "nbds+vsock://4294967295:100000/x",
            Address::ANY_CID,
            100_000,
        ),
    ] {
        let uri: Uri = text.parse().unwrap();
        assert_eq!(uri.address, Address::Vsock { cid, port }, "{text}");
        assert_eq!(uri.tls, text.starts_with("nbds"));
    }
    for text in [
        "nbd+vsock://host/",
        "nbd+vsock://-1/",
        "nbd+vsock://4294967296/",
        "nbd+vsock://2:0/",
        "nbd+vsock://2/?socket=/s",
    ] {
        assert!(Uri::parse(text).is_err(), "{text}");
    }
    let uri = Uri::vsock(3, 1234, "x");
    assert_eq!(uri.to_string(), "nbd+vsock://3:1234/x");
    assert_eq!(uri.address.to_string(), "vsock:3:1234");
    assert_eq!((uri.to_qemu(), uri.to_legacy()), (None, None));
    let opts = "driver=nbd,server.type=vsock,server.cid=3,server.port=1234,export=x";
    assert_eq!(uri.to_image_opts().as_deref(), Some(opts));
}

/// The machine itself, by vsock.
const LOCAL: u32 = 1;

/// Whether a vsock reaches this machine itself (`vsock_loopback`), found out without what is tested.
fn has_loopback() -> nix::Result<bool> {
    use nix::sys::socket::*;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = || socket(AddressFamily::Vsock, SockType::Stream, flags, None);
    let (listener, client) = (open()?, open()?);
    let any = VsockAddr::new(Address::ANY_CID, u32::MAX);
    bind(listener.as_raw_fd(), &any)?;
    listen(&listener, Backlog::new(1)?)?;
    let port = getsockname::<VsockAddr>(listener.as_raw_fd())?.port();
    match connect(client.as_raw_fd(), &VsockAddr::new(LOCAL, port)) {
        Ok(()) => return Ok(true),
        Err(Errno::EINPROGRESS) => {}
        Err(_) => return Ok(false),
    }
    // A transport that is there connects at once; others take seconds to fail.
    let mut ready = [PollFd::new(client.as_fd(), PollFlags::POLLOUT)];
    let answered = loop {
        match poll(&mut ready, PollTimeout::from(500u16)) {
            Err(Errno::EINTR) => {}
            answered => break answered? > 0,
        }
    };
    Ok(answered && getsockopt(&client, sockopt::SocketError)? == 0)
}

/// Where the kernel reaches this machine itself by vsock, data moves; elsewhere the address is
/// known, and the error of a failed connection names it.
#[test]
fn a_vsock_is_listened_on_and_connected_to() {
    let loopback = match has_loopback() {
        Ok(loopback) => loopback,
        Err(error) => return println!("skipped: no vsock: {error}"),
    };
    block_on(async {
        let any = Address::Vsock {
            cid: Address::ANY_CID,
            port: 0,
        };
        let server = Server::builder().export(export()).listen(any).unwrap();
        let Address::Vsock { cid, port } = server.addresses()[0] else {
            panic!("{:?}", server.addresses())
        };
        assert_eq!(cid, Address::ANY_CID);
        assert!(port != 0 && port != u32::MAX, "{port}");
        let uri = Uri::vsock(LOCAL, port, "");
        let mut builder = Client::builder();
        if !loopback {
            builder = builder.deadlines(Deadlines {
                connect: Duration::from_millis(300),
                ..Deadlines::default()
            });
        }
        let blocking = std::thread::spawn({
            let (builder, uri) = (builder.clone(), uri.clone());
            move || -> Result<Vec<u8>, ConnectError> {
                let mut client = builder.connect_uri_blocking(&uri)?;
                client.write(512, vec![7; 512]).unwrap();
                Ok(client.read(0, 1024).unwrap())
            }
        });
        let blocking = tokio::task::spawn_blocking(|| blocking.join().unwrap());
        let (there, back) = ([0x5a; 512], [7; 512]);
        match (builder.connect_uri(&uri).await, blocking.await.unwrap()) {
            (Ok(client), Ok(read)) if loopback => {
                assert_eq!(read, [there, back].concat());
                assert_eq!(client.read(0, 1024).await.unwrap(), read);
                client.disconnect().await.unwrap();
            }
            (Err(one), Err(other)) if !loopback => {
                for error in [one, other] {
                    let text = chain(&error);
                    assert!(text.contains(&format!("vsock:1:{port}")), "{text}");
                }
                println!("skipped: no vsock that reaches this machine itself (vsock_loopback)");
            }
            other => panic!("loopback: {loopback}, {other:?}"),
        }
        server.stop_listening().await.unwrap();
        server.listen_again().await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn a_client_beyond_the_limit_is_accepted_when_another_one_has_left() {
    // One thread: what the server can do, it has done when a request has been answered.
    on_one_thread(async {
        let dir = short_dir();
        let server = Server::builder().export(export()).max_connections(1);
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let uri = server.uri().unwrap();
        let first = Client::builder().connect_uri(&uri).await.unwrap();
        let second = tokio::spawn({
            let uri = uri.clone();
            async move { Client::builder().connect_uri(&uri).await }
        });
        for _ in 0..20 {
            first.read(0, 512).await.unwrap();
            assert_eq!(server.connected(), 1);
        }
        assert!(!second.is_finished());
        first.disconnect().await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!(second.read(0, 512).await.unwrap(), [0x5a; 512]);
        server.finish().await.unwrap();
    });
}

#[test]
fn one_stream_is_served_to_its_end() {
    block_on(async {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = Server::builder().export(export());
        let serving = tokio::spawn(server.serve_stream(theirs));
        let client = Client::builder().connect_stream(ours).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), [0x5a; 512]);
        assert!(!serving.is_finished());
        client.disconnect().await.unwrap();
        let served = tokio::time::timeout(LONG, serving).await;
        served.expect("it serves nobody").unwrap().unwrap();
    });
}

#[test]
fn what_a_server_could_not_do_is_an_error_at_its_end_with_a_journal_and_without() {
    block_on(async {
        let dir = short_dir();
        for entries in [100, 0] {
            // A unix socket that is closed cannot listen again.
            let path = dir.path().join(entries.to_string());
            let listener = UnixListener::bind(path).unwrap();
            let server = Server::builder().export(export()).journal_limit(entries);
            let server = server.from_listener(listener).unwrap();
            server.stop_listening().await.unwrap();
            let error = server.listen_again().await.unwrap_err();
            assert!(chain(&error).contains("passed in from outside"), "{error}");
            let error = server.finish().await.unwrap_err();
            let said = error.to_string().contains("passed in from outside");
            assert!(said && matches!(error, ServerError::Failed(_)), "{error}");
        }
    });
}

const FEW: &str = "NBD_TEST_FEW_DESCRIPTORS";

/// It is a process that runs out of descriptors, so the server has one of its own.
#[test]
fn a_server_out_of_descriptors_goes_on_and_accepts_again_when_a_client_leaves() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let server = Command::new(std::env::current_exe().unwrap());
        let server = server.args(["--ignored", "--exact", "--nocapture"]);
        let server = server.arg("listening::a_server_with_few_descriptors");
        let server = server.env(FEW, &path).pdeathsig(true).deadline(LONG);
        let server = server.spawn_async().await.unwrap();
        let printed = async |word: &str| {
            let has = |text: &[u8]| String::from_utf8_lossy(text).lines().any(|l| l == word);
            let seen = server.until(|view| has(view.from(Stream::Stdout, 0)).then_some(()));
            assert!(seen.await.is_some(), "no {word:?}: {:?}", server.output());
        };
        printed("listening").await;
        let patient = Client::builder().deadlines(Deadlines {
            connect: LONG,
            handshake: LONG,
            request: LONG,
        });
        let mut served = Vec::new();
        let waiting = loop {
            let mut client = Box::pin(patient.connect_unix(&path));
            tokio::select! {
                client = &mut client => served.push(client.unwrap()),
                () = printed("out of descriptors") => break client,
            }
        };
        printed("time passes").await;
        for client in &served {
            assert_eq!(client.read(0, 512).await.unwrap(), [0x5a; 512]);
        }
        served.pop().unwrap().disconnect().await.unwrap();
        let last = waiting.await.unwrap();
        assert_eq!(last.read(0, 512).await.unwrap(), [0x5a; 512]);
        last.flush().await.unwrap();
        server.wait().await.unwrap().check().unwrap();
    });
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn a_server_with_few_descriptors() {
    let Some(path) = std::env::var_os(FEW) else {
        return;
    };
    // Time advances when all tasks are idle: it stops for a server that never is.
    at_once(async {
        let server = Server::builder().export(export()).handshake_limit(None);
        let server = server.listen_unix(path).unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let open = open.map(|fd| fd.unwrap().file_name().into_string().unwrap());
        let last: u64 = open.map(|fd| fd.parse().unwrap()).max().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, last + 4, hard).unwrap();
        println!("\nlistening");
        let journal = server.journal();
        let failed = |e: &Entry| matches!(e.event, Event::Failed { .. });
        journal.wait_for(1, failed).await.unwrap();
        println!("\nout of descriptors");
        tokio::time::sleep(Duration::from_secs(10)).await;
        println!("\ntime passes");
        let flush = CommandType::FLUSH;
        let last =
            |e: &Entry| matches!(e.event, Event::Request { command, .. } if command == flush);
        journal.wait_for(1, last).await.unwrap();
        assert_eq!(journal.count(|e| e.event == Event::StoppedListening), 0);
        assert_eq!(journal.count(failed), 1, "it is said once");
        // All were served in the end, so it is no error.
        server.finish().await.unwrap();
    });
}

const SHORT: &str = "NBD_TEST_SHORT_OF_DESCRIPTORS";

/// Runs a scene of [`a_server_short_of_descriptors`].
fn short_of_descriptors(scene: &str) {
    block_on(async {
        let server = Command::new(std::env::current_exe().unwrap());
        let server = server.args(["--ignored", "--exact", "--nocapture"]);
        let server = server.arg("listening::a_server_short_of_descriptors");
        let server = server.env(SHORT, scene).pdeathsig(true).deadline(LONG);
        server.run().await.unwrap().check().unwrap();
    });
}

/// The kernel refuses to accept before it checks for a waiting client.
#[test]
fn a_shortage_of_descriptors_that_keeps_nobody_waiting_is_not_worth_a_word() {
    short_of_descriptors("nobody waits");
}

#[test]
fn a_shortage_of_descriptors_that_lasts_is_an_error_at_the_end() {
    short_of_descriptors("lasts");
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn a_server_short_of_descriptors() {
    let Some(scene) = std::env::var_os(SHORT) else {
        return;
    };
    let lasts = scene == "lasts";
    at_once(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let server = Server::builder().export(export()).handshake_limit(None);
        let server = server.listen_unix(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        // The client is not accepted yet: for want of a descriptor, or with the last one.
        let taken = take_descriptors_but(usize::from(!lasts));
        let journal = server.journal();
        let failed = |e: &Entry| matches!(e.event, Event::Failed { .. });
        if lasts {
            journal.wait_for(1, failed).await.unwrap();
        } else {
            let accepted = |e: &Entry| e.event == Event::Accepted;
            journal.wait_for(1, accepted).await.unwrap();
        }
        // Time advances when all tasks are idle, so the server has retried more than once.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(journal.count(failed), usize::from(lasts));
        let ended = server.finish().await;
        drop(taken);
        match ended {
            Err(ServerError::Failed(all)) if lasts => {
                let why = std::io::Error::from(Errno::EMFILE);
                assert_eq!(all, [format!("accept a client: {why}")]);
            }
            ended => assert!(!lasts && ended.is_ok(), "{ended:?}"),
        }
    });
}

/// Takes all descriptors that this process may have, but for so many.
fn take_descriptors_but(free: usize) -> Vec<std::fs::File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| null.try_clone().ok()).collect();
    taken.truncate(taken.len() - free);
    taken.push(null);
    taken
}

/// The second of them could never be chosen.
#[test]
fn exports_of_one_name_are_refused_before_anything_listens() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        for name in ["", "a"] {
            let twice = || {
                let other = export().name("b");
                let server = Server::builder().export(export().name(name));
                server.export(other).export(export().name(name))
            };
            let socket = || std::os::unix::net::UnixListener::bind(dir.path().join("t")).unwrap();
            let (ours, _theirs) = tokio::io::duplex(64);
            for refused in [
                twice().detached().err(),
                twice().listen_unix(&path).err(),
                twice().from_listener(socket()).err(),
                twice().from_activation().err(),
                twice().serve_stream(ours).await.err(),
            ] {
                let error = refused.unwrap();
                let same = matches!(&error, ServerError::SameName { name: n } if n == name);
                assert!(same, "{error}");
            }
            assert!(!path.exists());
            std::fs::remove_file(dir.path().join("t")).unwrap();
        }
    });
}
