//! I/O on a node of an emulator: qemu-io commands over HMP.

use super::hmp::refusal;
use crate::machine::Machine;
use crate::program::Program;
use std::fmt;

/// The target of a qemu-io command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoTarget {
    /// A block node by its node name. HMP accepts the names of block backends and nodes alike.
    Node(String),
    /// A drive (block backend) by its name.
    Drive(String),
    /// A guest device, by id or QOM path, through its own backend (`qemu-io -d`). Since 5.2.
    Qdev(String),
}

impl IoTarget {
    /// The block node of this name.
    #[must_use]
    pub fn node(name: impl Into<String>) -> Self {
        IoTarget::Node(name.into())
    }
}

impl fmt::Display for IoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoTarget::Node(name) => write!(f, "node {name}"),
            IoTarget::Drive(name) => write!(f, "drive {name}"),
            IoTarget::Qdev(name) => write!(f, "device {name}"),
        }
    }
}

/// Why I/O on a node failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// A storage daemon has no HMP; its nodes are reached through an export.
    #[error(
        "failed to run {command:?} on {target}: a storage daemon has no HMP, export the node instead"
    )]
    NoHmp {
        /// The target.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
    },
    /// The monitor refused.
    #[error("failed to run {command:?} on {target}")]
    Qmp {
        /// The target.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// HMP reported a failure.
    #[error("failed to run {command:?} on {target}: {message}")]
    Refused {
        /// The target.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
        /// QEMU's error message.
        message: String,
    },
    /// A text that cannot be passed to HMP.
    #[error("failed to quote {text:?} for HMP: it holds a newline")]
    Quoting {
        /// The text.
        text: String,
    },
}

/// One HMP argument in quotes (`get_str`, monitor/hmp.c).
fn quoted(text: &str) -> Result<String, IoError> {
    if text.contains('\n') {
        return Err(IoError::Quoting {
            text: text.to_owned(),
        });
    }
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

impl Machine {
    /// Runs a qemu-io command on a node, drive or device of an emulator, and returns HMP's output,
    /// usually none.
    ///
    /// The output of the qemu-io command itself ("wrote 512/512 bytes …", "write failed: …") goes
    /// to QEMU's standard output, which is line buffered (`os_set_line_buffering`): it is written
    /// before the reply, but to another pipe, so wait for
    /// [`Child::drained`](imgtools::process::Child::drained) before reading it. The reply reports
    /// unknown targets and malformed commands.
    ///
    /// # Errors
    /// See [`IoError`].
    pub async fn io(&self, target: &IoTarget, command: &str) -> Result<String, IoError> {
        let (at, of) = (|| target.clone(), || command.to_owned());
        if self.program() == Program::StorageDaemon {
            return Err(IoError::NoHmp {
                target: at(),
                command: of(),
            });
        }
        let line = match target {
            IoTarget::Node(name) | IoTarget::Drive(name) => {
                format!("qemu-io {} {}", quoted(name)?, quoted(command)?)
            }
            IoTarget::Qdev(name) => format!("qemu-io -d {} {}", quoted(name)?, quoted(command)?),
        };
        let text = self.hmp(&line).await.map_err(|source| IoError::Qmp {
            target: at(),
            command: of(),
            source: Box::new(source),
        })?;
        match refusal(&text) {
            Some(message) => Err(IoError::Refused {
                target: at(),
                command: of(),
                message: message.to_owned(),
            }),
            None => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmp_arguments_are_quoted() {
        assert_eq!(quoted(r#"a "b" \c"#).unwrap(), r#""a \"b\" \\c""#);
        assert!(matches!(quoted("a\nb"), Err(IoError::Quoting { .. })));
    }
}
