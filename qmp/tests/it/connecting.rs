//! Establishing a session: every transport, and a distinct error for every way to fail.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use qmp::mock::{Answer, Control, Monitor};
use qmp::{Client, ConnectError, Listener, Options};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const SHORT: Duration = Duration::from_millis(100);

fn monitor() -> Monitor {
    Monitor::new().on("hello", |_| {
        Answer::value(json!({"big": "x".repeat(200_000)}))
    })
}

/// What has to work over any transport.
async fn exercise(client: Client, control: Control) {
    let reply = client.execute("hello", ()).await.unwrap();
    assert_eq!(reply["big"].as_str().unwrap().len(), 200_000);
    let large = client.execute("other", json!({"a": "y".repeat(200_000)})).await;
    assert!(large.unwrap_err().command().is_some());
    let mut stops = client.subscribe("STOP");
    control.event(qmp::Event::new("STOP"));
    stops.recv().await.unwrap();
    client.quit().await.unwrap();
    client.closed().await;
}

fn short() -> Options {
    Options::default().connect_deadline(SHORT)
}

fn connect_error(result: Result<Client, ConnectError>) -> ConnectError {
    result.unwrap_err()
}

#[tokio::test]
async fn a_session_works_over_every_transport() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");

    let listener = UnixListener::bind(&path).unwrap();
    let serve = async { monitor().spawn(listener.accept().await.unwrap().0) };
    let (control, client) = tokio::join!(serve, Client::connect_unix(&path, Options::default()));
    exercise(client.unwrap(), control).await;
    std::fs::remove_file(&path).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async { monitor().spawn(listener.accept().await.unwrap().0) };
    let (control, client) = tokio::join!(serve, Client::connect_tcp(address, Options::default()));
    exercise(client.unwrap(), control).await;

    let listener = Listener::bind_unix(&path).unwrap();
    let control = monitor().spawn(UnixStream::connect(&path).await.unwrap());
    exercise(
        listener.accept_one(Options::default()).await.unwrap(),
        control,
    )
    .await;
    assert!(!path.exists(), "the listener removes its path");

    let listener = Listener::bind_tcp("127.0.0.1:0").await.unwrap();
    let control =
        monitor().spawn(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    exercise(
        listener.accept_one(Options::default()).await.unwrap(),
        control,
    )
    .await;

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let control = monitor().spawn(UnixStream::from_std(theirs).unwrap());
    let client = Client::from_fd(OwnedFd::from(ours), Options::default()).await.unwrap();
    exercise(client, control).await;

    let (ours, theirs) = UnixStream::pair().unwrap();
    let control = monitor().spawn(theirs);
    let client = Client::from_unix_stream(ours, Options::default()).await.unwrap();
    exercise(client, control).await;

    // A stream that keeps what is written until it is flushed, as TLS does.
    let (ours, theirs) = tokio::io::duplex(4096);
    let control = monitor().spawn(theirs);
    let stream = tokio::io::BufStream::new(ours);
    let client = Client::from_stream(stream, Options::default()).await.unwrap();
    exercise(client, control).await;

    // Two pipes, as with the stdio of a child.
    let (our_end, their_read) = tokio::net::unix::pipe::pipe().unwrap();
    let (their_end, our_read) = tokio::net::unix::pipe::pipe().unwrap();
    let control = monitor().spawn(tokio::io::join(their_read, their_end));
    let stream = tokio::io::join(our_read, our_end);
    exercise(
        Client::from_stream(stream, Options::default()).await.unwrap(),
        control,
    )
    .await;
}

