//! One connection's bytes, and the faults that are about bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::journal::Closed;
use super::layout::{self, Layout};
use super::plan::{Action, At, Closing, Firing, Side};
use super::state::{Order, Shared};
use crate::proto::DecodeError;

/// A connected socket.
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

/// Any stream of bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
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

/// Why a connection comes to its end; `?` carries it up to the one place that writes it down.
#[derive(Debug)]
pub(super) struct End(pub(super) Closed);

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End(Closed::Peer)
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> End {
        End(Closed::Refused(error.to_string()))
    }
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) layout: Layout,
    /// Header and fixed part.
    pub(super) head: Vec<u8>,
    /// Data of a read.
    pub(super) data: Bytes,
}

impl Message {
    pub(super) fn new(layout: Layout, head: Vec<u8>) -> Message {
        Message {
            layout,
            head,
            data: Bytes::new(),
        }
    }
}

/// One connection.
pub(super) struct Wire {
    socket: Option<Socket>,
    pub(super) number: u64,
    pub(super) shared: Arc<Shared>,
    /// Bytes of a header that has not come wholly; kept so that waiting can be interrupted.
    partial: Vec<u8>,
    /// What the client sends is not looked at any more.
    deaf: bool,
}

impl Wire {
    pub(super) fn new(socket: Socket, number: u64, shared: Arc<Shared>) -> Wire {
        Wire {
            socket: Some(socket),
            number,
            shared,
            partial: Vec::new(),
            deaf: false,
        }
    }

    fn socket(&mut self) -> Result<&mut Socket, End> {
        self.socket.as_mut().ok_or(End(Closed::Fault))
    }

    /// Receives exactly `len` bytes, never more: what a client sent beyond stays in the kernel,
    /// where it makes a plain close a reset. Can be interrupted and called again.
    pub(super) async fn receive(&mut self, len: usize) -> Result<Vec<u8>, End> {
        self.fill(len).await?;
        Ok(std::mem::take(&mut self.partial))
    }

    async fn fill(&mut self, len: usize) -> Result<(), End> {
        if self.deaf {
            // Until the end of the server: of a half-open connection one half stays open.
            std::future::pending::<()>().await;
        }
        let socket = self.socket.as_mut().ok_or(End(Closed::Fault))?;
        self.partial
            .reserve_exact(len.saturating_sub(self.partial.len()));
        while self.partial.len() < len {
            let left = len - self.partial.len();
            let mut room = (&mut self.partial).limit(left);
            if socket.read_buf(&mut room).await? == 0 {
                return Err(End(Closed::Peer));
            }
        }
        Ok(())
    }

    /// Like [`Wire::receive`], with the faults that do not depend on what comes.
    pub(super) async fn receive_with(
        &mut self,
        len: usize,
        firings: &[Firing],
    ) -> Result<Vec<u8>, End> {
        for firing in firings.iter().filter(|f| f.at == At::Before) {
            self.act(firing).await?;
        }
        let mut stops: Vec<(&Firing, usize)> = Vec::new();
        for firing in firings {
            if let At::Byte(n) = firing.at {
                stops.push((firing, len.min(n as usize)));
            }
        }
        stops.sort_by_key(|(_, n)| *n);
        for (firing, n) in stops {
            self.fill(n).await?;
            self.act(firing).await?;
        }
        let bytes = self.receive(len).await?;
        for firing in firings.iter().filter(|f| f.at == At::After) {
            self.act(firing).await?;
        }
        Ok(bytes)
    }

    /// Sends a message with its faults.
    pub(super) async fn send(&mut self, message: Message, firings: &[Firing]) -> Result<(), End> {
        if firings.is_empty() {
            let mut bytes = bytes::Buf::chain(Bytes::from(message.head), message.data);
            return Ok(self.socket()?.write_all_buf(&mut bytes).await?);
        }
        let (flow, edits): (Vec<_>, Vec<_>) = firings.iter().partition(|f| is_flow(&f.action));
        for firing in flow.iter().filter(|f| f.at == At::Before) {
            self.act(firing).await?;
        }
        // What is sent before a stop is cut from the whole message, data included.
        let mut bytes = message.head;
        bytes.extend_from_slice(&message.data);
        let mut dribble = false;
        for firing in edits {
            if !self.transform(&mut bytes, message.layout, firing) {
                dribble |= firing.action == Action::Dribble;
                if firing.action != Action::Dribble {
                    self.shared.misfit(self.number, firing);
                }
            }
        }
        let mut stops: Vec<(&Firing, usize)> = Vec::new();
        for firing in &flow {
            match firing.at {
                At::Before => {}
                At::Byte(n) => stops.push((firing, bytes.len().min(n as usize))),
                At::After => stops.push((firing, bytes.len())),
            }
        }
        stops.sort_by_key(|(_, n)| *n);
        let mut sent = 0;
        for (firing, n) in stops {
            self.write(&bytes[sent..n], dribble).await?;
            sent = n;
            self.act(firing).await?;
        }
        self.write(&bytes[sent..], dribble).await
    }

