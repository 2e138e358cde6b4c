//! The sockets of a server: they accept clients, and can be closed and reopened.

use std::future::{pending, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, Backlog, Shutdown, sockopt};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::connection::{self, Connection};
use super::error::ServerError;
use super::state::{Note, Order, Orders, Shared};
use crate::socket::Socket;
use crate::unix::SocketFile;
use crate::uri::Address;
use crate::vsock;

/// The listen backlog.
const BACKLOG: u32 = 128;

/// How long accepting pauses when descriptors or memory run out. A connection that ends cuts it
/// short.
const RECOVERY: Duration = Duration::from_millis(100);

/// How long a child between fork and exec may hold copies of our sockets.
const COPIES_LAST: Duration = Duration::from_secs(5);

/// A listening socket, created elsewhere.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListeningSocket {
    /// A unix socket. Its file, if any, belongs to its creator.
    Unix(std::os::unix::net::UnixListener),
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A vsock.
    Vsock(OwnedFd),
}

impl From<std::os::unix::net::UnixListener> for ListeningSocket {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        ListeningSocket::Unix(listener)
    }
}

impl From<std::net::TcpListener> for ListeningSocket {
    fn from(listener: std::net::TcpListener) -> Self {
        ListeningSocket::Tcp(listener)
    }
}

/// A listening socket that can be closed and reopened.
pub(super) struct Listener {
    address: Address,
    socket: Listening,
    file: Arc<SocketFile>,
    /// The socket was passed in, so it cannot be created again.
    adopted: bool,
}

enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
    Vsock(vsock::Listener),
    /// Closed, with nothing left at the path.
    Closed,
    /// Not listening, but the port is still bound to this socket: no other process can take it
    /// meanwhile, and no second `bind` is needed, which would fail while a child between fork and
    /// exec holds a copy of a listening socket.
    Reserved(std::net::TcpListener),
}

impl Listener {
    pub(super) fn new(address: &Address) -> io::Result<Listener> {
        let mut listener = Listener {
            address: address.clone(),
            socket: Listening::Closed,
            file: Arc::default(),
            adopted: false,
        };
        // A first socket finds a free port, and holds it until the listening one is bound to it by
        // number: only then does the kernel keep a socket's port when it stops listening.
        let _free = match address {
            Address::Tcp { host, port: 0 } => {
                let free = bind_tcp(host, 0)?;
                let local = free.local_addr()?;
                listener.address = Address::Tcp {
                    host: local.ip().to_string(),
                    port: local.port(),
                };
                Some(free)
            }
            _ => None,
        };
        listener.open()?;
        Ok(listener)
    }

