//! The protocol as a state machine: bytes and commands in, bytes and notices out, no I/O.
//!
//! A [`Session`] knows the phases of a connection (greeting, negotiation, ready), gives each
//! command an id, keeps the number of commands in flight low enough that an out-of-band command
//! always gets through, and says to which command each reply belongs. Its owner moves the bytes:
//! [`Session::receive`] takes what was read, [`Session::transmit`] hands out what to write, and
//! [`Session::notice`] says what became of it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};

#[cfg(unix)]
use std::os::fd::OwnedFd;

use serde_json::value::RawValue;

use crate::decode::DecodeError;
use crate::encode::{self, Arguments, EncodeError};
use crate::frame::{FrameError, Framer, Limits};
use crate::message::{ErrorObject, Event, Greeting, Message, Reply, Version};

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What is accepted from QEMU.
    pub limits: Limits,
    /// Whether to enable out-of-band execution if it is offered.
    pub oob: bool,
    /// How many in-band commands may be in flight.
    ///
    /// QEMU queues 8 and stops reading at the eighth, out-of-band commands included
    /// (`QMP_REQ_QUEUE_LEN_MAX`); its dispatcher may be busy with another monitor, so that none of
    /// ours has left the queue. Seven is what is always safe.
    pub in_band: usize,
    /// Whether the peer is a guest agent: it does not greet, and is synchronized with instead. It is
    /// sent one command at a time and never an id: it answers in order, agents before 4.0 refuse
    /// the member, and many do not send it back.
    pub agent: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::QEMU,
            oob: true,
            in_band: 7,
            agent: false,
        }
    }
}

/// Names a command within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(u64);

/// A command to submit.
#[derive(Debug)]
pub struct Request {
    /// The command's name.
    pub name: String,
    /// Its checked arguments; see [`encode::arguments`].
    pub arguments: Arguments,
    /// Whether to execute it out of band.
    pub oob: bool,
    /// Whether it is answered when it succeeds, as all commands of QEMU are; some of the guest
    /// agent's are not.
    pub answers: bool,
    /// A file descriptor that goes with it.
    #[cfg(unix)]
    pub fd: Option<OwnedFd>,
}

impl Request {
    /// An in-band command without a file descriptor.
    pub fn new(name: impl Into<String>, arguments: Arguments) -> Self {
        Self {
            name: name.into(),
            arguments,
            oob: false,
            answers: true,
            #[cfg(unix)]
            fd: None,
        }
    }
}

/// Bytes to write, in one piece and in order.
#[derive(Debug)]
pub struct Transmit {
    /// One line.
    pub bytes: Vec<u8>,
    /// The command that it carries; none for the negotiation.
    pub call: Option<CallId>,
    /// The file descriptor to send with the first byte.
    #[cfg(unix)]
    pub fd: Option<OwnedFd>,
}

/// What a session has to say.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The greeting came; negotiation begins.
    Greeting(Greeting),
    /// Negotiation is done, commands may flow.
    Ready {
        /// Whether out-of-band execution is enabled.
        oob: bool,
    },
    /// A command was answered.
    Reply {
        /// Which one.
        call: CallId,
        /// Its id on the wire.
        id: String,
        /// What came back.
        result: Result<Returned, Failure>,
    },
    /// Something happened in QEMU.
    Event(Event),
    /// A message that concerns nobody.
    Discarded(Discarded),
    /// The session cannot go on.
    Failed(HandshakeFailure),
}

/// A command's return value, not yet decoded.
#[derive(Clone, Debug)]
pub struct Returned {
    /// The JSON text.
    pub raw: Box<RawValue>,
    /// How deep the message nests.
    pub depth: usize,
}

/// Why a command that was answered has no return value.
#[derive(Clone, Debug)]
pub enum Failure {
    /// QEMU says so.
    Error {
        /// What it says.
        error: ErrorObject,
        /// The whole reply.
        raw: String,
    },
    /// The reply is not understood.
    Undecodable {
        /// Why.
        source: Undecodable,
        /// Its text; of a very long one only both ends.
        text: String,
    },
}

/// A message that could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Undecodable {
    /// No whole message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No message of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Why a message was dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Discarded {
    /// A reply to a command that nobody waits for any more.
    Late {
        /// The command's id.
        id: String,
        /// The command's name.
        command: String,
    },
    /// A reply to a command that this session has not sent: it belongs to an earlier client.
    Stale {
        /// Its id as JSON text, if it has one.
        id: Option<String>,
    },
    /// Neither greeting, reply nor event.
    Unknown,
    /// A greeting in the middle of a session.
    Greeting,
    /// Not readable.
    Undecodable(Undecodable),
}

