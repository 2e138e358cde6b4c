//! Fault injection: operations on what a connection sends, and gates for what it receives.
//!
//! Nothing here does I/O or waits. [`Faults`] sits between the protocol's state machine and the
//! bytes: replies pass through it into a queue of operations (write, wait, close), which the driver
//! carries out in order. A held reply is in no queue, so nothing waits for it and it waits only for
//! its trigger. What is received can be held back by a gate.

pub mod clock;
mod control;
mod intake;
pub mod journal;
mod malformed;
mod outgoing;
pub mod plan;
mod queue;
pub mod shadow;
mod shared;
mod trigger;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use self::journal::Event;
use self::plan::{Action, Closing, Firing, Point, Side, Stage};
use super::conversation::{Verdict, Write};
use crate::proto::server::{Message, Reply};
use crate::proto::{OptionCode, OptionReply};

pub(in crate::server) use shared::FaultState;
pub use trigger::Trigger;
pub(in crate::server) use trigger::Triggers;

/// What the driver does to the connection or the listener, once everything before it is written.
#[derive(Clone, Debug)]
pub(in crate::server) enum Effect {
    Close(Closing),
    HalfClose(Side),
    StopListening,
    Die,
    RestartOn(Trigger),
    RestartAfter(Duration),
}

/// One operation of the queue.
#[derive(Debug)]
enum Op {
    Write(Write),
    Wait(Gate),
    Act(Effect),
}

/// What blocks one direction of a connection.
#[derive(Clone, Debug)]
enum Gate {
    Trigger(Trigger),
    /// A delay that has not begun.
    Delay(Duration),
    Until(Duration),
    Never,
}

/// Messages that are sent later.
#[derive(Debug)]
struct Held {
    messages: Vec<Message<Bytes>>,
    until: Until,
}

#[derive(Debug)]
enum Until {
    NextReply,
    Trigger(Trigger),
}

/// The faults of one connection.
#[derive(Debug)]
pub(in crate::server) struct Faults {
    state: Arc<FaultState>,
    /// Number of the connection.
    number: u64,
    queue: VecDeque<Op>,
    /// Actions on received messages, deferred until all requests are answered.
    after_owed: VecDeque<Op>,
    held: Vec<Held>,
    /// A reply waiting for another one to swap cookies with.
    to_swap: Option<Reply<Bytes>>,
    /// Actions on the message being received, each after a number of bytes.
    stops: Vec<(usize, Firing)>,
    gates: VecDeque<Gate>,
    verdicts: HashMap<u64, Verdict>,
    /// Cost of messages that will not be written, or not soon.
    released: u64,
    /// A reply that is sent repeatedly, with the remaining count.
    flood: Option<(OptionCode, OptionReply, u64)>,
    changes: watch::Receiver<u64>,
}

impl Faults {
    pub(in crate::server) fn new(state: Arc<FaultState>, number: u64) -> Faults {
        let mut this = Faults {
            number,
            queue: VecDeque::new(),
            after_owed: VecDeque::new(),
            held: Vec::new(),
            to_swap: None,
            stops: Vec::new(),
            gates: VecDeque::new(),
            verdicts: HashMap::new(),
            released: 0,
            flood: None,
            changes: state.triggers.changes(),
            state,
        };
        for firing in this.consult(&Point::Accept, Stage::Whole) {
            this.act(&firing);
        }
        this
    }

    /// Whether there are rules, and not only a journal.
    pub(in crate::server) fn is_armed(&self) -> bool {
        self.state.is_armed()
    }

    pub(in crate::server) fn note(&self, event: Event) {
        self.state.note(self.number, event);
    }

    fn consult(&self, point: &Point, stage: Stage) -> Vec<Firing> {
        self.state.consult(self.number, point, stage)
    }

    fn inapplicable(&self, firing: &Firing) {
        self.state.inapplicable(self.number, firing);
    }

    /// Where writes are recorded, and the number of the connection.
    pub(in crate::server) fn shadow(&self) -> Option<(shadow::WriteShadow, u64)> {
        self.state.shadow.clone().map(|shadow| (shadow, self.number))
    }
}

/// Whether an action is about the connection and not about a message.
fn is_flow(action: &Action) -> bool {
    matches!(
        action,
        Action::Close(_)
            | Action::Die
            | Action::RestartOn(_)
            | Action::RestartAfter(_)
            | Action::StopListening
            | Action::HalfClose(_)
            | Action::Stall
            | Action::Hold(_)
            | Action::Delay(_)
    )
}
