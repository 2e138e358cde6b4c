//! What can go wrong, by phase.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::{CommandType, DecodeError, Errno, OptionCode, OptionReplyCode, Violation};

use super::builder::Feature;

/// Where in the life of a connection something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the greeting.
    Greeting,
    /// Waiting for the answer to an option.
    Option(OptionCode),
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Phase::Greeting => f.write_str("waiting for the greeting"),
            Phase::Option(code) => write!(f, "negotiating option {code}"),
        }
    }
}

/// A connection never came to the transmission phase.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket could not be opened.
    #[error("failed to connect to {address}: {source}")]
    Socket {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket did not open in time.
    #[error("failed to connect to {address} within {after:?}")]
    Deadline {
        /// Where to.
        address: String,
        /// The deadline.
        after: Duration,
    },
    /// The negotiation failed.
    #[error("failed to negotiate with {address}: {source}")]
    Handshake {
        /// With whom.
        address: String,
        /// Why.
        source: HandshakeError,
    },
    /// The URI demands TLS.
    #[error("failed to connect to {0}: TLS is not supported")]
    Tls(String),
}

/// The negotiation failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The server closed the connection.
    #[error("server closed the connection while {phase}")]
    Closed {
        /// When.
        phase: Phase,
    },
    /// The connection broke.
    #[error("connection failed while {phase}: {source}")]
    Io {
        /// When.
        phase: Phase,
        /// How.
        source: io::Error,
    },
    /// The server sent something that is not NBD.
    #[error("bad message while {phase}: {source}")]
    Decode {
        /// When.
        phase: Phase,
        /// What.
        source: DecodeError,
    },
    /// The server said no.
    #[error("option {option} failed: {code}{}", text(.message))]
    Refused {
        /// To what.
        option: OptionCode,
        /// Its error.
        code: OptionReplyCode,
        /// Its words.
        message: String,
    },
    /// A reply that does not belong here.
    #[error("reply {got} to option {option} does not belong there: {detail}")]
    Unexpected {
        /// The option that was sent.
        option: OptionCode,
        /// What came.
        got: String,
        /// Why it is wrong.
        detail: String,
    },
    /// The server never stops answering.
    #[error("endless answer to option {option}: more than {replies} replies, {bytes} bytes")]
    Endless {
        /// To what.
        option: OptionCode,
        /// How many.
        replies: usize,
        /// How much.
        bytes: usize,
    },
    /// A required feature is missing, or a forbidden one cannot be avoided.
    #[error("{feature:?}: {detail}")]
    Feature {
        /// Which feature.
        feature: Feature,
        /// What is the matter.
        detail: &'static str,
    },
    /// The deadline passed.
    #[error("no answer within {after:?} while {phase}")]
    Deadline {
        /// When.
        phase: Phase,
        /// The deadline.
        after: Duration,
    },
}

fn text(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}

/// Why a connection is over. Every request that was under way gets this one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server closed the connection between two messages.
    #[error("server closed the connection")]
    Closed,
    /// The connection broke, or ended within a message.
    #[error("connection failed: {0}")]
    Io(#[source] io::Error),
    /// The server broke the protocol.
    #[error("server broke the protocol: {0}")]
    Violation(#[from] Violation),
}

/// A request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// The server answered with an error.
    #[error("{command} of {len} bytes at {offset} failed: {errno}{}", text(.message))]
    Nbd {
        /// What was asked.
        command: CommandType,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// The server's error.
        errno: Errno,
        /// The server's words, in structured and extended replies.
        message: String,
        /// Where the error happened, if the server said so.
        at: Option<u64>,
    },
    /// The request breaks a rule that this client keeps, and was not sent.
    #[error("{command} of {len} bytes at {offset} not sent: {reason}")]
    Unsendable {
        /// What was asked.
        command: CommandType,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// Which rule.
        reason: String,
    },
    /// The connection is over.
    #[error("{command} of {len} bytes at {offset} failed: {source}")]
    Connection {
        /// What was asked.
        command: CommandType,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// Why the connection is over.
        source: Arc<ConnectionError>,
    },
    /// No reply in time, or no room in the window. The connection stays; a late reply is dropped.
    #[error("{command} of {len} bytes at {offset} failed: no reply within {after:?}")]
    Deadline {
        /// What was asked.
        command: CommandType,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// The deadline.
        after: Duration,
    },
}

impl RequestError {
    /// The server's error number, if it answered.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            RequestError::Nbd { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// The rule the server broke, if that is what happened.
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            RequestError::Connection { source, .. } => match &**source {
                ConnectionError::Violation(violation) => Some(violation),
                _ => None,
            },
            _ => None,
        }
    }
}
