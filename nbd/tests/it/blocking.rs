//! The blocking client: the same machines, without a runtime of its own.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nbd::Client;
use nbd::client::blocking::Client as Blocking;
use nbd::client::{ClientBuilder, Command, ConnectError, Deadlines, HandshakeError, RequestError};
use nbd::proto::{CommandFlags, CommandType as C, Errno, Mode};
use nbd::server::backend::MemoryBackend;
use nbd::server::plan::{Action, FaultPlan, Malformed, On, Rule};
use nbd::server::{Export, Server, ServerBuilder};
use nbd::tls::{ClientTls, ServerTls};
use nbd::uri::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::support::{MIB, block_on, chain, each, served, short_dir};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");

fn memory() -> ServerBuilder {
    Server::builder().export(Export::new(MemoryBackend::new(64 * MIB)))
}

fn builder() -> ClientBuilder {
    Client::builder().context("base:allocation")
}

/// Runs blocking work beside a server.
async fn beside(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.unwrap();
}

/// All that a client does.
fn exercise(mut client: Blocking) {
    client.write(4096, vec![7; MIB as usize]).unwrap();
    assert_eq!(client.read(4096, MIB).unwrap(), vec![7; MIB as usize]);
    let flags = CommandFlags::empty();
    client.write_zeroes(4096, 4096, flags).unwrap();
    assert_eq!(client.read(4096, 4096).unwrap(), [0; 4096]);
    client.trim(8192, 4096).unwrap();
    client.flush().unwrap();
    if client.export().mode.has_chunks() {
        let status = client.block_status(0, MIB).unwrap();
        assert_eq!(status[0].context, "base:allocation");
    }
    client.disconnect().unwrap();
}

