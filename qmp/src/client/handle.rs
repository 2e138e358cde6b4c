//! The client handle.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::cache::EventCache;
use super::call::{Call, within};
use super::events::EventStream;
use super::job::Job;
use super::shared::{Shared, Stage};
use crate::command::Command;
use crate::encode;
use crate::error::{Closed, Error};
use crate::matcher::Matcher;
use crate::message::Greeting;
use crate::transcript::Entry;
use serde::Serialize;

/// A session with one monitor. Clones share it; it ends when the last clone is dropped. After its
/// end all clones can continue in another session: [`Client::resume`].
///
/// See the [crate] page for an introduction.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
    deadline: Option<Duration>,
}

/// What a client's clones share: the link that they currently use.
struct Handle(Mutex<Arc<Link>>);

/// A session, for as long as a client uses it.
struct Link {
    shared: Arc<Shared>,
    greeting: Arc<Greeting>,
    oob: bool,
    endpoint: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The driver finishes a partly written line and closes the stream.
        self.shared.close(Closed::Local);
    }
}

impl Client {
    pub(crate) fn assemble(
        shared: Arc<Shared>,
        greeting: Greeting,
        endpoint: String,
        deadline: Option<Duration>,
    ) -> Self {
        let oob = shared.with_session(|session| session.oob_enabled());
        let link = Link {
            shared,
            greeting: Arc::new(greeting),
            oob,
            endpoint,
        };
        Self {
            handle: Arc::new(Handle(Mutex::new(Arc::new(link)))),
            deadline,
        }
    }

    fn link(&self) -> Arc<Link> {
        let link = self.handle.0.lock();
        Arc::clone(&link.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        let link = self.handle.0.lock();
        Arc::clone(&link.unwrap_or_else(PoisonError::into_inner).shared)
    }

    /// Continues with another session, that of `next`, however it was established. All clones of
    /// this client use it from now on. The previous session ends, if it has not already.
    ///
    /// Nothing that was in flight is repeated, because only the caller knows whether that is safe:
    ///
    /// - A call that was waiting has failed with [`Error::Closed`], which says whether QEMU may
    ///   have executed the command.
    /// - A subscription has ended with [`RecvError::Closed`](crate::RecvError); subscribe again,
    ///   and query the state, since events in between were not reported.
    /// - Cached events stay with their session; [`Client::event_cache`] has those of the next.
    /// - A wait for a [`Job`] continues in the next session if `resume` was called before this one
    ///   ended. Otherwise it has failed with [`Error::Closed`], and the same [`Job`] can be waited
    ///   for again: it asks QEMU for the job's state. If the job is gone, and no event reported how
    ///   it ended, its outcome is [`JobOutcome::Unknown`](crate::JobOutcome).
    ///
    /// ```no_run
    /// # async fn f(client: qmp::Client) -> Result<(), qmp::ConnectError> {
    /// use qmp::{Client, Options};
    ///
    /// let cause = client.closed().await;
    /// println!("the connection is lost: {cause}");
    /// client.resume(Client::connect_unix("/run/vm.qmp", Options::default()).await?);
    /// # Ok(()) }
    /// ```
    pub fn resume(&self, next: Self) {
        let next = next.link();
        let mut link = self.handle.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *link, next);
        drop(link);
        // Unlocked: ending it wakes the waiting tasks.
        drop(before);
    }

