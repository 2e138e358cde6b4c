//! What all connections of a server share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "faults")]
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::FaultState;
use super::export::Exports;
#[cfg(feature = "faults")]
use super::faults::Trigger;
use crate::proto::server::{Closed, Config};

/// An order to the listener.
#[derive(Debug)]
pub(super) enum Order {
    Listen,
    Stop,
    #[cfg(feature = "faults")]
    StopUntil(Trigger),
    #[cfg(feature = "faults")]
    StopFor(Duration),
}

/// Orders, each with a sender to report completion.
pub(super) type Orders = mpsc::UnboundedReceiver<(Order, oneshot::Sender<io::Result<()>>)>;

/// An event outside the conversations.
#[derive(Debug)]
#[cfg_attr(not(feature = "faults"), allow(dead_code, reason = "only printed"))]
pub(super) enum Note {
    Listening,
    StoppedListening,
    Accepted,
    Closed(Closed),
    Failed { what: &'static str, why: String },
}

impl Note {
    /// The description of a failure, for the owner.
    fn to_failure(&self) -> Option<String> {
        match self {
            Note::Failed { what, why } => Some(format!("{what}: {why}")),
            _ => None,
        }
    }
}

/// Shared by the listener and all connections.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) exports: Arc<Exports>,
    #[cfg_attr(not(feature = "faults"), allow(dead_code, reason = "there are none"))]
    pub(super) faults: Option<Arc<FaultState>>,
    pub(super) max_connections: usize,
    pub(super) handshake_limit: Option<std::time::Duration>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) orders: mpsc::UnboundedSender<(Order, oneshot::Sender<io::Result<()>>)>,
    /// What the server failed to do, each listed once.
    pub(super) failures: Mutex<Vec<String>>,
    /// The number of connections.
    pub(super) connected: watch::Sender<usize>,
    /// Ends every connection.
    pub(super) over: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn note(&self, connection: u64, note: Note) {
        self.note_at(connection, self.now(), note);
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What failed has succeeded after all, so it is not reported to the owner.
    pub(super) fn overcome(&self, note: &Note) {
        let text = note.to_failure();
        self.failures().retain(|failure| Some(failure) != text.as_ref());
    }

    /// The time of a virtual clock.
    pub(super) fn now(&self) -> Option<std::time::Duration> {
        #[cfg(feature = "faults")]
        return self.faults.as_ref().and_then(|faults| faults.now());
        #[cfg(not(feature = "faults"))]
        None
    }

    /// Records an event at this time, which may be in the past.
    pub(super) fn note_at(&self, connection: u64, at: Option<std::time::Duration>, note: Note) {
        let _ = at;
        match &note {
            Note::Failed { what, why } => {
                tracing::warn!(why, "cannot {what}");
                let mut failures = self.failures();
                if let Some(text) = note.to_failure().filter(|text| !failures.contains(text)) {
                    failures.push(text);
                }
            }
            note => tracing::debug!(connection, ?note),
        }
        #[cfg(feature = "faults")]
        if let Some(faults) = &self.faults {
            use super::faults::journal::Event;
            faults.note_at(
                connection,
                at,
                match note {
                    Note::Listening => Event::Listening,
                    Note::StoppedListening => Event::StoppedListening,
                    Note::Accepted => Event::Accepted,
                    Note::Closed(why) => Event::Closed(why),
                    Note::Failed { what, why } => Event::Failed {
                        what: what.to_owned(),
                        why,
                    },
                },
            );
        }
    }

    /// Sends an order to the listener, and waits until it is carried out. Without a listener this
    /// returns at once.
    pub(super) async fn order(&self, order: Order) -> io::Result<()> {
        let (done, carried_out) = oneshot::channel();
        if self.orders.send((order, done)).is_err() {
            return Ok(());
        }
        tokio::select! {
            biased;
            // Without a listener there is nothing to do.
            outcome = carried_out => outcome.unwrap_or(Ok(())),
            // The same goes for a server that has shut down; an action begun by a rule continues.
            () = self.ended() => Ok(()),
        }
    }

    /// Waits until the server shuts down.
    pub(super) async fn ended(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Waits until no connection is left.
    pub(super) async fn deserted(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.connected.subscribe().wait_for(|n| *n == 0).await;
    }
}
