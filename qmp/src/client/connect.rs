//! Establishing a session: transports, the handshake, and one deadline for all of it.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};
use tokio::process::Child;
use tokio::time::Instant;

use super::driver::Driver;
use super::handle::Client;
use super::options::Options;
use super::process;
use super::shared::{Shared, Stage};
use super::transport::{Plain, Transport};
use crate::error::{Closed, ConnectError};
use crate::session::HandshakeFailure;
#[cfg(target_os = "linux")]
use crate::socket;

impl Client {
    /// Starts a session over any stream, such as a TLS connection, `tokio::io::join` of two pipes,
    /// or one end of `tokio::io::duplex`.
    ///
    /// # Errors
    /// When the handshake does not succeed in time; see [`ConnectError`].
    pub async fn from_stream<S>(stream: S, options: Options) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let attempt = Attempt::new(options, "the stream");
        attempt.handshake(Plain::any(stream)).await
    }

    /// Starts a session over the stdout and stdin of a child, as with `-qmp stdio`. Both must be
    /// pipes that have not been taken from it.
    ///
    /// # Errors
    /// When they are not, or the handshake does not succeed in time.
    pub async fn from_child(child: &mut Child, mut options: Options) -> Result<Self, ConnectError> {
        options.peer_pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let attempt = Attempt::new(options, "the stdio of the child");
        let (Some(stdout), Some(stdin)) = (child.stdout.take(), child.stdin.take()) else {
            let error = io::Error::new(
                io::ErrorKind::InvalidInput,
                "stdin and stdout of the child are not pipes of ours",
            );
            return Err(attempt.io(error));
        };
        attempt.handshake(Plain::stdio(stdout, stdin)).await
    }

    /// Starts a session over a connected Unix socket.
    ///
    /// # Errors
    /// When the handshake does not succeed in time; see [`ConnectError`].
    pub async fn from_unix_stream(
        stream: UnixStream,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let attempt = Attempt::new(options, "the socket");
        attempt.handshake(stream).await
    }

    /// Starts a session over a connected socket: one end of a socket pair, an inherited
    /// descriptor, a `UnixStream` or `TcpStream` of the standard library.
    ///
    /// # Errors
    /// When the descriptor is not a stream socket, or the handshake does not succeed in time.
    pub async fn from_fd(fd: impl Into<OwnedFd>, options: Options) -> Result<Self, ConnectError> {
        let fd = fd.into();
        let attempt = Attempt::new(options, "the socket");
        let domain = stream_domain(&fd).map_err(|error| attempt.io(error))?;
        if domain == AddressFamily::UNIX {
            let stream = std::os::unix::net::UnixStream::from(fd);
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| UnixStream::from_std(stream))
                .map_err(|error| attempt.io(error))?;
            attempt.handshake(stream).await
        } else {
            let stream = std::net::TcpStream::from(fd);
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream))
                .map_err(|error| attempt.io(error))?;
            attempt.over_tcp(stream, domain).await
        }
    }

    /// Connects to a Unix socket, as made by `-qmp unix:PATH,server=on`.
    ///
    /// # Errors
    /// When there is no such socket, nothing listens on it, or the handshake does not succeed in time.
    pub async fn connect_unix(
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        let attempt = Attempt::new(options, path.display());
        let connected = attempt.connect(path, |_| false, std::future::pending::<String>()).await?;
        attempt.handshake(connected).await
    }

    /// Connects to a Unix socket that a process is about to create: waits until something listens
    /// at the path, until `gone` resolves with the reason why that will not happen, or until the
    /// deadline.
    ///
    /// ```no_run
    /// # async fn f(mut qemu: tokio::process::Child) -> Result<(), qmp::ConnectError> {
    /// let gone = async { format!("QEMU has exited: {:?}", qemu.wait().await) };
    /// let client = qmp::Client::wait_unix("/run/vm.qmp", qmp::Options::default(), gone).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConnectError::Gone`] with the reason from `gone`, else as [`Client::connect_unix`].
    pub async fn wait_unix(
        path: impl AsRef<Path>,
        options: Options,
        gone: impl Future<Output = String>,
    ) -> Result<Self, ConnectError> {
        let path = path.as_ref();
        let attempt = Attempt::new(options, path.display());
        let absent = |error: &ConnectError| {
            matches!(
                error,
                ConnectError::Missing { .. } | ConnectError::Refused { .. }
            )
        };
        let connected = attempt.connect(path, absent, gone).await?;
        attempt.handshake(connected).await
    }

    /// Connects over TCP, to an address or a name, each with its port: a
    /// [`SocketAddr`](std::net::SocketAddr), or a text such as `"host:4444"`.
    ///
    /// # Errors
    /// When nothing listens there, or the handshake does not succeed in time.
    pub async fn connect_tcp(
        address: impl ToSocketAddrs + std::fmt::Display,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let attempt = Attempt::new(options, &address);
        let stream = match attempt.in_time(TcpStream::connect(&address)).await {
            Some(connected) => connected.map_err(|error| attempt.io(error))?,
            None => return Err(attempt.unreachable()),
        };
        attempt.over_tcp(stream, AddressFamily::INET).await
    }
}

