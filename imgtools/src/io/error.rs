//! The errors of qemu-io.

use std::time::Duration;

use super::{LineError, Reply};
use crate::image::{FailureKind, NameError, failure_kinds};
use crate::process::{Output, ProcessError, Time, end_of};

/// Why something done with qemu-io failed. Messages show the command and the tail of the output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The image cannot be named as qemu-io must be given it. Nothing was run.
    #[error(transparent)]
    Name(#[from] NameError),

    /// It did not run, took too long, was killed by a signal, or exited with a status that means a
    /// failure.
    #[error(transparent)]
    Process(#[from] ProcessError),

    /// It exited with status 0, but some of its commands failed. (Its status tells nothing of aio
    /// requests.)
    #[error("failed to run `{}` without failures{}{}", output.command, list(failures), output.tail())]
    Commands {
        /// The lines that say so, without secrets.
        failures: Vec<String>,
        /// What it printed.
        output: Box<Output>,
    },

    /// A command of a session failed, or said nothing of its success.
    #[error("failed to run `{}` in qemu-io:{}", .0.shown_command(), indent(.0))]
    Reply(Box<Reply>),

    /// A session did not start: it ended before its first prompt.
    #[error("failed to start a session: `{}` {}{}", .0.command, .0.status, .0.tail())]
    Start(Box<Output>),

    /// A command cannot be sent.
    #[error(transparent)]
    Line(#[from] LineError),

    /// qemu-io ended while it ran a command, or had before.
    #[error("failed to run `{}` in qemu-io: it {}{}", reply.shown_command(), output.status, indent(reply))]
    Died {
        /// The command, and what it had printed up to then.
        reply: Box<Reply>,
        /// The whole session.
        output: Box<Output>,
    },

    /// A command took too long. qemu-io was killed.
    #[error("failed to run `{}` in qemu-io within {}{}", reply.shown_command(), Time(*deadline), indent(reply))]
    Deadline {
        /// The command, and what it had printed up to then.
        reply: Box<Reply>,
        /// The time it had.
        deadline: Duration,
    },
}

impl IoError {
    /// What kind of failure it is, by QEMU's message.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            IoError::Reply(reply) => FailureKind::of(&reply.shown_text()),
            _ => FailureKind::of(&self.output()?.combined_text()),
        }
    }

    /// What qemu-io printed and how it exited, if it came to its end.
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
    failures
        .iter()
        .map(|failure| format!("\n  {failure}"))
        .collect()
}

fn indent(reply: &Reply) -> String {
    let text = reply.shown_text();
    // A read with -v may print a lot; the end is what matters. Cut after the secrets were hidden, so
    // that no half of one is left.
    let end = end_of(&text, 4096);
    end.lines().map(|line| format!("\n  | {line}")).collect()
}
