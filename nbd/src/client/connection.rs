//! The handle of a connection, and the commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::builder::{ClientBuilder, Deadlines};
use super::driver::{Driver, Order};
use crate::proto::client::{
    Command, ConnectionError, ExportInfo, Origin, Reply, RequestError, Transmission,
};
use crate::proto::{CommandFlags, Request};
use crate::socket::Socket;

/// A connection to an export. Cheap to clone; the socket closes with the last clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    export: ExportInfo,
    peer: Arc<str>,
    deadlines: Deadlines,
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
}

/// The callers' view of the task.
#[derive(Debug)]
pub(super) struct Shared {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    requests: AtomicU64,
    /// Why the connection is over.
    pub(super) over: watch::Sender<Option<Arc<ConnectionError>>>,
}

impl Shared {
    pub(super) fn count(&self, machine: &Transmission<Bytes>) {
        self.bytes_in.store(machine.bytes_in(), Ordering::Relaxed);
        self.bytes_out.store(machine.bytes_out(), Ordering::Relaxed);
        self.requests.store(machine.requests(), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Client");
        f.field("export", &self.inner.export).field("error", &self.error()).finish()
    }
}

/// Traffic of a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent.
    pub requests: u64,
    /// Bytes received in the transmission phase.
    pub bytes_in: u64,
    /// Bytes sent in the transmission phase.
    pub bytes_out: u64,
}

impl Client {
    /// Starts building a connection.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(super) fn start(
        socket: Socket,
        machine: Transmission<Bytes>,
        peer: &Arc<str>,
        deadlines: Deadlines,
    ) -> Client {
        let (orders, taken) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            over: watch::Sender::new(None),
        });
        let export = machine.export().clone();
        // It ends with the connection, or when the last handle drops its end of the channel.
        tokio::spawn(Driver::new(socket, machine, taken, shared.clone()).run());
        Client {
            inner: Arc::new(Inner {
                export,
                peer: peer.clone(),
                deadlines,
                orders,
                shared,
            }),
        }
    }

    /// The export as the server described it.
    pub fn export(&self) -> &ExportInfo {
        &self.inner.export
    }

    /// Whether both are clones of one connection.
    pub(super) fn is_same(&self, other: &Client) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The server's address, for messages.
    pub fn peer(&self) -> &str {
        &self.inner.peer
    }

    /// Traffic of this connection so far.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        Stats {
            requests: shared.requests.load(Ordering::Relaxed),
            bytes_in: shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: shared.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Waits until the connection is over, and returns the reason.
    pub async fn closed(&self) -> Arc<ConnectionError> {
        let mut over = self.inner.shared.over.subscribe();
        match over.wait_for(Option::is_some).await {
            Ok(why) => why.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Arc::new(ConnectionError::Closed))
    }

    /// Why the connection is over, if it is.
    pub fn error(&self) -> Option<Arc<ConnectionError>> {
        self.inner.shared.over.borrow().clone()
    }

    /// Submits a request and waits for its reply. Dropping the future does not affect the
    /// connection.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn submit(&self, command: Command<Bytes>) -> Result<Reply, RequestError> {
        let after = self.inner.deadlines.request;
        let now = tokio::time::Instant::now().into_std();
        let deadline = now.checked_add(after).map(|at| (at, after));
        let (what, offset, len) = command.asks();
        let (done, answer) = oneshot::channel();
        let order = Order::Submit {
            command,
            deadline,
            done,
        };
        let sent = self.inner.orders.send(order);
        if sent.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        let source = self.closed().await;
        let (export, peer) = (self.inner.export.name.as_str(), self.inner.peer.clone());
        let origin = Box::new(Origin::new(what, offset, len, export, peer));
        Err(RequestError::Connection { origin, source })
    }

    /// Reads `len` bytes at `offset`.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, RequestError> {
        Ok(self.submit(Command::read(offset, len)).await?.data)
    }

    /// Reads into a reused buffer; its old content is lost, even on errors. The returned buffer may
    /// be another one that was passed this way ([`Command::into_buffer`]).
    pub async fn read_into(
        &self,
        offset: u64,
        len: u64,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let command = Command::read(offset, len).into_buffer(buffer);
        Ok(self.submit(command).await?.data)
    }

    /// Reads with flags ([`CommandFlags::DF`]), into a buffer as [`Client::read_into`] does.
    pub async fn read_with(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let command = Command::read(offset, len).flags(flags).into_buffer(buffer);
        Ok(self.submit(command).await?.data)
    }

    /// Writes data at `offset`.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), RequestError> {
        self.write_with(offset, data, CommandFlags::empty()).await
    }

    /// Writes with flags ([`CommandFlags::FUA`]).
    pub async fn write_with(
        &self,
        offset: u64,
        data: impl Into<Bytes>,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        let command = Command::write(offset, data.into()).flags(flags);
        self.submit(command).await.map(drop)
    }

    /// Writes zeroes. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        let command = Command::write_zeroes(offset, len).flags(flags);
        self.submit(command).await.map(drop)
    }

    /// Discards.
    pub async fn trim(&self, offset: u64, len: u64) -> Result<(), RequestError> {
        self.trim_with(offset, len, CommandFlags::empty()).await
    }

    /// Discards with flags ([`CommandFlags::FUA`]).
    pub async fn trim_with(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        let command = Command::trim(offset, len).flags(flags);
        self.submit(command).await.map(drop)
    }

    /// Asks the server to prefetch.
    pub async fn cache(&self, offset: u64, len: u64) -> Result<(), RequestError> {
        self.submit(Command::cache(offset, len)).await.map(drop)
    }

    /// Waits until completed writes are on stable storage.
    pub async fn flush(&self) -> Result<(), RequestError> {
        self.submit(Command::flush()).await.map(drop)
    }

    /// Sends any request, unchecked; the reply is checked as usual. The cookie is set here.
    ///
    /// For a read the data is returned; a server that sends more than
    /// [`ClientBuilder::max_payload`] breaks the protocol. A `DISC` has no reply, so the call ends
    /// with the connection or at the deadline.
    pub async fn raw(
        &self,
        request: Request,
        payload: impl Into<Bytes>,
    ) -> Result<Vec<u8>, RequestError> {
        let command = Command::raw(request, payload.into());
        Ok(self.submit(command).await?.data)
    }

    /// Disconnects gracefully: sends `DISC` after all submitted requests, and waits until the
    /// server has closed the connection. Clones cannot send anything after that.
    pub async fn disconnect(self) -> Result<(), Arc<ConnectionError>> {
        // A dead connection needs no `DISC`.
        let _ = self.inner.orders.send(Order::Disconnect);
        let after = self.inner.deadlines.request;
        match tokio::time::timeout(after, self.closed()).await {
            Ok(why) => match *why {
                ConnectionError::Closed | ConnectionError::Disconnected => Ok(()),
                _ => Err(why),
            },
            Err(_) => {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(Arc::new(ConnectionError::Io(Arc::new(error))))
            }
        }
    }
}