/// Connects to a path of any length.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    if !socket::fits(path) {
        let short = socket::ShortPath::open(path)?;
        return UnixStream::connect(short.path()).await;
    }
    UnixStream::connect(path).await
}

/// One attempt to get a session, with its deadline.
pub(super) struct Attempt {
    options: Options,
    endpoint: String,
    until: Instant,
}

/// Practically infinite, yet short enough to be added to an `Instant`.
pub(crate) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The backoff between two attempts to connect. No single event covers both the path and the
/// listener.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl Attempt {
    pub(super) fn new(options: Options, endpoint: impl std::fmt::Display) -> Self {
        let endpoint = options.endpoint.clone().unwrap_or_else(|| endpoint.to_string());
        let until = Instant::now() + options.connect_deadline.min(FOREVER);
        Self {
            options,
            endpoint,
            until,
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.until, work).await.ok()
    }

    /// Connects by path. An error for which `retry` holds is tried again until `gone` or the
    /// deadline.
    async fn connect(
        &self,
        path: &Path,
        retry: impl Fn(&ConnectError) -> bool,
        gone: impl Future<Output = String>,
    ) -> Result<UnixStream, ConnectError> {
        tokio::pin!(gone);
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.in_time(connect_unix(path)).await {
                None => return Err(self.silent()),
                Some(Ok(stream)) => return Ok(stream),
                // The backlog is full: other clients are waiting for this monitor.
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
                Some(Err(error)) => Some(self.connect_error(path, error)),
            };
            if let Some(error) = &error
                && !retry(error)
            {
                return Err(error.clone());
            }
            tokio::select! {
                biased;
                reason = &mut gone => {
                    return Err(ConnectError::Gone { endpoint: self.endpoint.clone(), reason });
                }
                () = tokio::time::sleep_until(self.until) => {
                    return Err(error.unwrap_or_else(|| self.silent()));
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    fn connect_error(&self, path: &Path, error: io::Error) -> ConnectError {
        match error.kind() {
            io::ErrorKind::NotFound => ConnectError::Missing {
                path: path.to_owned(),
            },
            _ => self.io(error),
        }
    }

    fn io(&self, error: io::Error) -> ConnectError {
        let endpoint = self.endpoint.clone();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused { endpoint },
            _ => ConnectError::Io {
                endpoint,
                source: Arc::new(error),
            },
        }
    }

    /// The peer that connects in time.
    pub(super) async fn accepted<T>(
        &self,
        accept: impl Future<Output = io::Result<T>>,
    ) -> Result<T, ConnectError> {
        match self.in_time(accept).await {
            Some(accepted) => accepted.map_err(|error| self.io(error)),
            None => Err(ConnectError::Nobody {
                endpoint: self.endpoint.clone(),
                after: self.options.connect_deadline,
            }),
        }
    }

    /// A session over TCP, or over a socket of another family that can be used like TCP.
    pub(super) async fn over_tcp(
        self,
        stream: TcpStream,
        domain: AddressFamily,
    ) -> Result<Client, ConnectError> {
        // Commands are small and wait for replies. Other families, such as vsock, lack this option.
        if matches!(domain, AddressFamily::INET | AddressFamily::INET6) {
            stream.set_nodelay(true).map_err(|error| self.io(error))?;
        }
        self.handshake(Plain::tcp(stream)).await
    }

    fn unreachable(&self) -> ConnectError {
        ConnectError::Unreachable {
            endpoint: self.endpoint.clone(),
            after: self.options.connect_deadline,
        }
    }

    fn silent(&self) -> ConnectError {
        let endpoint = self.endpoint.clone();
        let after = self.options.connect_deadline;
        if self.options.config.agent {
            ConnectError::NoAgent { endpoint, after }
        } else {
            ConnectError::Silent { endpoint, after }
        }
    }

    /// Waits for the greeting and negotiates.
    pub(super) async fn handshake<T>(self, transport: T) -> Result<Client, ConnectError>
    where
        T: Transport + Unpin + 'static,
    {
        let peer = self.options.peer_pid.or_else(|| transport.peer());
        let shared = Shared::new(&self.options, transport.carries_fds());
        let driver = tokio::spawn(Driver::new(Arc::clone(&shared), transport)).abort_handle();
        // Dropping this future drops the driver with it.
        let guard = AbortOnDrop(Some(driver));

        let mut stages = shared.stage();
        let stage = self.in_time(stages.wait_for(|stage| !matches!(stage, Stage::Handshake))).await;
        let cause = match stage {
            None => return Err(self.too_late(&shared, peer)),
            Some(Err(_)) => Closed::Local,
            Some(Ok(stage)) => match &*stage {
                Stage::Closed(cause) => cause.clone(),
                Stage::Handshake | Stage::Ready => {
                    drop(stage);
                    return self.finish(shared, guard);
                }
            },
        };
        Err(match cause {
            Closed::Handshake(source) => ConnectError::Handshake {
                endpoint: self.endpoint,
                source,
            },
            cause => match shared.with_session(|session| session.noise()) {
                Some(sample) => self.not_qmp(sample),
                None => ConnectError::Closed {
                    endpoint: self.endpoint,
                    cause,
                },
            },
        })
    }

    fn finish(self, shared: Arc<Shared>, mut guard: AbortOnDrop) -> Result<Client, ConnectError> {
        let Some(greeting) = shared.greeting() else {
            return Err(ConnectError::Closed {
                endpoint: self.endpoint,
                cause: Closed::Local,
            });
        };
        guard.0 = None;
        let deadline = self.options.call_deadline;
        Ok(Client::assemble(shared, greeting, self.endpoint, deadline))
    }

    /// The error for a deadline that has passed: what was missing, and if possible why.
    fn too_late(&self, shared: &Shared, peer: Option<i32>) -> ConnectError {
        let endpoint = self.endpoint.clone();
        let after = self.options.connect_deadline;
        if let Some(pid) = peer.filter(|&pid| process::is_stopped(pid)) {
            return ConnectError::Stopped {
                endpoint,
                after,
                pid,
            };
        }
        if shared.greeting().is_some() {
            return ConnectError::NegotiationTimeout { endpoint, after };
        }
        match shared.with_session(|session| session.noise()) {
            Some(sample) => self.not_qmp(sample),
            None => self.silent(),
        }
    }

    fn not_qmp(&self, sample: String) -> ConnectError {
        let source = HandshakeFailure::NotQmp { sample };
        ConnectError::Handshake {
            endpoint: self.endpoint.clone(),
            source,
        }
    }
}

/// The address family of a stream socket; anything else is rejected.
fn stream_domain(fd: &OwnedFd) -> io::Result<AddressFamily> {
    if sockopt::socket_type(fd)? != SocketType::STREAM {
        let problem = "it is not a stream socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    // Not every system can report the family itself.
    Ok(rustix::net::getsockname(fd)?.address_family())
}

struct AbortOnDrop(Option<tokio::task::AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.abort();
        }
    }
}