/// Why the handshake cannot succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// QEMU refused the negotiation.
    #[error("failed to negotiate capabilities: {}: {}", .error.class, .error.desc)]
    Refused {
        /// What it says.
        error: ErrorObject,
    },
    /// What the peer sends is no QMP.
    #[error("failed to find a QMP greeting: the peer sent {sample:?}")]
    NotQmp {
        /// The first bytes that it sent.
        sample: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    /// A guest agent has not yet sent back a number of ours.
    Synchronizing,
    Negotiating,
    Ready,
    Failed,
}

/// The length of what ids begin with. QEMU may answer a command of the client before us over our
/// connection, so ids differ between connections; it reads one byte per system call, so they are
/// short.
const PREFIX: usize = 3;

/// The length of the negotiation's id. It is sent once, and it is what stands between us and the
/// replies to the client before us: QEMU answers in order.
const NEGOTIATION: usize = 11;

/// The command with which a guest agent is found and kept in step.
const SYNC: &str = "guest-sync-delimited";

/// How much that is not QMP may come before the greeting until the peer counts as something else.
const MAX_NOISE: usize = 64;

/// How many unanswered numbers are remembered: an hour of one per second.
const MAX_SYNCS: usize = 3600;

/// A command that was sent and not answered.
#[derive(Debug)]
struct Flight {
    call: CallId,
    command: String,
    oob: bool,
    answers: bool,
    carries_fd: bool,
    abandoned: bool,
}

/// A command that waits to be sent.
#[derive(Debug)]
struct Queued {
    call: CallId,
    id: String,
    command: String,
    oob: bool,
    answers: bool,
    line: Vec<u8>,
    #[cfg(unix)]
    fd: Option<OwnedFd>,
}

/// The state machine. See the [module](self) page.
#[derive(Debug)]
pub struct Session {
    config: Config,
    framer: Framer,
    phase: Phase,
    /// What the ids of this session begin with; their number follows.
    prefix: String,
    calls: u64,
    oob_enabled: bool,
    negotiation: Option<(String, Vec<u8>)>,
    /// The numbers that a guest agent was sent and has not sent back, oldest first.
    syncs: Vec<u64>,
    /// A guest agent may still answer a command that nobody waits for.
    out_of_step: bool,
    greeted: bool,
    queue: VecDeque<Queued>,
    oob_queue: VecDeque<Queued>,
    flights: HashMap<String, Flight>,
    /// The ids of in-band commands in flight, oldest first.
    in_band: VecDeque<String>,
    notices: VecDeque<Notice>,
    noise: usize,
    first_noise: Option<String>,
}

impl Session {
    /// A session at its beginning: waiting for the greeting, or about to synchronize.
    pub fn new(config: Config) -> Self {
        let phase = if config.agent {
            Phase::Synchronizing
        } else {
            Phase::Greeting
        };
        let mut session = Self {
            framer: Framer::new(config.limits),
            config,
            phase,
            prefix: letters(PREFIX),
            calls: 0,
            oob_enabled: false,
            negotiation: None,
            syncs: Vec::new(),
            out_of_step: false,
            greeted: false,
            queue: VecDeque::new(),
            oob_queue: VecDeque::new(),
            flights: HashMap::new(),
            in_band: VecDeque::new(),
            notices: VecDeque::new(),
            noise: 0,
            first_noise: None,
        };
        if config.agent {
            session.synchronize();
        }
        session
    }

    /// Whether a guest agent is still to send back a number. An agent that starts late has not seen
    /// the command, so send it anew every second or so: see [`Session::synchronize`].
    pub fn is_synchronizing(&self) -> bool {
        self.phase == Phase::Synchronizing
    }

    /// Asks a guest agent to send back a new number.
    pub fn synchronize(&mut self) {
        // Below 2^32: a number that every agent sends back as it is.
        let number = random() >> 32;
        self.syncs.push(number);
        // Their answers, should they still come, are taken for those of another client.
        if self.syncs.len() > MAX_SYNCS {
            self.syncs.remove(0);
        }
        // 0xFF makes the agent drop what it has read of an unfinished command.
        let mut line = vec![0xFF];
        let command = format!("{{\"execute\":\"{SYNC}\",\"arguments\":{{\"id\":{number}}}}}\n");
        line.extend_from_slice(command.as_bytes());
        self.negotiation = Some((String::new(), line));
        self.phase = Phase::Synchronizing;
    }