#[tokio::test]
async fn each_failure_to_connect_has_its_own_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let error = connect_error(Client::connect_unix(&path, Options::default()).await);
    assert!(matches!(error, ConnectError::Missing { .. }), "{error:?}");

    // Bound but not listening. A listener that is dropped may live on for a moment in a child that
    // another test starts.
    let deaf = tokio::net::UnixSocket::new_stream().unwrap();
    deaf.bind(&path).unwrap();
    let error = connect_error(Client::connect_unix(&path, Options::default()).await);
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    drop(deaf);
    std::fs::remove_file(&path).unwrap();

    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = deaf.local_addr().unwrap();
    let error = connect_error(Client::connect_tcp(closed, Options::default()).await);
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");

    // A monitor that serves another client: the connection waits in the backlog.
    let listener = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let error = connect_error(Client::connect_unix(&path, short()).await);
    assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
    assert!(
        error.to_string().contains("serves another client"),
        "{error}"
    );
    assert!(begun.elapsed() >= SHORT);
    drop(listener);
    std::fs::remove_file(&path).unwrap();

    // So many wait for it that there is no room for one more.
    let full = tokio::net::UnixSocket::new_stream().unwrap();
    full.bind(&path).unwrap();
    let full = full.listen(0).unwrap();
    let _first = UnixStream::connect(&path).await.unwrap();
    let error = connect_error(Client::connect_unix(&path, short()).await);
    assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
    drop(full);

    // A host that does not answer: its queue of new connections is full.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let _first = TcpStream::connect(address).await.unwrap();
    let error = connect_error(Client::connect_tcp(address, short()).await);
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");

    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = connect_error(Client::from_unix_stream(ours, Options::default()).await);
    assert!(matches!(error, ConnectError::Closed { .. }), "{error:?}");

    let listener = Listener::bind_unix(folder.path().join("other")).unwrap();
    let error = connect_error(listener.accept_one(short()).await);
    assert!(matches!(error, ConnectError::Nobody { .. }), "{error:?}");

    let null = std::fs::File::open("/dev/null").unwrap();
    let error = connect_error(Client::from_fd(null, Options::default()).await);
    assert!(matches!(error, ConnectError::Io { .. }), "{error:?}");

    let (datagrams, _theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let error = connect_error(Client::from_fd(datagrams, short()).await);
    assert!(matches!(error, ConnectError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn a_child_that_is_stopped_is_told_from_one_that_is_silent() {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "kill -STOP $$"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = child.id().unwrap();
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat[stat.rfind(')').unwrap() + 1..].trim_start().starts_with('T')
    };
    while !is_stopped() {
        tokio::task::yield_now().await;
    }
    let error = connect_error(Client::from_child(&mut child, short()).await);
    let ConnectError::Stopped { pid: found, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(u32::try_from(found), Ok(pid));
}

#[tokio::test]
async fn no_tcp_connection_waits_for_acknowledgements() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let control = monitor().spawn(TcpStream::from_std(theirs).unwrap());
    let same = ours.try_clone().unwrap();
    let client = Client::from_fd(ours, Options::default()).await.unwrap();
    assert!(same.nodelay().unwrap());
    exercise(client, control).await;
}

/// On a clock that advances only when all tasks are idle: the peer has sent everything by the
/// deadline, however busy the machine is.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_after_the_peer_has_spoken_says_what_was_heard() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let _control = Monitor::new().silent().before_greeting("SSH-2.0-OpenSSH_9.2").spawn(theirs);
    let error = connect_error(Client::from_stream(ours, short()).await);
    let ConnectError::Handshake { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("SSH-2.0"), "{source}");

    let (ours, theirs) = tokio::io::duplex(4096);
    let control = Monitor::new().spawn(theirs);
    control.block();
    let error = connect_error(Client::from_stream(ours, short()).await);
    assert!(
        matches!(error, ConnectError::NegotiationTimeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_socket_can_be_waited_for_until_it_is_there_or_its_process_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let waiting = Client::wait_unix(&path, Options::default(), std::future::pending());
    let appear = async {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let listener = UnixListener::bind(&path).unwrap();
        monitor().spawn(listener.accept().await.unwrap().0)
    };
    let (client, control) = tokio::join!(waiting, appear);
    exercise(client.unwrap(), control).await;
    std::fs::remove_file(&path).unwrap();

    let gone = async { "QEMU has exited with status 1".to_owned() };
    let error = connect_error(Client::wait_unix(&path, Options::default(), gone).await);
    assert!(matches!(error, ConnectError::Gone { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("QEMU has exited with status 1"),
        "{error}"
    );

    let error = connect_error(Client::wait_unix(&path, short(), std::future::pending()).await);
    assert!(matches!(error, ConnectError::Missing { .. }), "{error:?}");
}

#[tokio::test]
async fn a_deadline_beyond_all_time_is_none() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let control = monitor().spawn(theirs);
    let options = Options::default().connect_deadline(Duration::MAX).call_deadline(Duration::MAX);
    let client = Client::from_unix_stream(ours, options).await.unwrap();
    exercise(client, control).await;
}

#[tokio::test]
async fn a_connection_attempt_that_is_dropped_closes_its_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let attempt = Client::from_unix_stream(ours, Options::default());
    tokio::select! {
        biased;
        _ = attempt => panic!("nobody greets"),
        () = tokio::task::yield_now() => {}
    }
    let mut buf = [0; 8];
    theirs.readable().await.unwrap();
    assert_eq!(theirs.try_read(&mut buf).unwrap(), 0);
}

/// A socket address holds 107 bytes; folders of users may be deeper.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn sockets_at_paths_of_any_length_are_listened_at_waited_for_and_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_owned();
    (0..4).for_each(|_| deep.push("d".repeat(60)));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("s".repeat(120));

    let error = Client::connect_unix(&path, Options::default()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("failed to connect: there is no socket"),
        "{error}"
    );

    let waiting = tokio::spawn({
        let path = path.clone();
        async move { Client::wait_unix(&path, Options::default(), std::future::pending()).await }
    });
    let listener = qmp::socket::listen(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    for connect in [
        waiting,
        tokio::spawn({
            let path = path.clone();
            async move { Client::connect_unix(&path, Options::default()).await }
        }),
    ] {
        let (theirs, _) = listener.accept().await.unwrap();
        let _control = qmp::mock::Monitor::new().spawn(theirs);
        connect.await.unwrap().unwrap().quit().await.unwrap();
    }
    drop(listener);
    std::fs::remove_file(&path).unwrap();

    let listener = qmp::Listener::bind_unix(&path).unwrap();
    let theirs = qmp::socket::connect(&path).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
    let _control = qmp::mock::Monitor::new().spawn(theirs);
    let client = listener.accept_one(Options::default()).await.unwrap();
    client.quit().await.unwrap();
    assert!(!path.exists(), "the listener has removed it");
}

#[tokio::test]
async fn a_tcp_address_is_named_in_errors_as_it_was_given() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let named = address.to_string();
    for error in [
        Client::connect_tcp(address, Options::default()).await,
        Client::connect_tcp(named.as_str(), Options::default()).await,
    ] {
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            format!("failed to connect to {named}: nothing listens there")
        );
    }
    let error = Client::connect_tcp("no address", Options::default()).await;
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "failed to connect to no address");
}
