//! The errors of qemu-io.

use std::time::Duration;

use super::{LineError, Reply};
use crate::image::{FailureKind, NameError, failure_kinds};
use crate::process::{Output, ProcessError, Time, end_of};

/// Why an operation of qemu-io failed. Messages show the command and the tail of the output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The image cannot be named as qemu-io requires. Nothing was run.
    #[error(transparent)]
    Name(#[from] NameError),

    /// It did not run, timed out, was killed by a signal, or exited with a failure status.
    #[error(transparent)]
    Process(#[from] ProcessError),

    /// It exited with status 0, but some of its commands failed. (Its status does not cover aio
    /// requests.)
    #[error("failed to run `{}` without failures{}{}", output.command, list(failures), output.tail())]
    Commands {
        /// The lines that report failures, without secrets.
        failures: Vec<String>,
        /// Its output.
        output: Box<Output>,
    },

    /// A command of a session failed, or did not report success.
    #[error("failed to run `{}` in qemu-io:{}", .0.shown_command(), indent(.0))]
    Reply(Box<Reply>),

    /// A session did not start: it ended before its first prompt.
    #[error("failed to start a session: `{}` {}{}", .0.command, .0.status, .0.tail())]
    Start(Box<Output>),

    /// A command cannot be sent.
    #[error(transparent)]
    Line(#[from] LineError),

    /// qemu-io exited during a command, or before it.
    #[error("failed to run `{}` in qemu-io: it {}{}", reply.shown_command(), output.status, indent(reply))]
    Died {
        /// The command, and its output so far.
        reply: Box<Reply>,
        /// The whole session.
        output: Box<Output>,
    },

    /// A command timed out. qemu-io was killed.
    #[error("failed to run `{}` in qemu-io within {}{}", reply.shown_command(), Time(*deadline), indent(reply))]
    Deadline {
        /// The command, and its output so far.
        reply: Box<Reply>,
        /// The deadline.
        deadline: Duration,
    },
}

impl IoError {
    /// The kind of failure, by QEMU's message.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            IoError::Reply(reply) => FailureKind::of(&reply.shown_text()),
            _ => FailureKind::of(&self.output()?.combined_text()),
        }
    }

    /// The output and exit status of qemu-io, if it exited.
    pub fn output(&self) -> Option<&Output> {
        match self {
            IoError::Process(error) => error.output(),
            IoError::Commands { output, .. } | IoError::Start(output) => Some(output),
            IoError::Died { output, .. } => Some(output),
            IoError::Name(_) | IoError::Reply(_) | IoError::Line(_) | IoError::Deadline { .. } => {
                None
            }
        }
    }
}

failure_kinds!(IoError);

fn list(failures: &[String]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}

fn indent(reply: &Reply) -> String {
    let text = reply.shown_text();
    // A read with -v may print a lot; the end is what matters. Truncated after redaction, so that
    // no partial secret is left.
    let end = end_of(&text, 4096);
    end.lines().map(|line| format!("\n  | {line}")).collect()
}
