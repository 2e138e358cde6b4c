//! What can go wrong, by phase.
//!
//! An error's text says what failed; its [`source`](std::error::Error::source) says why, as usual.
//! Print the whole chain, as `anyhow` does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "client")]
use crate::client::JobOutcome;
use crate::decode::DecodeError;
use crate::encode::EncodeError;
use crate::frame::FrameError;
use crate::message::ErrorClass;
use crate::session::HandshakeFailure;

/// Any failure of a client, by the phase in which it happened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No session was established.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// The command was not sent.
    #[error("failed to send command {command}")]
    Encode {
        /// Its name.
        command: String,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// QEMU answered with an error.
    #[error(transparent)]
    Command(#[from] Box<CommandError>),
    /// The reply is not what was expected.
    #[error("failed to read the reply to {command}")]
    Reply {
        /// The command's name.
        command: String,
        /// Why.
        #[source]
        source: Box<ReplyError>,
    },
    /// The session has ended.
    #[error(
        "failed to {task}: the QMP session has ended{}",
        if *sent { ", and QEMU may have executed the command" } else { "" }
    )]
    Closed {
        /// What could not be done, such as "execute query-block".
        task: String,
        /// Why it ended.
        #[source]
        cause: Closed,
        /// Whether a command was sent, so that QEMU may have executed it. One that was not has had
        /// no effect, and may be sent again in another session.
        sent: bool,
    },
    /// A timeout expired.
    #[error("failed to {task} within {after:?}")]
    Timeout {
        /// What could not be done in time, such as "execute query-block".
        task: String,
        /// The time allowed.
        after: Duration,
    },
    /// Events were lost, perhaps among them one that was waited for.
    #[error("failed to {task}: {events} events are lost")]
    Lagged {
        /// What could not be done.
        task: String,
        /// How many events were lost.
        events: u64,
    },
    /// The condition of a matcher panicked.
    #[error("failed to {task}: the condition panicked: {message}")]
    Panicked {
        /// What could not be done.
        task: String,
        /// The panic message.
        message: String,
    },
    /// A job did not reach the awaited state.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Job(#[from] Box<JobError>),
}

/// An error and its causes on one line, for display to a user.
pub(crate) struct Report<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = std::iter::successors(self.0.source(), |cause| cause.source());
        for cause in causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl ConnectError {
    /// This error and its causes on one line.
    pub fn report(&self) -> impl std::fmt::Display + '_ {
        Report(self)
    }
}

impl Error {
    /// This error and its causes on one line, for display to a user.
    ///
    /// ```
    /// # let error = qmp::Error::from(qmp::ConnectError::Refused { endpoint: "/run/vm.qmp".into() });
    /// assert_eq!(
    ///     error.report().to_string(),
    ///     "failed to connect to /run/vm.qmp: nothing listens there",
    /// );
    /// ```
    pub fn report(&self) -> impl std::fmt::Display + '_ {
        Report(self)
    }

    /// QEMU's answer, if this is one.
    pub fn command(&self) -> Option<&CommandError> {
        match self {
            Self::Command(error) => Some(error),
            _ => None,
        }
    }

    /// The class of QEMU's answer, if this is one.
    pub fn class(&self) -> Option<&ErrorClass> {
        self.command().map(|error| &error.class)
    }

    /// The description in QEMU's answer, if this is one.
    pub fn desc(&self) -> Option<&str> {
        self.command().map(|error| error.desc.as_str())
    }

    /// Whether the session has ended, so that no further command can succeed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// The session ended before anything was sent.
    #[cfg(feature = "client")]
    pub(crate) fn closed(task: impl Into<String>, cause: Closed) -> Self {
        Self::Closed {
            task: task.into(),
            cause,
            sent: false,
        }
    }

    /// Whether the peer disconnected after the command was sent.
    #[cfg(feature = "client")]
    pub(crate) fn is_farewell(&self) -> bool {
        matches!(
            self,
            Self::Closed {
                cause: Closed::Eof | Closed::Cut(_) | Closed::Io(_),
                sent: true,
                ..
            }
        )
    }

    /// Whether a timeout expired.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(error) => matches!(
                **error,
                ConnectError::Unreachable { .. }
                    | ConnectError::Silent { .. }
                    | ConnectError::NoAgent { .. }
                    | ConnectError::Nobody { .. }
                    | ConnectError::Stopped { .. }
                    | ConnectError::NegotiationTimeout { .. }
            ),
            _ => false,
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl From<CommandError> for Error {
    fn from(error: CommandError) -> Self {
        Self::Command(Box::new(error))
    }
}

