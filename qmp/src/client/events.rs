//! Subscriptions: bounded queues of events, with an exact count of those that did not fit.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::foreign;
use super::shared::Shared;
use crate::error::{Closed, Error};
use crate::matcher::Matcher;
use crate::message::Event;

/// One subscriber's events, in order of arrival.
///
/// It is lossless up to the capacity of [`Options::event_capacity`](crate::Options). A subscriber
/// that falls further behind keeps its oldest events, then gets [`RecvError::Lagged`] with the
/// exact number missing at that point, and then continues.
///
/// A stream does not keep the session open. When the session ends it yields what is queued, then
/// [`RecvError::Closed`] (as a [`futures_core::Stream`]: its end).
#[derive(Debug)]
pub struct EventStream {
    queue: Arc<Queue>,
    shared: Weak<Shared>,
    /// As a [`futures_core::Stream`] it has yielded its last item.
    finished: bool,
}

/// Why there is no event.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The subscriber was too slow.
    #[error("failed to keep up with QEMU: {0} events are lost")]
    Lagged(
        /// How many events are missing at this point.
        u64,
    ),
    /// The session has ended; nothing will follow.
    #[error("failed to receive an event: the QMP session has ended")]
    Closed(#[source] Closed),
    /// The matcher's condition panicked; nothing will follow. The session continues.
    #[error("failed to match an event: the matcher's condition panicked: {0}")]
    Panicked(
        /// The panic message.
        String,
    ),
}

impl RecvError {
    /// The error for `task`, which needed the event.
    pub(crate) fn into_error(self, task: String) -> Error {
        match self {
            Self::Lagged(events) => Error::Lagged { task, events },
            Self::Closed(cause) => Error::closed(task, cause),
            Self::Panicked(message) => Error::Panicked { task, message },
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    matcher: Matcher,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    items: VecDeque<Item>,
    events: usize,
    dropped: u64,
    waker: Option<Waker>,
    active: bool,
    /// What every read after the last event returns.
    end: Option<RecvError>,
}

#[derive(Debug)]
enum Item {
    Event(Arc<Event>),
    Gap(u64),
}

impl Queue {
    /// A queue that accepts events once it is active.
    pub(crate) fn new(matcher: Matcher, capacity: usize, active: bool) -> Arc<Self> {
        Arc::new(Self {
            matcher,
            capacity,
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                events: 0,
                dropped: 0,
                waker: None,
                active,
                end: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts accepting events.
    pub(crate) fn activate(&self) {
        self.lock().active = true;
    }

    pub(crate) fn offer(&self, event: &Arc<Event>) {
        match foreign::call(|| self.matcher.matches(event)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(panic) => return self.end(RecvError::Panicked(panic)),
        }
        let mut inner = self.lock();
        if !inner.active || inner.end.is_some() {
            return;
        }
        if inner.events < self.capacity {
            inner.events += 1;
            inner.items.push_back(Item::Event(Arc::clone(event)));
        } else {
            inner.dropped += 1;
            match inner.items.back_mut() {
                Some(Item::Gap(count)) => *count += 1,
                _ => inner.items.push_back(Item::Gap(1)),
            }
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn close(&self, cause: &Closed) {
        self.end(RecvError::Closed(cause.clone()));
    }

    fn end(&self, why: RecvError) {
        let mut inner = self.lock();
        inner.end.get_or_insert(why);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Inner {
    fn take(&mut self) -> Option<Result<Arc<Event>, RecvError>> {
        match self.items.pop_front() {
            Some(Item::Event(event)) => {
                self.events -= 1;
                Some(Ok(event))
            }
            Some(Item::Gap(count)) => Some(Err(RecvError::Lagged(count))),
            None => self.end.clone().map(Err),
        }
    }
}

impl EventStream {
    pub(crate) fn new(queue: Arc<Queue>, shared: &Arc<Shared>) -> Self {
        let shared = Arc::downgrade(shared);
        Self {
            queue,
            shared,
            finished: false,
        }
    }

    /// Whether it belongs to this session.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        std::ptr::eq(self.shared.as_ptr(), Arc::as_ptr(shared))
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`RecvError::Lagged`] where events are missing; [`RecvError::Closed`] at the end, or
    /// [`RecvError::Panicked`] after a panic of the matcher's condition.
    pub async fn recv(&mut self) -> Result<Arc<Event>, RecvError> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next event, if it has already arrived.
    ///
    /// # Errors
    /// As [`EventStream::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Arc<Event>>, RecvError> {
        self.queue.lock().take().transpose()
    }

    /// How many events this subscriber has lost so far.
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Event>, RecvError>> {
        let mut inner = self.queue.lock();
        match inner.take() {
            Some(item) => Poll::Ready(item),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl futures_core::Stream for EventStream {
    /// An event, or how many are missing at this place.
    type Item = Result<Arc<Event>, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        self.poll_recv(cx).map(|item| match item {
            Err(RecvError::Closed(_)) => None,
            Err(error @ RecvError::Panicked(_)) => {
                self.finished = true;
                Some(Err(error))
            }
            item => Some(item),
        })
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.unsubscribe(&self.queue);
        }
    }
}
