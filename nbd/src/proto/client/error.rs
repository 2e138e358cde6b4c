//! What can go wrong, by cause: the server's refusal, its violation of the protocol, the caller's
//! misuse, the network.
//!
//! An error's text says what failed; only its `source` says why.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::config::Feature;
use crate::proto::{CommandType, DecodeError, Errno, OptionCode, OptionReplyCode, Violation};

/// Where in a handshake something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for the greeting.
    Greeting,
    /// Negotiating an option.
    Option(OptionCode),
    /// Starting TLS.
    Tls,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Greeting => f.write_str("waiting for the greeting"),
            Phase::Option(code) => write!(f, "negotiating option {code}"),
            Phase::Tls => f.write_str("starting TLS"),
        }
    }
}

/// A handshake failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The server closed the connection.
    #[error("the server closed the connection while {phase}")]
    Closed {
        /// When.
        phase: Phase,
    },
    /// The connection broke.
    #[error("the connection failed while {phase}")]
    Io {
        /// When.
        phase: Phase,
        /// How.
        source: Arc<io::Error>,
    },
    /// The server sent something that is not NBD.
    #[error("bad message from the server while {phase}")]
    Decode {
        /// When.
        phase: Phase,
        /// What.
        source: DecodeError,
    },
    /// The server refused an option.
    #[error("the server refuses option {option}: {code}{}", text(.message))]
    Refused {
        /// The option.
        option: OptionCode,
        /// Its error.
        code: OptionReplyCode,
        /// Its message.
        message: String,
    },
    /// The server requires TLS, and this client did not offer it.
    #[error(
        "the server requires TLS (option {option} was refused): connect with credentials, or use an nbds:// URI"
    )]
    TlsRequired {
        /// The option that it refused for that reason.
        option: OptionCode,
    },
    /// An unexpected reply.
    #[error("the server answers option {option} with {got}, which does not belong there: {detail}")]
    Unexpected {
        /// The option that was sent.
        option: OptionCode,
        /// What was received.
        got: String,
        /// Why it is wrong.
        detail: String,
    },
    /// Bytes received before TLS was started: an attempt to have plain text accepted as protected.
    #[error("{bytes} bytes came in plain text after the server had agreed to start TLS")]
    Injected {
        /// How many.
        bytes: usize,
    },
    /// The server's answer exceeds the limit.
    #[error("endless answer to option {option}: more than {replies} replies, {bytes} bytes")]
    Endless {
        /// The option.
        option: OptionCode,
        /// How many.
        replies: usize,
        /// How much.
        bytes: usize,
    },
    /// A required feature is missing, or a forbidden one cannot be avoided.
    #[error("{feature}: {detail}")]
    Feature {
        /// Which feature.
        feature: Feature,
        /// What is wrong.
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

pub(crate) fn text(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}

/// Why a connection is over. Every request in flight fails with this.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The server closed the connection between two messages.
    #[error("the server closed the connection")]
    Closed,
    /// The server announced its shutdown with `ESHUTDOWN`; reconnect to continue.
    #[error("the server is shutting down")]
    Shutdown,
    /// We disconnected (`DISC`).
    #[error("this client has disconnected")]
    Disconnected,
    /// The connection broke, or ended within a message.
    #[error("the connection failed")]
    Io(#[source] Arc<io::Error>),
    /// The server broke the protocol.
    #[error("the server broke the protocol")]
    Violation(#[from] Violation),
}

/// A description of a request, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// What was asked.
    pub command: CommandType,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u64,
    /// Of which export.
    pub export: Arc<str>,
    /// On which server.
    pub peer: Arc<str>,
}

impl Origin {
    /// Describes a request.
    pub fn new(
        command: CommandType,
        offset: u64,
        len: u64,
        export: impl Into<Arc<str>>,
        peer: impl Into<Arc<str>>,
    ) -> Origin {
        Origin {
            command,
            offset,
            len,
            export: export.into(),
            peer: peer.into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin {
            command,
            offset,
            len,
            export,
            peer,
        } = self;
        match *command {
            CommandType::FLUSH | CommandType::DISC => write!(f, "{command}")?,
            _ => write!(f, "{command} of {len} bytes at {offset}")?,
        }
        write!(f, " (export {export:?} of {peer})")
    }
}

/// A request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server answered with an error.
    #[error("{origin} failed: {errno}{}", text(.message))]
    Refused {
        /// What was asked.
        origin: Box<Origin>,
        /// The server's error.
        errno: Errno,
        /// The server's message, in structured and extended replies.
        message: String,
        /// Where the error happened, if the server reported it.
        at: Option<u64>,
    },
    /// The request breaks a rule that this client enforces ([`super::StrictMode`]), and was not
    /// sent.
    #[error("{origin} not sent: {reason}")]
    Misuse {
        /// What was asked.
        origin: Box<Origin>,
        /// Which rule.
        reason: String,
    },
    /// The connection is over.
    #[error("{origin} failed")]
    Connection {
        /// What was asked.
        origin: Box<Origin>,
        /// Why the connection is over.
        source: Arc<ConnectionError>,
    },
    /// No reply before the deadline, or no free slot to send it. The connection stays open; a late
    /// reply is dropped.
    #[error("{origin} failed: no reply within {after:?}")]
    Deadline {
        /// What was asked.
        origin: Box<Origin>,
        /// The deadline.
        after: Duration,
    },
}

impl RequestError {
    /// The server's error number, if it answered.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            RequestError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// What was asked.
    pub fn origin(&self) -> &Origin {
        match self {
            RequestError::Refused { origin, .. }
            | RequestError::Misuse { origin, .. }
            | RequestError::Connection { origin, .. }
            | RequestError::Deadline { origin, .. } => origin,
        }
    }

    /// Why the connection is over, if that is the reason.
    pub fn connection(&self) -> Option<&ConnectionError> {
        match self {
            RequestError::Connection { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The rule the server broke, if that is what happened.
    pub fn violation(&self) -> Option<&Violation> {
        match self.connection() {
            Some(ConnectionError::Violation(violation)) => Some(violation),
            _ => None,
        }
    }
}