    pub(crate) fn stable_only(&self) -> bool {
        self.shared().stable_only
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The greeting: QEMU's version and what it offers.
    pub fn greeting(&self) -> Arc<Greeting> {
        Arc::clone(&self.link().greeting)
    }

    /// Whether out-of-band execution is enabled.
    pub fn oob_enabled(&self) -> bool {
        self.link().oob
    }

    /// This client, with another deadline for calls that do not set their own.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            deadline: Some(deadline),
        }
    }

    /// A command by name. The arguments are anything that serializes to an object; `()` or `None`
    /// means no arguments. Await it to send it.
    ///
    /// ```no_run
    /// # async fn f(client: qmp::Client) -> Result<(), qmp::Error> {
    /// use serde_json::json;
    /// client.execute("blockdev-add", json!({"driver": "null-co", "node-name": "n0"})).await?;
    /// let nodes = client.execute("query-named-block-nodes", ()).await?;
    /// # Ok(()) }
    /// ```
    pub fn execute(&self, name: &str, arguments: impl Serialize) -> Call {
        Call::new(self, name, encode::arguments(&arguments))
    }

    /// A typed command. Await it to send it.
    pub fn call<C: Command>(&self, command: C) -> Call<C::Return> {
        Call::typed(self, &command)
    }

    /// All matching events from now on, for one reader. For the event that a command causes, use
    /// [`Call::and_event`].
    pub fn subscribe(&self, matcher: impl Into<Matcher>) -> EventStream {
        self.shared().subscribe(matcher.into(), true)
    }

    /// The cached events that have not been taken yet, if
    /// [`Options::cache_events`](crate::Options::cache_events) is set. Waits on it have this
    /// client's deadline.
    pub fn event_cache(&self) -> Option<EventCache> {
        let store = self.shared().store.clone()?;
        Some(EventCache::new(store, self.deadline))
    }

    /// Follows the job `id` from now on. Call it before the command that starts the job, so that
    /// nothing is missed.
    pub fn job(&self, id: impl Into<String>) -> Job {
        Job::new(self.clone(), id.into())
    }

    /// Asks QEMU to exit. It may answer, close the connection first, or both; each counts as
    /// success.
    ///
    /// The connection may still be open when this returns; see [`Client::closed`].
    ///
    /// # Errors
    /// When QEMU refuses, or the session ends before the command was sent.
    pub async fn quit(&self) -> Result<(), Error> {
        if let Some(cause) = self.closed_cause() {
            return Err(Error::closed("execute quit", cause));
        }
        match self.execute("quit", ()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_farewell() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Shuts the session down gracefully, for all clones of this client: accepts no further
    /// commands, waits until those already submitted are answered, and closes the stream. QEMU
    /// drops its queued commands when a connection ends, so use this to end a session that still
    /// works.
    ///
    /// Dropping the last client ends the session at once. Both finish a partly written line.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the commands are not answered within this client's deadline; the
    /// session has ended nevertheless. Without a deadline it waits as long as the session lasts.
    pub async fn close(&self) -> Result<(), Error> {
        let shared = self.shared();
        let done = within(self.deadline, || "finish the commands".to_owned(), async {
            shared.finish_calls().await;
            Ok(())
        });
        let done = done.await;
        shared.close(Closed::Local);
        shared.driver_gone().await;
        done
    }

    /// Waits until the session has ended, and returns the reason.
    pub async fn closed(&self) -> Closed {
        let mut stage = self.shared().stage();
        let closed = stage.wait_for(|stage| matches!(stage, Stage::Closed(_))).await;
        match closed.as_deref() {
            Ok(Stage::Closed(cause)) => cause.clone(),
            _ => Closed::Local,
        }
    }

    /// Why the session has ended, if it has.
    pub fn closed_cause(&self) -> Option<Closed> {
        self.shared().closed_cause()
    }

    /// The last `count` messages in both directions, oldest first, for reports. Long ones are
    /// shortened, secrets are redacted.
    pub fn transcript_tail(&self, count: usize) -> Vec<Entry> {
        self.shared().transcript_tail(count)
    }

    /// How many commands are in flight, and how many are waiting to be sent.
    pub fn outstanding(&self) -> (usize, usize) {
        self.shared().with_session(|session| (session.in_flight(), session.queued()))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = self.link();
        f.debug_struct("Client")
            .field("endpoint", &link.endpoint)
            .field("version", &link.greeting.version)
            .field("closed", &self.closed_cause())
            .finish_non_exhaustive()
    }
}
