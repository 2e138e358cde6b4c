//! The state of a session, and a command's path through it.

use std::collections::{HashMap, VecDeque};

#[cfg(unix)]
use std::os::fd::OwnedFd;

use super::handshake::{PREFIX, letters};
use super::{CallId, Config, Notice, Request, Transmit};
use crate::encode::{self, EncodeError};
use crate::frame::{FrameError, Framer};
use crate::message::Message;

/// The phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Greeting,
    /// A guest agent has not yet returned a number of ours.
    Synchronizing,
    Negotiating,
    Ready,
    Failed,
}

/// A command in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) call: CallId,
    pub(super) command: String,
    pub(super) oob: bool,
    pub(super) answers: bool,
    pub(super) carries_fd: bool,
    pub(super) abandoned: bool,
}

/// A command waiting to be sent.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) id: String,
    pub(super) line: Vec<u8>,
    pub(super) flight: Flight,
    #[cfg(unix)]
    pub(super) fd: Option<OwnedFd>,
}

/// The state machine. See the [module](crate::session) page.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Config,
    pub(super) framer: Framer,
    pub(super) phase: Phase,
    /// The prefix of this session's ids; a number follows.
    pub(super) prefix: String,
    pub(super) calls: u64,
    pub(super) oob_enabled: bool,
    pub(super) negotiation: Option<(String, Vec<u8>)>,
    /// The numbers sent to a guest agent and not yet returned, oldest first.
    pub(super) syncs: Vec<u64>,
    /// A guest agent may still answer an abandoned command.
    pub(super) out_of_step: bool,
    pub(super) greeted: bool,
    pub(super) queue: VecDeque<Queued>,
    pub(super) oob_queue: VecDeque<Queued>,
    pub(super) flights: HashMap<String, Flight>,
    /// The ids of in-band commands in flight, oldest first.
    pub(super) in_band: VecDeque<String>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) noise: usize,
    pub(super) first_noise: Option<String>,
}

impl Session {
    /// A new session: waiting for the greeting, or about to synchronize.
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

    /// How many commands are in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How many commands are waiting to be sent.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.oob_queue.len()
    }

    /// Queues a command. It is sent in its turn, after the handshake.
    ///
    /// An out-of-band command is sent ahead of queued ones. Where out-of-band execution is not
    /// enabled QEMU refuses it, with an error for this command.
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
        #[cfg(unix)]
        let carries_fd = request.fd.is_some();
        #[cfg(not(unix))]
        let carries_fd = false;
        queue.push_back(Queued {
            id,
            line,
            flight: Flight {
                call,
                command: request.name,
                oob: request.oob,
                answers: request.answers,
                carries_fd,
                abandoned: false,
            },
            #[cfg(unix)]
            fd: request.fd,
        });
        Ok(call)
    }

    /// Abandons `call`. If it was not sent it never will be; if it was, its reply will be
    /// discarded.
    pub fn abandon(&mut self, call: CallId) {
        for queue in [&mut self.queue, &mut self.oob_queue] {
            if let Some(at) = queue.iter().position(|queued| queued.flight.call == call) {
                queue.remove(at);
                return;
            }
        }
        let flight = self.flights.iter_mut().find(|(_, it)| it.call == call);
        let Some((id, flight)) = flight else { return };
        flight.abandoned = true;
        if self.config.agent || !flight.answers {
            // Either no reply will ever make room, or the next number of ours will show when it
            // has.
            self.out_of_step = self.config.agent;
            let id = id.clone();
            if let Some(flight) = self.flights.remove(&id) {
                self.make_room(&id, &flight);
            }
        }
    }

    /// The next bytes to write. Their command is then in flight.
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
        if !next.flight.oob {
            self.in_band.push_back(next.id.clone());
        }
        let call = Some(next.flight.call);
        self.flights.insert(next.id, next.flight);
        Some(Transmit {
            bytes: next.line,
            call,
            #[cfg(unix)]
            fd: next.fd,
        })
    }

    fn may_send_in_band(&self) -> bool {
        // QEMU keeps one received descriptor; a second would close the first if it has not been
        // picked up yet.
        let carries = |next: &Queued| next.flight.carries_fd;
        let fd_conflict = self.queue.front().is_some_and(carries)
            && self.flights.values().any(|flight| flight.carries_fd);
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
        // The frame borrows the framer, so take it out while the frame is handled.
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

    /// Marks the end of the stream; returns what was left of a message.
    pub fn end_of_stream(&mut self) -> Option<FrameError> {
        self.framer.finish()
    }

    /// Whether a message has arrived only in part. Its notice is the next that [`Session::receive`]
    /// produces.
    pub fn is_mid_message(&self) -> bool {
        self.framer.is_mid_message()
    }

    /// The next notice.
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}