/// Why there is no session.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no socket at the path.
    #[error("failed to connect: there is no socket {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Nothing listens there.
    #[error("failed to connect to {endpoint}: nothing listens there")]
    Refused {
        /// The path or address.
        endpoint: String,
    },
    /// Any other failure of the operating system.
    #[error("failed to connect to {endpoint}")]
    Io {
        /// The path or address.
        endpoint: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The condition that ends the wait for a socket was met.
    #[error("failed to connect to {endpoint}: {reason}")]
    Gone {
        /// The path.
        endpoint: String,
        /// The reason that it gave, such as "the process has exited".
        reason: String,
    },
    /// No peer connected to the listening socket.
    #[error("failed to accept a connection on {endpoint} within {after:?}")]
    Nobody {
        /// The path or address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
    },
    /// The host did not accept the connection.
    #[error("failed to connect to {endpoint} within {after:?}")]
    Unreachable {
        /// The address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
    },
    /// The guest agent did not answer.
    #[error(
        "failed to get an answer from the guest agent at {endpoint} within {after:?}: \
         it may not be running, or speak to another client"
    )]
    NoAgent {
        /// The path or address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
    },
    /// The peer accepted the connection and then sent nothing.
    #[error(
        "failed to get a QMP greeting from {endpoint} within {after:?}: \
         a monitor says nothing while it serves another client"
    )]
    Silent {
        /// The path or address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
    },
    /// The peer is silent because its process is stopped.
    #[error(
        "failed to get a QMP greeting from {endpoint} within {after:?}: process {pid} is stopped"
    )]
    Stopped {
        /// The path or address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
        /// The stopped process.
        pid: i32,
    },
    /// The peer greeted, and then did not answer the negotiation.
    #[error("failed to negotiate capabilities with {endpoint} within {after:?}")]
    NegotiationTimeout {
        /// The path or address.
        endpoint: String,
        /// The time allowed.
        after: Duration,
    },
    /// The peer closed the connection during the handshake.
    #[error("failed to start a QMP session with {endpoint}")]
    Closed {
        /// The path or address.
        endpoint: String,
        /// How it ended.
        #[source]
        cause: Closed,
    },
    /// The peer does not speak QMP, or it refuses the negotiation.
    #[error("failed to start a QMP session with {endpoint}")]
    Handshake {
        /// The path or address.
        endpoint: String,
        /// What is wrong.
        #[source]
        source: HandshakeFailure,
    },
}

/// An error that QEMU returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to execute {command}: {class}: {desc}")]
#[non_exhaustive]
pub struct CommandError {
    /// The command's name.
    pub command: String,
    /// The command's id on the wire.
    pub id: String,
    /// The kind of error.
    pub class: ErrorClass,
    /// The description; not stable between versions of QEMU.
    pub desc: String,
    /// The whole reply as received.
    pub raw: String,
}

/// A reply that was not understood.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// It is not a message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The returned value, `raw`, has an unexpected form.
    #[error("the value has an unexpected form: {}", shorten(raw))]
    Decode {
        /// Where and why.
        source: DecodeError,
        /// The JSON text.
        raw: String,
    },
}

fn shorten(text: &str) -> String {
    const MAX: usize = 200;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// Why a session has ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// QEMU closed the connection, at the end of a message.
    #[error("QEMU closed the connection")]
    Eof,
    /// QEMU closed the connection in the middle of a message.
    #[error("QEMU closed the connection inside a message: {}", String::from_utf8_lossy(&.0.sample))]
    Cut(FrameError),
    /// Reading or writing failed.
    #[error("the connection broke")]
    Io(#[source] Arc<std::io::Error>),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeFailure),
    /// This side closed the session, or its tokio runtime has ended.
    #[error("it was closed by this side")]
    Local,
}

/// A job that did not reach the awaited state.
#[cfg(feature = "client")]
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// There is no such job, and no trace that there was one.
    #[error("failed to find job {id}")]
    Unknown {
        /// Its id.
        id: String,
    },
    /// The job ended in another state than the awaited one.
    #[error("failed to see job {id} {wanted}: {outcome}")]
    Ended {
        /// Its id.
        id: String,
        /// The status that was waited for.
        wanted: String,
        /// How it ended.
        outcome: JobOutcome,
    },
}
