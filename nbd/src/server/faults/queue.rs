//! The queue of operations on a connection, in order: writes, waits and actions.

use std::time::Duration;

use super::plan::{Action, Firing};
use super::{Effect, Faults, Gate, Held, Op, Until};
use crate::proto::server::Outgoing;
use crate::server::conversation::Write;

impl Faults {
    /// Queues an action on the connection as a whole.
    pub(super) fn act(&mut self, firing: &Firing) {
        if let Some(op) = self.operation(firing) {
            self.queue.push_back(op);
        }
    }

    /// The queue operation for an action on the connection as a whole.
    pub(super) fn operation(&self, firing: &Firing) -> Option<Op> {
        Some(Op::Act(match &firing.action {
            Action::Close(how) => Effect::Close(*how),
            Action::Die => Effect::Die,
            Action::RestartOn(name) => Effect::RestartOn(self.state.triggers.get(name)),
            Action::RestartAfter(ms) => Effect::RestartAfter(Duration::from_millis(*ms)),
            Action::StopListening => Effect::StopListening,
            Action::HalfClose(side) => Effect::HalfClose(*side),
            Action::Stall => return Some(Op::Wait(Gate::Never)),
            Action::Hold(name) => {
                return Some(Op::Wait(Gate::Trigger(self.state.triggers.get(name))));
            }
            Action::Delay(ms) => {
                return Some(Op::Wait(Gate::Delay(Duration::from_millis(*ms))));
            }
            _ => {
                self.inapplicable(firing);
                return None;
            }
        }))
    }

    /// Runs what was deferred until all requests are answered, if they are.
    pub(in crate::server) fn settle(&mut self, under_way: usize) {
        if under_way == 0 {
            self.queue.append(&mut self.after_owed);
        }
    }

    /// The next message to be written, unless something blocks it.
    pub(in crate::server) fn next_write(&mut self) -> Option<Write> {
        loop {
            match self.queue.front_mut() {
                Some(Op::Wait(gate)) => {
                    if !self.state.is_open(gate) {
                        return None;
                    }
                    self.queue.pop_front();
                }
                Some(Op::Write(_)) => {
                    if let Some(Op::Write(write)) = self.queue.pop_front() {
                        return Some(write);
                    }
                }
                _ => return None,
            }
        }
    }

    /// The next reply of a flood, once everything before it is written.
    pub(in crate::server) fn next_of_flood(&mut self) -> Option<Write> {
        let (option, reply, left) = self.flood.as_mut().filter(|_| self.queue.is_empty())?;
        *left = left.checked_sub(1)?;
        let (option, reply) = (*option, reply.clone());
        let cost = 0;
        self.send(
            Outgoing::OptionReply {
                option,
                reply,
                cost,
            },
            0,
        );
        match self.queue.pop_front() {
            Some(Op::Write(write)) => Some(write),
            other => {
                self.queue.extend(other);
                None
            }
        }
    }

    /// The next action on the connection, if that is what comes next.
    pub(in crate::server) fn next_effect(&mut self) -> Option<Effect> {
        match self.queue.front() {
            Some(Op::Act(_)) => match self.queue.pop_front() {
                Some(Op::Act(effect)) => Some(effect),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether everything due has been taken.
    pub(in crate::server) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.after_owed.is_empty()
    }

    /// Cost of messages that will not be written, returned once.
    pub(in crate::server) fn released(&mut self) -> u64 {
        std::mem::take(&mut self.released)
    }

    /// Marks the current state as seen; later changes are reported.
    pub(in crate::server) fn refresh(&mut self) {
        self.changes.borrow_and_update();
    }

    /// Waits until a trigger or the clock may have opened a gate since the last refresh. `None` if
    /// nothing waits for either.
    pub(in crate::server) fn changes(&self) -> Option<impl Future<Output = ()> + use<>> {
        let waits = match self.queue.front() {
            Some(Op::Wait(gate)) => Some(gate),
            _ => None,
        };
        let gates = [waits, self.gates.front()];
        let holds = |held: &Held| matches!(held.until, Until::Trigger(_));
        if gates.iter().all(Option::is_none) && !self.held.iter().any(holds) {
            return None;
        }
        let until = gates.into_iter().flatten().filter_map(|gate| match gate {
            Gate::Until(at) => Some(*at),
            _ => None,
        });
        let (clock, until) = (self.state.clock.clone(), until.min());
        let mut triggers = self.changes.clone();
        Some(async move {
            match until {
                Some(at) => tokio::select! {
                    () = clock.reach(at) => {}
                    _ = triggers.changed() => {}
                },
                // The sender lives as long as the server does.
                None => drop(triggers.changed().await),
            }
        })
    }
}
