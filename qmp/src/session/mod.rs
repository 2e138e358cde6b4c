//! The protocol as a state machine: bytes and commands in, bytes and notices out, no I/O.
//!
//! A [`Session`] knows the phases of a connection (greeting, negotiation, ready), gives each
//! command an id, keeps the number of commands in flight low enough that an out-of-band command
//! always gets through, and assigns each reply to its command. Its owner moves the bytes:
//! [`Session::receive`] takes what was read, [`Session::transmit`] returns what to write, and
//! [`Session::notice`] reports the results.

mod handshake;
mod replies;
mod state;

pub use state::Session;

#[cfg(unix)]
use std::os::fd::OwnedFd;

use serde_json::value::RawValue;

use crate::decode::DecodeError;
use crate::encode::Arguments;
use crate::frame::{FrameError, Limits};
use crate::message::{ErrorObject, Event, Greeting};

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
    /// ours has left the queue. Seven is always safe.
    pub in_band: usize,
    /// Whether the peer is a guest agent: it does not greet, and is synchronized with instead. It
    /// is sent one command at a time and never an id: it answers in order, agents before 4.0 reject
    /// the member, and many do not return it.
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
    /// Its checked arguments; see [`encode::arguments`](crate::encode::arguments).
    pub arguments: Arguments,
    /// Whether to execute it out of band.
    pub oob: bool,
    /// Whether it is answered on success, as all QEMU commands are; some guest agent commands are
    /// not.
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

/// What a session reports to its owner.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The greeting arrived; negotiation begins.
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
        /// Its result.
        result: Result<Returned, Failure>,
    },
    /// QEMU sent an event.
    Event(Event),
    /// A message that concerns no caller.
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
    /// QEMU returned an error.
    Error {
        /// The error object.
        error: ErrorObject,
        /// The whole reply.
        raw: String,
    },
    /// The reply could not be decoded.
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
    /// It is not a complete message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It is not a message of the protocol.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Why a message was dropped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Discarded {
    /// A reply to an abandoned command.
    Late {
        /// The command's id.
        id: String,
        /// The command's name.
        command: String,
    },
    /// A reply to a command that this session did not send: it belongs to an earlier client.
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
        /// The error object.
        error: ErrorObject,
    },
    /// The peer does not speak QMP.
    #[error("failed to find a QMP greeting: the peer sent {sample:?}")]
    NotQmp {
        /// The first bytes that it sent.
        sample: String,
    },
}
