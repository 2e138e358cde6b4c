//! How a client behaves.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::frame::Limits;
use crate::redact::Redaction;
use crate::session::Config;
use crate::transcript::Entry;

pub(crate) type Recorder = Arc<Mutex<dyn FnMut(&Entry) + Send>>;

/// How a client behaves. Start from [`Options::default`].
///
/// ```
/// # use std::time::Duration;
/// let options = qmp::Options::default()
///     .connect_deadline(Duration::from_secs(10))
///     .call_deadline(Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) config: Config,
    pub(crate) connect_deadline: Duration,
    pub(crate) call_deadline: Option<Duration>,
    pub(crate) event_capacity: usize,
    pub(crate) cached_events: Option<usize>,
    pub(crate) transcript_lines: usize,
    pub(crate) redaction: Redaction,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) peer_pid: Option<i32>,
    pub(crate) endpoint: Option<String>,
    pub(crate) stable_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: Config::default(),
            connect_deadline: Duration::from_secs(30),
            call_deadline: None,
            event_capacity: 16384,
            cached_events: None,
            transcript_lines: 256,
            redaction: Redaction::default(),
            recorder: None,
            peer_pid: None,
            endpoint: None,
            stable_only: false,
        }
    }
}

impl Options {
    /// The time for connecting, greeting and negotiation together. Default: 30 s.
    #[must_use]
    pub fn connect_deadline(mut self, deadline: Duration) -> Self {
        self.connect_deadline = deadline;
        self
    }

    /// The time for each call that does not set its own. Default: none, because no value fits
    /// all commands.
    #[must_use]
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = Some(deadline);
        self
    }

    /// What is accepted from QEMU. Default: 64 MiB, 1024 levels.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Whether to enable out-of-band execution where it is offered. Default: yes.
    #[must_use]
    pub fn oob(mut self, enable: bool) -> Self {
        self.config.oob = enable;
        self
    }

    /// Speaks to a QEMU guest agent instead of a monitor. Default: no.
    ///
    /// An agent does not greet. Its line may hold data from an earlier client, so the session
    /// begins with `guest-sync-delimited` and a random number, and what arrives before the answer
    /// is dropped. While no agent runs in the guest nothing answers: the command is sent again each
    /// second, so an agent that starts later is found, and connecting fails with
    /// [`ConnectError::NoAgent`](crate::ConnectError) at its deadline. One command is sent at a
    /// time, without an id; after an abandoned call the session synchronizes again before the next
    /// one. Unless set, [`Options::limits`] are [`Limits::AGENT`].
    /// [`Client::greeting`](crate::Client::greeting) then has version 0.0.0; `guest-info` returns
    /// the real one. For commands that are answered only on failure, use
    /// [`Call::unless_refused`](crate::Call::unless_refused).
    #[must_use]
    pub fn guest_agent(mut self) -> Self {
        self.config.agent = true;
        if self.config.limits == Limits::QEMU {
            self.config.limits = Limits::AGENT;
        }
        self
    }

    /// How many in-band commands may be in flight; further ones wait on this side. Default: 7, the
    /// most at which QEMU still reads an out-of-band command.
    #[must_use]
    pub fn in_band_limit(mut self, commands: usize) -> Self {
        self.config.in_band = commands;
        self
    }

    /// How many unread events a subscriber may have before it loses some, at least 1.
    /// Default: 16384.
    #[must_use]
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.event_capacity = events.max(1);
        self
    }

    /// Keeps the last `events` events of the session, at least one, until they are taken from
    /// [`Client::event_cache`](crate::Client::event_cache). Default: none are kept.
    #[must_use]
    pub fn cache_events(mut self, events: usize) -> Self {
        self.cached_events = Some(events);
        self
    }

    /// How many messages [`Client::transcript_tail`](crate::Client::transcript_tail) can show;
    /// 0 turns it off. Default: 256.
    #[must_use]
    pub fn transcript_lines(mut self, lines: usize) -> Self {
        self.transcript_lines = lines;
        self
    }

    /// What is redacted in logs and transcripts. Default: passwords and secret objects.
    #[must_use]
    pub fn redaction(mut self, redaction: Redaction) -> Self {
        self.redaction = redaction;
        self
    }

    /// Calls `recorder` with every message, in full and redacted, in the order of the wire.
    ///
    /// It is called on the driver's task and must neither block for long nor use the client.
    #[must_use]
    pub fn record(mut self, recorder: impl FnMut(&Entry) + Send + 'static) -> Self {
        self.recorder = Some(Arc::new(Mutex::new(recorder)));
        self
    }

    /// The process that serves the monitor, so that errors can report that it is stopped. Detected
    /// automatically for Unix sockets connected by path.
    #[must_use]
    pub fn peer_pid(mut self, pid: u32) -> Self {
        self.peer_pid = i32::try_from(pid).ok();
        self
    }

    /// Refuses to send typed commands that are deprecated or unstable in the newest version that
    /// their type covers. Default: no.
    #[must_use]
    pub fn stable_only(mut self) -> Self {
        self.stable_only = true;
        self
    }

    /// What to call the peer in errors. Default: the path or address.
    #[must_use]
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        self.endpoint = Some(name.into());
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("config", &self.config)
            .field("connect_deadline", &self.connect_deadline)
            .field("call_deadline", &self.call_deadline)
            .field("event_capacity", &self.event_capacity)
            .field("cached_events", &self.cached_events)
            .field("transcript_lines", &self.transcript_lines)
            .field("records", &self.recorder.is_some())
            .finish_non_exhaustive()
    }
}
