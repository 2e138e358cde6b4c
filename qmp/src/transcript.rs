//! Recorded messages, for reports and for replay.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// QEMU to us.
    In,
    /// Us to QEMU.
    Out,
}

/// One message as sent on the wire. Serialized as JSON, one per line, this is the format of
/// transcript files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// The time since the session began, in seconds and nanoseconds.
    pub at: Duration,
    /// Its sender.
    pub direction: Direction,
    /// Its text, without line end. Secrets are redacted, long text may be shortened.
    pub text: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.direction {
            Direction::In => "<-",
            Direction::Out => "->",
        };
        write!(f, "{:>10.6} {arrow} {}", self.at.as_secs_f64(), self.text)
    }
}

/// The last entries of a session.
#[derive(Debug)]
pub struct Tail {
    entries: VecDeque<Entry>,
    capacity: usize,
}

impl Tail {
    /// Keeps the last `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity,
        }
    }

    /// Adds an entry, dropping the oldest if full.
    pub fn push(&mut self, entry: Entry) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The last `count` entries, oldest first.
    pub fn last(&self, count: usize) -> Vec<Entry> {
        self.entries.iter().skip(self.entries.len().saturating_sub(count)).cloned().collect()
    }
}

/// Parses a transcript file: one [`Entry`] as JSON per line, empty lines ignored.
///
/// # Errors
/// When a line is not an entry; the error names the line, counted from 1.
pub fn parse(text: &str) -> Result<Vec<Entry>, ParseError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| ParseError {
                line: number + 1,
                message: error.to_string(),
            })
        })
        .collect()
}

/// A transcript file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read line {line} of the transcript: {message}")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}
