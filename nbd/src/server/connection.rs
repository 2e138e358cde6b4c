//! The driver of one connection: it moves bytes, runs requests, and knows nothing of the protocol.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::conversation::{Conversation, Job};
#[cfg(not(feature = "faults"))]
use super::execute::execute;
use super::state::{Note, Shared};
use super::{Effect, Faults};
use crate::proto::Errno;
use crate::proto::server::{Answer, Closed};
use crate::socket::Socket;

/// Slices that are written at once.
const SLICES: usize = 64;

/// An accepted client that is still connected; shutdown waits for it.
pub(super) struct Connection {
    number: u64,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn accepted(number: u64, shared: Arc<Shared>) -> Connection {
        shared.note(number, Note::Accepted);
        shared.connected.send_modify(|n| *n += 1);
        Connection { number, shared }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.connected.send_modify(|n| *n -= 1);
    }
}

/// Requests that did not complete immediately.
#[derive(Default)]
struct Running {
    tasks: JoinSet<Answer<Bytes>>,
    ids: HashMap<tokio::task::Id, u64>,
}

/// Serves a client until the connection ends, and records the reason.
pub(super) async fn serve(mut socket: Option<Socket>, connection: Connection) {
    let (number, shared) = (connection.number, connection.shared.clone());
    #[cfg(feature = "faults")]
    let faults = shared.faults.clone().map(|f| Faults::new(f, number));
    #[cfg(not(feature = "faults"))]
    let faults = None::<Faults>;
    let mut conversation = Conversation::new(shared.config.clone(), shared.exports.clone(), faults);
    let mut running = Running::default();
    let why = drive(&mut socket, &mut conversation, &mut running, &shared).await;
    let at = shared.now();
    // The socket is closed first: a reader that finds the end in the journal may rely on it.
    drop(socket);
    // Requests in flight finish before the connection ends: a caller that waits for the server's
    // shutdown may rely on it.
    while running.tasks.join_next().await.is_some() {}
    shared.note_at(number, at, Note::Closed(why));
}

async fn drive(
    socket: &mut Option<Socket>,
    conversation: &mut Conversation,
    running: &mut Running,
    shared: &Arc<Shared>,
) -> Closed {
    let mut over = shared.over.subscribe();
    let mut limit = shared.handshake_limit.map(Limit::new);
    loop {
        conversation.pump();
        while let Some(job) = conversation.job() {
            start(job, conversation, running);
            // Its reply may already be available, which makes room for further requests.
            conversation.pump();
        }
        let flushed = socket.as_ref().is_none_or(|s| !s.is_unflushed());
        if flushed && let Some(effect) = conversation.effect() {
            if let Some(end) = carry_out(effect, socket, conversation, shared).await {
                return end;
            }
            continue;
        }
        let Some(stream) = socket.as_mut() else {
            return Closed::Fault;
        };
        if let Some(why) = conversation.finished() {
            // For TLS, and for streams with an explicit end. Failure does not matter if the client
            // is gone.
            tokio::select! {
                _ = stream.shutdown() => {}
                _ = over.wait_for(|over| *over) => {}
                _ = expired(&mut limit) => {}
            }
            return why;
        }
        if conversation.wants_tls() {
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => return Closed::Shutdown,
                why = expired(&mut limit) => return why,
                accepted = super::tls::accept(socket, shared) => match accepted {
                    Ok(()) => conversation.tls_started(),
                    Err(error) => return Closed::Refused(format!("TLS: {error}")),
                }
            }
            continue;
        }
        if conversation.is_transmitting() {
            limit = None;
        }
        let changes = conversation.faults().filter(|f| f.is_armed());
        let changes = changes.and_then(|faults| faults.changes());
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return Closed::Shutdown,
            Some(ended) = running.tasks.join_next_with_id(), if !running.tasks.is_empty() => {
                let (task, answer) = match ended {
                    Ok((task, answer)) => (task, answer),
                    Err(error) => (error.id(), panicked()),
                };
                if let Some(id) = running.ids.remove(&task) {
                    conversation.reply(id, answer);
                }
            }
            why = expired(&mut limit) => return why,
            () = changed(changes) => {}
            moved = move_bytes(stream, conversation) => if let Err(error) = moved {
                tracing::debug!(%error, "connection");
                conversation.end_of_stream();
                return conversation.finished().unwrap_or(Closed::Peer);
            }
        }
        if conversation.is_alone() {
            // Give the client a chance to see these bytes on their own.
            tokio::task::yield_now().await;
        }
    }
}

