//! The human monitor, through QMP.

use crate::machine::Machine;
use qmp::types::HumanMonitorCommand;

/// Why a command of the human monitor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HmpError {
    /// QMP refused to pass it on.
    #[error("failed to run the HMP command {command:?}")]
    Qmp {
        /// The command.
        command: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The human monitor printed an error.
    #[error("failed to run the HMP command {command:?}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// The line with the error.
        message: String,
    },
}

impl Machine {
    /// Runs a command of the human monitor and returns its output, even if that is an error.
    ///
    /// # Errors
    /// As QMP's `human-monitor-command`, which a storage daemon does not have.
    pub async fn hmp(&self, command: &str) -> Result<String, qmp::Error> {
        let text = self.qmp().call(HumanMonitorCommand::new(command)).await?;
        Ok(text.replace("\r\n", "\n"))
    }

    /// Runs a command of the human monitor, and returns its output unless that is an error.
    ///
    /// HMP has no status. Failures are recognized by the monitor's error prefixes, so a command
    /// that reports a failure in another form still counts as successful.
    ///
    /// # Errors
    /// See [`HmpError`].
    pub async fn hmp_checked(&self, command: &str) -> Result<String, HmpError> {
        let named = || command.to_owned();
        let text = self.hmp(command).await.map_err(|source| HmpError::Qmp {
            command: named(),
            source: Box::new(source),
        })?;
        match refusal(&text) {
            Some(message) => Err(HmpError::Refused {
                command: named(),
                message: message.to_owned(),
            }),
            None => Ok(text),
        }
    }
}

/// The error in HMP output: from a command (`hmp_handle_error`), for an unknown one
/// (`monitor_parse_command`), or the line before the hint that follows wrong arguments
/// (`handle_hmp_command`; all in monitor/hmp.c).
pub(super) fn refusal(text: &str) -> Option<&str> {
    let mut before = "";
    for line in text.lines().map(str::trim_end) {
        if let Some(message) = line.strip_prefix("Error: ") {
            return Some(message);
        }
        if line.starts_with("unknown command: ") {
            return Some(line);
        }
        if line.starts_with("Try \"help ") && line.ends_with("for more information") {
            return Some(if before.is_empty() { line } else { before });
        }
        before = line;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_its_words() {
        assert_eq!(refusal("Error: no such disk\n"), Some("no such disk"));
        assert_eq!(
            refusal("unknown command: 'nonsense'\n"),
            Some("unknown command: 'nonsense'")
        );
        assert_eq!(
            refusal(
                "stop: extraneous characters at the end of line\nTry \"help stop\" for more information\n"
            ),
            Some("stop: extraneous characters at the end of line")
        );
        for fine in ["", "VM status: running\n", "an Error: inside of a line\n"] {
            assert_eq!(refusal(fine), None);
        }
    }
}