    /// Forgets all commands, and closes the descriptors of those that were not sent: the session is
    /// over.
    pub fn close(&mut self) {
        self.queue.clear();
        self.oob_queue.clear();
        self.flights.clear();
        self.in_band.clear();
        self.negotiation = None;
        self.phase = Phase::Failed;
    }

    /// Whether the handshake is done.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether the greeting has come, or the guest agent's answer.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether out-of-band execution is enabled.
    pub fn oob_enabled(&self) -> bool {
        self.oob_enabled
    }

    /// The beginning of what came instead of a greeting.
    pub fn noise(&mut self) -> Option<String> {
        if self.phase != Phase::Greeting && self.phase != Phase::Failed {
            return None;
        }
        // Text without a line end is still in the framer.
        if self.first_noise.is_none() {
            self.first_noise = self.framer.finish().map(|error| sample(&error.sample));
        }
        self.first_noise.clone()
    }

    /// How many commands are sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How many commands wait to be sent.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.oob_queue.len()
    }

    /// Takes a command. It is sent when its turn comes, after the handshake.
    ///
    /// An out-of-band command is sent ahead of those that wait. Where out-of-band execution is
    /// not enabled QEMU refuses it, with an error for this command.
    ///
    /// # Errors
    /// When the command is larger than QEMU accepts.
    pub fn submit(&mut self, request: Request) -> Result<CallId, EncodeError> {
        #[cfg(unix)]
        if request.oob && request.fd.is_some() {
            return Err(EncodeError::DescriptorOutOfBand);
        }
        let id = format!("{}{}", self.prefix, self.calls);
        let arguments = request.arguments.as_deref();
        let sent_id = (!self.config.agent).then_some(id.as_str());
        let line = encode::command(&request.name, arguments, sent_id, request.oob)?;
        let call = CallId(self.calls);
        self.calls += 1;
        let queue = if request.oob {
            &mut self.oob_queue
        } else {
            &mut self.queue
        };
        queue.push_back(Queued {
            call,
            id,
            command: request.name,
            oob: request.oob,
            answers: request.answers,
            line,
            #[cfg(unix)]
            fd: request.fd,
        });
        Ok(call)
    }

    /// Says that nobody waits for `call` any more. If it was not sent it never will be; if it
    /// was, its reply will be discarded.
    pub fn abandon(&mut self, call: CallId) {
        for queue in [&mut self.queue, &mut self.oob_queue] {
            if let Some(at) = queue.iter().position(|queued| queued.call == call) {
                queue.remove(at);
                return;
            }
        }
        let flight = self.flights.iter_mut().find(|(_, it)| it.call == call);
        let Some((id, flight)) = flight else { return };
        flight.abandoned = true;
        if self.config.agent || !flight.answers {
            // Either no reply will ever make room, or the next number of ours will tell when it
            // has come.
            self.out_of_step = self.config.agent;
            let id = id.clone();
            if let Some(flight) = self.flights.remove(&id) {
                self.make_room(&id, &flight);
            }
        }
    }

    /// The next bytes to write. Their command is in flight from now on.
    pub fn transmit(&mut self) -> Option<Transmit> {
        if let Some((_, line)) = &mut self.negotiation
            && !line.is_empty()
        {
            return Some(Transmit {
                bytes: std::mem::take(line),
                call: None,
                #[cfg(unix)]
                fd: None,
            });
        }
        if self.phase != Phase::Ready {
            return None;
        }
        if self.out_of_step && !self.queue.is_empty() {
            self.out_of_step = false;
            self.synchronize();
            return self.transmit();
        }
        let next = match self.oob_queue.pop_front() {
            Some(next) => next,
            None if self.may_send_in_band() => self.queue.pop_front()?,
            None => return None,
        };
        if !next.oob {
            self.in_band.push_back(next.id.clone());
        }
        #[cfg(unix)]
        let carries_fd = next.fd.is_some();
        #[cfg(not(unix))]
        let carries_fd = false;
        let flight = Flight {
            call: next.call,
            command: next.command,
            oob: next.oob,
            answers: next.answers,
            carries_fd,
            abandoned: false,
        };
        self.flights.insert(next.id, flight);
        Some(Transmit {
            bytes: next.line,
            call: Some(next.call),
            #[cfg(unix)]
            fd: next.fd,
        })
    }

    fn may_send_in_band(&self) -> bool {
        // QEMU keeps one received descriptor; a second would close the first if it has not been
        // picked up yet.
        #[cfg(unix)]
        let fd_conflict = self.queue.front().is_some_and(|next| next.fd.is_some())
            && self.flights.values().any(|flight| flight.carries_fd);
        #[cfg(not(unix))]
        let fd_conflict = false;
        let limit = if self.config.agent {
            1
        } else {
            self.config.in_band.max(1)
        };
        self.in_band.len() < limit && !fd_conflict
    }

    /// Takes bytes that were read.
    ///
    /// `observe` sees each whole message, before it is decoded.
    pub fn receive(&mut self, bytes: &[u8], mut observe: impl FnMut(&[u8])) {
        self.framer.push(bytes);
        // The framer is lent to its frame, so it steps aside while the frame is handled.
        let mut framer = std::mem::take(&mut self.framer);
        while let Some(item) = framer.next_frame() {
            match item {
                Ok(frame) => {
                    observe(frame.bytes);
                    match Message::decode(frame.bytes, frame.depth) {
                        Ok(message) => self.message(message, frame.bytes, frame.depth),
                        Err(error) => self.undecodable(error.into(), frame.bytes),
                    }
                }
                Err(error) => {
                    observe(&error.sample);
                    let sample = error.sample.clone();
                    self.undecodable(error.into(), &sample);
                }
            }
        }
        self.framer = framer;
    }

    /// Says that the stream has ended; returns what was left of a message.
    pub fn end_of_stream(&mut self) -> Option<FrameError> {
        self.framer.finish()
    }

    /// Whether a message has begun to arrive whose end is still to come. Its notice is the next
    /// one of which [`Session::receive`] makes.
    pub fn is_mid_message(&self) -> bool {
        self.framer.is_mid_message()
    }

    /// The next notice.
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn message(&mut self, message: Message, frame: &[u8], depth: usize) {
        match message {
            Message::Event(event) => self.notices.push_back(Notice::Event(event)),
            Message::Reply(reply) => self.reply(reply, frame, depth),
            Message::Greeting(greeting) if self.phase == Phase::Greeting => self.greeted(greeting),
            Message::Greeting(_) => self.discard(Discarded::Greeting),
            Message::Other => {
                self.discard(Discarded::Unknown);
                self.count_noise(frame);
            }
        }
    }

    fn greeted(&mut self, greeting: Greeting) {
        let id = letters(NEGOTIATION);
        let enable = self.config.oob && greeting.offers_oob();
        self.oob_enabled = enable;
        let arguments = if enable {
            ",\"arguments\":{\"enable\":[\"oob\"]}"
        } else {
            ""
        };
        let line = format!("{{\"execute\":\"qmp_capabilities\"{arguments},\"id\":\"{id}\"}}\n");
        self.negotiation = Some((id, line.into_bytes()));
        self.phase = Phase::Negotiating;
        self.greeted = true;
        self.notices.push_back(Notice::Greeting(greeting));
    }

    fn reply(&mut self, reply: Reply, frame: &[u8], depth: usize) {
        if self.config.agent {
            return self.agent_reply(reply, frame, depth);
        }
        let id = reply.id_text();
        if let (Phase::Negotiating, Some(id), Some((ours, _))) =
            (self.phase, id.as_deref(), &self.negotiation)
            && id == ours
        {
            self.negotiated(reply.result.err());
            return;
        }
        // An error without id is about text that QEMU could not parse. It parses in order, so it
        // means the oldest in-band command. Before the session is ready nothing of ours can be
        // wrong, and the error is for the client before us.
        let id = match id {
            Some(id) => Some(id.into_owned()),
            None if reply.id.is_none() && reply.result.is_err() => self.in_band.front().cloned(),
            None => None,
        };
        match id {
            Some(id) => self.reply_to(&id, reply, frame, depth),
            None => self.stale(reply),
        }
    }

    fn stale(&mut self, reply: Reply) {
        let id = reply.id.map(|raw| raw.get().to_owned());
        self.discard(Discarded::Stale { id });
    }

    fn reply_to(&mut self, id: &str, reply: Reply, frame: &[u8], depth: usize) {
        let Some((id, flight)) = self.flights.remove_entry(id) else {
            return self.stale(reply);
        };
        self.make_room(&id, &flight);
        if flight.abandoned {
            self.discard(Discarded::Late {
                id,
                command: flight.command,
            });
            return;
        }
        let result = match reply.result {
            Ok(raw) => Ok(Returned { raw, depth }),
            Err(error) => Err(Failure::Error {
                error,
                raw: String::from_utf8_lossy(frame).into_owned(),
            }),
        };
        self.answered(id, &flight, result);
    }

    fn answered(&mut self, id: String, flight: &Flight, result: Result<Returned, Failure>) {
        // An agent was sent none.
        let id = if self.config.agent { String::new() } else { id };
        self.notices.push_back(Notice::Reply {
            call: flight.call,
            id,
            result,
        });
    }

    /// An agent answers in order and names no command: a reply is for the one in flight, and while
    /// no number of ours has come back, for another client.
    fn agent_reply(&mut self, reply: Reply, frame: &[u8], depth: usize) {
        let number = match &reply.result {
            Ok(raw) => raw.get().parse::<u64>().ok(),
            Err(_) => None,
        };
        let at = number.and_then(|number| self.syncs.iter().position(|&sent| sent == number));
        let synchronizing = self.phase == Phase::Synchronizing;
        if let Some(at) = at {
            // Those that were sent after it may be answered as well, between other replies.
            self.syncs.drain(..=at);
            if synchronizing {
                return self.negotiated(None);
            }
            return self.stale(reply);
        }
        match (&reply.result, self.in_band.front().cloned()) {
            (Err(error), _) if synchronizing && error.desc.contains(SYNC) => {
                let error = error.clone();
                self.negotiated(Some(error));
            }
            (_, Some(id)) if !synchronizing && reply.id.is_none() => {
                self.reply_to(&id, reply, frame, depth);
            }
            _ => self.stale(reply),
        }
    }

    fn negotiated(&mut self, error: Option<ErrorObject>) {
        self.negotiation = None;
        match error {
            None => {
                self.phase = Phase::Ready;
                if self.config.agent {
                    if self.greeted {
                        return;
                    }
                    let greeting = Greeting::new(Version::default(), []);
                    self.greeted = true;
                    self.notices.push_back(Notice::Greeting(greeting));
                }
                self.notices.push_back(Notice::Ready {
                    oob: self.oob_enabled,
                });
            }
            Some(error) => {
                self.phase = Phase::Failed;
                self.notices
                    .push_back(Notice::Failed(HandshakeFailure::Refused { error }));
            }
        }
    }

    fn make_room(&mut self, id: &str, flight: &Flight) {
        if !flight.oob
            && let Some(at) = self.in_band.iter().position(|other| other == id)
        {
            self.in_band.remove(at);
        }
    }

    fn undecodable(&mut self, source: Undecodable, bytes: &[u8]) {
        // Whose reply it was can often still be seen, and then its caller should not wait.
        let named = if self.config.agent {
            self.in_band.front().cloned()
        } else {
            let names = |id: &&String| {
                [": ", ":"].iter().any(|colon| {
                    let member = format!("\"id\"{colon}\"{id}\"");
                    memchr::memmem::find(bytes, member.as_bytes()).is_some()
                })
            };
            self.flights.keys().find(names).cloned()
        };
        if let Some((id, flight)) = named.and_then(|id| self.flights.remove_entry(&id)) {
            self.make_room(&id, &flight);
            // What an agent said may have been something else.
            self.out_of_step = self.config.agent;
            if !flight.abandoned {
                let text = String::from_utf8_lossy(bytes).into_owned();
                self.answered(id, &flight, Err(Failure::Undecodable { source, text }));
                return;
            }
        }
        self.discard(Discarded::Undecodable(source));
        self.count_noise(bytes);
    }

    fn discard(&mut self, what: Discarded) {
        self.notices.push_back(Notice::Discarded(what));
    }

    /// A peer that says much and never greets is not QEMU.
    fn count_noise(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Greeting {
            return;
        }
        self.noise += 1;
        let sample = self
            .first_noise
            .get_or_insert_with(|| sample(bytes))
            .clone();
        if self.noise >= MAX_NOISE {
            self.phase = Phase::Failed;
            self.notices
                .push_back(Notice::Failed(HandshakeFailure::NotQmp { sample }));
        }
    }
}

/// A number that nobody can guess.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Random letters, at most 13.
fn letters(count: usize) -> String {
    let mut number = random();
    let mut letter = || {
        let letter = b'a' + (number % 26) as u8;
        number /= 26;
        char::from(letter)
    };
    (0..count).map(|_| letter()).collect()
}

/// The beginning of bytes that are not understood, as text.
fn sample(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}
