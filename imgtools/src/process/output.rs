//! What a finished process leaves: its status and everything it printed.

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
    /// What it printed.
    pub captured: Captured,
    /// From when it was to be started to its end, or to the end of its output if that came later.
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
    /// Passes on a status of 0; everything else is an error that shows the tail of the output.
    pub fn check(self) -> Result<Output, ProcessError> {
        self.check_code(|code| code == 0)
    }

    /// Passes on an exit status for which the function says yes; a signal is always an error, and so
    /// is an error that valgrind has found.
    pub fn check_code(self, expected: impl FnOnce(i32) -> bool) -> Result<Output, ProcessError> {
        match self.status {
            _ if self.valgrind_found_errors() => Err(ProcessError::Valgrind(self.into())),
            Status::Exited(code) if expected(code) => Ok(self),
            Status::Exited(_) => Err(ProcessError::Status(self.into())),
            Status::Signaled { .. } => Err(ProcessError::Signal(self.into())),
        }
    }

    /// Whether the process ran under valgrind, which has found errors in it.
    pub fn valgrind_found_errors(&self) -> bool {
        self.convention == Convention::Valgrind && self.status == Status::Exited(VALGRIND_ERROR)
    }

    /// The last part of the output for a message: indented, without secrets, at most 4 KiB. Empty if
    /// nothing was printed.
    pub fn tail(&self) -> String {
        let text = self.combined_text();
        let cut = text.len() - end_of(&text, TAIL).len();
        let mut tail = String::new();
        let missing = cut as u64 + self.truncated;
        if missing > 0 {
            let _ = write!(tail, "\n  | [{missing} bytes before]");
        }
        // The whole text is redacted before it is cut, so that no half of a secret is left.
        let redacted = self.command.redact(&text);
        let shown = match redacted {
            std::borrow::Cow::Borrowed(text) => &text[cut..],
            std::borrow::Cow::Owned(ref text) => end_of(text, TAIL),
        };
        for line in shown.lines() {
            // As a terminal shows it: a report of progress is overwritten by what follows.
            let line = line.trim_end_matches('\r').rsplit('\r').next();
            let _ = write!(tail, "\n  | {}", line.unwrap_or_default());
        }
        tail
    }
}

/// The last bytes of a text, so many at most, without half of a character.
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
            // The cap is no part of this: what it cuts is no longer known to be a secret.
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
