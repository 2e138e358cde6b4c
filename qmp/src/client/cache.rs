//! A store from which events are taken by description.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::call::within;
use crate::error::{Closed, Error};
use crate::matcher::Matcher;
use crate::message::Event;

/// The last events of a session that have not been taken yet, from its beginning.
///
/// Kept where [`Options::cache_events`](crate::Options::cache_events) asks for it. The whole
/// session shares one: an event taken by one user is gone for all. Events that do not match stay
/// for later, in order. When it is full the oldest event is dropped, and [`EventCache::dropped`]
/// counts it.
///
/// A matcher's condition is called while the cache is locked; it must not use the cache.
#[derive(Clone, Debug)]
pub struct EventCache {
    store: Arc<Store>,
    deadline: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Store {
    capacity: usize,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    dropped: u64,
    closed: Option<Closed>,
}

impl Store {
    /// A cache for `capacity` events, at least one.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            inner: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: &Arc<Event>) {
        let mut inner = self.lock();
        if inner.events.len() == self.capacity {
            inner.events.pop_front();
            inner.dropped += 1;
        }
        inner.events.push_back(Arc::clone(event));
        drop(inner);
        self.changed.notify_waiters();
    }

    pub(crate) fn close(&self, cause: &Closed) {
        self.lock().closed.get_or_insert_with(|| cause.clone());
        self.changed.notify_waiters();
    }
}

impl EventCache {
    pub(crate) fn new(store: Arc<Store>, deadline: Option<Duration>) -> Self {
        Self { store, deadline }
    }

    /// This cache, with another deadline for its waits.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            store: Arc::clone(&self.store),
            deadline: Some(deadline),
        }
    }

    /// Takes the oldest matching event, if there is one.
    pub fn take(&self, matcher: impl Into<Matcher>) -> Option<Arc<Event>> {
        take(&mut self.store.lock(), &matcher.into())
    }

    /// Takes the oldest matching event; waits for one if needed.
    ///
    /// # Errors
    /// When the session ends, or the deadline passes, before one arrives.
    pub async fn wait(&self, matcher: impl Into<Matcher>) -> Result<Arc<Event>, Error> {
        let matcher = matcher.into();
        let task = || format!("see {matcher}");
        within(self.deadline, task, async {
            loop {
                // Register for wakeups before looking, so that no event is missed in between.
                let changed = self.store.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let mut inner = self.store.lock();
                    if let Some(event) = take(&mut inner, &matcher) {
                        return Ok(event);
                    }
                    if let Some(cause) = inner.closed.clone() {
                        return Err(Error::closed(task(), cause));
                    }
                }
                changed.await;
            }
        })
        .await
    }

    /// Takes all matching events, oldest first.
    pub fn take_all(&self, matcher: impl Into<Matcher>) -> Vec<Arc<Event>> {
        let matcher = matcher.into();
        let mut inner = self.store.lock();
        // First, so that a condition that panics takes nothing.
        let events = inner.events.iter();
        let matching: Vec<bool> = events.map(|event| matcher.matches(event)).collect();
        let mut taken = Vec::new();
        for matches in matching {
            match inner.events.pop_front() {
                Some(event) if matches => taken.push(event),
                Some(event) => inner.events.push_back(event),
                None => {}
            }
        }
        taken
    }

    /// How many events were lost because the store was full.
    pub fn dropped(&self) -> u64 {
        self.store.lock().dropped
    }
}

fn take(inner: &mut Inner, matcher: &Matcher) -> Option<Arc<Event>> {
    let at = inner.events.iter().position(|event| matcher.matches(event))?;
    inner.events.remove(at)
}