    /// Takes over a listening socket.
    pub(super) fn adopt(socket: ListeningSocket) -> Result<Listener, ServerError> {
        let address = match &socket {
            ListeningSocket::Unix(unix) => match unix.local_addr() {
                Ok(name) => Address::of_unix(&name),
                Err(_) => Address::unknown(),
            },
            ListeningSocket::Tcp(tcp) => match tcp.local_addr() {
                Ok(name) => Address::of_tcp(name),
                Err(_) => Address::unknown(),
            },
            ListeningSocket::Vsock(fd) => {
                vsock::Listener::address(fd).unwrap_or_else(|_| Address::unknown())
            }
        };
        let wrap = |source| ServerError::Listen {
            address: address.clone(),
            source,
        };
        let socket = match socket {
            ListeningSocket::Unix(unix) => unix
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(unix))
                .map(Listening::Unix),
            ListeningSocket::Tcp(tcp) => tcp
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(tcp))
                .map(Listening::Tcp),
            ListeningSocket::Vsock(fd) => vsock::Listener::new(fd).map(Listening::Vsock),
        };
        Ok(Listener {
            socket: socket.map_err(wrap)?,
            address,
            file: Arc::default(),
            adopted: true,
        })
    }

    /// Where it listens, with its actual port.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn socket_file(&self) -> Arc<SocketFile> {
        self.file.clone()
    }

    /// Listens at its address; a no-op if it already does.
    fn open(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Closed => match &self.address {
                _ if self.adopted => {
                    let text = "the socket was passed in from outside, and is closed";
                    return Err(io::Error::new(io::ErrorKind::Unsupported, text));
                }
                Address::Unix(path) => {
                    let listener = crate::unix::bind(path)?;
                    listener.set_nonblocking(true)?;
                    self.file.made(path);
                    Listening::Unix(UnixListener::from_std(listener)?)
                }
                Address::Abstract(name) => {
                    let listener = crate::unix::bind_abstract(name)?;
                    listener.set_nonblocking(true)?;
                    Listening::Unix(UnixListener::from_std(listener)?)
                }
                Address::Tcp { host, port } => {
                    Listening::Tcp(bind_tcp(host, *port)?.listen(BACKLOG)?)
                }
                Address::Vsock { cid, port } => {
                    let fd = vsock::bind(*cid, *port, BACKLOG as i32)?;
                    // The port is known from here on.
                    self.address = vsock::Listener::address(&fd)?;
                    Listening::Vsock(vsock::Listener::new(fd)?)
                }
            },
            Listening::Reserved(socket) => {
                socket::listen(&socket, Backlog::new(BACKLOG as i32)?)?;
                Listening::Tcp(TcpListener::from_std(socket)?)
            }
            open => open,
        };
        Ok(())
    }

    /// Listens again. A child has a copy of each socket between fork and exec, and for some socket
    /// kinds a copy keeps the address in use; nothing reports when it is free.
    async fn reopen(&mut self) -> io::Result<()> {
        let until = Instant::now() + COPIES_LAST;
        loop {
            match self.open() {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                opened => return opened,
            }
        }
    }

    /// Stops listening: waiting clients are disconnected, new ones refused.
    fn close(&mut self) -> io::Result<()> {
        self.file.remove();
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Tcp(listener) => {
                let socket = listener.into_std()?;
                // Unlike `close` this affects every copy of the descriptor, and keeps the port,
                // since that was bound by number.
                socket::shutdown(socket.as_raw_fd(), Shutdown::Both)?;
                Listening::Reserved(socket)
            }
            Listening::Unix(_) | Listening::Vsock(_) => Listening::Closed,
            closed => closed,
        };
        Ok(())
    }

    /// Whether a client is waiting to be accepted, as far as that can be determined.
    fn is_waited_at(&self) -> bool {
        let fd = match &self.socket {
            Listening::Closed | Listening::Reserved(_) => return false,
            Listening::Unix(listener) => listener.as_fd(),
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Vsock(_) => return true,
        };
        let mut ready = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        match &self.socket {
            Listening::Closed | Listening::Reserved(_) => Poll::Pending,
            Listening::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| {
                crate::unix::enlarge(&stream);
                Socket::Unix(stream)
            }),
            Listening::Vsock(listener) => listener.poll_accept(cx).map_ok(Socket::Unix),
            Listening::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| {
                // This fails if the client is already gone, which is detected elsewhere.
                let _ = stream.set_nodelay(true);
                Socket::Tcp(stream)
            }),
        }
    }
}

/// The next client of any of them; `idle` is called when none is waiting.
async fn accept(listeners: &[Listener], mut idle: impl FnMut()) -> io::Result<Socket> {
    poll_fn(|cx| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        idle();
        Poll::Pending
    })
    .await
}

