//! A running call of qemu-img, its progress, and its clean-up when it is killed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{ImgError, Operation, Progress, ReportsProgress};
use crate::process::{Child, CommandLine, Stream, View, block_on};

/// A running call. Dropping it kills it, and removes the file that it was creating.
#[derive(Debug)]
pub struct Running<Op> {
    // Field order matters: first the process is killed, then its file is removed.
    child: Child,
    made: Made,
    op: Op,
    seen: u64,
}

impl<Op: Operation> Running<Op> {
    pub(super) fn new(child: Child, made: Made, op: Op) -> Running<Op> {
        Running {
            child,
            made,
            op,
            seen: 0,
        }
    }

    /// The command, without its secrets.
    pub fn command(&self) -> &CommandLine {
        self.child.command()
    }

    /// Waits for it to exit, and parses its answer.
    pub async fn wait(mut self) -> Result<Op::Answer, ImgError> {
        if Op::PULLS {
            loop {
                let bytes = self.child.pull().await;
                if bytes.is_empty() {
                    break;
                }
                self.op.take(&bytes);
            }
        }
        let output = self.child.wait().await?.check_code(|_| true)?;
        let answer = self.op.answer(output)?;
        self.made.keep();
        Ok(answer)
    }

    /// [`Running::wait`] outside of async code.
    pub fn wait_blocking(self) -> Result<Op::Answer, ImgError> {
        block_on(self.wait())
    }
}

impl<Op: ReportsProgress> Running<Op> {
    /// Waits for the next progress report, the newest if there are several; `None` when it exits,
    /// whose result [`Running::wait`] returns. qemu-img reports every one or two percent.
    pub async fn progress(&mut self) -> Option<Progress> {
        let seen = &mut self.seen;
        self.child.until(|view| newest(view, seen)).await
    }

    /// [`Running::progress`] outside of async code.
    pub fn progress_blocking(&mut self) -> Option<Progress> {
        block_on(self.progress())
    }
}

fn newest(view: &View<'_>, seen: &mut u64) -> Option<Progress> {
    let text = view.from(Stream::Stdout, *seen);
    let end = text.iter().rposition(|byte| *byte == b'\r')?;
    *seen = view.end(Stream::Stdout) - (text.len() - end - 1) as u64;
    reports(&text[..end]).last()
}

/// Parses the text between carriage returns: `    (12.34/100%)`.
fn reports(text: &[u8]) -> impl Iterator<Item = Progress> {
    text.split(|byte| *byte == b'\r').filter_map(|report| {
        let report = std::str::from_utf8(report).ok()?.trim();
        let percent = report.strip_prefix('(')?.strip_suffix("/100%)")?;
        let percent = percent.parse().ok().filter(|percent: &f32| {
            // A compare of images of different sizes can exceed 100 %.
            percent.is_finite()
        })?;
        Some(Progress {
            percent: percent.clamp(0.0, 100.0),
        })
    })
}

/// As `12.34 %`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.percent)
    }
}

/// A file that a call creates, and that is removed unless the call succeeds.
#[derive(Debug)]
pub(super) struct Made(Option<PathBuf>);

impl Made {
    /// Checked before the call: an existing file is not ours.
    pub(super) fn before(file: Option<&Path>) -> Made {
        let is_new = |file: &&Path| {
            let found = std::fs::symlink_metadata(file);
            found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        // The caller may change the working directory meanwhile.
        let absolute = |file: &Path| std::path::absolute(file).ok();
        Made(file.filter(is_new).and_then(absolute))
    }

    pub(super) fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(file) = &self.0
            && let Err(error) = std::fs::remove_file(file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "half of an image stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn progress_is_read_between_carriage_returns(percents in prop::collection::vec(0u32..10_001, 0..6)) {
            let text: String = percents
                .iter()
                .map(|percent| format!("    ({}.{:02}/100%)\r", percent / 100, percent % 100))
                .collect();
            let found: Vec<f32> = reports(text.as_bytes()).map(|progress| progress.percent).collect();
            let expected: Vec<f32> = percents.iter().map(|percent| *percent as f32 / 100.0).collect();
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 0.001);
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "(\\(|[0-9.einf-]{0,4}|/100%\\)|\r| ){0,20}") {
            reports(text.as_bytes()).for_each(drop);
        }
    }
}
