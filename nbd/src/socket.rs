//! A connected socket of any kind.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
pub(crate) enum Socket {
    /// Also a vsock, which is read and written in the same way.
    Unix(UnixStream),
    Tcp(TcpStream),
    /// Anything else, such as a TLS stream.
    Other(Other),
}

/// A stream that may accept more than it passes on, as TLS does.
pub(crate) struct Other {
    stream: Box<dyn Duplex>,
    unflushed: bool,
}

impl Socket {
    pub(crate) fn other(stream: impl Duplex + 'static) -> Socket {
        Socket::Other(Other {
            stream: Box::new(stream),
            unflushed: false,
        })
    }

    /// Reads into both buffers at once, or only into the first if the stream does not support that.
    pub(crate) fn poll_read_both(
        &mut self,
        cx: &mut Context<'_>,
        [first, second]: [&mut [u8]; 2],
    ) -> Poll<io::Result<usize>> {
        let mut both = [IoSliceMut::new(first), IoSliceMut::new(second)];
        loop {
            let read = match self {
                Socket::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_vectored(&mut both)
                }
                Socket::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_read_vectored(&mut both)
                }
                Socket::Other(other) => {
                    let mut room = ReadBuf::new(&mut both[0]);
                    ready!(Pin::new(other).poll_read(cx, &mut room))?;
                    Ok(room.filled().len())
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads what has already arrived. A socket is read directly, since the runtime may not have
    /// noticed its readiness yet.
    pub(crate) fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let fd = match self {
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Other(other) => {
                let mut room = ReadBuf::new(buf);
                let mut context = Context::from_waker(Waker::noop());
                return match Pin::new(other).poll_read(&mut context, &mut room) {
                    Poll::Ready(read) => read.map(|()| room.filled().len()),
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                };
            }
        };
        Ok(recv(fd, buf, MsgFlags::MSG_DONTWAIT)?)
    }

    /// Whether the peer is on this machine.
    pub(crate) fn is_near(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Whether written bytes still have to be flushed. They are not sent until then, however often
    /// the stream has to be polled.
    pub(crate) fn is_unflushed(&self) -> bool {
        matches!(self, Socket::Other(other) if other.unflushed)
    }
}

impl Other {
    fn wrote<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.unflushed |= matches!(written, Poll::Ready(Ok(_)));
        written
    }
}

impl AsyncRead for Other {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Other {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unflushed &= flushed.is_pending();
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Any stream of bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Unix($stream) => $call,
            Socket::Tcp($stream) => $call,
            Socket::Other($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