/// Accepts until the server shuts down, then waits for the connections to end.
pub(super) async fn run(
    mut listeners: Vec<Listener>,
    shared: Arc<Shared>,
    numbers: Arc<AtomicU64>,
    mut orders: Orders,
) {
    let mut connections = JoinSet::new();
    let mut pause: Pause = Box::pin(pending());
    // Set when a client could not be accepted because of a temporary shortage.
    let mut exhausted: Option<Pin<Box<Sleep>>> = None;
    // The record of that.
    let mut want: Option<Note> = None;
    loop {
        let room = connections.len() < shared.max_connections && exhausted.is_none();
        tokio::select! {
            biased;
            () = shared.ended() => break,
            Some((order, done)) = orders.recv() => {
                let (next, outcome) = obey(&mut listeners, order, &shared).await;
                pause = next;
                // The sender of the order may be gone.
                let _ = done.send(outcome);
            }
            () = &mut pause => pause = obey(&mut listeners, Order::Listen, &shared).await.0,
            Some(_) = connections.join_next() => exhausted = None,
            () = recovered(&mut exhausted) => exhausted = None,
            accepted = accept(&listeners, || overcome(&mut want, &shared)), if room => {
                let socket = match accepted {
                    Ok(socket) => {
                        overcome(&mut want, &shared);
                        socket
                    }
                    Err(error) if is_of_the_socket(&error) => {
                        shared.note(0, failed_to_accept(&error));
                        // It would keep failing forever.
                        pause = obey(&mut listeners, Order::Stop, &shared).await.0;
                        continue;
                    }
                    Err(error) if is_for_want(&error) => {
                        // The kernel reports this before checking whether there is a client at all.
                        if want.is_none() && listeners.iter().any(Listener::is_waited_at) {
                            shared.note(0, failed_to_accept(&error));
                            want = Some(failed_to_accept(&error));
                        }
                        // The client keeps waiting, and is accepted when resources are available.
                        exhausted = Some(Box::pin(tokio::time::sleep(RECOVERY)));
                        continue;
                    }
                    // A client that is gone before it was accepted does not count.
                    Err(_) => continue,
                };
                let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
                let connection = Connection::accepted(number, shared.clone());
                connections.spawn(connection::serve(Some(socket), connection));
            }
        }
    }
    // This drops the sockets, whether or not they could be closed before.
    for listener in &mut listeners {
        let _ = listener.close();
        listener.socket = Listening::Closed;
    }
    while connections.join_next().await.is_some() {}
}

/// Carries out an order, and returns what to wait for before listening again.
async fn obey(
    listeners: &mut [Listener],
    order: Order,
    shared: &Arc<Shared>,
) -> (Pause, io::Result<()>) {
    let opens = matches!(order, Order::Listen);
    let mut outcome = Ok(());
    for listener in listeners {
        outcome = match opens {
            true => listener.reopen().await,
            false => listener.close(),
        };
        if outcome.is_err() {
            break;
        }
    }
    let (what, note) = match opens {
        true => ("listen again", Note::Listening),
        false => ("stop listening", Note::StoppedListening),
    };
    match &outcome {
        Ok(()) => shared.note(0, note),
        Err(error) => {
            let why = error.to_string();
            shared.note(0, Note::Failed { what, why });
        }
    }
    let pause: Pause = match order {
        #[cfg(feature = "faults")]
        Order::StopUntil(trigger) => Box::pin(async move { trigger.wait().await }),
        #[cfg(feature = "faults")]
        Order::StopFor(time) => match &shared.faults {
            Some(faults) => {
                let clock = faults.clock.clone();
                let at = clock.after(time);
                Box::pin(async move { clock.reach(at).await })
            }
            None => Box::pin(pending()),
        },
        Order::Listen | Order::Stop => Box::pin(pending()),
    };
    (pause, outcome)
}

/// The sockets passed to this process (`sd_listen_fds(3)`). Each is a duplicate, since other code
/// may use the original descriptor.
pub(super) fn activated() -> Result<Vec<ListeningSocket>, ServerError> {
    let none = |why: &str| ServerError::Listen {
        address: Address::unknown(),
        source: io::Error::new(io::ErrorKind::NotFound, why.to_owned()),
    };
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Err(none("no socket was handed to this process (LISTEN_PID)"));
    }
    let count = number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok());
    let Some(last) = count.filter(|count| *count > 0).and_then(|count| count.checked_add(2)) else {
        return Err(none("no socket was handed to this process (LISTEN_FDS)"));
    };
    let wrap = |source: io::Error| ServerError::Listen {
        address: Address::unknown(),
        source,
    };
    (3..=last)
        .map(|fd| crate::unix::duplicate_of(fd).and_then(listening))
        .collect::<io::Result<_>>()
        .map_err(wrap)
}

fn listening(fd: OwnedFd) -> io::Result<ListeningSocket> {
    use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    Ok(match name.family() {
        Some(AddressFamily::Unix) => ListeningSocket::Unix(fd.into()),
        Some(AddressFamily::Inet | AddressFamily::Inet6) => ListeningSocket::Tcp(fd.into()),
        Some(AddressFamily::Vsock) => ListeningSocket::Vsock(fd),
        _ => return Err(io::ErrorKind::Unsupported.into()),
    })
}

type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

