//! Which rule fires when.

use fastrand::Rng;

use super::FaultPlan;
use super::action::Action;
use super::rule::{At, Connections, On, Range, Rule, Times};
use crate::proto::{ChunkType, CommandType, OptionCode, OptionReplyCode, Request};
use crate::server::faults::trigger::Triggers;

/// An occurrence of a point, with what is known about it.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Point {
    Accept,
    Greeting,
    ClientFlags,
    Option(Option<OptionCode>),
    OptionReply(OptionCode, OptionReplyCode),
    ExportReply,
    Export,
    Request(Option<Request>),
    Payload(Request),
    Reply {
        request: Request,
        chunk: Option<ChunkType>,
        first: bool,
    },
    Data(Request),
    Idle,
}

/// Whether the content of a received message is known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Stage {
    /// Something is sent: everything is known.
    Whole,
    /// About to be received: only rules without a condition on the content.
    Before,
    /// Received: the others.
    After,
}

/// A rule that fires.
#[derive(Clone, Debug)]
pub(in crate::server) struct Firing {
    pub(in crate::server) rule: String,
    pub(in crate::server) at: At,
    pub(in crate::server) action: Action,
    /// Random bits for the action.
    pub(in crate::server) random: u64,
}

/// A plan with the state of its rules.
#[derive(Debug)]
pub(in crate::server) struct Engine {
    rules: Vec<Armed>,
    phase: String,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    name: String,
    passages: u64,
    fired: u64,
    /// Each rule draws from its own stream, so that rules do not affect each other.
    rng: Rng,
}

impl Engine {
    pub(in crate::server) fn new(plan: FaultPlan) -> Engine {
        let arm = |(n, rule): (usize, Rule)| Armed {
            name: if rule.name.is_empty() {
                format!("rule {n}")
            } else {
                rule.name.clone()
            },
            rng: Rng::with_seed(plan.seed.wrapping_add((n as u64).wrapping_mul(0x9e37_79b9))),
            rule,
            passages: 0,
            fired: 0,
        };
        let rules = plan.rules.into_iter().enumerate().map(arm).collect();
        Engine {
            rules,
            phase: String::new(),
        }
    }

    /// Whether there are no rules at all.
    pub(in crate::server) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that fire at this passage, in the plan's order.
    pub(in crate::server) fn consult(
        &mut self,
        connection: u64,
        point: &Point,
        stage: Stage,
        triggers: &Triggers,
    ) -> Vec<Firing> {
        let mut firings = Vec::new();
        let mut next_phase = None;
        for armed in &mut self.rules {
            let rule = &armed.rule;
            let concerned = matches(&rule.on, point)
                && in_stage(rule, stage)
                && rule.phase.as_ref().is_none_or(|phase| *phase == self.phase)
                && match rule.connections {
                    Connections::All => true,
                    Connections::Only(n) => connection == n,
                    Connections::From(n) => connection >= n,
                };
            if !concerned {
                continue;
            }
            armed.passages += 1;
            let left = match rule.times {
                Times::Once => armed.fired == 0,
                Times::Most(n) => armed.fired < n,
                Times::Forever => true,
            };
            let fires = left
                && armed.passages >= rule.nth
                && rule.when.as_ref().is_none_or(|name| triggers.get(name).is_set())
                && rule.probability.is_none_or(|p| armed.rng.f64() < p);
            if !fires {
                continue;
            }
            armed.fired += 1;
            if rule.then.is_some() {
                next_phase = rule.then.clone();
            }
            firings.push(Firing {
                rule: armed.name.clone(),
                at: rule.at,
                action: rule.action.clone(),
                random: armed.rng.u64(..),
            });
        }
        if let Some(phase) = next_phase {
            self.phase = phase;
        }
        firings
    }

    /// Names of the rules that should have fired and did not.
    pub(in crate::server) fn unfired(&self) -> Vec<String> {
        let idle = self.rules.iter().filter(|a| a.fired == 0 && !a.rule.optional);
        idle.map(|a| a.name.clone()).collect()
    }
}

/// Received messages are tested twice; each rule belongs to one of the two.
fn in_stage(rule: &Rule, stage: Stage) -> bool {
    let conditional = matches!(
        rule.on,
        On::Option { option: Some(_) }
            | On::Request {
                command: Some(_),
                ..
            }
            | On::Request {
                touching: Some(_),
                ..
            }
    );
    let late = conditional || rule.at == At::After || judges_content(&rule.action);
    match stage {
        Stage::Whole => true,
        Stage::Before => !late,
        Stage::After => late,
    }
}

/// Actions that answer a received message, and so need its content.
fn judges_content(action: &Action) -> bool {
    matches!(
        action,
        Action::Refuse(_)
            | Action::Ignore
            | Action::AckAndForget
            | Action::Flood(_)
            | Action::Error { .. }
            | Action::LoseWrite
            | Action::TearWrite(_)
    )
}

fn matches(on: &On, point: &Point) -> bool {
    match (on, point) {
        (On::Accept, Point::Accept)
        | (On::Greeting, Point::Greeting)
        | (On::ClientFlags, Point::ClientFlags)
        | (On::ExportReply, Point::ExportReply)
        | (On::Export, Point::Export)
        | (On::Idle, Point::Idle) => true,
        (On::Option { option }, Point::Option(got)) => same(*option, *got),
        (On::OptionReply { option, reply }, Point::OptionReply(got_option, got_reply)) => {
            same(*option, Some(*got_option)) && same(*reply, Some(*got_reply))
        }
        (On::Request { command, touching }, Point::Request(got)) => match got {
            None => command.is_none() && touching.is_none(),
            Some(request) => concerns(*command, *touching, request),
        },
        (On::Payload { touching }, Point::Payload(request))
        | (On::Data { touching }, Point::Data(request)) => concerns(None, *touching, request),
        (
            On::Reply {
                command,
                touching,
                chunk,
            },
            Point::Reply {
                request,
                chunk: got,
                first,
            },
        ) => {
            concerns(*command, *touching, request)
                && match chunk {
                    None => *first,
                    Some(chunk) => *got == Some(*chunk),
                }
        }
        _ => false,
    }
}

fn same<T: PartialEq>(wanted: Option<T>, got: Option<T>) -> bool {
    wanted.is_none() || wanted == got
}

fn concerns(command: Option<CommandType>, touching: Option<Range>, request: &Request) -> bool {
    let end = request.offset.saturating_add(request.len.max(1));
    let ranged = ![CommandType::FLUSH, CommandType::DISC].contains(&request.command);
    command.is_none_or(|c| c == request.command)
        && touching.is_none_or(|r| ranged && request.offset < r.end && r.start < end)
}
