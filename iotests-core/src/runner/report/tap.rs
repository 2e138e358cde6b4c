//! TAP, version 13 or 14: one line per instance, with details as YAML below it. Written as
//! instances end, or from a record.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::Serialize;

use super::Show;
use super::cause::headline;
use super::failure;
use super::story::Story;
use crate::runner::event::{Outcome, RunEvent};
use crate::runner::verdict::Verdict;

/// A version of TAP. Version 14 can escape `#` and `\` in a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V13,
    V14,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V13 => "13",
            Self::V14 => "14",
        })
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "13" => Ok(Self::V13),
            "14" => Ok(Self::V14),
            _ => Err("it must be 13 or 14"),
        }
    }
}

/// Writes TAP. The plan comes last: if it is missing, the run was killed.
pub(crate) struct Tap<W> {
    version: Version,
    out: W,
    /// Test points so far.
    points: usize,
    has_begun: bool,
    /// Why the run was stopped.
    stopped: Option<String>,
}

/// Writes the report of a finished run.
pub(super) fn write(story: &Story, version: Version, out: &mut dyn Write) -> io::Result<()> {
    let mut tap = Tap::new(version, out);
    tap.stopped.clone_from(&story.stopped);
    tap.begin()?;
    for note in &story.notes {
        tap.note(note)?;
    }
    for row in &story.rows {
        tap.point(&row.outcome)?;
    }
    tap.end(story.summary.not_run)
}

impl<W: Write> Tap<W> {
    /// Writes to `out`.
    pub(crate) const fn new(version: Version, out: W) -> Self {
        Self {
            version,
            out,
            points: 0,
            has_begun: false,
            stopped: None,
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        writeln!(self.out, "TAP version {}", self.version)
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "# {}", one_line(text))
    }

    fn point(&mut self, outcome: &Outcome) -> io::Result<()> {
        self.points += 1;
        let text = point(self.points, outcome, self.version);
        self.out.write_all(text.as_bytes())
    }

    /// Writes the plan, after a note if something did not run: a reader may stop at the plan.
    fn end(&mut self, not_run: usize) -> io::Result<()> {
        if not_run > 0 {
            let why = self.stopped.take();
            let why = why.map(|why| format!(": {}", one_line(&why)));
            writeln!(
                self.out,
                "Bail out! {not_run} not run{}",
                why.unwrap_or_default()
            )?;
        }
        writeln!(self.out, "1..{}", self.points)?;
        self.out.flush()
    }
}

impl<W: Write> Show for Tap<W> {
    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        let written = match event {
            RunEvent::RunStarted(_) => self.begin(),
            RunEvent::Warning { text } => self.note(text),
            RunEvent::Stopping { why } => {
                self.stopped.get_or_insert_with(|| why.clone());
                self.note(&format!("stopping: {why}"))
            }
            RunEvent::InstanceSkipped { instance, reason } => {
                self.point(&Outcome::skipped(instance.clone(), reason.clone()))
            }
            RunEvent::InstanceFinished(outcome) => self.point(outcome),
            RunEvent::RunFinished(end) => self.end(end.not_run),
            RunEvent::InstanceStarted { .. }
            | RunEvent::AttemptFailed { .. }
            | RunEvent::Case { .. } => {
                return Ok(());
            }
        };
        match written.and_then(|()| self.out.flush()) {
            // The reader may want only the head; the run and its reports continue.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

fn point(number: usize, outcome: &Outcome, version: Version) -> String {
    let directive = match outcome.verdict {
        Verdict::Skip => format!(
            " # SKIP {}",
            one_line(&outcome.skip().map(ToString::to_string).unwrap_or_default())
        ),
        Verdict::ExpectedFail | Verdict::Quarantined => format!(
            " # TODO {}",
            one_line(outcome.note.as_deref().unwrap_or_default())
        ),
        Verdict::Interrupted => format!(
            " # SKIP {}",
            one_line(outcome.note.as_deref().unwrap_or("interrupted"))
        ),
        _ => String::new(),
    };
    // An expected failure is `not ok` with TODO, which readers do not count as a failure.
    let ok = !outcome.verdict.is_failure()
        && !matches!(
            outcome.verdict,
            Verdict::ExpectedFail | Verdict::Quarantined
        );
    let not = if ok { "" } else { "not " };
    let id = &outcome.instance.id;
    let id = match version {
        Version::V13 => id.clone(),
        Version::V14 => escaped(id),
    };
    format!("{not}ok {number} - {id}{directive}\n{}", yaml(outcome))
}

/// Escapes `#` and `\`, which have a meaning in descriptions.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('#', r"\#")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The details, in the subset of YAML that prove supports: quoted words, and lists with one item
/// per line.
fn yaml(outcome: &Outcome) -> String {
    let mut text = "  ---\n".to_owned();
    let failed = outcome.last().filter(|_| outcome.verdict.is_failure());
    if failed.is_some() {
        text += &format!("  message: {}\n", quoted(&printable(headline(outcome))));
    }
    text += &format!("  verdict: {}\n", quoted(&outcome.verdict));
    text += &format!("  duration_ms: {}\n", outcome.elapsed.as_millis());
    if let Some(usual) = outcome.slower_than {
        text += &format!("  slower_than_ms: {}\n", usual.as_millis());
    }
    text += &format!("  at: {}\n", quoted(&outcome.instance.place.to_string()));
    let not_run = outcome.not_run.iter().map(String::as_str);
    text += &list("not_run", not_run);
    if let Some(attempt) = failed {
        text += &format!("  rerun: {}\n", quoted(&outcome.rerun));
        text += &list("details", failure::attempt_text(attempt).trim_end().lines());
    }
    text + "  ...\n"
}

fn list<'l>(name: &str, lines: impl Iterator<Item = &'l str>) -> String {
    let lines: String = lines.map(|line| format!("    - {}\n", quoted(&printable(line)))).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("  {name}:\n{lines}"),
    }
}

/// Quotes as JSON, which is also YAML.
fn quoted(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Replaces characters in output that YAML refuses even in quotes.
fn printable(text: &str) -> String {
    let is_refused = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace(is_refused, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_yaml_refuses_are_replaced() {
        assert_eq!(
            printable("a\n\tb\u{1b}[0m\0\u{7f}ü"),
            "a\n\tb\u{fffd}[0m\u{fffd}\u{fffd}ü"
        );
        assert_eq!(quoted(&"it's \"\u{1b}\""), r#""it's \"\u001b\"""#);
        assert_eq!(quoted(&Verdict::ExpectedFail), r#""expected-fail""#);
    }
}