/// The deadline of a handshake.
struct Limit {
    after: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Limit {
    fn new(after: Duration) -> Limit {
        let timer = Box::pin(tokio::time::sleep(after));
        Limit { after, timer }
    }
}

async fn expired(limit: &mut Option<Limit>) -> Closed {
    match limit {
        Some(limit) => {
            limit.timer.as_mut().await;
            Closed::Refused(format!("no export was chosen within {:?}", limit.after))
        }
        None => std::future::pending().await,
    }
}

async fn changed(changes: Option<impl Future<Output = ()>>) {
    match changes {
        Some(changes) => changes.await,
        None => std::future::pending().await,
    }
}

/// Writes pending output and reads wanted input, whichever is possible first.
async fn move_bytes(stream: &mut Socket, conversation: &mut Conversation) -> io::Result<()> {
    poll_fn(|cx| {
        if conversation.wants_output() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = conversation.slices(&mut slices);
            match Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..n]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    conversation.written(n);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        } else if stream.is_unflushed()
            && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx)
        {
            return Poll::Ready(flushed);
        }
        if conversation.wants_input() {
            let mut room = ReadBuf::new(conversation.space());
            match Pin::new(&mut *stream).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) => {
                    match room.filled().len() {
                        0 => conversation.end_of_stream(),
                        n => conversation.filled(n),
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// Carries out a request: immediately if it does not have to wait, else concurrently.
fn start(job: Job, conversation: &mut Conversation, running: &mut Running) {
    let id = job.incoming.id;
    #[cfg(feature = "faults")]
    let mut work = Box::pin(super::faults::shadow::noting(job, conversation.faults()));
    #[cfg(not(feature = "faults"))]
    let mut work = Box::pin(execute(job));
    let mut context = Context::from_waker(Waker::noop());
    let first = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context)));
    match first {
        Ok(Poll::Ready(answer)) => conversation.reply(id, answer),
        Ok(Poll::Pending) => {
            let task = running.tasks.spawn(work);
            running.ids.insert(task.id(), id);
        }
        Err(_) => conversation.reply(id, panicked()),
    }
}

fn panicked() -> Answer<Bytes> {
    Answer::fail(Errno::EIO, "the backend has panicked")
}

/// Applies a rule's action to the whole connection; returns why it ended, if it did.
#[cfg(feature = "faults")]
async fn carry_out(
    effect: Effect,
    socket: &mut Option<Socket>,
    conversation: &mut Conversation,
    shared: &Arc<Shared>,
) -> Option<Closed> {
    use super::faults::plan::{Closing, Side};
    use super::state::Order;
    // The listener records orders that failed.
    match effect {
        Effect::Close(how) => {
            // A client that never disconnects must not block shutdown.
            let mut over = shared.over.subscribe();
            tokio::select! {
                () = close(socket, how) => {}
                _ = over.wait_for(|over| *over) => {}
            }
        }
        Effect::Die => {
            // First, so that a client whose connection closes finds no listener.
            let _ = shared.order(Order::Stop).await;
            close(socket, Closing::Plain).await;
            shared.over.send_replace(true);
        }
        Effect::RestartOn(trigger) => {
            let _ = shared.order(Order::StopUntil(trigger)).await;
            close(socket, Closing::Plain).await;
        }
        Effect::RestartAfter(pause) => {
            let _ = shared.order(Order::StopFor(pause)).await;
            close(socket, Closing::Plain).await;
        }
        Effect::StopListening => {
            let _ = shared.order(Order::Stop).await;
            return None;
        }
        Effect::HalfClose(Side::Tx) => {
            // A client that is gone needs no end of stream.
            let _ = socket.as_mut()?.shutdown().await;
            return None;
        }
        Effect::HalfClose(Side::Rx) => {
            if let Some(faults) = conversation.faults() {
                faults.deafen();
            }
            stop_receiving(socket.as_ref()?);
            return None;
        }
    }
    Some(Closed::Fault)
}

#[cfg(not(feature = "faults"))]
async fn carry_out(
    effect: Effect,
    _: &mut Option<Socket>,
    _: &mut Conversation,
    _: &Arc<Shared>,
) -> Option<Closed> {
    match effect {}
}

#[cfg(feature = "faults")]
fn stop_receiving(socket: &Socket) {
    use nix::sys::socket::{Shutdown, shutdown};
    use std::os::fd::AsRawFd;
    let fd = match socket {
        Socket::Unix(s) => s.as_raw_fd(),
        Socket::Tcp(s) => s.as_raw_fd(),
        Socket::Other(_) => return,
    };
    // It fails if the client is already gone.
    let _ = shutdown(fd, Shutdown::Read);
}

#[cfg(feature = "faults")]
async fn close(socket: &mut Option<Socket>, how: super::faults::plan::Closing) {
    use super::faults::plan::Closing;
    use tokio::io::AsyncReadExt;
    let Some(socket) = socket else {
        return;
    };
    match (how, socket) {
        (Closing::Rst, Socket::Tcp(tcp)) => {
            // This makes close send a reset. If the option cannot be set it is a plain close.
            let _ = tcp.set_zero_linger();
        }
        (Closing::Fin, socket) => {
            // A client that is already gone needs no end of stream.
            let _ = socket.shutdown().await;
            let mut rest = [0; 4096];
            while matches!(socket.read(&mut rest).await, Ok(n) if n > 0) {}
        }
        _ => {}
    }
}
