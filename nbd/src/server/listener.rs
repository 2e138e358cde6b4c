//! The server as a test holds it.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, Backlog, Shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::task::{JoinHandle, JoinSet};

use super::clock::Clock;
use super::connection;
use super::export::Export;
use super::journal::{Event, Journal};
use super::plan::{Engine, FaultPlan};
use super::shadow::WriteShadow;
use super::state::{Hearing, Parts, Shared};
use super::trigger::Trigger;
use super::wire::Socket;
use crate::proto::{Mode, limits};
use crate::uri::{Address, Uri};

/// Clients that may wait to be accepted.
const BACKLOG: u32 = 128;

/// A server did not do what the test wanted.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket could not be made.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket could not be closed or opened again.
    #[error("{address}: failed to {what}")]
    Failed {
        /// Where.
        address: String,
        /// What, and why not.
        what: String,
    },
    /// Rules never fired: the test did not test what it was to test.
    #[error("failed to fire: {}", .0.join(", "))]
    Unfired(Vec<String>),
    /// Rules fired where their action means nothing.
    #[error("failed to apply: {}", .0.join(", "))]
    Misfit(Vec<String>),
    /// What was waited for did not happen in time.
    #[error("failed to see {what} within {after:?}")]
    Missing {
        /// What.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
}

/// Prepares a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    exports: Vec<Export>,
    mode: Mode,
    no_zeroes: bool,
    max_payload: u64,
    plan: FaultPlan,
    clock: Clock,
    shadow: Option<WriteShadow>,
}

impl ServerBuilder {
    /// Adds an export.
    pub fn export(mut self, export: Export) -> Self {
        self.exports.push(export);
        self
    }

    /// The richest mode that it speaks (extended, unless said otherwise).
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Does not offer to leave out the zeroes after `EXPORT_NAME`.
    pub fn with_zeroes(mut self) -> Self {
        self.no_zeroes = false;
        self
    }

    /// Largest payload in bytes (32 MiB unless said otherwise).
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// How it misbehaves.
    pub fn plan(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// The time of delays (real, unless said otherwise).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Has writes noted.
    pub fn shadow(mut self, shadow: WriteShadow) -> Self {
        self.shadow = Some(shadow);
        self
    }

    /// Listens on a unix socket, which must not exist yet and is removed at the end.
    pub fn listen_unix(self, path: impl Into<PathBuf>) -> Result<Server, ServerError> {
        self.listen(Address::Unix(path.into()))
    }

    /// Listens on a free port of 127.0.0.1.
    pub fn listen_tcp(self) -> Result<Server, ServerError> {
        self.listen(Address::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        })
    }

    /// Listens nowhere; [`Server::serve`] hands connections over.
    pub fn detached(self) -> Server {
        let shared = self.build();
        Server {
            shared,
            address: None,
            accepting: None,
            connections: Arc::default(),
        }
    }

    fn build(self) -> Arc<Shared> {
        Arc::new(Shared::new(Parts {
            exports: self.exports,
            mode: self.mode,
            no_zeroes: self.no_zeroes,
            max_payload: self.max_payload,
            engine: Engine::new(self.plan),
            clock: self.clock,
            shadow: self.shadow,
        }))
    }

    fn listen(self, address: Address) -> Result<Server, ServerError> {
        let wrap = |source| ServerError::Listen {
            address: format!("{address:?}"),
            source,
        };
        let mut ear = Ear::new(&address).map_err(wrap)?;
        let address = ear.address.clone();
        let shared = self.build();
        let connections = Arc::new(AtomicU64::new(0));
        shared.note(0, Event::Listening);
        let accepting = tokio::spawn({
            let (shared, connections) = (shared.clone(), connections.clone());
            async move { ear.run(shared, connections).await }
        });
        Ok(Server {
            shared,
            address: Some(address),
            accepting: Some(accepting),
            connections,
        })
    }
}

/// A server that runs. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: Option<Address>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<AtomicU64>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.send_replace(true);
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.remove_socket();
    }
}

