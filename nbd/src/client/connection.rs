//! A connection in the transmission phase: who sends, who reads, who waits.
//!
//! One task writes requests, one reads replies; callers wait for the reply to their cookie. A
//! caller that is cancelled leaves the stream whole: its request is written out by the writer,
//! and its reply is read and dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::builder::{Builder, RequestChecks};
use super::error::{ConnectionError, RequestError};
use super::export::ExportInfo;
use super::reader::{self, Reply};
use super::transport::Stream;
use crate::proto::chunk::Error as ChunkError;
use crate::proto::{ReplyCheck, Request};

/// A connection to an export. Cheap to clone; the socket closes with the last clone.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) export: ExportInfo,
    pub(super) builder: Builder,
    shared: Arc<Shared>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    window: Arc<Semaphore>,
    next_cookie: AtomicU64,
    over: watch::Receiver<bool>,
    tasks: [AbortHandle; 2],
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Client");
        f.field("export", &self.inner.export)
            .field("error", &self.error())
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What the callers share with the two tasks.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    requests: AtomicU64,
    over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u64, Pending>,
    highest_cookie: u64,
    dead: Option<Arc<ConnectionError>>,
}

/// A request that has no complete reply yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) check: ReplyCheck,
    pub(super) reply: Reply,
    pub(super) started: bool,
    pub(super) done: oneshot::Sender<Answer>,
    /// Given back when the reply has come, whether its caller still waits or not.
    _slot: OwnedSemaphorePermit,
}

/// How a request ended: a reply, the server's error, or the end of the connection.
pub(super) type Answer = Result<Result<Reply, ChunkError>, Arc<ConnectionError>>;

struct Outgoing {
    header: Vec<u8>,
    payload: Bytes,
}

/// What went over a connection so far.
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
    /// Starts to prepare a connection.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn start(stream: Stream, builder: Builder, export: ExportInfo) -> Client {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let (over_tx, over) = watch::channel(false);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            over: over_tx,
        });
        let writer = tokio::spawn(write(stream.tx, inbox, shared.clone()));
        let reader = tokio::spawn(reader::read(stream.rx, shared.clone()));
        let window = Arc::new(Semaphore::new(builder.window));
        Client {
            inner: Arc::new(Inner {
                export,
                builder,
                shared,
                outbox,
                window,
                // 0 is what a careless server sends; starting at 1 tells the two apart.
                next_cookie: AtomicU64::new(1),
                over,
                tasks: [writer.abort_handle(), reader.abort_handle()],
            }),
        }
    }

    /// What the server said of the export.
    pub fn export(&self) -> &ExportInfo {
        &self.inner.export
    }

    /// What went over this connection so far.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        Stats {
            requests: shared.requests.load(Ordering::Relaxed),
            bytes_in: shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: shared.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Waits until the connection is over, and says why.
    pub async fn closed(&self) -> Arc<ConnectionError> {
        let mut over = self.inner.over.clone();
        // The sender lives as long as `shared`, so this ends when the connection does.
        let _ = over.wait_for(|over| *over).await;
        self.inner.shared.death()
    }

    /// Why the connection is over, if it is.
    pub fn error(&self) -> Option<Arc<ConnectionError>> {
        self.inner.shared.lock().dead.clone()
    }

    /// Sends a request and waits for its reply.
    ///
    /// `effect_len` is what the request is about; `contexts` are those a block status must answer.
    pub(super) async fn submit(
        &self,
        mut request: Request,
        effect_len: u64,
        payload: Bytes,
        contexts: Vec<u32>,
        buffer: Vec<u8>,
    ) -> Result<Reply, RequestError> {
        let inner = &*self.inner;
        let mode = inner.export.mode;
        request.cookie = inner.next_cookie.fetch_add(1, Ordering::Relaxed);
        let check = ReplyCheck::new(request, effect_len, mode, contexts)
            .with_checks(inner.builder.checks)
            .with_max_payload(inner.builder.max_payload);
        let answer = async {
            let slot = inner.window.clone().acquire_owned().await;
            let (done, answer) = oneshot::channel();
            let pending = Pending {
                check,
                reply: Reply::new(buffer),
                started: false,
                done,
                _slot: slot.map_err(|_| inner.shared.death())?,
            };
            inner.shared.register(request.cookie, pending)?;
            let header = request.encode(mode.header_style());
            // A writer that is gone has seen the end of the connection; the reader knows why.
            let _ = inner.outbox.send(Outgoing { header, payload });
            answer.await.map_err(|_| inner.shared.death())?
        };
        let after = inner.builder.deadlines.request;
        match tokio::time::timeout(after, answer).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(error))) => Err(RequestError::Nbd {
                command: request.command,
                offset: request.offset,
                len: effect_len,
                errno: error.errno,
                message: error.message,
                at: error.offset,
            }),
            Ok(Err(source)) => Err(lost(&request, effect_len, source)),
            Err(_) => Err(RequestError::Deadline {
                command: request.command,
                offset: request.offset,
                len: effect_len,
                after,
            }),
        }
    }

    /// Sends a request that has no reply.
    pub(super) fn notify(&self, request: Request) {
        let header = request.encode(self.inner.export.mode.header_style());
        // A connection that is gone already needs no goodbye.
        let _ = self.inner.outbox.send(Outgoing {
            header,
            payload: Bytes::new(),
        });
    }

    pub(super) fn is_checked(&self, check: RequestChecks) -> bool {
        self.inner.builder.request_checks.contains(check)
    }
}

