//! What all connections of a server share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Clock;
use super::export::Export;
use super::journal::{Event, Journal};
use super::plan::{Engine, Firing, Point, Stage};
use super::shadow::WriteShadow;
use super::trigger::{Trigger, Triggers};
use crate::proto::Mode;

/// What the listener is to do.
#[derive(Debug)]
pub(super) enum Order {
    Listen,
    Stop,
    StopUntil(Trigger),
    StopFor(Duration),
}

/// Orders, each with who waits for it to be carried out.
pub(super) type Orders = mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>;

/// Shared by the listener and all connections.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) exports: Vec<Export>,
    pub(super) mode: Mode,
    pub(super) no_zeroes: bool,
    pub(super) max_payload: u64,
    engine: Mutex<Engine>,
    /// Without rules there is nothing to ask the engine, not even its lock.
    harmless: bool,
    pub(super) journal: Arc<Journal>,
    pub(super) triggers: Triggers,
    pub(super) clock: Clock,
    pub(super) shadow: Option<WriteShadow>,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
    /// How many connections there are.
    pub(super) connected: watch::Sender<usize>,
    /// Ends every connection.
    pub(super) over: watch::Sender<bool>,
}

/// What a server is made of.
pub(super) struct Parts {
    pub(super) exports: Vec<Export>,
    pub(super) mode: Mode,
    pub(super) no_zeroes: bool,
    pub(super) max_payload: u64,
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) shadow: Option<WriteShadow>,
    pub(super) orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Shared {
        Shared {
            exports: parts.exports,
            mode: parts.mode,
            no_zeroes: parts.no_zeroes,
            max_payload: parts.max_payload,
            harmless: parts.engine.is_empty(),
            engine: Mutex::new(parts.engine),
            journal: Arc::default(),
            triggers: Triggers::default(),
            clock: parts.clock,
            shadow: parts.shadow,
            orders: parts.orders,
            connected: watch::Sender::new(0),
            over: watch::Sender::new(false),
        }
    }

    pub(super) fn consult(&self, connection: u64, point: &Point, stage: Stage) -> Vec<Firing> {
        if self.harmless {
            return Vec::new();
        }
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let firings = engine.consult(connection, point, stage, &self.triggers);
        drop(engine);
        for firing in &firings {
            let (rule, action) = (firing.rule.clone(), format!("{:?}", firing.action));
            self.note(connection, Event::Fault { rule, action });
        }
        firings
    }

    /// A rule fired at a point where its action means nothing.
    pub(super) fn misfit(&self, connection: u64, firing: &Firing) {
        let (rule, action) = (firing.rule.clone(), format!("{:?}", firing.action));
        self.note(connection, Event::Misfit { rule, action });
    }

    pub(super) fn note(&self, connection: u64, event: Event) {
        let at = self.clock.is_virtual().then(|| self.clock.now());
        self.journal.add(connection, at, event);
    }

    /// Has the listener do something, and waits until it is done. Where nobody listens, it is.
    pub(super) async fn order(&self, order: Order) {
        let (done, carried_out) = oneshot::channel();
        if self.orders.send((order, done)).is_ok() {
            tokio::select! {
                biased;
                // A listener that is gone does not listen.
                _ = carried_out => {}
                // Nor does one of a server that is over; and what a rule has begun goes on.
                () = self.ended() => {}
            }
        }
    }

    /// Waits until the server is over.
    pub(super) async fn ended(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Waits until no connection is left.
    pub(super) async fn deserted(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.connected.subscribe().wait_for(|n| *n == 0).await;
    }

    pub(super) fn unfired(&self) -> Vec<String> {
        self.engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unfired()
    }
}
