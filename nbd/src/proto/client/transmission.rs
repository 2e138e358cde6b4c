//! Requests and replies, after an export is chosen.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::Command;
use super::config::Config;
use super::error::{ConnectionError, Origin, RequestError};
use super::export::ExportInfo;
use crate::proto::chunk::Status;
use crate::proto::intake::Intake;
use crate::proto::send_queue::SendQueue;
use crate::proto::{CommandFlags, CommandType, ReplyCheck, Request, Violation};

mod replies;

/// The content of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Data of a read, from the request's offset on.
    pub data: Vec<u8>,
    /// Status of each context.
    pub statuses: Vec<Status>,
}

/// A request has finished.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What [`Transmission::submit`] returned.
    pub cookie: u64,
    /// How it ended.
    pub result: Result<Reply, RequestError>,
}

#[derive(Debug)]
enum Life {
    Open,
    /// The server announced its shutdown: requests in flight are answered, then `DISC` is sent.
    ShuttingDown,
    /// The caller is disconnecting: what was submitted is sent, then `DISC`.
    Leaving,
    /// `DISC` is sent, and nothing may follow it.
    Goodbye(ConnectionError),
    Dead(Arc<ConnectionError>),
}

#[derive(Debug)]
struct Pending {
    request: Request,
    effect_len: u64,
    check: ReplyCheck,
    reply: Reply,
    /// Uses one of the passed buffers.
    reuses: bool,
    started: bool,
    deadline: Option<(Instant, Duration)>,
    /// The caller no longer waits for the reply.
    given_up: bool,
}

/// What is being read.
#[derive(Clone, Copy, Debug)]
enum Input {
    Header,
    /// The offset in front of the data of a chunk.
    DataOffset {
        cookie: u64,
        len: u64,
    },
    Data {
        cookie: u64,
    },
    Hole {
        cookie: u64,
    },
    Status {
        cookie: u64,
        wide: bool,
    },
    Error {
        cookie: u64,
        with_offset: bool,
        known: bool,
    },
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Transmission<B> {
    export: ExportInfo,
    config: Config,
    name: Arc<str>,
    intake: Intake,
    input: Input,
    life: Life,
    out: SendQueue<B>,
    /// Submitted, but not sent yet because too many are in flight.
    waiting: VecDeque<(u64, Command<B>)>,
    pending: HashMap<u64, Pending>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Buffers passed with reads, for whichever is answered next.
    buffers: Vec<Vec<u8>>,
    next_cookie: u64,
    notices: VecDeque<Notice>,
    bytes_in: u64,
    requests: u64,
}

impl<B: AsRef<[u8]>> Transmission<B> {
    pub(super) fn new(export: ExportInfo, config: Config, intake: Intake) -> Transmission<B> {
        let mut this = Transmission {
            name: export.name.as_str().into(),
            export,
            config,
            intake,
            input: Input::Header,
            life: Life::Open,
            out: SendQueue::default(),
            waiting: VecDeque::new(),
            pending: HashMap::new(),
            deadlines: BTreeSet::new(),
            buffers: Vec::new(),
            // A buggy server may send 0; starting at 1 distinguishes the two.
            next_cookie: 1,
            notices: VecDeque::new(),
            bytes_in: 0,
            requests: 0,
        };
        // A server may have sent more than the handshake consumed.
        this.advance();
        this
    }

    /// The export as the server described it.
    pub fn export(&self) -> &ExportInfo {
        &self.export
    }

    /// Number of requests sent.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes received in this phase.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// Bytes sent in this phase.
    pub fn bytes_out(&self) -> u64 {
        self.out.total()
    }

    /// Why the connection is over, if it is, or is about to be.
    pub fn error(&self) -> Option<Arc<ConnectionError>> {
        match &self.life {
            Life::Open => None,
            Life::ShuttingDown => Some(Arc::new(ConnectionError::Shutdown)),
            Life::Leaving => Some(Arc::new(ConnectionError::Disconnected)),
            Life::Goodbye(why) => Some(Arc::new(why.clone())),
            Life::Dead(why) => Some(why.clone()),
        }
    }