fn lost(request: &Request, len: u64, source: Arc<ConnectionError>) -> RequestError {
    RequestError::Connection {
        command: request.command,
        offset: request.offset,
        len,
        source,
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock, and the state is whole between any two lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, cookie: u64, pending: Pending) -> Result<(), Arc<ConnectionError>> {
        let mut state = self.lock();
        if let Some(dead) = &state.dead {
            return Err(dead.clone());
        }
        state.highest_cookie = state.highest_cookie.max(cookie);
        state.pending.insert(cookie, pending);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a request out while one of its chunks is read; `None` says whether it ever was.
    pub(super) fn take(&self, cookie: u64) -> Result<Pending, bool> {
        let mut state = self.lock();
        let known = cookie != 0 && cookie <= state.highest_cookie;
        state.pending.remove(&cookie).ok_or(known)
    }

    /// Puts a request back whose reply goes on.
    pub(super) fn put_back(&self, cookie: u64, pending: Pending) {
        self.lock().pending.insert(cookie, pending);
    }

    /// Whether a reply has begun and not ended.
    pub(super) fn unfinished(&self) -> Option<u64> {
        self.lock()
            .pending
            .iter()
            .find(|(_, p)| p.started)
            .map(|(cookie, _)| *cookie)
    }

    pub(super) fn count_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    fn death(&self) -> Arc<ConnectionError> {
        self.lock()
            .dead
            .clone()
            .unwrap_or_else(|| Arc::new(ConnectionError::Closed))
    }

    /// Ends the connection for everyone; the first reason stays.
    pub(super) fn die(&self, error: ConnectionError) {
        let mut state = self.lock();
        let error = state.dead.get_or_insert_with(|| Arc::new(error)).clone();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (_, pending) in pending {
            // A caller that gave up does not listen any more.
            let _ = pending.done.send(Err(error.clone()));
        }
        self.over.send_replace(true);
    }
}

/// How long a server that does not take requests any more may go on with its replies.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Writes what the callers send, several small requests at a time.
async fn write(
    mut tx: Box<dyn AsyncWrite + Send + Unpin>,
    mut inbox: mpsc::UnboundedReceiver<Outgoing>,
    shared: Arc<Shared>,
) {
    let mut over = shared.over.subscribe();
    let broken = loop {
        let first = tokio::select! {
            first = inbox.recv() => first,
            _ = over.wait_for(|over| *over) => None,
        };
        let Some(first) = first else { break None };
        let mut next = Some(first);
        let mut headers = Vec::new();
        let mut payload = Bytes::new();
        while let Some(out) = next.take() {
            headers.extend(out.header);
            payload = out.payload;
            if !payload.is_empty() || headers.len() > 4096 {
                break;
            }
            next = inbox.try_recv().ok();
        }
        let total = (headers.len() + payload.len()) as u64;
        let mut bytes = Bytes::from(headers).chain(payload);
        if let Err(error) = tx.write_all_buf(&mut bytes).await {
            break Some(error);
        }
        shared.bytes_out.fetch_add(total, Ordering::Relaxed);
    };
    // The reader decides how the connection ended; this side has nothing more to say.
    let _ = tx.shutdown().await;
    if let Some(error) = broken {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // A server that has closed may have left a last word, which the reader finds before the
            // end of the stream. One that only does not listen any more keeps nobody waiting.
            let _ = tokio::time::timeout(LAST_WORD, over.wait_for(|over| *over)).await;
        }
        shared.die(ConnectionError::Io(error));
    }
}
