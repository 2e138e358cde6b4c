//! Fault injection: operations on what a connection sends, and gates for what it receives.
//!
//! Nothing here does I/O or waits. [`Faults`] stands between the protocol's machine and the bytes:
//! replies pass through it into a queue of operations (write, wait, close), which the driver carries
//! out in order. A reply that is held is in no queue, so nothing waits for it and it waits for
//! nothing but its trigger. What is received can be held back by a gate.

pub mod clock;
mod control;
pub mod journal;
mod malformed;
pub mod plan;
pub mod shadow;
mod shared;
mod trigger;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use self::journal::Event;
use self::plan::{Action, At, Closing, Firing, Point, Side, Stage};
use super::conversation::{Verdict, Write};
use crate::proto::server::{
    Advertised, Answer, Failure, Layout, Message, Outgoing, Reply, ReplyKind,
};
use crate::proto::{CommandType, Info, OptionCode, OptionReply, Request};

pub(in crate::server) use shared::FaultState;
pub use trigger::Trigger;
pub(in crate::server) use trigger::Triggers;

/// What the driver does to the connection or the listener, when all before it is written.
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

/// What holds up one direction of a connection.
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
    /// Actions on what is received, which follow when all requests are answered.
    after_owed: VecDeque<Op>,
    held: Vec<Held>,
    /// A reply that waits for another one to swap cookies with.
    to_swap: Option<Reply<Bytes>>,
    /// Actions on the message that is being received, after so many bytes.
    stops: Vec<(usize, Firing)>,
    gates: VecDeque<Gate>,
    verdicts: HashMap<u64, Verdict>,
    /// Cost of messages that will not be written, or not soon.
    released: u64,
    /// A reply that is sent over and over, so many times more.
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

    // What is received.

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

    /// A message begins to be awaited; rules that do not ask for its content fire.
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

    /// The message is there: what was to happen after it, or after more bytes than it has, happens.
    pub(in crate::server) fn completed(&mut self) {
        for (_, firing) in std::mem::take(&mut self.stops) {
            self.act_on_intake(&firing);
        }
    }

    /// So many bytes of the message have come.
    pub(in crate::server) fn progress(&mut self, received: usize) {
        while self.stops.first().is_some_and(|(n, _)| *n <= received) {
            let (_, firing) = self.stops.remove(0);
            self.act_on_intake(&firing);
        }
    }

    /// How many more bytes may be received before something happens.
    pub(in crate::server) fn intake_limit(&self, received: usize) -> usize {
        let next = self.stops.first().map_or(usize::MAX, |(n, _)| *n);
        next.saturating_sub(received)
    }

    /// Whether what is received may be looked at.
    pub(in crate::server) fn intake_is_open(&mut self) -> bool {
        while let Some(gate) = self.gates.front_mut() {
            if !self.state.is_open(gate) {
                return false;
            }
            self.gates.pop_front();
        }
        true
    }

    /// A message is there; rules that ask for its content fire. Returns those that answer it.
    fn received(&mut self, point: &Point) -> Vec<Firing> {
        let (flow, others): (Vec<_>, Vec<_>) = self
            .consult(point, Stage::After)
            .into_iter()
            .partition(|f| is_flow(&f.action));
        for firing in &flow {
            self.act_on_intake(firing);
        }
        others
    }

    /// The client's flags are there.
    pub(in crate::server) fn client_flags(&mut self) {
        for firing in self.received(&Point::ClientFlags) {
            self.inapplicable(&firing);
        }
    }

    /// An option is there. `Some` are the replies that a rule gives it.
    pub(in crate::server) fn option(
        &mut self,
        option: OptionCode,
        len: u32,
    ) -> Option<Vec<OptionReply>> {
        self.note(Event::Option { option, len });
        let judges = self.received(&Point::Option(Some(option)));
        let (first, others) = judges.split_first()?;
        // One answer is all there can be.
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

    /// One reply over and over: each is written when the one before it is.
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

    /// The header of a request is there.
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
                // There is no reply to it, so rules can only be about the connection.
                _ => self.inapplicable(&firing),
            }
        }
        self.verdicts.insert(id, verdict);
    }

    /// What was decided about a request that is to be carried out.
    pub(in crate::server) fn verdict(&mut self, id: u64) -> Verdict {
        let Some(verdict) = self.verdicts.get_mut(&id) else {
            return Verdict::default();
        };
        Verdict {
            fail: verdict.fail.clone(),
            ..std::mem::take(verdict)
        }
    }

    /// What a client is told of an export.
    pub(in crate::server) fn advertise(&mut self, mut told: Advertised) -> Advertised {
        for firing in self.consult(&Point::Export, Stage::Whole) {
            match firing.action {
                Action::AdvertiseSize(size) => told.size = size,
                Action::AdvertiseFlags { set, clear } => told.flags = (told.flags | set) - clear,
                Action::AdvertiseBlockSizes(sizes) => told.block_sizes = Some(sizes),
                _ => self.inapplicable(&firing),
            }
        }
        told
    }

    // What is sent.

    /// Something is due to be sent.
    pub(in crate::server) fn send(&mut self, outgoing: Outgoing<Bytes>, others_under_way: usize) {
        match outgoing {
            Outgoing::Greeting { oldstyle, bytes } => {
                let layout = match oldstyle {
                    true => Layout::Oldstyle,
                    false => Layout::Newstyle,
                };
                self.send_at(&Point::Greeting, Message::new(layout, bytes));
            }
            Outgoing::OptionReply { option, reply } => {
                let code = reply.code();
                let info = match &reply {
                    OptionReply::Info(info) => Some(info.kind()),
                    _ => None,
                };
                self.note(Event::OptionReply {
                    option,
                    reply: code,
                });
                let message = Message::new(Layout::OptionReply(code, info), reply.encode(option));
                self.send_at(&Point::OptionReply(option, code), message);
            }
            Outgoing::ExportReply(bytes) => {
                let message = Message::new(Layout::ExportReply, bytes);
                self.send_at(&Point::ExportReply, message);
            }
            Outgoing::Reply(reply) => self.reply(reply, others_under_way),
        }
    }

    fn send_at(&mut self, point: &Point, message: Message<Bytes>) {
        let firings = self.consult(point, Stage::Whole);
        self.push(message, &firings, 0);
    }

    fn reply(&mut self, mut reply: Reply<Bytes>, others_under_way: usize) {
        let (id, request, cost) = (reply.id, reply.request, reply.cost);
        if let Some(Verdict {
            fail: Some(answer), ..
        }) = self.verdicts.remove(&id)
        {
            let kind = reply.kind;
            reply = Reply::new(request, mode_of(kind), answer);
        }
        let error = reply.errno;
        let chunk = match reply.kind {
            ReplyKind::Simple => None,
            _ => reply.chunks.first().map(|c| c.kind),
        };
        let point = Point::Reply {
            request,
            chunk,
            first: true,
        };
        let (whole, firings): (Vec<_>, Vec<_>) = self
            .consult(&point, Stage::Whole)
            .into_iter()
            .partition(|f| is_about_replies(&f.action));
        let mut delivery = Delivery::default();
        for firing in &whole {
            if !self.apply(&mut reply, &mut delivery, firing) {
                self.inapplicable(firing);
            }
        }
        if delivery.swap {
            match self.to_swap.take() {
                None => {
                    self.note_reply(id, error, &reply.clone().messages());
                    self.to_swap = Some(reply);
                    self.released += cost;
                    return;
                }
                Some(mut earlier) => {
                    std::mem::swap(&mut earlier.request.cookie, &mut reply.request.cookie);
                    self.push_plain(earlier.messages());
                }
            }
        }
        let messages = reply.messages();
        self.note_reply(id, error, &messages);
        if let Some(until) = delivery.hold {
            self.held.push(Held { messages, until });
            self.released += cost;
            return;
        }
        let later = delivery.again_later.then(|| messages.clone());
        let again = delivery.again_now.then(|| messages.clone());
        match delivery.drop {
            true => self.released += cost,
            false => self.push_chunks(&request, messages, &firings, cost),
        }
        if let Some(messages) = again {
            self.push_plain(messages);
        }
        self.after_reply(others_under_way);
        if let Some(messages) = later {
            let until = Until::NextReply;
            self.held.push(Held { messages, until });
        }
    }

    fn note_reply(&self, n: u64, error: crate::proto::Errno, messages: &[Message<Bytes>]) {
        let bytes = messages.iter().map(|m| m.len() as u64).sum();
        self.note(Event::Reply { n, error, bytes });
    }

    /// What was to follow the next reply follows.
    fn after_reply(&mut self, others_under_way: usize) {
        let next = |h: &Held| matches!(h.until, Until::NextReply);
        while let Some(n) = self.held.iter().position(next) {
            let held = self.held.remove(n);
            self.push_plain(held.messages);
        }
        if self.held.is_empty() && self.to_swap.is_none() && others_under_way == 0 {
            for firing in self.consult(&Point::Idle, Stage::Whole) {
                self.act(&firing);
            }
        }
    }

    /// Sends what was held for a trigger that is on. `false` if there is no such thing.
    pub(in crate::server) fn release(&mut self, under_way: usize) -> bool {
        let due = |h: &Held| matches!(&h.until, Until::Trigger(t) if t.is_set());
        let Some(n) = self.held.iter().position(due) else {
            return false;
        };
        let held = self.held.remove(n);
        self.push_plain(held.messages);
        self.after_reply(under_way);
        true
    }

    /// Changes a reply, or how it is delivered; `false` if that is not possible.
    fn apply(
        &mut self,
        reply: &mut Reply<Bytes>,
        delivery: &mut Delivery,
        firing: &Firing,
    ) -> bool {
        match &firing.action {
            Action::Drop => delivery.drop = true,
            Action::Duplicate => delivery.again_now = true,
            Action::DuplicateLater => delivery.again_later = true,
            Action::Reorder => delivery.hold = Some(Until::NextReply),
            Action::HoldReply(name) => {
                delivery.hold = Some(Until::Trigger(self.state.triggers.get(name)));
            }
            Action::SwapCookies => delivery.swap = true,
            Action::WrongKind(kind) => {
                let differs = reply.kind != *kind;
                reply.kind = *kind;
                return differs;
            }
            Action::Error {
                errno,
                text,
                offset,
            } => {
                let failure = Failure::new(*errno, text.clone());
                let answer = Answer::Failed {
                    failure,
                    at: *offset,
                };
                *reply = Reply::new(reply.request, mode_of(reply.kind), answer);
            }
            Action::Unsolicited(cookie) => {
                let mut stray = Reply::new(reply.request, mode_of(reply.kind), Answer::Done);
                stray.request.cookie = *cookie;
                self.push_plain(stray.messages());
            }
            Action::Malform(how) => return malformed::apply(*how, reply),
            _ => return false,
        }
        true
    }

    fn push_plain(&mut self, messages: Vec<Message<Bytes>>) {
        for message in messages {
            self.push(message, &[], 0);
        }
    }

    /// Sends the messages of a reply; the rules given are for the first one.
    fn push_chunks(
        &mut self,
        request: &Request,
        messages: Vec<Message<Bytes>>,
        first: &[Firing],
        cost: u64,
    ) {
        let last = messages.len().saturating_sub(1);
        for (n, message) in messages.into_iter().enumerate() {
            let later;
            let firings = if n == 0 {
                first
            } else {
                let chunk = match message.layout {
                    Layout::Structured(kind) | Layout::Extended(kind) => Some(kind),
                    _ => None,
                };
                let point = Point::Reply {
                    request: *request,
                    chunk,
                    first: false,
                };
                later = self.consult(&point, Stage::Whole);
                &later
            };
            let on_data = match &message.data {
                Some(data) if !data.is_empty() => {
                    self.consult(&Point::Data(*request), Stage::Whole)
                }
                _ => Vec::new(),
            };
            let cost = if n == last { cost } else { 0 };
            if firings.is_empty() && on_data.is_empty() {
                self.push(message, &[], cost);
                continue;
            }
            let Message { layout, head, data } = message;
            self.push(Message::new(layout, head), firings, 0);
            let data = Message {
                layout,
                head: Vec::new(),
                data,
            };
            self.push(data, &on_data, cost);
        }
    }

    /// Queues a message with its faults.
    fn push(&mut self, message: Message<Bytes>, firings: &[Firing], cost: u64) {
        if firings.is_empty() {
            return self.write(message.head, message.data, cost, false);
        }
        let (flow, edits): (Vec<_>, Vec<_>) = firings.iter().partition(|f| is_flow(&f.action));
        for firing in flow.iter().filter(|f| f.at == At::Before) {
            self.act(firing);
        }
        // What is sent before a stop is cut from the whole message, data included.
        let mut bytes = message.head;
        bytes.extend_from_slice(message.data.as_deref().unwrap_or_default());
        let mut dribble = false;
        for firing in edits {
            if firing.action == Action::Dribble {
                dribble = true;
            } else if !transform(&mut bytes, message.layout, firing) {
                self.inapplicable(firing);
            }
        }
        let mut stops: Vec<(&Firing, usize)> = Vec::new();
        for firing in &flow {
            match firing.at {
                At::Before => {}
                At::Byte(n) => stops.push((firing, bytes.len().min(n as usize))),
                At::After => stops.push((firing, bytes.len())),
            }
        }
        stops.sort_by_key(|(_, n)| *n);
        let mut sent = 0;
        for (firing, n) in stops {
            self.write_all(&bytes[sent..n], dribble);
            sent = n;
            self.act(firing);
        }
        self.write_all(&bytes[sent..], dribble);
        self.released += cost;
    }

    fn write_all(&mut self, bytes: &[u8], dribble: bool) {
        for piece in bytes.chunks(if dribble { 1 } else { bytes.len().max(1) }) {
            self.write(piece.to_vec(), None, 0, dribble);
        }
    }

    fn write(&mut self, head: Vec<u8>, data: Option<Bytes>, cost: u64, alone: bool) {
        if head.is_empty() && data.as_ref().is_none_or(|data| data.is_empty()) {
            self.released += cost;
            return;
        }
        self.queue.push_back(Op::Write(Write {
            head,
            data,
            cost,
            alone,
        }));
    }

    /// An action on what is received: what is about the connection happens when all that is owed
    /// has been sent.
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

    /// Queues an action on the connection as a whole.
    fn act(&mut self, firing: &Firing) {
        if let Some(op) = self.operation(firing) {
            self.queue.push_back(op);
        }
    }

    /// What an action on the connection as a whole does to the queue.
    fn operation(&self, firing: &Firing) -> Option<Op> {
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

    /// What was to follow the answers to all requests follows, if there are none any more.
    pub(in crate::server) fn settle(&mut self, under_way: usize) {
        if under_way == 0 {
            self.queue.append(&mut self.after_owed);
        }
    }

    /// What the client sends is not looked at any more.
    pub(in crate::server) fn deafen(&mut self) {
        self.gates.push_front(Gate::Never);
    }

    /// The next message to be written, unless something holds it up.
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

    /// The next reply of a flood, when all before it is written.
    pub(in crate::server) fn next_of_flood(&mut self) -> Option<Write> {
        let (option, reply, left) = self.flood.as_mut().filter(|_| self.queue.is_empty())?;
        *left = left.checked_sub(1)?;
        let (option, reply) = (*option, reply.clone());
        self.send(Outgoing::OptionReply { option, reply }, 0);
        match self.queue.pop_front() {
            Some(Op::Write(write)) => Some(write),
            other => {
                self.queue.extend(other);
                None
            }
        }
    }

    /// What is to be done next to the connection, if that is next.
    pub(in crate::server) fn next_effect(&mut self) -> Option<Effect> {
        match self.queue.front() {
            Some(Op::Act(_)) => match self.queue.pop_front() {
                Some(Op::Act(effect)) => Some(effect),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether everything that was due has been taken.
    pub(in crate::server) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.after_owed.is_empty()
    }

    /// Cost of what will not be written, once.
    pub(in crate::server) fn released(&mut self) -> u64 {
        std::mem::take(&mut self.released)
    }

    /// What is looked at from here on is up to date.
    pub(in crate::server) fn refresh(&mut self) {
        self.changes.borrow_and_update();
    }

    /// Waits until a trigger or the clock may have opened something since the last refresh.
    pub(in crate::server) fn changes(&self) -> impl Future<Output = ()> + use<> {
        let mut triggers = self.changes.clone();
        let waits = match self.queue.front() {
            Some(Op::Wait(gate)) => Some(gate),
            _ => None,
        };
        let time = [waits, self.gates.front()].into_iter().flatten();
        let until = time.filter_map(|gate| match gate {
            Gate::Until(at) => Some(*at),
            _ => None,
        });
        let (clock, until) = (self.state.clock.clone(), until.min());
        async move {
            match until {
                Some(at) => tokio::select! {
                    () = clock.reach(at) => {}
                    _ = triggers.changed() => {}
                },
                // The sender lives as long as the server does.
                None => drop(triggers.changed().await),
            }
        }
    }

    /// Where writes are noted, and the number of the connection.
    pub(in crate::server) fn shadow(&self) -> Option<(shadow::WriteShadow, u64)> {
        self.state
            .shadow
            .clone()
            .map(|shadow| (shadow, self.number))
    }
}

fn mode_of(kind: ReplyKind) -> crate::proto::Mode {
    match kind {
        ReplyKind::Simple => crate::proto::Mode::Simple,
        ReplyKind::Structured => crate::proto::Mode::Structured,
        ReplyKind::Extended => crate::proto::Mode::Extended,
    }
}

/// Changes bytes; `false` if that is not what this action does, or not possible here.
fn transform(bytes: &mut Vec<u8>, layout: Layout, firing: &Firing) -> bool {
    match &firing.action {
        Action::Truncate(n) => bytes.truncate(*n as usize),
        Action::Pad(n) => bytes.resize(bytes.len() + *n as usize, 0),
        Action::FlipBits(n) if !bytes.is_empty() => {
            let mut rng = fastrand::Rng::with_seed(firing.random);
            for _ in 0..*n {
                let bit = rng.usize(..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Action::Replace(new) => bytes.clone_from(new),
        Action::Drop => bytes.clear(),
        Action::Set(field, edit) => {
            return crate::proto::server::edit(bytes, layout, *field, *edit);
        }
        _ => return false,
    }
    true
}

/// What becomes of a reply as a whole.
#[derive(Default)]
struct Delivery {
    drop: bool,
    again_now: bool,
    again_later: bool,
    swap: bool,
    hold: Option<Until>,
}

/// Actions on a reply as a whole, not on its bytes.
fn is_about_replies(action: &Action) -> bool {
    matches!(
        action,
        Action::Drop
            | Action::Duplicate
            | Action::DuplicateLater
            | Action::Reorder
            | Action::HoldReply(_)
            | Action::SwapCookies
            | Action::WrongKind(_)
            | Action::Error { .. }
            | Action::Unsolicited(_)
            | Action::Malform(_)
    )
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
