//! I/O on a node: qemu-io commands over HMP, or whatever the caller plugs in.

use super::BlockHost;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::fmt;

/// What a qemu-io command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoTarget {
    /// A block node by its node name. HMP takes the names of block backends and nodes alike.
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

/// I/O on a node where there is no HMP, such as through an NBD export of a storage daemon.
#[async_trait]
pub trait NodeIo: Send + Sync + fmt::Debug {
    /// Runs one qemu-io command on a target of this host and returns what it printed.
    async fn io(
        &self,
        host: &dyn BlockHost,
        target: &IoTarget,
        command: &str,
    ) -> Result<String, IoError>;
}

/// Why I/O on a node failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The host has no HMP, and nothing was plugged in instead.
    #[error(
        "failed to run {command:?} on {target}: a storage daemon has no HMP, and no other way of I/O was set"
    )]
    NoWay {
        /// What was to be worked on.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
    },
    /// The monitor refused.
    #[error("failed to run {command:?} on {target}")]
    Qmp {
        /// What was to be worked on.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// HMP, or the plugged in way, says that it did not work.
    #[error("failed to run {command:?} on {target}: {message}")]
    Refused {
        /// What was to be worked on.
        target: IoTarget,
        /// The qemu-io command.
        command: String,
        /// Its words.
        message: String,
    },
    /// A text that HMP cannot take.
    #[error("failed to quote {text:?} for HMP: it holds a newline")]
    Quoting {
        /// The text.
        text: String,
    },
}

/// Runs a command of the human monitor.
pub(crate) async fn hmp(client: &qmp::Client, command: &str) -> Result<String, qmp::Error> {
    let args = json!({ "command-line": command });
    match client.execute("human-monitor-command", args).await? {
        Value::String(text) => Ok(text.replace("\r\n", "\n")),
        // The command's return type is a string; anything else prints as it is.
        other => Ok(other.to_string()),
    }
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

/// Runs a qemu-io command by HMP.
///
/// What the qemu-io command itself prints ("wrote 512/512 bytes …", "write failed: …") goes to
/// QEMU's standard output, which is line buffered (`os_set_line_buffering`): it is written
/// before the reply, but through another pipe, so wait for
/// [`Child::drained`](imgtools::process::Child::drained) before reading it. The reply tells of unknown targets and
/// malformed commands.
pub(super) async fn hmp_qemu_io(
    client: &qmp::Client,
    target: &IoTarget,
    command: &str,
) -> Result<String, IoError> {
    let line = match target {
        IoTarget::Node(name) | IoTarget::Drive(name) => {
            format!("qemu-io {} {}", quoted(name)?, quoted(command)?)
        }
        IoTarget::Qdev(name) => format!("qemu-io -d {} {}", quoted(name)?, quoted(command)?),
    };
    let (target, command) = (target.clone(), command.to_owned());
    let text = match hmp(client, &line).await {
        Ok(text) => text,
        Err(source) => {
            return Err(IoError::Qmp {
                target,
                command,
                source: Box::new(source),
            });
        }
    };
    // HMP has no status; its errors begin like this (hmp_handle_error).
    match text.strip_prefix("Error: ") {
        Some(message) => Err(IoError::Refused {
            target,
            command,
            message: message.trim_end().to_owned(),
        }),
        None => Ok(text),
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
