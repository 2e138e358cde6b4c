//! What happened, in order.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::proto::{CommandFlags, CommandType, Errno, Mode, OptionCode, OptionReplyCode};

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closed {
    /// A rule closed it.
    Fault,
    /// The client closed it, or it broke.
    Peer,
    /// The client said goodbye (`DISC` or `ABORT`).
    Goodbye,
    /// The client broke the protocol, or asked for an export that does not exist.
    Refused(String),
    /// The server was shut down.
    Shutdown,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The server listens (again).
    Listening,
    /// The server does not listen any more.
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
        /// Its size as the client was told.
        size: u64,
    },
    /// A request was received.
    Request {
        /// Its number within the connection, from 1. Cookies are a client's own business.
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
    /// A reply was due; what became of it, a fault before this entry says.
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
    /// A rule fired where its action has no meaning: the plan is wrong.
    Misfit {
        /// Which.
        rule: String,
        /// What it was to do.
        action: String,
    },
    /// A connection ended.
    Closed(Closed),
    /// The server could not do what it was to do.
    Failed {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
}

impl Event {
    pub(super) fn failed(what: &str, why: &std::io::Error) -> Event {
        Event::Failed {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }
}

/// An event, where and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the connection, from 1; 0 is the server itself.
    pub connection: u64,
    /// Time on a virtual clock; a real one is not written down, since no two runs agree on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Duration>,
    /// What happened.
    pub event: Event,
}

/// All that happened on a server.
#[derive(Debug)]
pub struct Journal {
    entries: Mutex<Vec<Entry>>,
    length: watch::Sender<usize>,
}

impl Default for Journal {
    fn default() -> Self {
        Journal {
            entries: Mutex::default(),
            length: watch::Sender::new(0),
        }
    }
}

impl Journal {
    pub(super) fn add(&self, connection: u64, at: Option<Duration>, event: Event) {
        tracing::debug!(connection, ?event);
        let mut entries = self.lock();
        entries.push(Entry {
            connection,
            at,
            event,
        });
        let length = entries.len();
        drop(entries);
        if self.length.receiver_count() > 0 {
            self.length.send_replace(length);
        }
    }

    /// A copy of everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// How many entries match. They are looked at in their order, each once.
    pub fn count(&self, mut matches: impl FnMut(&Entry) -> bool) -> usize {
        self.lock().iter().filter(|e| matches(e)).count()
    }

    /// As JSON lines, grouped by connection: the same for two runs in which each connection had the
    /// same fate, however the connections interleaved.
    pub fn to_json_lines(&self) -> String {
        let mut entries = self.entries();
        entries.sort_by_key(|e| e.connection);
        let line = |e: &Entry| serde_json::to_string(e).unwrap_or_else(|error| error.to_string());
        entries.iter().map(|e| line(e) + "\n").collect()
    }

    /// Waits until so many entries match. They may be there already. They are looked at in their
    /// order, each once.
    pub async fn wait_for(&self, n: usize, mut matches: impl FnMut(&Entry) -> bool) {
        let mut length = self.length.subscribe();
        let (mut seen, mut found) = (0, 0);
        loop {
            {
                let entries = self.lock();
                found += entries[seen..].iter().filter(|e| matches(e)).count();
                seen = entries.len();
            }
            if found >= n || length.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
