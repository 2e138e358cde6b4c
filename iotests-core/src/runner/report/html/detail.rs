//! The details of one instance.

use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::super::story::Row;
use super::super::text::{bytes, cut_to, duration, middle_cut, visible};
use crate::runner::verdict::{Attempt, Verdict};
use crate::wire::{HangReport, MachineReport};

/// Most bytes shown of a text, and characters of a line; the kept files have all of it.
const TEXT: usize = 128 << 10;
const LINE: usize = 4000;

#[derive(Serialize)]
pub(super) struct Detail {
    rerun: String,
    note: Option<String>,
    metrics: Vec<String>,
    /// Text, place, time and log of each step.
    steps: Vec<(String, String, u64, String)>,
    attempts: Vec<Try>,
    output: Vec<Section>,
}

#[derive(Serialize)]
struct Try {
    verdict: &'static str,
    headline: String,
    millis: u64,
    sections: Vec<Section>,
    kept: Option<(String, String)>,
    /// Path, address, size.
    files: Vec<(String, String, String)>,
}

/// Title, kind and text.
type Section = (String, &'static str, String);

/// The details of a row; `None` if the list says it all.
pub(super) fn of(row: &Row, beside: &Path) -> Option<Detail> {
    let outcome = &row.outcome;
    if outcome.verdict == Verdict::Skip && row.ran.is_none() {
        return None;
    }
    let step = |step: &super::super::story::Step| {
        let place = step.place.as_ref().map(ToString::to_string);
        (
            visible(&step.text),
            place.unwrap_or_default(),
            super::millis(step.after),
            visible(&step.log),
        )
    };
    let mut output = Vec::new();
    for (title, text) in [
        ("standard error of the case", &outcome.stderr_tail),
        ("standard output of the case", &outcome.stdout_tail),
    ] {
        section(&mut output, title, "text", text);
    }
    let metric =
        |one: &crate::runner::event::Metric| format!("{} = {} {}", one.name, one.value, one.unit);
    // A passed attempt has nothing to show but its steps.
    let attempts = outcome
        .attempts
        .iter()
        .filter(|one| one.verdict != Some(Verdict::Pass) || one.kept.is_some());
    Some(Detail {
        rerun: visible(&outcome.rerun),
        note: outcome.note.as_deref().map(visible),
        metrics: outcome.metrics.iter().map(metric).collect(),
        steps: row.steps.iter().map(step).collect(),
        attempts: attempts.map(|one| attempt(one, beside)).collect(),
        output,
    })
}

fn attempt(attempt: &Attempt, beside: &Path) -> Try {
    let mut sections = Vec::new();
    section(&mut sections, "what happened", "text", &happened(attempt));
    if let Some(failure) = &attempt.failure {
        match &failure.diff {
            Some(diff) => section(&mut sections, "difference", "diff", diff),
            None => {
                for (title, text) in [("expected", &failure.expected), ("found", &failure.found)] {
                    section(
                        &mut sections,
                        title,
                        "text",
                        text.as_deref().unwrap_or_default(),
                    );
                }
            }
        }
        machines(&mut sections, &failure.machines);
    }
    for death in &attempt.deaths {
        let title = format!("where {} died", death.name);
        section(&mut sections, &title, "text", &death.backtrace);
    }
    if let Some(hang) = attempt.hang.as_ref().filter(|_| attempt.verdict != Some(Verdict::Pass)) {
        hung(&mut sections, hang);
    }
    let kept = attempt.kept.as_deref();
    let link = |path: &Path| (path.display().to_string(), address(path, beside));
    let file = |kept: &Path, file: &crate::runner::verdict::Evidence| {
        let address = address(&kept.join(&file.path), beside);
        (visible(&file.path), address, bytes(file.bytes))
    };
    Try {
        verdict: attempt.verdict.map_or("", Verdict::word),
        headline: visible(&attempt.headline),
        millis: super::millis(attempt.elapsed),
        sections,
        kept: kept.map(link),
        files: kept.map_or_else(Vec::new, |kept| {
            attempt.evidence.iter().map(|one| file(kept, one)).collect()
        }),
    }
}

/// Where and how it failed, without what has its own section.
fn happened(attempt: &Attempt) -> String {
    let mut lines = Vec::new();
    for death in &attempt.deaths {
        lines.push(death.headline());
        lines.extend(death.step.iter().map(|step| format!("in step: {step}")));
        lines.extend(death.core.iter().map(|core| format!("core: {}", core.display())));
    }
    if let Some(failure) = &attempt.failure {
        lines.extend(failure.step.iter().map(|step| format!("step: {step}")));
        lines.extend(failure.place.iter().map(|place| format!("at: {place}")));
        lines.extend(failure.case_place.iter().map(|place| format!("from: {place}")));
        if failure.message != attempt.headline {
            lines.push(failure.message.clone());
        }
        lines.extend(failure.causes.iter().map(|cause| format!("because: {cause}")));
    }
    lines.extend(attempt.leaks.iter().map(|leak| format!("left behind, and killed: {leak}")));
    lines.join("\n")
}

fn hung(sections: &mut Vec<Section>, hang: &HangReport) {
    let mut text = format!(
        "{}\n{}, after {}\n",
        hang.headline,
        hang.cause,
        duration(hang.elapsed)
    );
    if let Some(waiting) = &hang.waiting {
        let place = hang.place.as_ref().map(|place| format!(" ({place})"));
        text += &format!("waits: {waiting}{}\n", place.unwrap_or_default());
    }
    section(sections, "what it waited for", "text", &text);
    machines(sections, &hang.machines);
    for finding in &hang.evidence {
        section(sections, &finding.title, "text", &finding.text);
    }
}

fn machines(sections: &mut Vec<Section>, machines: &[MachineReport]) {
    for machine in machines {
        let name = &machine.name;
        let text = format!("{name} {}\n$ {}\n", machine.status, machine.command_line);
        section(sections, name, "text", &text);
        section(
            sections,
            &format!("QMP of {name}"),
            "qmp",
            &machine.qmp_tail.join("\n"),
        );
        section(
            sections,
            &format!("what {name} printed"),
            "text",
            &machine.stderr_tail,
        );
        for finding in &machine.diagnosis {
            section(
                sections,
                &format!("{} of {name}", finding.title),
                "text",
                &finding.text,
            );
        }
    }
}

fn section(sections: &mut Vec<Section>, title: &str, kind: &'static str, text: &str) {
    let text = text.trim_end();
    if !text.is_empty() {
        let text = middle_cut(&cut_to(text, LINE), TEXT);
        sections.push((visible(title), kind, visible(&text)));
    }
}

/// Characters to escape in a URL: those with a meaning, and those a browser might take for its end.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The URL of a file for a page in the folder `beside`.
fn address(path: &Path, beside: &Path) -> String {
    let escaped = |path: &Path| utf8_percent_encode(&path.to_string_lossy(), ESCAPED).to_string();
    match path.strip_prefix(beside) {
        Ok(path) => format!("./{}", escaped(path)),
        Err(_) => format!("file://{}", escaped(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_linked_from_where_the_page_is() {
        let beside = Path::new("/ci/out");
        let of = |path: &str| address(Path::new(path), beside);
        assert_eq!(of("/ci/out/runs/1/a b#1"), "./runs/1/a%20b%231");
        assert_eq!(of("/ci/javascript:x"), "file:///ci/javascript%3Ax");
        assert_eq!(of("/ci/out/javascript:x"), "./javascript%3Ax");
    }
}
