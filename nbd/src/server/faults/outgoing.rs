//! Sent messages: rules that change them, or how they are delivered.

use bytes::Bytes;

use super::plan::{Action, At, Firing, Point, Stage};
use super::{Event, Faults, Held, Op, Until, is_flow, malformed};
use crate::proto::server::{
    Advertised, Answer, Failure, Layout, Message, Outgoing, Reply, ReplyKind,
};
use crate::proto::{Errno, Mode, OptionReply, Request};
use crate::server::conversation::{Verdict, Write};

impl Faults {
    /// What is advertised of an export.
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

    /// Something is due to be sent.
    pub(in crate::server) fn send(&mut self, outgoing: Outgoing<Bytes>, others_under_way: usize) {
        match outgoing {
            Outgoing::Greeting { oldstyle, bytes } => {
                let layout = match oldstyle {
                    true => Layout::Oldstyle,
                    false => Layout::Newstyle,
                };
                self.send_at(&Point::Greeting, Message::new(layout, bytes), 0);
            }
            Outgoing::OptionReply {
                option,
                reply,
                cost,
            } => {
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
                self.send_at(&Point::OptionReply(option, code), message, cost);
            }
            Outgoing::ExportReply(bytes) => {
                let message = Message::new(Layout::ExportReply, bytes);
                self.send_at(&Point::ExportReply, message, 0);
            }
            Outgoing::Reply(reply) => self.reply(reply, others_under_way),
        }
    }

    fn send_at(&mut self, point: &Point, message: Message<Bytes>, cost: u64) {
        let firings = self.consult(point, Stage::Whole);
        self.push(message, &firings, cost);
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

    fn note_reply(&self, n: u64, error: Errno, messages: &[Message<Bytes>]) {
        let bytes = messages.iter().map(|m| m.len() as u64).sum();
        self.note(Event::Reply { n, error, bytes });
    }

    /// Sends what was deferred until after the next reply.
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

    /// Sends what was held for a trigger that is now on. `false` if there is nothing.
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

    /// Sends the messages of a reply; the given rules apply to the first one.
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
            let on_data = match message.data.iter().all(Bytes::is_empty) {
                false => self.consult(&Point::Data(*request), Stage::Whole),
                true => Vec::new(),
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
    pub(super) fn push(&mut self, message: Message<Bytes>, firings: &[Firing], cost: u64) {
        if firings.is_empty() {
            return self.write(message.head, message.data, cost, false);
        }
        let (flow, edits): (Vec<_>, Vec<_>) = firings.iter().partition(|f| is_flow(&f.action));
        for firing in flow.iter().filter(|f| f.at == At::Before) {
            self.act(firing);
        }
        // The part sent before a stop is taken from the whole message, including data.
        let mut bytes = message.head;
        for part in &message.data {
            bytes.extend_from_slice(part);
        }
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
            self.write(piece.to_vec(), Vec::new(), 0, dribble);
        }
    }

    pub(super) fn write(&mut self, head: Vec<u8>, data: Vec<Bytes>, cost: u64, alone: bool) {
        if head.is_empty() && data.iter().all(Bytes::is_empty) {
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
}

fn mode_of(kind: ReplyKind) -> Mode {
    match kind {
        ReplyKind::Simple => Mode::Simple,
        ReplyKind::Structured => Mode::Structured,
        ReplyKind::Extended => Mode::Extended,
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

/// What happens to a reply as a whole.
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
