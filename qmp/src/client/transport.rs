//! Streams that carry QMP, with or without file descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, Join, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{ChildStdin, ChildStdout};

/// What the driver needs from a stream.
pub(crate) trait Transport: Send {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The descriptor behind the stream, to read what has arrived before the runtime notices; none
    /// where only [`Transport::poll_read`] can.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Writes some of `bytes` and sends `fd` with the first of them.
    fn poll_write_with_fd(
        &mut self,
        _: &mut Context<'_>,
        _bytes: &[u8],
        _fd: BorrowedFd<'_>,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Whether file descriptors can be sent.
    fn carries_fds(&self) -> bool {
        false
    }

    /// The process at the other end, if that can be known and it is not this one.
    fn peer(&self) -> Option<i32> {
        None
    }
}

/// A stream without file descriptors to send.
pub(crate) struct Plain<S> {
    stream: Pin<Box<S>>,
    source: for<'a> fn(&'a S) -> Option<BorrowedFd<'a>>,
}

impl<S> Plain<S> {
    /// Any stream.
    pub(crate) fn any(stream: S) -> Self {
        Self {
            stream: Box::pin(stream),
            source: |_| None,
        }
    }
}

impl Plain<TcpStream> {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self {
            stream: Box::pin(stream),
            source: |stream| Some(stream.as_fd()),
        }
    }
}

impl Plain<Join<ChildStdout, ChildStdin>> {
    pub(crate) fn stdio(stdout: ChildStdout, stdin: ChildStdin) -> Self {
        Self {
            stream: Box::pin(tokio::io::join(stdout, stdin)),
            source: |stream| Some(stream.reader().as_fd()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send> Transport for Plain<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        (self.source)(&self.stream)
    }
}

impl Transport for UnixStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn poll_write_with_fd(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        fd: BorrowedFd<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_io(Interest::WRITABLE, || send_with_fd(self.as_fd(), bytes, fd)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn carries_fds(&self) -> bool {
        true
    }

    fn peer(&self) -> Option<i32> {
        super::process::peer_of(self)
    }
}

fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no space for the file descriptor"));
    }
    // Where the flag does not exist, a socket option does the same.
    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::empty();
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}
