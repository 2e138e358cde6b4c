//! The result of a finished process: its status and all output.

use std::fmt::{self, Write as _};
use std::ops::Deref;
use std::time::Duration;

use super::{Captured, CommandLine, Convention, ProcessError, Status, VALGRIND_ERROR};

/// How much of the output an error message shows.
const TAIL: usize = 4096;

/// The outcome of a process that has ended. The fields of [`Captured`] (`stdout`, `stderr`, …) can be
/// read directly from it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Output {
    /// The command, without its secrets.
    pub command: CommandLine,
    /// How the process ended.
    pub status: Status,
    /// Its output.
    pub captured: Captured,
    /// The time from the start of the process to its exit, or to the end of its output if that was
    /// later.
    pub elapsed: Duration,
    pub(super) convention: Convention,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {} after {:?}{}",
            self.command,
            self.status,
            self.elapsed,
            self.tail()
        )
    }
}

impl Deref for Output {
    type Target = Captured;

    fn deref(&self) -> &Captured {
        &self.captured
    }
}

impl Output {
    /// Accepts status 0; anything else is an error that shows the tail of the output.
    pub fn check(self) -> Result<Output, ProcessError> {
        self.check_code(|code| code == 0)
    }

    /// Accepts an exit status for which the function returns true; a signal is always an error, and
    /// so is an error found by valgrind.
    pub fn check_code(self, expected: impl FnOnce(i32) -> bool) -> Result<Output, ProcessError> {
        match self.status {
            _ if self.valgrind_found_errors() => Err(ProcessError::Valgrind(self.into())),
            Status::Exited(code) if expected(code) => Ok(self),
            Status::Exited(_) => Err(ProcessError::Status(self.into())),
            Status::Signaled { .. } => Err(ProcessError::Signal(self.into())),
        }
    }

    /// Whether the process ran under valgrind, which found errors.
    pub fn valgrind_found_errors(&self) -> bool {
        self.convention == Convention::Valgrind && self.status == Status::Exited(VALGRIND_ERROR)
    }

    /// The last part of the output for a message: indented, redacted, at most 4 KiB. Empty if
    /// nothing was printed.
    pub fn tail(&self) -> String {
        let text = self.combined_text();
        let cut = text.len() - end_of(&text, TAIL).len();
        let mut tail = String::new();
        let missing = cut as u64 + self.truncated;
        if missing > 0 {
            let _ = write!(tail, "\n  | [{missing} bytes before]");
        }
        // The whole text is redacted before it is truncated, so that no partial secret is left.
        let redacted = self.command.redact(&text);
        let shown = match redacted {
            std::borrow::Cow::Borrowed(text) => &text[cut..],
            std::borrow::Cow::Owned(ref text) => end_of(text, TAIL),
        };
        for line in shown.lines() {
            // As a terminal shows it: a progress report is overwritten by the next.
            let line = line.trim_end_matches('\r').rsplit('\r').next();
            let _ = write!(tail, "\n  | {}", line.unwrap_or_default());
        }
        tail
    }
}

/// At most the last `bytes` bytes of a text, without splitting a character.
pub(crate) fn end_of(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Stream;
    use super::super::capture::Capture;
    use super::*;

    proptest! {
        #[test]
        fn a_tail_has_the_end_of_the_output_and_no_part_of_a_secret(
            before in 0usize..6000, after in 0usize..6000, secret in "[0-9]{8,40}", cap in 100usize..9000,
        ) {
            let mut command = CommandLine::default();
            command.push_secret(&secret);
            let mut capture = Capture::new(cap);
            let text = format!("{}{secret}{}the end", "é".repeat(before / 2), "y".repeat(after));
            capture.push(Stream::Stderr, text.as_bytes());
            // The cap is excluded: a truncated secret can no longer be recognized.
            prop_assume!(text.len() <= cap);
            let output = Output {
                command,
                status: Status::Exited(1),
                captured: capture.captured(),
                elapsed: Duration::ZERO,
                convention: Convention::Direct,
            };
            let tail = output.tail();
            prop_assert!(tail.ends_with("the end"));
            prop_assert!(tail.len() < TAIL + 100);
            prop_assert!(!tail.contains(&secret[1..]) && !tail.contains(&secret[..secret.len() - 1]));
        }
    }
}
