//! TAP version 14: one line for each instance, what explains a failure as YAML below it.

use std::fs::File;
use std::io::{self, Write};

use serde::Serialize;

use super::failure;
use super::text::indented;
use super::{Palette, Reporter};
use crate::runner::event::{Outcome, RunEvent};
use crate::runner::verdict::Verdict;

/// Writes TAP as instances end; the plan stands at the end, where it is known.
pub(crate) struct Tap {
    file: File,
    number: usize,
}

impl Tap {
    /// Into this file.
    pub(crate) fn new(file: File) -> Self {
        Self { file, number: 0 }
    }

    fn point(&mut self, ok: bool, id: &str, directive: &str, yaml: &str) -> io::Result<()> {
        self.number += 1;
        let not = if ok { "" } else { "not " };
        let directive = if directive.is_empty() {
            String::new()
        } else {
            format!(" # {}", one_line(directive))
        };
        write!(
            self.file,
            "{not}ok {} - {}{directive}\n{yaml}",
            self.number,
            escaped(id)
        )
    }

    fn finished(&mut self, outcome: &Outcome) -> io::Result<()> {
        let directive = match outcome.verdict {
            Verdict::Skip => format!(
                "SKIP {}",
                outcome.skip().map(ToString::to_string).unwrap_or_default()
            ),
            Verdict::ExpectedFail | Verdict::Quarantined => {
                format!("TODO {}", outcome.note.clone().unwrap_or_default())
            }
            Verdict::Interrupted => "SKIP interrupted".to_owned(),
            _ => String::new(),
        };
        // A known failure is `not ok` with TODO; all readers count it as no failure.
        let ok = !outcome.verdict.is_failure()
            && !matches!(
                outcome.verdict,
                Verdict::ExpectedFail | Verdict::Quarantined
            );
        self.point(ok, &outcome.instance.id, &directive, &yaml(outcome))
    }
}

impl Reporter for Tap {
    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        match event {
            RunEvent::RunStarted(_) => writeln!(self.file, "TAP version 14"),
            RunEvent::InstanceSkipped { instance, reason } => {
                self.point(true, &instance.id, &format!("SKIP {reason}"), "")
            }
            RunEvent::InstanceFinished(outcome) => self.finished(outcome),
            RunEvent::Warning { text } => writeln!(self.file, "# {}", one_line(text)),
            RunEvent::Stopping { why } => writeln!(self.file, "# stopping: {}", one_line(why)),
            RunEvent::RunFinished(_) => writeln!(self.file, "1..{}", self.number),
            _ => Ok(()),
        }
    }
}

/// `#` and `\` have a meaning in descriptions.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('#', r"\#")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn yaml(outcome: &Outcome) -> String {
    let mut text = format!("  ---\n  verdict: {}\n", quoted(&outcome.verdict));
    text += &format!("  duration_ms: {}\n", outcome.elapsed.as_millis());
    text += &format!("  at: {}\n", quoted(&outcome.instance.place.to_string()));
    if outcome.verdict.is_failure() {
        let details = outcome
            .last()
            .map(|attempt| failure::attempt_text(attempt, Palette::new(false)));
        text += &format!("  rerun: {}\n  details: |\n", quoted(&outcome.rerun));
        text += &indented(&printable(&details.unwrap_or_default()), "    ");
    }
    text + "  ...\n"
}

/// As JSON, which is YAML as well.
fn quoted(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What a process printed may hold bytes that YAML refuses even in a block of text.
fn printable(text: &str) -> String {
    let is_refused = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace(is_refused, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_refuses_is_replaced() {
        assert_eq!(
            printable("a\n\tb\u{1b}[0m\0\u{7f}ü"),
            "a\n\tb\u{fffd}[0m\u{fffd}\u{fffd}ü"
        );
        assert_eq!(quoted(&"it's \"\u{1b}\""), r#""it's \"\u001b\"""#);
        assert_eq!(quoted(&Verdict::ExpectedFail), r#""expected-fail""#);
    }
}
