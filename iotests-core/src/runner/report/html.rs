//! One page for a browser, without anything from elsewhere: counts, failures in full, a line for every instance.

use std::fs::File;
use std::io::{self, Write};

use super::text::duration;
use super::{Palette, Reporter, failure, summary};
use crate::runner::event::{InstanceInfo, Outcome, RunEvent, RunStarted, Summary};
use crate::runner::verdict::Verdict;
use crate::wire::CaseEvent;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25em .6em; border-bottom: 1px solid var(--line); vertical-align: top; }
pre { overflow-x: auto; padding: .8em; border: 1px solid var(--line); border-radius: 6px; } code, pre { font: 13px/1.4 ui-monospace, monospace; }
.pass { color: #2a8a3a; } .fail { color: #d0342c; font-weight: 600; } .other { color: #b07800; } .skip { opacity: .65; }
summary { cursor: pointer; }
";

/// Collects the rows, and writes the page when the run has ended.
pub(crate) struct Html {
    file: File,
    head: String,
    rows: Vec<String>,
    failures: Vec<String>,
    steps: Vec<(String, String)>,
}

impl Html {
    /// Into this file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            head: String::new(),
            rows: Vec::new(),
            failures: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn started(&mut self, run: &RunStarted) {
        self.head += &format!(
            "<p><code>{}</code></p><table>",
            escaped(&run.command.join(" "))
        );
        for set in &run.sets {
            let tools = set
                .tools
                .iter()
                .map(|(kind, tool)| format!("{kind} {}", tool.version))
                .collect::<Vec<_>>();
            self.head += &format!(
                "<tr><th>set {}<td>{}",
                escaped(&set.name),
                escaped(&tools.join(", "))
            );
        }
        self.head += &format!(
            "<tr><th>system<td>{}<tr><th>seed<td>{}</table>",
            escaped(&run.system),
            run.seed
        );
    }

    fn row(&mut self, instance: &InstanceInfo, verdict: Verdict, time: &str, why: &str) {
        self.rows.push(format!(
            "<tr><td class={}>{}<td>{}<td><code>{}</code><br>{}<td>{}\n",
            class(verdict),
            escaped(verdict.word()),
            escaped(time),
            escaped(&instance.id),
            escaped(&instance.description),
            escaped(why),
        ));
    }

    fn finished(&mut self, outcome: &Outcome) {
        let why = outcome
            .skip()
            .map(ToString::to_string)
            .or_else(|| outcome.note.clone())
            .unwrap_or_default();
        self.row(
            &outcome.instance,
            outcome.verdict,
            &duration(outcome.elapsed),
            &why,
        );
        let id = &outcome.instance.id;
        if outcome.verdict.is_failure() {
            let block = failure::block(outcome, Palette::new(false));
            let steps: String = self
                .steps
                .iter()
                .filter(|(of, _)| of == id)
                .map(|(_, step)| format!("<li>{}", escaped(step)))
                .collect();
            let steps = if steps.is_empty() {
                steps
            } else {
                format!("<ol>{steps}</ol>")
            };
            self.failures.push(format!(
                "<details open><summary class=fail>{} {}</summary>{steps}<pre>{}</pre></details>\n",
                escaped(outcome.verdict.word()),
                escaped(id),
                escaped(block.trim()),
            ));
        }
        self.steps.retain(|(of, _)| of != id);
    }

    fn write(&mut self, end: &Summary) -> io::Result<()> {
        let counts = summary::counts(end, Palette::new(false));
        writeln!(
            self.file,
            "<!doctype html><html lang=en><meta charset=utf-8><title>iotests: {}</title>",
            escaped(&counts)
        )?;
        writeln!(
            self.file,
            "<style>{STYLE}</style><h1>{}</h1>{}",
            escaped(&counts),
            self.head
        )?;
        if !self.failures.is_empty() {
            writeln!(self.file, "<h2>Failures</h2>{}", self.failures.concat())?;
        }
        writeln!(
            self.file,
            "<h2>Instances</h2><table><tr><th>verdict<th>time<th>instance<th>remarks\n{}</table></html>",
            self.rows.concat()
        )
    }
}

impl Reporter for Html {
    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        match event {
            RunEvent::RunStarted(run) => self.started(run),
            RunEvent::InstanceSkipped { instance, reason } => {
                self.row(instance, Verdict::Skip, "", &reason.to_string())
            }
            RunEvent::Case {
                id,
                said: CaseEvent::Step { text, .. },
            } => self.steps.push((id.clone(), text.clone())),
            // What is shown is the last attempt.
            RunEvent::AttemptFailed { id, .. } => self.steps.retain(|(of, _)| of != id),
            RunEvent::InstanceFinished(outcome) => self.finished(outcome),
            RunEvent::RunFinished(end) => self.write(end)?,
            _ => {}
        }
        Ok(())
    }
}

const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Skip => "skip",
        verdict if verdict.is_failure() => "fail",
        _ => "other",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_case_says_cannot_become_markup() {
        assert_eq!(escaped("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