    /// Whether the connection is dead: nothing is left to read or send.
    pub fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead(_))
    }

    /// Whether `DISC` is written, so that the stream may be closed.
    pub fn has_said_goodbye(&self) -> bool {
        matches!(self.life, Life::Goodbye(_)) && self.out.is_empty()
    }

    /// Describes a request, for errors.
    fn origin(&self, request: &Request, effect_len: u64) -> Box<Origin> {
        Box::new(Origin {
            command: request.command,
            offset: request.offset,
            len: effect_len,
            export: self.name.clone(),
            peer: self.config.peer.clone(),
        })
    }

    /// Accepts a request; its result is reported as a [`Notice`] with the returned cookie. It times
    /// out when `deadline` has passed: the point in time, and the timeout it stands for.
    ///
    /// # Errors
    /// When strict mode rejects it, or the connection is over. Nothing is sent then.
    pub fn submit(
        &mut self,
        mut command: Command<B>,
        deadline: Option<(Instant, Duration)>,
    ) -> Result<u64, RequestError> {
        let origin = |this: &Self| this.origin(&command.request, command.effect_len);
        if let Some(source) = self.error() {
            let origin = origin(self);
            return Err(RequestError::Connection { origin, source });
        }
        if let Some(reason) = command.objection(&self.export, &self.config) {
            let origin = origin(self);
            return Err(RequestError::Misuse { origin, reason });
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        command.finish(self.export.mode);
        command.request.cookie = cookie;
        let all = || self.export.contexts.iter().map(|c| c.id).collect();
        let contexts = match command.request.command {
            CommandType::BLOCK_STATUS => command.contexts.take().unwrap_or_else(all),
            _ => Vec::new(),
        };
        let check = ReplyCheck::new(
            command.request,
            command.effect_len,
            self.export.mode,
            contexts,
        );
        let pending = Pending {
            request: command.request,
            effect_len: command.effect_len,
            check: check.with_checks(self.config.checks).with_max_payload(self.config.max_payload),
            reply: Reply::default(),
            reuses: command.buffer.is_some(),
            started: false,
            deadline,
            given_up: false,
        };
        if let Some((at, _)) = deadline {
            self.deadlines.insert((at, cookie));
        }
        if let Some(buffer) = command.buffer.take()
            && buffer.capacity() > 0
            && self.buffers.len() < self.config.in_flight
        {
            self.buffers.push(buffer);
        }
        self.pending.insert(cookie, pending);
        self.waiting.push_back((cookie, command));
        self.send_waiting();
        Ok(cookie)
    }

    /// Sends what there is room for.
    fn send_waiting(&mut self) {
        while self.pending.len() - self.waiting.len() < self.config.in_flight.max(1) {
            let Some((_, command)) = self.waiting.pop_front() else {
                break;
            };
            let header = command.request.encode(self.export.mode.header_style());
            self.out.push(header, command.payload, 0);
            self.requests += 1;
            if command.request.command == CommandType::DISC {
                // Nothing may follow, whichever side sent it.
                self.life = Life::Goodbye(ConnectionError::Disconnected);
                self.refuse_waiting(&ConnectionError::Disconnected);
            }
        }
        match self.life {
            Life::Leaving if self.waiting.is_empty() => {
                self.goodbye(ConnectionError::Disconnected);
            }
            Life::ShuttingDown if self.pending.is_empty() => {
                self.goodbye(ConnectionError::Shutdown);
            }
            _ => {}
        }
    }

    fn goodbye(&mut self, why: ConnectionError) {
        let request = Request {
            flags: CommandFlags::empty(),
            command: CommandType::DISC,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        let header = request.encode(self.export.mode.header_style());
        self.out.push(header, None, 0);
        self.life = Life::Goodbye(why);
    }

    /// Sends `DISC` after all submitted requests; further requests are refused.
    pub fn disconnect(&mut self) {
        if matches!(self.life, Life::Open) {
            self.life = Life::Leaving;
            self.send_waiting();
        }
    }

    /// The next bytes to be sent, as many slices as fit; returns how many there are.
    #[must_use]
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.out.slices(slices)
    }

    /// Whether there is something to send.
    pub fn wants_to_send(&self) -> bool {
        !self.out.is_empty()
    }

    /// `n` bytes were sent.
    pub fn sent(&mut self, n: usize) {
        self.out.advance(n);
    }

    /// All bytes to be sent, for drivers that do not use slices.
    #[must_use]
    pub fn transmit(&mut self) -> Vec<u8> {
        let bytes = self.out.take();
        self.out.advance(bytes.len());
        bytes
    }

    /// The next finished request, each reported once.
    #[must_use]
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// When [`Transmission::timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Times out requests whose deadline has passed.
    pub fn timeout(&mut self, now: Instant) {
        while let Some(&(at, cookie)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            let waited = self.waiting.iter().position(|(c, _)| *c == cookie);
            let Some(pending) = self.pending.get_mut(&cookie) else {
                continue;
            };
            let after = pending.deadline.map_or(Duration::ZERO, |(_, after)| after);
            let (request, len) = (pending.request, pending.effect_len);
            pending.given_up = true;
            if let Some(at) = waited {
                // Never sent, so no reply will come.
                self.waiting.remove(at);
                self.pending.remove(&cookie);
            }
            let origin = self.origin(&request, len);
            let result = Err(RequestError::Deadline { origin, after });
            self.notices.push_back(Notice { cookie, result });
        }
        self.send_waiting();
    }

    /// Where the next bytes from the server belong.
    pub fn space(&mut self) -> &mut [u8] {
        self.intake.space()
    }

    /// [`Transmission::space`], and the space for the bytes after it; for vectored reads.
    pub fn spaces(&mut self) -> [&mut [u8]; 2] {
        self.intake.spaces()
    }

    /// Whether a message has been received in part.
    pub fn is_receiving(&self) -> bool {
        !self.intake.is_between()
    }

    /// `n` bytes have arrived.
    pub fn filled(&mut self, n: usize) {
        if self.is_dead() {
            return;
        }
        self.bytes_in += n as u64;
        self.intake.filled(n);
        self.advance();
    }

    /// Processes received bytes, all of them.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_dead() {
            let n = self.intake.feed(bytes);
            self.bytes_in += n as u64;
            self.advance();
            bytes = &bytes[n..];
        }
    }

    /// The server has closed the connection, which is allowed between two messages only.
    pub fn end_of_stream(&mut self) {
        // The first of several, so that the error is deterministic.
        let started = self.pending.iter().filter(|(_, p)| p.started);
        let unfinished = started.map(|(cookie, _)| *cookie).min();
        let error = match (unfinished, self.intake.is_between(), &self.life) {
            (_, false, _) => {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                ConnectionError::Io(Arc::new(error))
            }
            (Some(cookie), ..) => Violation::Unfinished { cookie }.into(),
            (None, true, Life::ShuttingDown) => ConnectionError::Shutdown,
            (None, true, Life::Goodbye(why)) => why.clone(),
            (None, true, _) => ConnectionError::Closed,
        };
        self.die(error);
    }

    /// The connection broke.
    pub fn io_failed(&mut self, error: io::Error) {
        self.die(match &self.life {
            // Nothing more was expected, so it does not matter how it ends.
            Life::Goodbye(why) if self.pending.is_empty() => why.clone(),
            _ => ConnectionError::Io(Arc::new(error)),
        });
    }

    /// Ends the connection for all requests; the first reason is kept.
    fn die(&mut self, error: ConnectionError) {
        if self.is_dead() {
            return;
        }
        let source = Arc::new(error);
        self.life = Life::Dead(source.clone());
        self.waiting.clear();
        self.deadlines.clear();
        self.buffers.clear();
        self.out.clear();
        self.intake.abandon();
        let mut pending: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
        pending.sort_unstable_by_key(|(cookie, _)| *cookie);
        for (cookie, pending) in pending {
            if !pending.given_up {
                let origin = self.origin(&pending.request, pending.effect_len);
                let source = source.clone();
                let result = Err(RequestError::Connection { origin, source });
                self.notices.push_back(Notice { cookie, result });
            }
        }
    }
}