    async fn write(&mut self, bytes: &[u8], dribble: bool) -> Result<(), End> {
        let socket = self.socket()?;
        for piece in bytes.chunks(if dribble { 1 } else { bytes.len().max(1) }) {
            socket.write_all(piece).await?;
            if dribble {
                // The client gets a chance to see each byte alone.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Changes bytes; `false` if that is not what this action does, or not possible here.
    fn transform(&self, bytes: &mut Vec<u8>, layout: Layout, firing: &Firing) -> bool {
        match &firing.action {
            Action::Truncate(n) => bytes.truncate(*n as usize),
            Action::Pad(n) => bytes.resize(bytes.len() + *n as usize, 0),
            Action::FlipBits(n) if !bytes.is_empty() => {
                let mut rng = fastrand::Rng::with_seed(firing.random);
                for _ in 0..*n {
                    let bit = rng.usize(..bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
            Action::Replace(new) => *bytes = new.clone(),
            Action::Drop => bytes.clear(),
            Action::Set(field, edit) => return layout::edit(bytes, layout, *field, *edit),
            _ => return false,
        }
        true
    }

    /// Does what is about the connection as a whole.
    pub(super) async fn act(&mut self, firing: &Firing) -> Result<(), End> {
        let shared = self.shared.clone();
        match &firing.action {
            Action::Close(how) => return Err(self.close(*how).await),
            Action::Die => {
                // First, so that who sees its connection close finds nobody.
                shared.order(Order::Stop).await;
                let end = self.close(Closing::Plain).await;
                shared.over.send_replace(true);
                return Err(end);
            }
            Action::RestartOn(name) => {
                let trigger = shared.triggers.get(name);
                shared.order(Order::StopUntil(trigger)).await;
                return Err(self.close(Closing::Plain).await);
            }
            Action::RestartAfter(ms) => {
                let pause = Duration::from_millis(*ms);
                shared.order(Order::StopFor(pause)).await;
                return Err(self.close(Closing::Plain).await);
            }
            Action::StopListening => shared.order(Order::Stop).await,
            Action::HalfClose(Side::Tx) => self.socket()?.shutdown().await?,
            Action::HalfClose(Side::Rx) => self.stop_receiving()?,
            // The end of the server ends this, as it ends every connection.
            Action::Stall => std::future::pending().await,
            Action::Hold(name) => shared.triggers.get(name).wait().await,
            Action::Delay(ms) => shared.clock.sleep(Duration::from_millis(*ms)).await,
            _ => shared.misfit(self.number, firing),
        }
        Ok(())
    }

    fn stop_receiving(&mut self) -> Result<(), End> {
        use nix::sys::socket::{Shutdown, shutdown};
        use std::os::fd::AsRawFd;
        self.deaf = true;
        let fd = match self.socket()? {
            Socket::Unix(s) => s.as_raw_fd(),
            Socket::Tcp(s) => s.as_raw_fd(),
            Socket::Other(_) => return Ok(()),
        };
        shutdown(fd, Shutdown::Read).map_err(io::Error::from)?;
        Ok(())
    }

    async fn close(&mut self, how: Closing) -> End {
        if let Some(mut socket) = self.socket.take() {
            match (how, &mut socket) {
                (Closing::Rst, Socket::Tcp(tcp)) => {
                    // Closing then resets. If the option cannot be set it is a plain close.
                    let _ = tcp.set_zero_linger();
                }
                (Closing::Fin, socket) => {
                    // A client that is gone already needs no end of stream.
                    let _ = socket.shutdown().await;
                    let mut rest = [0; 4096];
                    while matches!(socket.read(&mut rest).await, Ok(n) if n > 0) {}
                }
                _ => {}
            }
        }
        End(Closed::Fault)
    }
}

/// Whether an action is about the connection and not about a message.
pub(super) fn is_flow(action: &Action) -> bool {
    matches!(
        action,
        Action::Close(_)
            | Action::Die
            | Action::RestartOn(_)
            | Action::RestartAfter(_)
            | Action::StopListening
            | Action::HalfClose(_)
            | Action::Stall
            | Action::Hold(_)
            | Action::Delay(_)
    )
}
