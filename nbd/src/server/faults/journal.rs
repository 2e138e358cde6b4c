//! What happened, in order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

pub use crate::proto::server::Closed;
use crate::proto::{CommandFlags, CommandType, Errno, Mode, OptionCode, OptionReplyCode};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The server listens (again).
    Listening,
    /// The server stopped listening.
    StoppedListening,
    /// A client has connected.
    Accepted,
    /// An option was received.
    Option {
        /// Which.
        option: OptionCode,
        /// Bytes of its data.
        len: u32,
    },
    /// A reply to an option was due.
    OptionReply {
        /// To which.
        option: OptionCode,
        /// How.
        reply: OptionReplyCode,
    },
    /// Transmission begins.
    Transmission {
        /// What was negotiated.
        mode: Mode,
        /// Which export.
        export: String,
        /// Its size as it was advertised.
        size: u64,
    },
    /// A request was received.
    Request {
        /// Its number within the connection, from 1. Cookies are chosen by the client.
        n: u64,
        /// Its command.
        command: CommandType,
        /// Its flags.
        flags: CommandFlags,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
    },
    /// A reply was due; a preceding fault entry says what happened to it.
    Reply {
        /// Number of its request.
        n: u64,
        /// Outcome.
        error: Errno,
        /// Bytes of all its messages.
        bytes: u64,
    },
    /// A rule fired.
    Fault {
        /// Which.
        rule: String,
        /// What it does.
        action: String,
    },
    /// A rule fired where its action does not apply: the plan is wrong.
    Inapplicable {
        /// Which.
        rule: String,
        /// Its action.
        action: String,
    },
    /// A connection ended.
    Closed(Closed),
    /// The server failed to do something.
    Failed {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
}

/// An event, with its connection and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the connection, from 1; 0 means the server itself.
    pub connection: u64,
    /// Time on a virtual clock; real time is not recorded, since it differs between runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Duration>,
    /// What happened.
    pub event: Event,
}

/// Entries that a journal keeps by default.
pub(in crate::server) const LIMIT: usize = 1 << 16;

/// The events of a server: the newest entries, up to a limit.
#[derive(Debug)]
pub struct Journal {
    entries: Mutex<Entries>,
    limit: usize,
    /// Number of entries; `None` when no more will follow.
    length: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Entry>,
    /// How many older ones were dropped.
    dropped: u64,
}

/// The server has ended, so the awaited entries will not appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has ended, and {found} of {wanted} entries were found")]
pub struct Ended {
    /// How many there were.
    pub found: usize,
    /// How many were waited for.
    pub wanted: usize,
}

impl Journal {
    pub(in crate::server) fn new(limit: usize) -> Journal {
        Journal {
            entries: Mutex::default(),
            limit,
            length: watch::Sender::new(Some(0)),
        }
    }

    pub(in crate::server) fn add(&self, connection: u64, at: Option<Duration>, event: Event) {
        tracing::debug!(connection, ?event);
        if self.limit == 0 {
            return;
        }
        let mut entries = self.lock();
        if entries.kept.len() == self.limit {
            entries.kept.pop_front();
            entries.dropped += 1;
        }
        entries.kept.push_back(Entry {
            connection,
            at,
            event,
        });
        let length = entries.dropped + entries.kept.len() as u64;
        drop(entries);
        if self.length.receiver_count() > 0 {
            self.length.send_modify(|known| *known = known.map(|_| length));
        }
    }

    /// No more entries will follow: waiting for one fails.
    pub(in crate::server) fn end(&self) {
        self.length.send_replace(None);
    }

    /// A copy of all kept entries.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().kept.iter().cloned().collect()
    }

    /// How many older entries were dropped because of the limit.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// How many kept entries match. Each is tested once, in order.
    pub fn count(&self, mut matches: impl FnMut(&Entry) -> bool) -> usize {
        self.lock().kept.iter().filter(|e| matches(e)).count()
    }

    /// As JSON lines, grouped by connection: identical for two runs in which each connection had
    /// the same events, however the connections interleaved.
    pub fn to_json_lines(&self) -> String {
        let mut entries = self.entries();
        entries.sort_by_key(|e| e.connection);
        let line = |e: &Entry| serde_json::to_string(e).unwrap_or_else(|error| error.to_string());
        entries.iter().map(|e| line(e) + "\n").collect()
    }

    /// Waits until `n` entries match, including existing ones. Each is tested once, in order.
    ///
    /// # Errors
    /// When the server ends first.
    pub async fn wait_for(
        &self,
        n: usize,
        mut matches: impl FnMut(&Entry) -> bool,
    ) -> Result<(), Ended> {
        let mut length = self.length.subscribe();
        let (mut seen, mut found) = (0, 0);
        loop {
            let ended = length.borrow_and_update().is_none();
            {
                let entries = self.lock();
                let skip = (seen - entries.dropped.min(seen)) as usize;
                let new = entries.kept.iter().skip(skip);
                found += new.filter(|e| matches(e)).count();
                seen = entries.dropped + entries.kept.len() as u64;
            }
            if found >= n {
                return Ok(());
            }
            // We hold the sender ourselves, so waiting cannot fail otherwise.
            if ended || length.changed().await.is_err() {
                return Err(Ended { found, wanted: n });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
