//! The task that moves the bytes.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};

use super::events::Queue;
use super::shared::{Line, Shared};
use super::transport::Transport;
use crate::error::Closed;

/// Reads per poll before writing gets its turn, so that a flood of events cannot hold up commands.
const READS_PER_TURN: usize = 16;

const READ_SIZE: usize = 64 << 10;

/// The driver: a future that ends when the session does.
pub(crate) struct Driver<T> {
    shared: Arc<Shared>,
    transport: T,
    buffer: Box<[u8]>,
    outgoing: Option<Outgoing>,
    needs_flush: bool,
    /// When a guest agent that has not answered is polled again.
    ask_again: Option<Pin<Box<Sleep>>>,
    /// How long a partly written line may take once this side has closed the session.
    linger: Option<Pin<Box<Sleep>>>,
}

/// How often a guest agent that has not answered is polled.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long a peer that does not read may delay the end of a session while a partly written line is
/// finished.
const LINGER: Duration = Duration::from_secs(5);

/// A line that is being written.
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    fd: Option<OwnedFd>,
    /// The subscription that begins with the last byte: QEMU cannot act on a partial line.
    queue: Option<Arc<Queue>>,
    /// Set with the last byte.
    done: Option<Arc<AtomicBool>>,
}

impl<T: Transport> Driver<T> {
    pub(crate) fn new(shared: Arc<Shared>, transport: T) -> Self {
        Self {
            shared,
            transport,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            outgoing: None,
            needs_flush: false,
            ask_again: None,
            linger: None,
        }
    }

    /// Reads what is available. `Ok(true)` if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        for _ in 0..READS_PER_TURN {
            let mut buf = ReadBuf::new(&mut self.buffer);
            match self.transport.poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(Closed::Io(Arc::new(error))),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Err(self.shared.end_of_stream());
                }
                Poll::Ready(Ok(())) => self.shared.received(buf.filled()),
            }
        }
        Ok(true)
    }

    /// Reads what has arrived by now, whether or not the runtime has noticed.
    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        let Some(source) = self.transport.source() else {
            if self.read(cx)? {
                cx.waker().wake_by_ref();
            }
            return Ok(());
        };
        let failed = |errno: Errno| Closed::Io(Arc::new(errno.into()));
        // No more than that, or a flood of events could hold up the command forever.
        let mut arrived = rustix::io::ioctl_fionread(source).map_err(failed)?;
        while arrived > 0 {
            let room = usize::try_from(arrived).unwrap_or(usize::MAX).min(READ_SIZE);
            match rustix::io::read(source, &mut self.buffer[..room]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => {
                    self.shared.received(&self.buffer[..count]);
                    arrived = arrived.saturating_sub(count as u64);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// Writes what is pending, as far as the stream accepts it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        loop {
            if self.outgoing.is_none() {
                self.outgoing = self.shared.transmit().map(Outgoing::from);
            }
            let Some(outgoing) = &self.outgoing else {
                break;
            };
            if outgoing.queue.is_some() {
                // An event that has already arrived is not the one that the command will cause.
                self.drain(cx)?;
            }
            match self.write_some(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(self.last_words(cx, error)),
                Poll::Ready(Ok(())) => {}
            }
        }
        if self.needs_flush
            && let Poll::Ready(flushed) = self.transport.poll_flush(cx)
        {
            flushed.map_err(|error| self.last_words(cx, error))?;
            self.needs_flush = false;
        }
        Ok(())
    }

    /// Writes a piece of the line.
    fn write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(outgoing) = &mut self.outgoing else {
            return Poll::Ready(Ok(()));
        };
        let rest = &outgoing.bytes[outgoing.written..];
        let written = match &outgoing.fd {
            Some(fd) => self.transport.poll_write_with_fd(cx, rest, fd.as_fd()),
            None => self.transport.poll_write(cx, rest),
        };
        let count = match ready!(written) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => count,
        };
        if count > 0 {
            self.needs_flush = true;
            outgoing.fd = None;
            outgoing.written += count;
            if outgoing.written == outgoing.bytes.len() {
                if let Some(done) = &outgoing.done {
                    done.store(true, Ordering::Relaxed);
                }
                if let Some(queue) = outgoing.queue.take() {
                    self.shared.begin(queue);
                }
                self.outgoing = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Why the session ends when writing fails. QEMU may have sent something before it closed; that
    /// is read first.
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> Closed {
        while let Some(source) = self.transport.source() {
            match rustix::io::read(source, &mut self.buffer[..]) {
                Ok(0) => return self.shared.end_of_stream(),
                Ok(count) => self.shared.received(&self.buffer[..count]),
                Err(Errno::INTR) => {}
                Err(_) => return Closed::Io(Arc::new(error)),
            }
        }
        loop {
            match self.read(cx) {
                Ok(true) => {}
                Ok(false) => return Closed::Io(Arc::new(error)),
                Err(cause) => return cause,
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        self.shared.register(cx.waker());
        let more = self.read(cx)?;
        self.ask_agent_again(cx);
        self.write(cx)?;
        Ok(more)
    }

    /// An agent that was started after the command was written has not seen it.
    fn ask_agent_again(&mut self, cx: &mut Context<'_>) {
        if !self.shared.is_agent || !self.shared.synchronizes(false) {
            self.ask_again = None;
            return;
        }
        let pause = self.ask_again.get_or_insert_with(|| Box::pin(tokio::time::sleep(ASK_AGAIN)));
        while pause.as_mut().poll(cx).is_ready() {
            self.shared.synchronizes(true);
            pause.as_mut().reset(Instant::now() + ASK_AGAIN);
        }
    }

    /// Finishes a partly written line, so that the stream's next reader does not see half of one.
    fn finish_line(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while self.outgoing.as_ref().is_some_and(|line| line.written > 0) {
            if ready!(self.write_some(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        self.outgoing = None;
        // No caller is left to report an error to.
        self.transport.poll_shutdown(cx).map(drop)
    }
}

impl From<Line> for Outgoing {
    fn from(line: Line) -> Self {
        Self {
            bytes: line.transmit.bytes,
            written: 0,
            fd: line.transmit.fd,
            queue: line.queue,
            done: line.written,
        }
    }
}

impl<T: Transport + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.closed_cause().is_none() {
            match self.turn(cx) {
                Ok(true) => cx.waker().wake_by_ref(),
                Ok(false) => {}
                Err(cause) => self.shared.close(cause),
            }
        }
        match self.shared.closed_cause() {
            None => Poll::Pending,
            Some(Closed::Local) => self.finish_line(cx),
            Some(_) => Poll::Ready(()),
        }
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        // A session cannot outlive its driver, which is dropped for instance when the runtime shuts
        // down.
        self.shared.close(Closed::Local);
        self.shared.let_go();
    }
}
