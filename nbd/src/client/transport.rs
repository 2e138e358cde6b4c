//! Opening sockets: unix (also abstract), TCP, and descriptors that are open already.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net as std_unix;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname,
    sockopt,
};
use nix::sys::time::TimeVal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::error::ConnectError;
use crate::uri::Address;

/// The two directions of a connection, of whatever kind.
pub(super) struct Stream {
    pub(super) rx: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) tx: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Stream {
    pub(super) fn new<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Stream {
        let (rx, tx) = tokio::io::split(stream);
        Stream {
            rx: Box::new(rx),
            tx: Box::new(tx),
        }
    }

    fn unix(stream: UnixStream) -> Stream {
        let (rx, tx) = stream.into_split();
        Stream {
            rx: Box::new(rx),
            tx: Box::new(tx),
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Stream> {
        // Requests are small and must not wait for each other.
        stream.set_nodelay(true)?;
        let (rx, tx) = stream.into_split();
        Ok(Stream {
            rx: Box::new(rx),
            tx: Box::new(tx),
        })
    }
}

/// Opens a socket; also returns the address as text, for errors.
pub(super) async fn open(
    address: &Address,
    deadline: Duration,
) -> Result<(Stream, String), ConnectError> {
    let (text, opened) = match address {
        Address::Unix(path) => {
            let opened = open_unix(UnixAddr::new(path), deadline).await;
            (path.display().to_string(), opened.transpose())
        }
        Address::Abstract(name) => {
            let opened = open_unix(UnixAddr::new_abstract(name), deadline).await;
            let text = format!("@{}", String::from_utf8_lossy(name));
            (text, opened.transpose())
        }
        Address::Tcp { host, port } => {
            let opened = within(deadline, TcpStream::connect((host.as_str(), *port))).await;
            (
                format!("{host}:{port}"),
                opened.map(|r| r.and_then(Stream::tcp)),
            )
        }
    };
    match opened {
        Some(Ok(stream)) => Ok((stream, text)),
        Some(Err(source)) => Err(ConnectError::Socket {
            address: text,
            source,
        }),
        None => Err(ConnectError::Deadline {
            address: text,
            after: deadline,
        }),
    }
}

async fn within<T>(deadline: Duration, opening: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(deadline, opening).await.ok()
}

/// Connects to a local socket; `None` if there was no room within the deadline.
async fn open_unix(
    address: nix::Result<UnixAddr>,
    deadline: Duration,
) -> io::Result<Option<Stream>> {
    let address = address?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let connected = match socket::connect(fd.as_raw_fd(), &address) {
        // As many clients wait already as the server lets wait.
        Err(Errno::EAGAIN) => queue(fd, address, deadline).await?,
        connected => connected.map(|()| Some(fd))?,
    };
    let Some(fd) = connected else { return Ok(None) };
    let stream = std_unix::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(Some(Stream::unix(UnixStream::from_std(stream)?)))
}

/// Waits for room in the queue of a server. No readiness is ever reported for that: only a
/// connect that blocks waits for it, so it gets a thread, and the deadline.
async fn queue(fd: OwnedFd, address: UnixAddr, deadline: Duration) -> io::Result<Option<OwnedFd>> {
    let connecting = tokio::task::spawn_blocking(move || {
        let stream = std_unix::UnixStream::from(fd);
        stream.set_nonblocking(false)?;
        // To the kernel, no time at all means for ever.
        let limit = deadline.max(Duration::from_micros(1));
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let limit = TimeVal::new(seconds, limit.subsec_micros().into());
        socket::setsockopt(&stream, sockopt::SendTimeout, &limit)?;
        loop {
            match socket::connect(stream.as_raw_fd(), &address) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                connected => return connected.map(|()| Some(stream.into())).map_err(Into::into),
            }
        }
    });
    connecting.await.map_err(io::Error::other)?
}

/// Takes over a connected socket.
pub(super) fn from_fd(fd: OwnedFd) -> Result<Stream, ConnectError> {
    adopt(fd).map_err(|source| ConnectError::Socket {
        address: "descriptor".into(),
        source,
    })
}

fn adopt(fd: OwnedFd) -> io::Result<Stream> {
    let name: SockaddrStorage = getsockname(fd.as_fd().as_raw_fd())?;
    if name.family() == Some(AddressFamily::Unix) {
        let stream = std_unix::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return UnixStream::from_std(stream).map(Stream::unix);
    }
    let stream = std::net::TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    Stream::tcp(TcpStream::from_std(stream)?)
}
