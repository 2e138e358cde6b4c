//! Sockets between a virtual machine and its host (`vsock(7)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, VsockAddr, getsockopt, sockopt::SocketError,
};

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    Ok(fd)
}

/// Begins to connect; the result is known when the socket becomes writable ([`outcome`]). The
/// kernel reads and writes it like any other stream, so this type can be used for it.
pub(crate) fn begin(cid: u32, port: u32) -> io::Result<UnixStream> {
    let fd = open()?;
    match socket::connect(fd.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd.into()),
        Err(error) => Err(error.into()),
    }
}

/// The result of connecting.
pub(crate) fn outcome(socket: &impl AsFd) -> io::Result<()> {
    match getsockopt(&socket.as_fd(), SocketError)? {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

#[cfg(feature = "server")]
pub(crate) use listening::{Listener, bind};

#[cfg(feature = "server")]
mod listening {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::task::{Context, Poll, ready};

    use nix::sys::socket::{self, Backlog, VsockAddr, getsockname};
    use rustix::net::{SocketFlags, accept_with};
    use tokio::io::Interest;

    use crate::uri::Address;

    /// The port that the kernel chooses (`VMADDR_PORT_ANY`).
    const ANY_PORT: u32 = u32::MAX;

    /// Listens; port 0 means any free port.
    pub(crate) fn bind(cid: u32, port: u32, backlog: i32) -> io::Result<OwnedFd> {
        let fd = super::open()?;
        let port = if port == 0 { ANY_PORT } else { port };
        socket::bind(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
        socket::listen(&fd, Backlog::new(backlog)?)?;
        Ok(fd)
    }

    /// A listening socket of any kind. It is not a stream; this type only makes the runtime report
    /// readiness, and nothing is read from it.
    pub(crate) struct Listener(tokio::net::UnixStream);

    impl Listener {
        pub(crate) fn new(fd: OwnedFd) -> io::Result<Listener> {
            let socket = UnixStream::from(fd);
            socket.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(socket).map(Listener)
        }

        /// Where a socket listens.
        pub(crate) fn address(fd: &OwnedFd) -> io::Result<Address> {
            let name: VsockAddr = getsockname(fd.as_raw_fd())?;
            Ok(Address::Vsock {
                cid: name.cid(),
                port: name.port(),
            })
        }

        pub(crate) fn poll_accept(
            &self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<tokio::net::UnixStream>> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accept = || Ok(accept_with(&self.0, flags)?);
            loop {
                ready!(self.0.poll_read_ready(cx))?;
                match self.0.try_io(Interest::READABLE, accept) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    accepted => {
                        let stream = accepted.map(UnixStream::from);
                        return Poll::Ready(stream.and_then(tokio::net::UnixStream::from_std));
                    }
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        /// Few machines have a vsock that reaches themselves, so a socket of another kind stands in.
        #[tokio::test]
        async fn clients_are_accepted_one_by_one() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let listener = Listener::new(socket.into()).unwrap();
            for byte in 0..3 {
                let accepting = std::future::poll_fn(|cx| listener.poll_accept(cx));
                let connecting = async {
                    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
                    client.write_all(&[byte]).await.unwrap();
                };
                let (accepted, ()) = tokio::join!(accepting, connecting);
                assert_eq!(accepted.unwrap().read_u8().await.unwrap(), byte);
            }
        }
    }
}