fn bind_tcp(host: &str, port: u16) -> io::Result<TcpSocket> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let address: SocketAddr = (host, port).to_socket_addrs()?.next().ok_or_else(none)?;
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The port may still be in TIME_WAIT from before.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn failed_to_accept(error: &io::Error) -> Note {
    Note::Failed {
        what: "accept a client",
        why: error.to_string(),
    }
}

async fn recovered(exhausted: &mut Option<Pin<Box<Sleep>>>) {
    match exhausted {
        Some(sleep) => sleep.as_mut().await,
        None => pending().await,
    }
}

/// A shortage is over: no client is waiting any more.
fn overcome(want: &mut Option<Note>, shared: &Shared) {
    if let Some(want) = want.take() {
        shared.overcome(&want);
    }
}

/// Whether this socket will never accept a client.
fn is_of_the_socket(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::EBADF, Errno::EINVAL])
}

/// Whether no client can be accepted now because descriptors or memory ran out.
fn is_for_want(error: &io::Error) -> bool {
    use Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    is_one_of(error, &[EMFILE, ENFILE, ENOBUFS, ENOMEM])
}

fn is_one_of(error: &io::Error, these: &[Errno]) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| these.contains(&errno))
}

#[cfg(all(test, feature = "faults"))]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::server::{Event, Server};

    fn tcp() -> (Listener, SocketAddr) {
        let listener = Listener::new(&Address::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        });
        let listener = listener.unwrap();
        let Address::Tcp { host, port } = &listener.address else {
            panic!("{:?}", listener.address)
        };
        let address = format!("{host}:{port}").parse().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_port_comes_back_though_a_child_that_starts_holds_a_copy_of_the_socket() {
        let (mut listener, address) = tcp();
        for _ in 0..3 {
            let Listening::Tcp(socket) = &listener.socket else {
                panic!("not open")
            };
            // What every child has between `fork` and `exec`.
            let copy = nix::unistd::dup(socket).unwrap();
            listener.close().unwrap();
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            listener.open().unwrap();
            let client = TcpStream::connect(address).unwrap();
            let clients = accept(std::slice::from_ref(&listener), || {});
            clients.await.unwrap();
            drop((client, copy));
        }
    }

    #[tokio::test]
    async fn a_name_comes_back_when_a_child_that_starts_has_let_go_of_its_copy() {
        let name = format!("nbd-listener-{}", std::process::id());
        let mut listener = Listener::new(&Address::Abstract(name.into())).unwrap();
        let Listening::Unix(socket) = &listener.socket else {
            panic!("not open")
        };
        let copy = nix::unistd::dup(socket).unwrap();
        listener.close().unwrap();
        let mut again = Box::pin(listener.reopen());
        let first = poll_fn(|cx| Poll::Ready(again.as_mut().poll(cx).is_pending()));
        assert!(first.await, "it is taken yet");
        drop(copy);
        again.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_else_is_given_the_port_meanwhile() {
        let (mut listener, address) = tcp();
        listener.close().unwrap();
        let stranger = TcpSocket::new_v4().unwrap();
        let taken = stranger.bind(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn clients_that_wait_when_it_stops_are_disconnected() {
        use std::io::Read;
        let (mut listener, address) = tcp();
        let mut waiting = TcpStream::connect(address).unwrap();
        listener.close().unwrap();
        let gone = waiting.read(&mut [0]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn that_no_client_can_be_accepted_is_an_error_and_said_once() {
        use std::io::Write;
        // Readable, so it looks as if a client were waiting; but it does not listen.
        let (socket, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        peer.write_all(b"?").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
        let listener = Listener {
            address: Address::Unix("/nonexistent/socket".into()),
            socket: Listening::Unix(UnixListener::from_std(socket).unwrap()),
            file: Arc::default(),
            adopted: false,
        };
        let (shared, orders) = Server::builder().build();
        let accepting = tokio::spawn(run(vec![listener], shared.clone(), Arc::default(), orders));
        let journal = shared.faults.clone().unwrap().journal.clone();
        let (what, why) = ("accept a client".into(), Errno::EINVAL);
        let failed = Event::Failed {
            what,
            why: io::Error::from(why).to_string(),
        };
        let stopped = journal.wait_for(1, |e| e.event == Event::StoppedListening);
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, stopped).await.unwrap().unwrap();
        assert_eq!(journal.count(|e| e.event == failed), 1);
        accepting.abort();
    }
}
