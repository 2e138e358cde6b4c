//! Received messages: rules that inspect them, and gates that hold them back.

use std::time::Duration;

use super::plan::{Action, At, Firing, Point, Side, Stage};
use super::{Event, Faults, Gate, Op, is_flow};
use crate::proto::server::{Answer, Failure};
use crate::proto::{CommandType, Info, OptionCode, OptionReply, Request};
use crate::server::conversation::Verdict;

impl Faults {
    pub(in crate::server) fn awaits_client_flags(&mut self) {
        self.awaits(&Point::ClientFlags);
    }

    pub(in crate::server) fn awaits_option(&mut self) {
        self.awaits(&Point::Option(None));
    }

    pub(in crate::server) fn awaits_request(&mut self) {
        self.awaits(&Point::Request(None));
    }

    pub(in crate::server) fn awaits_payload(&mut self, request: &Request) {
        self.awaits(&Point::Payload(*request));
    }

    /// A message is now expected; rules without conditions on its content fire.
    fn awaits(&mut self, point: &Point) {
        self.completed();
        let stage = match point {
            Point::Payload(_) => Stage::Whole,
            _ => Stage::Before,
        };
        for firing in self.consult(point, stage) {
            match firing.at {
                At::Before => self.act_on_intake(&firing),
                At::Byte(n) => self.stops.push((n as usize, firing)),
                At::After => self.stops.push((usize::MAX, firing)),
            }
        }
        self.stops.sort_by_key(|(n, _)| *n);
    }

    /// The message is complete: actions due after it, or after more bytes than it has, are run.
    pub(in crate::server) fn completed(&mut self) {
        for (_, firing) in std::mem::take(&mut self.stops) {
            self.act_on_intake(&firing);
        }
    }

    /// This many bytes of the message have arrived; `true` if an action was due there.
    pub(in crate::server) fn progress(&mut self, received: usize) -> bool {
        let mut happened = false;
        while self.stops.first().is_some_and(|(n, _)| *n <= received) {
            let (_, firing) = self.stops.remove(0);
            self.act_on_intake(&firing);
            happened = true;
        }
        happened
    }

    /// How many more bytes may be received before an action is due.
    pub(in crate::server) fn intake_limit(&self, received: usize) -> usize {
        let next = self.stops.first().map_or(usize::MAX, |(n, _)| *n);
        next.saturating_sub(received)
    }

    /// Whether received bytes may be processed.
    pub(in crate::server) fn intake_is_open(&mut self) -> bool {
        while let Some(gate) = self.gates.front_mut() {
            if !self.state.is_open(gate) {
                return false;
            }
            self.gates.pop_front();
        }
        true
    }

    /// A message has arrived; rules with conditions on its content fire. Returns those that answer
    /// it.
    fn received(&mut self, point: &Point) -> Vec<Firing> {
        let (flow, others): (Vec<_>, Vec<_>) =
            self.consult(point, Stage::After).into_iter().partition(|f| is_flow(&f.action));
        for firing in &flow {
            self.act_on_intake(firing);
        }
        others
    }

    /// The client's flags have arrived.
    pub(in crate::server) fn client_flags(&mut self) {
        for firing in self.received(&Point::ClientFlags) {
            self.inapplicable(&firing);
        }
    }

    /// An option has arrived. `Some` holds the replies that a rule gives it.
    pub(in crate::server) fn option(
        &mut self,
        option: OptionCode,
        len: u32,
    ) -> Option<Vec<OptionReply>> {
        self.note(Event::Option { option, len });
        let judges = self.received(&Point::Option(Some(option)));
        let (first, others) = judges.split_first()?;
        // There can be only one answer.
        for other in others {
            self.inapplicable(other);
        }
        Some(match &first.action {
            Action::Refuse(code) => vec![OptionReply::Error {
                code: *code,
                message: "refused by the plan".into(),
            }],
            Action::AckAndForget => vec![OptionReply::Ack],
            Action::Flood(times) => {
                self.flood(option, *times);
                Vec::new()
            }
            Action::Ignore => Vec::new(),
            _ => {
                self.inapplicable(first);
                Vec::new()
            }
        })
    }

    /// Sends one reply repeatedly: each is written once the previous one is.
    fn flood(&mut self, option: OptionCode, times: u64) {
        let reply = match option {
            OptionCode::LIST => OptionReply::Server {
                name: "flood".into(),
                description: "x".repeat(1000),
            },
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                OptionReply::MetaContext {
                    id: 0,
                    name: "flood:flood".into(),
                }
            }
            _ => OptionReply::Info(Info::Description("x".repeat(1000))),
        };
        self.flood = Some((option, reply, times));
    }

    /// The header of a request has arrived.
    pub(in crate::server) fn request(&mut self, id: u64, request: &Request) {
        self.note(Event::Request {
            n: id,
            command: request.command,
            flags: request.flags,
            offset: request.offset,
            len: request.len,
        });
        let mut verdict = Verdict::default();
        let is_write = request.command == CommandType::WRITE;
        for firing in self.received(&Point::Request(Some(*request))) {
            match &firing.action {
                Action::Error {
                    errno,
                    text,
                    offset,
                } if verdict.fail.is_none() => {
                    verdict.fail = Some(Answer::Failed {
                        failure: Failure::new(*errno, text.clone()),
                        at: *offset,
                    });
                }
                Action::LoseWrite if is_write => verdict.lose = true,
                Action::TearWrite(n) if is_write => verdict.tear = Some(*n),
                // It has no reply, so rules can only act on the connection.
                _ => self.inapplicable(&firing),
            }
        }
        self.verdicts.insert(id, verdict);
    }

    /// What was decided about a request to be carried out.
    pub(in crate::server) fn verdict(&mut self, id: u64) -> Verdict {
        let Some(verdict) = self.verdicts.get_mut(&id) else {
            return Verdict::default();
        };
        Verdict {
            fail: verdict.fail.clone(),
            ..std::mem::take(verdict)
        }
    }

    /// An action on a received message: connection-level actions run once everything owed has been
    /// sent.
    fn act_on_intake(&mut self, firing: &Firing) {
        let gate = match &firing.action {
            Action::Hold(name) => Gate::Trigger(self.state.triggers.get(name)),
            Action::Delay(ms) => Gate::Delay(Duration::from_millis(*ms)),
            Action::Stall => {
                // Nothing is sent either.
                self.after_owed.push_back(Op::Wait(Gate::Never));
                Gate::Never
            }
            action => {
                let goes_on = matches!(action, Action::StopListening | Action::HalfClose(Side::Tx));
                if let Some(op) = self.operation(firing) {
                    self.after_owed.push_back(op);
                }
                if goes_on {
                    return;
                }
                Gate::Never
            }
        };
        self.gates.push_back(gate);
    }

    /// Ignores everything the client sends from now on.
    pub(in crate::server) fn deafen(&mut self) {
        self.gates.push_front(Gate::Never);
    }
}
