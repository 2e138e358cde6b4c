//! Opening sockets: unix (also abstract), TCP, vsock, and descriptors that are already open.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net as std_unix;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname,
    sockopt,
};
use nix::sys::time::TimeVal;
use tokio::net::{TcpStream, UnixStream};

use super::error::ConnectError;
use crate::socket::Socket;
use crate::uri::Address;

fn tcp(stream: TcpStream) -> io::Result<Socket> {
    // Requests are small and must not wait for each other.
    stream.set_nodelay(true)?;
    Ok(Socket::Tcp(stream))
}

/// Opens a socket.
pub(super) async fn open(address: &Address, deadline: Duration) -> Result<Socket, ConnectError> {
    let opened = match address {
        Address::Unix(path) => match crate::unix::short(path) {
            Ok((_directory, path)) => open_unix(UnixAddr::new(&*path), deadline).await.transpose(),
            Err(error) => Some(Err(error)),
        },
        Address::Abstract(name) => {
            open_unix(UnixAddr::new_abstract(name), deadline).await.transpose()
        }
        Address::Tcp { host, port } => {
            let opened = within(deadline, TcpStream::connect((host.as_str(), *port))).await;
            opened.map(|r| r.and_then(tcp))
        }
        Address::Vsock { cid, port } => within(deadline, open_vsock(*cid, *port)).await,
    };
    match opened {
        Some(Ok(socket)) => Ok(socket),
        Some(Err(source)) => Err(ConnectError::Socket {
            address: address.clone(),
            source,
        }),
        None => Err(ConnectError::Deadline {
            address: address.clone(),
            after: deadline,
        }),
    }
}

async fn within<T>(deadline: Duration, opening: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(deadline, opening).await.ok()
}

/// Connects to a local socket; `None` if the backlog stayed full until the deadline.
async fn open_unix(
    address: nix::Result<UnixAddr>,
    deadline: Duration,
) -> io::Result<Option<Socket>> {
    let address = address?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    crate::unix::enlarge(&fd);
    let connected = match socket::connect(fd.as_raw_fd(), &address) {
        // The server's backlog is full.
        Err(Errno::EAGAIN) => queue(fd, address, deadline).await?,
        connected => connected.map(|()| Some(fd))?,
    };
    let Some(fd) = connected else { return Ok(None) };
    let stream = std_unix::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(Some(Socket::Unix(UnixStream::from_std(stream)?)))
}

async fn open_vsock(cid: u32, port: u32) -> io::Result<Socket> {
    let stream = UnixStream::from_std(crate::vsock::begin(cid, port)?)?;
    stream.writable().await?;
    crate::vsock::outcome(&stream)?;
    Ok(Socket::Unix(stream))
}

/// Waits for room in a server's backlog. Readiness is never reported for that: only a blocking
/// connect waits for it, so it gets a thread, and the deadline.
async fn queue(fd: OwnedFd, address: UnixAddr, deadline: Duration) -> io::Result<Option<OwnedFd>> {
    let connecting = tokio::task::spawn_blocking(move || connect_within(fd, &address, deadline));
    let connected = connecting.await.map_err(io::Error::other)??;
    Ok(connected.map(Into::into))
}

/// Connects a local socket in blocking mode; `None` if the backlog stayed full until the deadline.
fn connect_within(
    fd: OwnedFd,
    address: &UnixAddr,
    deadline: Duration,
) -> io::Result<Option<std_unix::UnixStream>> {
    let stream = std_unix::UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    // To the kernel, a timeout of zero means forever.
    let limit = deadline.max(Duration::from_micros(1));
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let limit = TimeVal::new(seconds, limit.subsec_micros().into());
    socket::setsockopt(&stream, sockopt::SendTimeout, &limit)?;
    loop {
        match socket::connect(stream.as_raw_fd(), address) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            connected => return connected.map(|()| Some(stream)).map_err(Into::into),
        }
    }
}

/// Connects to a local socket in a thread that may block; `None` if the backlog stayed full.
pub(super) fn connect_unix(
    address: &Address,
    deadline: Duration,
) -> io::Result<Option<std_unix::UnixStream>> {
    let (_directory, name) = match address {
        Address::Unix(path) => {
            let (directory, path) = crate::unix::short(path)?;
            (directory, UnixAddr::new(&*path)?)
        }
        Address::Abstract(name) => (None, UnixAddr::new_abstract(name)?),
        Address::Tcp { .. } | Address::Vsock { .. } => {
            return Err(io::ErrorKind::Unsupported.into());
        }
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    crate::unix::enlarge(&fd);
    connect_within(fd, &name, deadline)
}

/// Takes over a connected socket.
pub(super) fn from_fd(fd: OwnedFd) -> Result<Socket, ConnectError> {
    adopt(fd).map_err(|source| ConnectError::Socket {
        address: Address::unknown(),
        source,
    })
}

/// Whether it is a Unix socket, or a vsock, which is read and written in the same way.
pub(super) fn is_like_unix(fd: &OwnedFd) -> io::Result<bool> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let family = name.family();
    Ok(matches!(
        family,
        Some(AddressFamily::Unix | AddressFamily::Vsock)
    ))
}

fn adopt(fd: OwnedFd) -> io::Result<Socket> {
    if is_like_unix(&fd)? {
        let stream = std_unix::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return UnixStream::from_std(stream).map(Socket::Unix);
    }
    let stream = std::net::TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    tcp(TcpStream::from_std(stream)?)
}
