//! The state that a client's handles share with its driver.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use tokio::sync::{Notify, oneshot, watch};
use tracing::{Span, debug, trace, warn};

use super::cache::Store;
use super::events::{EventStream, Queue};
use super::options::Options;
use super::record::Record;
use crate::encode::EncodeError;
use crate::error::Closed;
use crate::matcher::Matcher;
use crate::message::{Event, Greeting};
use crate::session::{
    CallId, Discarded, Failure, HandshakeFailure, Notice, Request, Returned, Session, Transmit,
};
use crate::transcript::{Direction, Entry};

/// How a call ended.
pub(crate) enum Outcome {
    Returned(Returned),
    Failed {
        id: String,
        failure: Failure,
    },
    /// The transport cannot carry file descriptors.
    Unsendable,
    Closed {
        cause: Closed,
        /// QEMU may have executed the command.
        sent: bool,
    },
}

/// The state of a session.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Handshake,
    Ready,
    Closed(Closed),
}

pub(crate) struct Shared {
    state: Mutex<State>,
    queues: Mutex<Arc<Vec<Arc<Queue>>>>,
    pub(crate) store: Option<Arc<Store>>,
    stage: watch::Sender<Stage>,
    record: Record,
    event_capacity: usize,
    carries_fds: bool,
    pub(crate) is_agent: bool,
    pub(crate) stable_only: bool,
    /// Something was answered, or the driver has ended.
    progress: Notify,
    driver_gone: AtomicBool,
}

struct State {
    session: Session,
    calls: HashMap<CallId, Pending>,
    greeting: Option<Greeting>,
    closed: Option<Closed>,
    /// The command whose line is partly written.
    writing: Option<CallId>,
    /// No further commands are accepted.
    closing: bool,
    waker: Option<Waker>,
    /// Subscriptions that begin after the message that is currently arriving.
    begin_next: Vec<Arc<Queue>>,
}

/// A call that is waiting for its reply.
struct Pending {
    reply: oneshot::Sender<Outcome>,
    sent: Option<Instant>,
    on_way: OnWay,
}

/// What accompanies a command in flight.
pub(crate) struct OnWay {
    /// The span of the call, for its id and latency.
    pub(crate) span: Span,
    /// The subscription that begins when it is sent.
    pub(crate) queue: Option<Arc<Queue>>,
    /// Set once all of it was written, if the caller needs to know.
    pub(crate) written: Option<Arc<AtomicBool>>,
}

/// How a notice is handled once the state is unlocked.
enum Delivery {
    Reply(oneshot::Sender<Outcome>, Outcome),
    Event(Event),
    /// The message between a command and its subscription is complete.
    Activate(Arc<Queue>),
}

/// A line to write.
pub(crate) struct Line {
    pub(crate) transmit: Transmit,
    /// The subscription that begins when the line is written.
    pub(crate) queue: Option<Arc<Queue>>,
    /// Set when it is.
    pub(crate) written: Option<Arc<AtomicBool>>,
}