#[test]
fn it_does_in_each_mode_over_each_transport_what_the_other_client_does() {
    block_on(async {
        let dir = short_dir();
        for mode in Mode::ALL {
            let path = dir.path().join(mode.to_string());
            let long = dir.path().join("x".repeat(90)).join(mode.to_string());
            std::fs::create_dir_all(long.parent().unwrap()).unwrap();
            let abstracted = Address::Abstract(path.to_str().unwrap().into());
            let tcp = Address::Tcp {
                host: "127.0.0.1".into(),
                port: 0,
            };
            let all = [Address::Unix(path), Address::Unix(long), abstracted, tcp];
            let server = memory().mode(mode).listen_all(all).unwrap();
            let addresses = server.addresses().to_vec();
            beside(move || {
                let mut builder = Client::builder().mode(mode);
                if mode.has_chunks() {
                    builder = builder.context("base:allocation");
                }
                for address in addresses {
                    exercise(builder.connect_blocking(&address).unwrap());
                    // A socket that somebody else has connected.
                    let fd: OwnedFd = match &address {
                        Address::Tcp { host, port } => {
                            let stream = TcpStream::connect((host.as_str(), *port));
                            stream.unwrap().into()
                        }
                        Address::Unix(path) if path.as_os_str().len() < 100 => {
                            UnixStream::connect(path).unwrap().into()
                        }
                        _ => continue,
                    };
                    exercise(builder.connect_fd_blocking(fd).unwrap());
                }
            })
            .await;
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn many_requests_are_under_way_at_once_whatever_stands_in_whose_buffer() {
    block_on(async {
        let dir = short_dir();
        let tls = ServerTls::from_certificates(FOLDER, false).unwrap();
        for tls in [None, Some(tls)] {
            let mut server = memory();
            if let Some(tls) = tls.clone() {
                server = server.tls(tls);
            }
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let address = server.addresses()[0].clone();
            beside(move || {
                let mut builder = builder();
                if tls.is_some() {
                    let name = "disks.example";
                    builder = builder.tls(ClientTls::from_certificates(FOLDER, name).unwrap());
                }
                let mut client = builder.connect_blocking(&address).unwrap();
                // Both sides have far more to say than the socket holds.
                let mut tickets = Vec::new();
                for n in 0..32u8 {
                    let at = u64::from(n) * 2 * MIB;
                    let data = vec![n; MIB as usize];
                    tickets.push((n, client.submit(Command::write(at, data)).unwrap()));
                    let read = Command::read(at + MIB, MIB);
                    tickets.push((0, client.submit(read).unwrap()));
                }
                for (n, ticket) in tickets.into_iter().rev() {
                    let reply = client.wait(ticket).unwrap();
                    assert!(
                        reply.data.is_empty() || reply.data == vec![0; MIB as usize],
                        "{n}"
                    );
                }
                for n in 0..32u8 {
                    let read = client.read(u64::from(n) * 2 * MIB, MIB).unwrap();
                    assert_eq!(read, vec![n; MIB as usize]);
                }
                client.disconnect().unwrap();
            })
            .await;
            server.finish().await.unwrap();
        }
    });
}

/// A stream of which little is read at a time.
struct Slow(tokio::net::UnixStream);

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut few = buf.take(1024);
        let read = Pin::new(&mut self.0).poll_read(cx, &mut few);
        let n = few.filled().len();
        buf.advance(n);
        read
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Under TLS the last bytes of a write are taken before the socket has room for them.
#[test]
fn what_a_full_socket_does_not_take_under_tls_is_sent_when_it_has_room() {
    block_on(async {
        let tls = ServerTls::from_certificates(FOLDER, false).unwrap();
        let server = memory().tls(tls).detached().unwrap();
        let (theirs, ours) = tokio::net::UnixStream::pair().unwrap();
        server.serve(Slow(theirs));
        let ours = ours.into_std().unwrap();
        beside(move || {
            let tls = ClientTls::from_certificates(FOLDER, "disks.example").unwrap();
            let builder = Client::builder().tls(tls);
            let mut client = builder.connect_fd_blocking(ours.into()).unwrap();
            client.write(0, vec![7; MIB as usize]).unwrap();
            client.disconnect().unwrap();
        })
        .await;
        server.finish().await.unwrap();
    });
}

#[test]
fn its_errors_are_those_of_the_other_client() {
    block_on(async {
        let dir = short_dir();
        let plan = FaultPlan::new()
            .rule(Rule::new(On::request(C::READ), Action::error(Errno::EIO)))
            .rule(Rule::new(On::reply(C::FLUSH), Action::Drop))
            .rule(Rule::new(On::reply(C::READ), Action::Malform(Malformed::Gap)).nth(2));
        let server = memory().plan(plan).listen_unix(dir.path().join("s"));
        let server = server.unwrap();
        let address = server.addresses()[0].clone();
        beside(move || {
            let short = Deadlines {
                request: Duration::from_millis(50),
                ..Deadlines::default()
            };
            let patient = builder().connect_blocking(&address);
            drop(patient.unwrap());
            let builder = builder().deadlines(short);
            let mut client = builder.connect_blocking(&address).unwrap();
            assert_eq!(client.read(0, 512).unwrap_err().errno(), Some(Errno::EIO));
            let late = client.flush().unwrap_err();
            assert!(matches!(late, RequestError::Deadline { .. }), "{late}");
            let misuse = client.read(64 * MIB, 1).unwrap_err();
            assert!(matches!(misuse, RequestError::Misuse { .. }), "{misuse}");
        })
        .await;
        let address = server.addresses()[0].clone();
        beside(move || {
            let mut client = builder().connect_blocking(&address).unwrap();
            let lie = client.read(0, 8192).unwrap_err();
            assert!(lie.violation().is_some(), "{}", chain(&lie));
            // It stays dead, and says why.
            let again = client.read(0, 8192).unwrap_err();
            assert!(again.violation().is_some(), "{}", chain(&again));
            let wrong = Client::builder().export("nobody");
            let error = wrong.connect_blocking(&address).unwrap_err();
            let refused = matches!(error.handshake(), Some(HandshakeError::Refused { .. }));
            assert!(refused, "{}", chain(&error));
        })
        .await;
        server.finish().await.unwrap();
        let nobody = Address::Unix(dir.path().join("nobody"));
        let error = builder().connect_blocking(&nobody).unwrap_err();
        assert!(matches!(error, ConnectError::Socket { .. }), "{error}");
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let dir = short_dir();
    let path = dir.path().join("s");
    let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let limit = Duration::from_millis(50);
    let short = Deadlines {
        connect: limit,
        handshake: limit,
        request: limit,
    };
    let since = Instant::now();
    let builder = Client::builder().deadlines(short);
    let error = builder.connect_blocking(&Address::Unix(path)).unwrap_err();
    let late = matches!(error.handshake(), Some(HandshakeError::Deadline { .. }));
    assert!(late, "{}", chain(&error));
    assert!(since.elapsed() >= limit);
}

#[test]
fn it_talks_with_every_qemu_nbd() {
    each(|tools, dir| async move {
        let server = served(&tools, &dir).await;
        let uri = server.uri();
        beside(move || {
            let mut client = builder().connect_uri_blocking(&uri).unwrap();
            client.write(0, vec![3; 4096]).unwrap();
            assert_eq!(client.read(0, 4096).unwrap(), [3; 4096]);
            client.disconnect().unwrap();
        })
        .await;
        server.stop().await.unwrap().check().unwrap();
    });
}

#[test]
fn a_handle_is_one_disk_over_several_connections() {
    block_on(async {
        let dir = short_dir();
        let server = memory().listen_tcp().unwrap();
        let uri = server.uri().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        beside(move || {
            let disk = builder().handle().connections(3);
            let disk = disk.connect_uri_blocking(&uri).unwrap();
            assert_eq!((disk.connections(), disk.export().size), (3, 64 * MIB));
            // More than one request can carry.
            disk.write(MIB, vec![7; 40 * MIB as usize]).unwrap();
            let data = disk.read(0, 42 * MIB).unwrap();
            let (head, rest) = data.split_at(MIB as usize);
            let (mid, tail) = rest.split_at(40 * MIB as usize);
            let is_all = |part: &[u8], byte| part.iter().all(|b| *b == byte);
            assert!(is_all(head, 0) && is_all(mid, 7) && is_all(tail, 0));
            disk.flush().unwrap();
            let extents = disk.extents("base:allocation", 0..64 * MIB);
            let data = extents.map(Result::unwrap).filter(|e| e.status == 0);
            assert_eq!(data.map(|e| e.len).sum::<u64>(), 40 * MIB);
            let mut unknown = disk.extents("no:such", 0..MIB);
            assert!(unknown.next().unwrap().is_err() && unknown.next().is_none());

            disk.copy_to_file(&to, |_, _| {}).unwrap();
            assert_eq!(std::fs::metadata(&to).unwrap().len(), 64 * MIB);
            std::fs::write(&from, vec![9; MIB as usize]).unwrap();
            let mut seen = 0;
            disk.copy_from_file(&from, |done, _| seen = done).unwrap();
            assert_eq!(seen, MIB);
            let flags = CommandFlags::empty();
            disk.write_zeroes(0, 4096, flags).unwrap();
            disk.trim(4096, 4096).unwrap();
            // From another thread.
            let read = std::thread::scope(|s| s.spawn(|| disk.read(0, MIB)).join().unwrap());
            let read = read.unwrap();
            assert!(is_all(&read[..4096], 0) && is_all(&read[8192..], 9));
            disk.disconnect();
        })
        .await;
        let journal = server.finish().await.unwrap();
        let begun =
            |e: &nbd::server::Entry| matches!(e.event, nbd::server::Event::Transmission { .. });
        assert_eq!(journal.count(begun), 3);
    });
}
