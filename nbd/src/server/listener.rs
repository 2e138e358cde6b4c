//! The socket of a server: it accepts clients, and can be closed and opened again.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{self, Backlog, Shutdown, sockopt};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::task::JoinSet;

use super::connection::{self, Connection};
use super::journal::Event;
use super::state::{Order, Orders, Shared};
use super::wire::Socket;
use crate::uri::Address;

/// Clients that may wait to be accepted.
const BACKLOG: u32 = 128;

/// A listening socket that can be closed and opened again.
pub(super) struct Listener {
    address: Address,
    socket: Listening,
    file: Arc<SocketFile>,
}

enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// Closed, with nothing left at the path.
    Closed,
    /// Not listening, the port still bound to this socket: nobody else is given it meanwhile, and
    /// it takes no second `bind`, which would fail as long as a child that is being started holds a
    /// copy of a listening socket.
    Reserved(std::net::TcpListener),
}

/// The file of a unix socket, while it is ours to remove: what somebody else made at the path
/// after us is not.
#[derive(Debug, Default)]
pub(super) struct SocketFile(Mutex<Option<PathBuf>>);

impl SocketFile {
    fn made(&self, path: &Path) {
        *self.lock() = Some(path.to_owned());
    }

    pub(super) fn remove(&self) {
        if let Some(path) = self.lock().take() {
            // It may have been removed by the test.
            let _ = std::fs::remove_file(path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    pub(super) fn new(address: &Address) -> io::Result<Listener> {
        let mut listener = Listener {
            address: address.clone(),
            socket: Listening::Closed,
            file: Arc::default(),
        };
        // A first socket finds a free port, and holds it until the one that listens is bound to it
        // by its number: only so the kernel leaves a socket its port when it stops listening.
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

    /// Where it listens, its port known.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn socket_file(&self) -> Arc<SocketFile> {
        self.file.clone()
    }

    /// Listens at its address; nothing if it does already.
    fn open(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Closed => match &self.address {
                Address::Unix(path) => {
                    let listener = UnixListener::bind(path)?;
                    self.file.made(path);
                    Listening::Unix(listener)
                }
                Address::Tcp { host, port } => {
                    Listening::Tcp(bind_tcp(host, *port)?.listen(BACKLOG)?)
                }
                Address::Abstract(_) => return Err(io::ErrorKind::Unsupported.into()),
            },
            Listening::Reserved(socket) => {
                socket::listen(&socket, Backlog::new(BACKLOG as i32)?)?;
                Listening::Tcp(TcpListener::from_std(socket)?)
            }
            open => open,
        };
        Ok(())
    }

    /// Stops listening: waiting clients are disconnected, further ones refused.
    fn close(&mut self) -> io::Result<()> {
        self.file.remove();
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Tcp(listener) => {
                let socket = listener.into_std()?;
                // Unlike `close` this takes effect in every copy of the descriptor, and keeps the
                // port, since that was bound by its number.
                socket::shutdown(socket.as_raw_fd(), Shutdown::Both)?;
                Listening::Reserved(socket)
            }
            Listening::Unix(_) => Listening::Closed,
            closed => closed,
        };
        Ok(())
    }

    async fn accept(&self) -> io::Result<Socket> {
        match &self.socket {
            Listening::Closed | Listening::Reserved(_) => pending().await,
            Listening::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
            Listening::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // This fails where the client is gone already, which is for others to notice.
                let _ = stream.set_nodelay(true);
                Ok(Socket::Tcp(stream))
            }
        }
    }

    /// Accepts until the server is over, then waits for the connections to end.
    pub(super) async fn run(
        mut self,
        shared: Arc<Shared>,
        numbers: Arc<AtomicU64>,
        mut orders: Orders,
    ) {
        let mut connections = JoinSet::new();
        let mut pause: Pause = Box::pin(pending());
        loop {
            tokio::select! {
                biased;
                () = shared.ended() => break,
                Some((order, done)) = orders.recv() => {
                    pause = self.obey(order, &shared);
                    // Who gave the order may be gone.
                    let _ = done.send(());
                }
                () = &mut pause => pause = self.obey(Order::Listen, &shared),
                accepted = self.accept() => {
                    let socket = match accepted {
                        Ok(socket) => socket,
                        Err(error) if is_ours(&error) => {
                            shared.note(0, Event::failed("accept a client", &error));
                            // It would fail again at once, and for ever.
                            pause = self.obey(Order::Stop, &shared);
                            continue;
                        }
                        // A client that is gone before it was accepted is none.
                        Err(_) => continue,
                    };
                    let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
                    let connection = Connection::accepted(number, shared.clone());
                    connections.spawn(connection::serve(socket, connection));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        // With this the socket is gone, whether it could be closed before or not.
        let _ = self.close();
        self.socket = Listening::Closed;
        while connections.join_next().await.is_some() {}
    }

    /// Carries an order out, and returns what to wait for before listening again.
    fn obey(&mut self, order: Order, shared: &Arc<Shared>) -> Pause {
        let (done, event, what) = match order {
            Order::Listen => (self.open(), Event::Listening, "listen again"),
            _ => (self.close(), Event::StoppedListening, "stop listening"),
        };
        let event = match done {
            Ok(()) => event,
            Err(error) => Event::failed(what, &error),
        };
        shared.note(0, event);
        let shared = shared.clone();
        match order {
            Order::StopUntil(trigger) => Box::pin(async move { trigger.wait().await }),
            Order::StopFor(time) => Box::pin(async move { shared.clock.sleep(time).await }),
            Order::Listen | Order::Stop => Box::pin(pending()),
        }
    }
}

type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

fn bind_tcp(host: &str, port: u16) -> io::Result<TcpSocket> {
    let address: SocketAddr = format!("{host}:{port}").parse().map_err(io::Error::other)?;
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The port may still be in TIME_WAIT from before.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Whether no client could have been accepted, whoever it is.
fn is_ours(error: &io::Error) -> bool {
    use Errno::{EBADF, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| [EBADF, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::super::Server;
    use super::*;

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
            listener.accept().await.unwrap();
            drop((client, copy));
        }
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
        // Ready to be read, so it looks like one with a client; but it does not listen.
        let (socket, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        peer.write_all(b"?").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
        let listener = Listener {
            address: Address::Unix("/nonexistent/socket".into()),
            socket: Listening::Unix(UnixListener::from_std(socket).unwrap()),
            file: Arc::default(),
        };
        let (shared, orders) = Server::builder().build();
        let accepting = tokio::spawn(listener.run(shared.clone(), Arc::default(), orders));
        let failed = Event::failed("accept a client", &Errno::EINVAL.into());
        let count = |event: &Event| shared.journal.count(|entry| entry.event == *event);
        let stopped = async {
            while count(&Event::StoppedListening) == 0 {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, stopped).await.unwrap();
        assert_eq!(count(&failed), 1);
        accepting.abort();
    }
}
