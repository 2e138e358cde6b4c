//! Non-blocking sockets, and waiting for them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::uri::Address;

/// A non-blocking socket; [`Stream::wait`] blocks.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
}

/// Opens a socket.
pub(super) fn open(address: &Address, limit: Duration) -> io::Result<Stream> {
    match address {
        Address::Tcp { host, port } => {
            let until = Instant::now().checked_add(limit);
            let mut failed = io::Error::from(io::ErrorKind::NotFound);
            for address in (host.as_str(), *port).to_socket_addrs()? {
                // A socket does not accept a timeout of zero.
                let left = left(until).max(Duration::from_millis(1));
                match TcpStream::connect_timeout(&address, left) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        stream.set_nonblocking(true)?;
                        return Ok(Stream::Tcp(stream));
                    }
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
        Address::Vsock { cid, port } => {
            let stream = Stream::Unix(crate::vsock::begin(*cid, *port)?);
            if !stream.wait(true, Instant::now().checked_add(limit))? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            crate::vsock::outcome(&stream)?;
            Ok(stream)
        }
        Address::Unix(_) | Address::Abstract(_) => {
            match crate::client::transport::connect_unix(address, limit)? {
                Some(stream) => {
                    stream.set_nonblocking(true)?;
                    Ok(Stream::Unix(stream))
                }
                None => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// Takes over a connected socket.
pub(super) fn adopt(fd: OwnedFd) -> io::Result<Stream> {
    if crate::client::transport::is_like_unix(&fd)? {
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return Ok(Stream::Unix(stream));
    }
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(Stream::Tcp(stream))
}

fn left(until: Option<Instant>) -> Duration {
    until.map_or(Duration::MAX, |until| {
        until.saturating_duration_since(Instant::now())
    })
}

impl Stream {
    /// Waits until it is readable, or writable if requested; `false` when the deadline has passed.
    pub(super) fn wait(&self, writes: bool, until: Option<Instant>) -> io::Result<bool> {
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, writes || self.wants_flush());
        loop {
            let left = left(until);
            // Rounded up: a shorter wait would end before the deadline.
            let millis = left.as_nanos().div_ceil(1_000_000);
            let limit = match until {
                Some(_) => i32::try_from(millis).unwrap_or(i32::MAX),
                None => -1,
            };
            let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(self.as_fd(), flags)];
            match poll(&mut ready, limit) {
                Ok(0) if passed(until) => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether it has accepted bytes that are not sent yet.
    pub(super) fn wants_flush(&self) -> bool {
        match self {
            Stream::Unix(_) | Stream::Tcp(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.session.wants_write(),
        }
    }

    pub(super) fn shut_down(&mut self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => {
                tls.session.send_close_notify();
                tls.session.write_tls(&mut tls.stream).map(drop)
            }
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Unix($stream) => $call,
            Stream::Tcp($stream) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, s => s.as_fd())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.read(buf))
    }
    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        each!(self, s => s.read_vectored(bufs))
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        each!(self, s => s.write(buf))
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, s => s.write_vectored(bufs))
    }
    fn flush(&mut self) -> io::Result<()> {
        each!(self, s => s.flush())
    }
}

pub(super) fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

pub(super) fn passed(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}