impl Shared {
    pub(crate) fn new(options: &Options, carries_fds: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                session: Session::new(options.config),
                calls: HashMap::new(),
                greeting: None,
                closed: None,
                writing: None,
                closing: false,
                waker: None,
                begin_next: Vec::new(),
            }),
            queues: Mutex::default(),
            store: options.cached_events.map(Store::new),
            stage: watch::Sender::new(Stage::Handshake),
            record: Record::new(options),
            event_capacity: options.event_capacity,
            carries_fds,
            is_agent: options.config.agent,
            stable_only: options.stable_only,
            progress: Notify::new(),
            driver_gone: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For handles.

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn closed_cause(&self) -> Option<Closed> {
        self.lock().closed.clone()
    }

    pub(crate) fn greeting(&self) -> Option<Greeting> {
        self.lock().greeting.clone()
    }

    pub(crate) fn with_session<R>(&self, look: impl FnOnce(&mut Session) -> R) -> R {
        look(&mut self.lock().session)
    }

    pub(crate) fn transcript_tail(&self, count: usize) -> Vec<Entry> {
        self.record.tail(count)
    }

    pub(crate) fn subscribe(self: &Arc<Self>, matcher: Matcher, active: bool) -> EventStream {
        let queue = Queue::new(matcher, self.event_capacity, active);
        self.change_queues(|queues| queues.push(Arc::clone(&queue)));
        // The session may have ended in between, unseen by the queue.
        if let Some(cause) = self.closed_cause() {
            queue.close(&cause);
        }
        EventStream::new(queue, self)
    }

    /// Forgets a queue, and with it its matcher and what that holds.
    pub(crate) fn unsubscribe(&self, queue: &Arc<Queue>) {
        self.change_queues(|queues| queues.retain(|other| !Arc::ptr_eq(other, queue)));
    }

    fn change_queues(&self, change: impl FnOnce(&mut Vec<Arc<Queue>>)) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::clone(&queues);
        change(&mut list);
        let old = std::mem::replace(&mut *queues, Arc::new(list));
        drop(queues);
        // Unlocked: dropping its matcher runs foreign code.
        drop(old);
    }

    /// Hands a command to the driver. The outcome arrives through the receiver.
    pub(crate) fn submit(
        &self,
        request: Request,
        on_way: OnWay,
    ) -> Result<(Option<CallId>, oneshot::Receiver<Outcome>), EncodeError> {
        let (reply, outcome) = oneshot::channel();
        let mut state = self.lock();
        let closed = state.closed.clone();
        if let Some(cause) = closed.or(state.closing.then_some(Closed::Local)) {
            drop(state);
            // The receiver is still alive, right here.
            let sent = false;
            let _ = reply.send(Outcome::Closed { cause, sent });
            return Ok((None, outcome));
        }
        if request.fd.is_some() && !self.carries_fds {
            let _ = reply.send(Outcome::Unsendable);
            return Ok((None, outcome));
        }
        let call = state.session.submit(request)?;
        state.calls.insert(
            call,
            Pending {
                reply,
                sent: None,
                on_way,
            },
        );
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok((Some(call), outcome))
    }

    /// Forgets a call whose caller is gone.
    pub(crate) fn abandon(&self, call: CallId) {
        let mut state = self.lock();
        let pending = state.calls.remove(&call);
        if pending.is_some() {
            state.session.abandon(call);
        }
        let waker = state.waker.take();
        drop(state);
        self.progress.notify_waiters();
        // A command that was queued behind this one may be sent now.
        if let Some(waker) = waker {
            waker.wake();
        }
        // Unlocked: dropping its matcher runs foreign code.
        drop(pending);
    }

    /// Ends the session, once: every waiter gets the reason.
    pub(crate) fn close(&self, cause: Closed) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        debug!(target: "qmp", cause = &cause as &dyn std::error::Error, "session ended");
        state.closed = Some(cause.clone());
        let waker = state.waker.take();
        let calls = std::mem::take(&mut state.calls);
        // A partly written line is finished if this side closes the session.
        let cut = state.writing.filter(|_| !matches!(cause, Closed::Local));
        // Including the descriptors of commands that were not sent.
        state.session.close();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        for (call, pending) in calls {
            let sent = pending.sent.is_some() && cut != Some(call);
            let cause = cause.clone();
            // A caller that is gone needs no answer.
            let _ = pending.reply.send(Outcome::Closed { cause, sent });
        }
        let queues = Arc::clone(&self.queues.lock().unwrap_or_else(PoisonError::into_inner));
        for queue in queues.iter() {
            queue.close(&cause);
        }
        if let Some(store) = &self.store {
            store.close(&cause);
        }
        self.stage.send_replace(Stage::Closed(cause));
        self.progress.notify_waiters();
    }

    /// Accepts no further commands, and waits until all are answered.
    pub(crate) async fn finish_calls(&self) {
        self.lock().closing = true;
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let state = self.lock();
                let open = state.session.in_flight() + state.session.queued();
                if state.closed.is_some() || open == 0 {
                    return;
                }
            }
            progress.await;
        }
    }

    /// Waits until the driver has released the stream.
    pub(crate) async fn driver_gone(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.driver_gone.load(Ordering::Acquire) {
                return;
            }
            progress.await;
        }
    }

    // For the driver.

    /// Marks the stream as released.
    pub(crate) fn let_go(&self) {
        self.driver_gone.store(true, Ordering::Release);
        self.progress.notify_waiters();
    }

    /// Whether a guest agent has yet to answer; sends it a new number if `again`.
    pub(crate) fn synchronizes(&self, again: bool) -> bool {
        let mut state = self.lock();
        let waits = state.session.is_synchronizing();
        if waits && again {
            state.session.synchronize();
        }
        waits
    }

    /// Stores the waker for when there is something to write.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut state = self.lock();
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(crate) fn transmit(&self) -> Option<Line> {
        let mut state = self.lock();
        // The previous line is written.
        state.writing = None;
        let transmit = state.session.transmit()?;
        state.writing = transmit.call;
        let (mut queue, mut written) = (None, None);
        if let Some(pending) = transmit.call.and_then(|call| state.calls.get_mut(&call)) {
            pending.sent = Some(Instant::now());
            queue = pending.on_way.queue.take();
            written = pending.on_way.written.take();
        }
        if self.record.is_wanted() {
            let line = transmit.bytes.trim_ascii_end();
            self.record.note(Direction::Out, line);
        }
        Some(Line {
            transmit,
            queue,
            written,
        })
    }

    /// Begins a subscription whose command has just been written.
    pub(crate) fn begin(&self, queue: Arc<Queue>) {
        let mut state = self.lock();
        if state.session.is_mid_message() {
            // What has begun to arrive was sent before QEMU received the command.
            state.begin_next.push(queue);
        } else {
            queue.activate();
        }
    }

    pub(crate) fn received(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let wanted = self.record.is_wanted();
        state.session.receive(bytes, |message| {
            if wanted {
                self.record.note(Direction::In, message);
            }
        });
        let mut deliveries = Vec::new();
        let mut failed = None;
        let mut ready = false;
        while let Some(notice) = state.session.notice() {
            match notice {
                Notice::Greeting(greeting) => {
                    debug!(target: "qmp", version = %greeting.version, "greeting");
                    state.greeting = Some(greeting);
                }
                Notice::Ready { oob } => {
                    debug!(target: "qmp", oob, "ready");
                    ready = true;
                }
                Notice::Reply { call, id, result } => {
                    let Some(pending) = state.calls.remove(&call) else {
                        continue;
                    };
                    let latency = pending.sent.map(|sent| sent.elapsed());
                    let span = &pending.on_way.span;
                    span.record("id", &id);
                    if let Some(latency) = latency {
                        span.record("latency", tracing::field::debug(latency));
                    }
                    trace!(
                        target: "qmp", parent: span,
                        id, ?latency, ok = result.is_ok(), "reply"
                    );
                    deliveries.push(Delivery::Reply(
                        pending.reply,
                        match result {
                            Ok(returned) => Outcome::Returned(returned),
                            Err(failure) => Outcome::Failed { id, failure },
                        },
                    ));
                }
                Notice::Event(event) => deliveries.push(Delivery::Event(event)),
                Notice::Discarded(what) => log_discarded(&what),
                Notice::Failed(failure) => failed = Some(failure),
            }
            // The first notice is about the message that was already arriving.
            deliveries.extend(state.begin_next.drain(..).map(Delivery::Activate));
        }
        let closing = state.closing;
        drop(state);
        if closing {
            self.progress.notify_waiters();
        }
        if ready {
            self.stage.send_if_modified(|stage| {
                let handshake = matches!(stage, Stage::Handshake);
                if handshake {
                    *stage = Stage::Ready;
                }
                handshake
            });
        }
        self.deliver(deliveries);
        if let Some(failure) = failed {
            self.fail_handshake(failure);
        }
    }

    fn fail_handshake(&self, failure: HandshakeFailure) {
        self.close(Closed::Handshake(failure));
    }

    /// Delivers in order of arrival, and unlocked: matchers are foreign code.
    fn deliver(&self, deliveries: Vec<Delivery>) {
        let mut queues = None;
        for delivery in deliveries {
            match delivery {
                Delivery::Reply(reply, outcome) => {
                    // A caller that is gone needs no answer.
                    let _ = reply.send(outcome);
                }
                Delivery::Activate(queue) => queue.activate(),
                Delivery::Event(event) => {
                    let event = Arc::new(event);
                    if let Some(store) = &self.store {
                        store.push(&event);
                    }
                    let queues = queues.get_or_insert_with(|| {
                        Arc::clone(&self.queues.lock().unwrap_or_else(PoisonError::into_inner))
                    });
                    for queue in queues.iter() {
                        queue.offer(&event);
                    }
                }
            }
        }
    }

    /// The cause for the end of the stream: mid-message or not.
    pub(crate) fn end_of_stream(&self) -> Closed {
        match self.lock().session.end_of_stream() {
            Some(cut) => Closed::Cut(cut),
            None => Closed::Eof,
        }
    }
}

fn log_discarded(what: &Discarded) {
    match what {
        Discarded::Late { id, command } => {
            debug!(target: "qmp", id, command, "discarded the reply to an abandoned command");
        }
        Discarded::Stale { id } => {
            debug!(target: "qmp", id, "discarded a reply to another client's command");
        }
        Discarded::Undecodable(error) => warn!(target: "qmp", %error, "skipped a message"),
        Discarded::Unknown => debug!(target: "qmp", "discarded an unknown message"),
        Discarded::Greeting => debug!(target: "qmp", "discarded a second greeting"),
    }
}
