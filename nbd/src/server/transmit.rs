//! The transmission phase: requests in, replies out, faults between. What a request does is
//! [`super::execute`]'s business.

use bytes::Bytes;

use super::backend::BackendError;
use super::deceit;
use super::execute::Executor;
use super::journal::{Closed, Event};
use super::layout::Layout;
use super::negotiate::Agreed;
use super::plan::{Action, Firing, Point, ReplyKind, Stage};
use super::reply::{Answer, Reply};
use super::trigger::Trigger;
use super::wire::{End, Message, Wire, is_flow};
use crate::proto::{CommandType, Errno, Request};

pub(super) struct Transmission<'a> {
    wire: &'a mut Wire,
    agreed: Agreed,
    requests: u64,
    held: Vec<Held>,
    /// A reply that waits for another one to swap cookies with.
    to_swap: Option<Reply>,
}

/// Messages that are sent later.
struct Held {
    messages: Vec<Message>,
    until: Until,
}

enum Until {
    NextReply,
    Trigger(Trigger),
}

impl<'a> Transmission<'a> {
    pub(super) fn new(wire: &'a mut Wire, agreed: Agreed) -> Transmission<'a> {
        Transmission {
            wire,
            agreed,
            requests: 0,
            held: Vec::new(),
            to_swap: None,
        }
    }

    /// Serves until the connection ends.
    pub(super) async fn run(mut self) -> Result<(), End> {
        loop {
            let request = self.next_request().await?;
            if request.command == CommandType::DISC {
                return Err(self.goodbye(request).await);
            }
            self.serve(request).await?;
        }
    }

    async fn next_request(&mut self) -> Result<Request, End> {
        let style = self.agreed.mode.header_style();
        let len = style.request_len();
        let firings = self.consult(&Point::Request(None), Stage::Before);
        let bytes = loop {
            if !firings.is_empty() || !self.holds_for_a_trigger() {
                break self.wire.receive_with(len, &firings).await?;
            }
            tokio::select! {
                bytes = self.wire.receive(len) => break bytes?,
                n = released(&self.held) => {
                    let held = self.held.swap_remove(n);
                    self.send_plain(held.messages).await?;
                    self.after_reply(false).await?;
                }
            }
        };
        let request = Request::decode(style, &bytes)?;
        self.requests += 1;
        self.wire.shared.note(
            self.wire.number,
            Event::Request {
                n: self.requests,
                command: request.command,
                flags: request.flags,
                offset: request.offset,
                len: request.len,
            },
        );
        Ok(request)
    }

    /// There is no reply to it, so rules can only be about the connection.
    async fn goodbye(&mut self, request: Request) -> End {
        for firing in self.consult(&Point::Request(Some(request)), Stage::After) {
            if let Err(end) = self.wire.act(&firing).await {
                return end;
            }
        }
        End(Closed::Goodbye)
    }

    fn holds_for_a_trigger(&self) -> bool {
        self.held
            .iter()
            .any(|held| matches!(held.until, Until::Trigger(_)))
    }

    async fn serve(&mut self, request: Request) -> Result<(), End> {
        let firings = self.consult(&Point::Request(Some(request)), Stage::After);
        let (flow, judgement): (Vec<_>, Vec<_>) =
            firings.into_iter().partition(|f| is_flow(&f.action));
        for firing in &flow {
            self.wire.act(firing).await?;
        }
        let len = request.payload_len(self.agreed.mode.header_style());
        let most = self.wire.shared.max_payload;
        if len > most {
            let why = format!("payload of {len} bytes, the limit is {most}");
            return Err(End(Closed::Refused(why)));
        }
        let mut payload = Bytes::new();
        if len > 0 {
            let firings = self.consult(&Point::Payload(request), Stage::Whole);
            payload = self.wire.receive_with(len as usize, &firings).await?.into();
        }
        let executor = Executor {
            agreed: &self.agreed,
            shared: &self.wire.shared,
            number: self.wire.number,
        };
        let answer = executor.execute(&request, payload, &judgement).await;
        self.reply(request, answer).await
    }

    async fn reply(&mut self, request: Request, answer: Answer) -> Result<(), End> {
        let error = answer.errno();
        let mut reply = Reply::new(request, self.agreed.mode, answer);
        let chunk = match reply.kind {
            ReplyKind::Simple => None,
            _ => reply.chunks.first().map(|c| c.kind),
        };
        let point = Point::Reply {
            request,
            chunk,
            first: true,
        };
        let (doctored, firings): (Vec<_>, Vec<_>) = self
            .consult(&point, Stage::Whole)
            .into_iter()
            .partition(|f| is_doctoring(&f.action));
        let mut delivery = Delivery::default();
        for firing in &doctored {
            if !self.doctor(&mut reply, &mut delivery, firing).await? {
                self.wire.shared.misfit(self.wire.number, firing);
            }
        }
        if delivery.swap {
            match self.to_swap.take() {
                None => {
                    self.note_reply(error, &reply.clone().messages());
                    self.to_swap = Some(reply);
                    return Ok(());
                }
                Some(mut earlier) => {
                    std::mem::swap(&mut earlier.request.cookie, &mut reply.request.cookie);
                    self.send_plain(earlier.messages()).await?;
                }
            }
        }
        let messages = reply.messages();
        self.note_reply(error, &messages);
        if let Some(until) = delivery.hold {
            self.held.push(Held { messages, until });
            return Ok(());
        }
        if delivery.again_later {
            self.held.push(Held {
                messages: messages.clone(),
                until: Until::NextReply,
            });
        }
        let copy = delivery.again_now.then(|| messages.clone());
        if !delivery.drop {
            self.send_faulty(&request, messages, &firings).await?;
        }
        if let Some(copy) = copy {
            self.send_plain(copy).await?;
        }
        self.after_reply(delivery.again_later).await
    }

    fn note_reply(&self, error: Errno, messages: &[Message]) {
        let size = |m: &Message| (m.head.len() + m.data.len()) as u64;
        let event = Event::Reply {
            n: self.requests,
            error,
            bytes: messages.iter().map(size).sum(),
        };
        self.wire.shared.note(self.wire.number, event);
    }

    async fn after_reply(&mut self, just_held: bool) -> Result<(), End> {
        let keep = if just_held { self.held.pop() } else { None };
        while let Some(n) = self
            .held
            .iter()
            .position(|h| matches!(h.until, Until::NextReply))
        {
            let held = self.held.remove(n);
            self.send_plain(held.messages).await?;
        }
        self.held.extend(keep);
        if self.held.is_empty() && self.to_swap.is_none() {
            for firing in self.consult(&Point::Idle, Stage::Whole) {
                self.wire.act(&firing).await?;
            }
        }
        Ok(())
    }

    /// Changes a reply, or how it is delivered; `false` if that is not possible.
    async fn doctor(
        &mut self,
        reply: &mut Reply,
        delivery: &mut Delivery,
        firing: &Firing,
    ) -> Result<bool, End> {
        match &firing.action {
            Action::Drop => delivery.drop = true,
            Action::Duplicate => delivery.again_now = true,
            Action::DuplicateLater => delivery.again_later = true,
            Action::Reorder => delivery.hold = Some(Until::NextReply),
            Action::HoldReply(name) => {
                delivery.hold = Some(Until::Trigger(self.wire.shared.triggers.get(name)));
            }
            Action::SwapCookies => delivery.swap = true,
            Action::WrongKind(kind) => {
                let differs = reply.kind != *kind;
                reply.kind = *kind;
                return Ok(differs);
            }
            Action::Error {
                errno,
                text,
                offset,
            } => {
                let error = BackendError::new(*errno, text.clone());
                let answer = Answer::Failed { error, at: *offset };
                *reply = Reply::new(reply.request, self.agreed.mode, answer);
            }
            Action::Unsolicited(cookie) => {
                let mut stray = Reply::new(reply.request, self.agreed.mode, Answer::Done);
                stray.request.cookie = *cookie;
                self.send_plain(stray.messages()).await?;
            }
            Action::Lie(lie) => return Ok(deceit::tell(*lie, reply)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn send_plain(&mut self, messages: Vec<Message>) -> Result<(), End> {
        for message in messages {
            self.wire.send(message, &[]).await?;
        }
        Ok(())
    }

    /// Sends the messages of a reply; the rules given are for the first one.
    async fn send_faulty(
        &mut self,
        request: &Request,
        messages: Vec<Message>,
        first: &[Firing],
    ) -> Result<(), End> {
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
            let on_data = match message.data.is_empty() {
                true => Vec::new(),
                false => self.consult(&Point::Data(*request), Stage::Whole),
            };
            if firings.is_empty() && on_data.is_empty() {
                self.wire.send(message, &[]).await?;
                continue;
            }
            let Message { layout, head, data } = message;
            let head = Message::new(layout, head);
            self.wire.send(head, firings).await?;
            self.wire
                .send(
                    Message {
                        layout,
                        head: Vec::new(),
                        data,
                    },
                    &on_data,
                )
                .await?;
        }
        Ok(())
    }

    fn consult(&self, point: &Point, stage: Stage) -> Vec<Firing> {
        self.wire.shared.consult(self.wire.number, point, stage)
    }
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
fn is_doctoring(action: &Action) -> bool {
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
            | Action::Lie(_)
    )
}

/// Waits until a trigger releases one of these; returns which.
async fn released(held: &[Held]) -> usize {
    let waits = held
        .iter()
        .enumerate()
        .filter_map(|(n, held)| match &held.until {
            Until::Trigger(trigger) => Some((n, trigger.clone())),
            Until::NextReply => None,
        });
    let mut waits: Vec<_> = waits
        .map(|(n, trigger)| {
            Box::pin(async move {
                trigger.wait().await;
                n
            })
        })
        .collect();
    std::future::poll_fn(|cx| {
        for wait in &mut waits {
            if let std::task::Poll::Ready(n) = wait.as_mut().poll(cx) {
                return std::task::Poll::Ready(n);
            }
        }
        std::task::Poll::Pending
    })
    .await
}