impl Server {
    /// Starts to prepare a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            exports: Vec::new(),
            mode: Mode::Extended,
            no_zeroes: true,
            max_payload: limits::MAX_PAYLOAD,
            plan: FaultPlan::new(),
            clock: Clock::real(),
            shadow: None,
        }
    }

    /// What a client connects to: the first export. `None` for a detached server.
    pub fn uri(&self) -> Option<Uri> {
        let export = self
            .shared
            .exports
            .first()
            .map(|e| e.name.clone())
            .unwrap_or_default();
        Some(match self.address.clone()? {
            Address::Tcp { host, port } => Uri::tcp(host, port, export),
            Address::Unix(path) => Uri::unix(path, export),
            address => Uri {
                tls: false,
                address,
                export,
                user: None,
                parameters: Vec::new(),
            },
        })
    }

    /// What happened so far.
    pub fn journal(&self) -> Arc<Journal> {
        self.shared.journal.clone()
    }

    /// A switch that rules name.
    pub fn trigger(&self, name: &str) -> Trigger {
        self.shared.triggers.get(name)
    }

    /// The clock of its delays.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Serves this connection, as if a client had connected.
    pub fn serve<S>(&self, stream: S) -> JoinHandle<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.note(number, Event::Accepted);
        let shared = self.shared.clone();
        tokio::spawn(connection::serve(
            Socket::Other(Box::new(stream)),
            number,
            shared,
        ))
    }

    /// Stops listening. Connections stay. New clients are refused; a port stays reserved.
    pub async fn stop_listening(&self) -> Result<(), ServerError> {
        self.hear(Hearing::Deaf, &Event::Deaf).await
    }

    /// Listens again at the same address.
    pub async fn listen_again(&self) -> Result<(), ServerError> {
        self.hear(Hearing::Listening, &Event::Listening).await
    }

    async fn hear(&self, hearing: Hearing, event: &Event) -> Result<(), ServerError> {
        let done = |e: &super::Entry| e.event == *event || matches!(e.event, Event::Failed { .. });
        let before = self.shared.journal.count(done);
        self.shared.hearing.send_replace(hearing);
        if self.accepting.is_some() {
            self.shared.journal.wait_for(before + 1, done).await;
        }
        self.failures()
    }

    /// What the server itself could not do.
    fn failures(&self) -> Result<(), ServerError> {
        let failed = |e: super::Entry| match e.event {
            Event::Failed { what, why } => Some(format!("{what}: {why}")),
            _ => None,
        };
        let failed: Vec<_> = self
            .shared
            .journal
            .entries()
            .into_iter()
            .filter_map(failed)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(ServerError::Failed {
            address: format!("{:?}", self.address),
            what: failed.join(", "),
        })
    }

    /// Waits until so many connections have reached the transmission phase.
    pub async fn expect_connections(&self, n: usize, within: Duration) -> Result<(), ServerError> {
        let begun = |e: &super::Entry| matches!(e.event, Event::Transmission { .. });
        self.expect(&format!("connection {n}"), within, n, begun)
            .await
    }

    /// Waits until a client that was here before is back: one more connection has reached the
    /// transmission phase than have ended.
    pub async fn expect_reconnect(&self, within: Duration) -> Result<(), ServerError> {
        let lost = |e: &super::Entry| matches!(e.event, Event::Closed(_));
        let begun = |e: &super::Entry| matches!(e.event, Event::Transmission { .. });
        self.expect("the end of a connection", within, 1, lost)
            .await?;
        let ended = self.shared.journal.count(lost);
        self.expect("a reconnection", within, ended + 1, begun)
            .await
    }

    /// Waits until so many requests of a kind have come.
    pub async fn expect_requests(
        &self,
        command: crate::proto::CommandType,
        n: usize,
        within: Duration,
    ) -> Result<(), ServerError> {
        let wanted = |e: &super::Entry| matches!(&e.event, Event::Request { command: c, .. } if *c == command);
        self.expect(&format!("{n} requests to {command}"), within, n, wanted)
            .await
    }

    async fn expect(
        &self,
        what: &str,
        within: Duration,
        n: usize,
        matches: impl Fn(&super::Entry) -> bool,
    ) -> Result<(), ServerError> {
        let seen = tokio::time::timeout(within, self.shared.journal.wait_for(n, matches)).await;
        seen.map_err(|_| ServerError::Missing {
            what: what.to_owned(),
            after: within,
        })
    }

    /// Rules that should have fired and have not yet.
    pub fn unfired(&self) -> Vec<String> {
        self.shared.unfired()
    }

    /// Ends the server. That a rule never fired, or fired in vain, is an error.
    pub async fn finish(mut self) -> Result<Arc<Journal>, ServerError> {
        self.shared.over.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself, and takes its connections with it.
            let _ = accepting.await;
        }
        self.failures()?;
        let misfits = self
            .shared
            .journal
            .entries()
            .into_iter()
            .filter_map(|e| match e.event {
                Event::Misfit { rule, action } => Some(format!("{rule}: {action}")),
                _ => None,
            });
        let misfits: Vec<String> = misfits.collect();
        if !misfits.is_empty() {
            return Err(ServerError::Misfit(misfits));
        }
        let unfired = self.shared.unfired();
        if !unfired.is_empty() {
            return Err(ServerError::Unfired(unfired));
        }
        Ok(self.shared.journal.clone())
    }

    fn remove_socket(&self) {
        if let Some(Address::Unix(path)) = &self.address {
            // It is not there while the server does not listen.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A listening socket that can be closed and opened again.
struct Ear {
    address: Address,
    socket: Listening,
}

enum Listening {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// Deaf, with nothing left at the path.
    Closed,
    /// Deaf, the port still bound to this socket: nobody else is given it meanwhile, and it takes
    /// no second `bind`, which would fail as long as a child that is being started holds a copy of
    /// a listening socket.
    Reserved(std::net::TcpListener),
}

impl Ear {
    fn new(address: &Address) -> io::Result<Ear> {
        let mut ear = Ear {
            address: address.clone(),
            socket: Listening::Closed,
        };
        // A first socket finds a free port, and holds it until the one that listens is bound to it
        // by its number: only so the kernel leaves a socket its port when it stops listening.
        let _free = match address {
            Address::Tcp { host, port: 0 } => {
                let free = bind_tcp(host, 0)?;
                let local = free.local_addr()?;
                ear.address = Address::Tcp {
                    host: local.ip().to_string(),
                    port: local.port(),
                };
                Some(free)
            }
            _ => None,
        };
        ear.open()?;
        Ok(ear)
    }

    /// Listens at its address; nothing if it does already.
    fn open(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Closed => match &self.address {
                Address::Unix(path) => Listening::Unix(UnixListener::bind(path)?),
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
        self.socket = match std::mem::replace(&mut self.socket, Listening::Closed) {
            Listening::Tcp(listener) => {
                let socket = listener.into_std()?;
                // Unlike `close` this takes effect in every copy of the descriptor, and keeps the
                // port, since that was bound by its number.
                socket::shutdown(socket.as_raw_fd(), Shutdown::Both)?;
                Listening::Reserved(socket)
            }
            Listening::Unix(_) => Listening::Closed,
            deaf => deaf,
        };
        if let Address::Unix(path) = &self.address {
            remove(path);
        }
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
    async fn run(&mut self, shared: Arc<Shared>, numbers: Arc<AtomicU64>) {
        let mut hearing = shared.hearing.subscribe();
        let mut connections = JoinSet::new();
        let mut pause = Hearing::Listening.pause(&shared);
        loop {
            tokio::select! {
                biased;
                () = shared.ended() => break,
                Ok(()) = hearing.changed() => {
                    let now = hearing.borrow_and_update().clone();
                    match now {
                        Hearing::Listening => self.listen_again(&shared),
                        _ => self.stop_listening(&shared),
                    }
                    pause = now.pause(&shared);
                }
                () = &mut pause => {
                    self.listen_again(&shared);
                    pause = Hearing::Listening.pause(&shared);
                }
                accepted = self.accept() => {
                    let socket = match accepted {
                        Ok(socket) => socket,
                        Err(error) if is_ours(&error) => {
                            shared.note(0, Event::failed("accept a client", &error));
                            // It would fail again at once, and for ever.
                            self.stop_listening(&shared);
                            continue;
                        }
                        // A client that is gone before it was accepted is none.
                        Err(_) => continue,
                    };
                    let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
                    shared.note(number, Event::Accepted);
                    connections.spawn(connection::serve(socket, number, shared.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        // With this the socket is gone, whether it could be closed before or not.
        let _ = self.close();
        self.socket = Listening::Closed;
        while connections.join_next().await.is_some() {}
    }

    fn stop_listening(&mut self, shared: &Shared) {
        shared.note(
            0,
            match self.close() {
                Ok(()) => Event::Deaf,
                Err(error) => Event::failed("stop listening", &error),
            },
        );
    }

    fn listen_again(&mut self, shared: &Shared) {
        shared.note(
            0,
            match self.open() {
                Ok(()) => Event::Listening,
                Err(error) => Event::failed("listen again", &error),
            },
        );
    }
}

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

fn remove(path: &Path) {
    // It may have been removed by the test.
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn tcp() -> (Ear, SocketAddr) {
        let ear = Ear::new(&Address::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        });
        let ear = ear.unwrap();
        let Address::Tcp { host, port } = &ear.address else {
            panic!("{:?}", ear.address)
        };
        let address = format!("{host}:{port}").parse().unwrap();
        (ear, address)
    }

    #[tokio::test]
    async fn a_port_comes_back_though_a_child_that_starts_holds_a_copy_of_the_socket() {
        let (mut ear, address) = tcp();
        for _ in 0..3 {
            let Listening::Tcp(listener) = &ear.socket else {
                panic!("not open")
            };
            // What every child has between `fork` and `exec`.
            let copy = nix::unistd::dup(listener).unwrap();
            ear.close().unwrap();
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            ear.open().unwrap();
            let client = TcpStream::connect(address).unwrap();
            ear.accept().await.unwrap();
            drop((client, copy));
        }
    }

    #[tokio::test]
    async fn nobody_else_is_given_the_port_meanwhile() {
        let (mut ear, address) = tcp();
        ear.close().unwrap();
        let stranger = TcpSocket::new_v4().unwrap();
        let taken = stranger.bind(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn clients_that_wait_when_it_stops_are_disconnected() {
        use std::io::Read;
        let (mut ear, address) = tcp();
        let mut waiting = TcpStream::connect(address).unwrap();
        ear.close().unwrap();
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
        let listener = std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket));
        let mut ear = Ear {
            address: Address::Unix("/nonexistent/socket".into()),
            socket: Listening::Unix(UnixListener::from_std(listener).unwrap()),
        };
        let shared = Server::builder().build();
        let hearing = shared.clone();
        let accepting = tokio::spawn(async move { ear.run(hearing, Arc::default()).await });
        let failed = Event::failed("accept a client", &Errno::EINVAL.into());
        let count = |event: &Event| shared.journal.count(|entry| entry.event == *event);
        let deaf = async {
            while count(&Event::Deaf) == 0 {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, deaf).await.unwrap();
        assert_eq!(count(&failed), 1);
        accepting.abort();
    }
}
