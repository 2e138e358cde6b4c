//! The block that explains one failure: where it is, what was expected and found, what the
//! processes printed, how to rerun it.

use std::path::Path;

use super::palette::Palette;
use super::text::{bytes, cut, cut_to, duration, head, indented, tail};
use crate::runner::event::Outcome;
use crate::runner::verdict::{Attempt, Evidence, Verdict};
use crate::wire::{Death, FailureReport, Finding, HangReport, MachineReport};

/// Most lines shown of a diff; all of it is in the instance's directory.
const DIFF_LINES: usize = 80;
/// Most lines shown of a process's output.
const TAIL_LINES: usize = 20;
/// Most lines shown of stacks.
const STACK_LINES: usize = 60;
/// Most lines shown of other findings.
const FINDING_LINES: usize = 16;
/// Most lines shown of a failure's message or value.
const MESSAGE_LINES: usize = 60;
/// Most characters shown of such a line.
const VALUE_LINE: usize = 2000;

/// The whole block, ending in a line break. What happened comes first.
pub(crate) fn block(outcome: &Outcome, palette: Palette) -> String {
    let head = format!("{} {}", outcome.verdict, outcome.instance.id);
    let mut text = format!(
        "\n{}\n",
        palette.verdict(outcome.verdict, format!("── {head} ──"))
    );
    let last = outcome.last().map(shortened);
    if let Some(attempt) = &last {
        text += &headline(attempt, palette);
    }
    // A failure of the run as a whole has none of these.
    if !outcome.instance.description.is_empty() {
        text += &format!("  {}\n", outcome.instance.description);
        text += &palette.dim(format!(
            "  {}, set {}\n",
            outcome.instance.place, outcome.instance.set
        ));
    }
    if let Some(note) = &outcome.note {
        text += &format!("  {}\n", palette.warn(note));
    }
    if let Some(attempt) = &last {
        text += &details(attempt, palette);
    }
    if !outcome.stderr_tail.is_empty() {
        text += "  standard error of the case:\n";
        text += &indented(&excerpt(&outcome.stderr_tail), "    | ");
    }
    if !outcome.stdout_tail.is_empty() {
        text += "  standard output of the case:\n";
        text += &indented(&tail(&outcome.stdout_tail, TAIL_LINES), "    | ");
    }
    if let Some(kept) = &outcome.kept {
        text += &format!("  kept in: {}\n", kept.display());
        for attempt in &outcome.attempts {
            text += &evidence_text(attempt, kept);
        }
    }
    if !outcome.rerun.is_empty() {
        text += &format!("  rerun:    {}\n", palette.bold(&outcome.rerun));
    }
    text
}

/// The interesting lines of output: a panic's message rather than the end of its backtrace, else
/// the last lines.
fn excerpt(printed: &str) -> String {
    match printed.rfind(" panicked at ") {
        Some(at) => {
            let start = printed[..at].rfind('\n').map_or(0, |end| end + 1);
            cut(&head(&printed[start..], TAIL_LINES))
        }
        None => tail(printed, TAIL_LINES),
    }
}

/// The files that explain an attempt, with their sizes.
fn evidence_text(attempt: &Attempt, kept: &Path) -> String {
    let Some(folder) = attempt.kept.as_ref() else {
        return String::new();
    };
    let mut text = String::new();
    if folder != kept {
        text += &format!("  an earlier attempt: {}\n", folder.display());
    }
    for evidence in &attempt.evidence {
        let Evidence { path, bytes: size } = evidence;
        if *size > 0 {
            text += &format!("    {path} ({})\n", bytes(*size));
        }
    }
    text
}

/// Truncates long values, lists and lines, which are in the evidence in full.
fn shortened(attempt: &Attempt) -> Attempt {
    let mut attempt = attempt.clone();
    if let Some(failure) = &mut attempt.failure {
        let values = failure.expected.iter_mut().chain(&mut failure.found);
        let texts = values.chain(&mut failure.causes);
        for text in std::iter::once(&mut failure.message).chain(texts) {
            *text = cut_to(&head(text, MESSAGE_LINES), VALUE_LINE);
        }
        failure.diff = failure.diff.take().map(|diff| cut_to(&diff, VALUE_LINE));
    }
    let failed = attempt.failure.iter_mut().map(|one| &mut one.machines);
    let hung = attempt.hang.iter_mut().map(|one| &mut one.machines);
    for machine in failed.chain(hung).flatten() {
        for line in &mut machine.qmp_tail {
            *line = cut(line);
        }
    }
    attempt
}

/// The text about one attempt, shortened for a report: the headline, then the details.
pub(crate) fn attempt_text(attempt: &Attempt) -> String {
    full_text(&shortened(attempt))
}

/// The full text about one attempt.
pub(crate) fn full_text(attempt: &Attempt) -> String {
    let plain = Palette::new(false);
    headline(attempt, plain) + &details(attempt, plain)
}

fn headline(attempt: &Attempt, palette: Palette) -> String {
    match attempt.headline.is_empty() {
        true => String::new(),
        false => format!("  {}\n", palette.bad(&attempt.headline)),
    }
}

/// The details behind the headline.
fn details(attempt: &Attempt, palette: Palette) -> String {
    let mut text = String::new();
    for death in &attempt.deaths {
        text += &death_text(death, &attempt.headline, palette);
    }
    if let Some(hang) = attempt.hang.as_ref().filter(|_| attempt.verdict != Some(Verdict::Pass)) {
        text += &hang_text(hang, palette);
    }
    if let Some(failure) = &attempt.failure {
        text += &failure_text(failure, &attempt.headline, palette);
    }
    if !attempt.leaks.is_empty() {
        text += "  left behind, and killed:\n";
        for leak in &attempt.leaks {
            text += &format!("    {}\n", palette.bad(leak));
        }
    }
    text
}

fn death_text(death: &Death, headline: &str, palette: Palette) -> String {
    let mut text = String::new();
    if death.headline() != headline {
        text += &format!("  {}\n", palette.bad(death.headline()));
    }
    if let Some(step) = &death.step {
        text += &format!("  in step:  {step}\n");
    }
    if let Some(core) = &death.core {
        text += &format!("  core:     {}\n", core.display());
    }
    if !death.backtrace.is_empty() {
        text += "  where it died:\n";
        text += &indented(&head(&death.backtrace, STACK_LINES), "    ");
    }
    text
}

fn failure_text(failure: &FailureReport, headline: &str, palette: Palette) -> String {
    let mut text = String::new();
    if let Some(step) = &failure.step {
        text += &format!("  step:     {step}\n");
    }
    if let Some(place) = &failure.place {
        text += &format!("  at:       {place}\n");
    }
    if let Some(place) = &failure.case_place {
        text += &format!("  from:     {place}\n");
    }
    let more = remainder(&failure.message, headline);
    if !more.is_empty() {
        text += &palette.bad(indented(&more, "  "));
    }
    for cause in &failure.causes {
        text += &indented(&format!("because: {cause}"), "    ");
    }
    // A diff shows both values.
    if let Some(diff) = &failure.diff {
        text += &diff_text(diff, palette);
    } else {
        if let Some(expected) = &failure.expected {
            text += &labelled("expected", &palette.good(expected));
        }
        if let Some(found) = &failure.found {
            text += &labelled("found", &palette.bad(found));
        }
    }
    for machine in &failure.machines {
        text += &machine_text(machine, &failure.message, palette);
    }
    text
}

/// The part of a message that is not in the headline, which was made from its first and last lines.
fn remainder(message: &str, headline: &str) -> String {
    let is_known = |line: &str| headline.contains(line.trim().trim_start_matches("| "));
    let mut lines: Vec<&str> = message.lines().collect();
    if lines.first().is_some_and(|first| is_known(first)) {
        lines.remove(0);
    }
    match lines[..] {
        [line] if is_known(line) => String::new(),
        _ => lines.join("\n"),
    }
}

fn labelled(label: &str, value: &str) -> String {
    if value.contains('\n') {
        format!("  {label}:\n{}", indented(value, "    "))
    } else {
        format!("  {:<9} {value}\n", format!("{label}:"))
    }
}

fn diff_text(diff: &str, palette: Palette) -> String {
    let mut text = String::new();
    for line in diff.lines().take(DIFF_LINES) {
        let painted = match line.as_bytes().first() {
            Some(b'+') => palette.good(line),
            Some(b'-') => palette.bad(line),
            Some(b'@') => palette.dim(line),
            _ => line.to_owned(),
        };
        text += &format!("    {painted}\n");
    }
    let more = diff.lines().count().saturating_sub(DIFF_LINES);
    if more > 0 {
        text += &palette.dim(format!("    … {more} more lines\n"));
    }
    text
}

/// A machine's part of the block, without output that is already in `said`, shown above it.
fn machine_text(machine: &MachineReport, said: &str, palette: Palette) -> String {
    let mut text = format!("  {} {}\n", palette.bold(&machine.name), machine.status);
    if !machine.command_line.is_empty() {
        text += &palette.dim(format!("    $ {}\n", machine.command_line));
    }
    let printed = tail(&machine.stderr_tail, TAIL_LINES);
    if !printed.lines().all(|line| said.contains(line.trim())) {
        text += &indented(&printed, "    | ");
    }
    for line in machine.qmp_tail.iter().rev().take(TAIL_LINES).rev() {
        text += &palette.dim(format!("    {line}\n"));
    }
    for finding in &machine.diagnosis {
        text += &finding_text(finding);
    }
    text
}

/// One finding of a diagnosis, shortened; the evidence has all of it.
fn finding_text(finding: &Finding) -> String {
    let lines = match finding.title.as_str() {
        "stacks" => STACK_LINES,
        _ => FINDING_LINES,
    };
    format!(
        "    {}:\n{}",
        finding.title,
        indented(&cut(&head(&finding.text, lines)), "      ")
    )
}

pub(super) fn hang_text(hang: &HangReport, palette: Palette) -> String {
    let mut text = format!(
        "  {}\n",
        palette.dim(format!(
            "{}; {} after the start",
            hang.cause,
            duration(hang.elapsed)
        ))
    );
    if let Some(step) = &hang.step {
        text += &format!("  step:     {step}\n");
    }
    if let Some(waiting) = &hang.waiting {
        let place = hang.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        text += &format!("  waits:    {waiting}{place}\n");
    }
    for machine in &hang.machines {
        text += &machine_text(machine, "", palette);
    }
    for finding in &hang.evidence {
        text += &finding_text(finding);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_comparison_shows_step_place_and_both_values() {
        let attempt = Attempt {
            failure: Some(FailureReport {
                message: "the length differs".to_owned(),
                step: Some("shrink".to_owned()),
                place: Some(crate::wire::Place {
                    file: "a.rs".to_owned(),
                    line: 7,
                }),
                expected: Some("1".to_owned()),
                found: Some("2\n3".to_owned()),
                diff: Some("@@ x\n-a\n+b\n".to_owned()),
                ..FailureReport::default()
            }),
            ..Attempt::default()
        };
        let text = attempt_text(&attempt);
        let expected = "  step:     shrink\n  at:       a.rs:7\n  the length differs\n    @@ x\n    -a\n    +b\n";
        assert_eq!(text, expected);
        let coloured = details(&attempt, Palette::new(true));
        assert!(
            coloured.contains("\u{1b}[31m-a\u{1b}[0m")
                && coloured.contains("\u{1b}[32m+b\u{1b}[0m"),
            "{coloured:?}"
        );
    }

    #[test]
    fn an_endless_qmp_line_is_cut_in_the_block_only() {
        let line = format!("-> {}", "x".repeat(5000));
        let machine = MachineReport {
            qmp_tail: vec![line.clone()],
            ..MachineReport::default()
        };
        let attempt = Attempt {
            failure: Some(FailureReport {
                machines: vec![machine],
                ..FailureReport::default()
            }),
            ..Attempt::default()
        };
        let short = attempt_text(&attempt);
        assert!(short.contains("x… (5003 bytes)") && !short.contains(&line));
        assert!(full_text(&attempt).contains(&line));
    }

    #[test]
    fn endless_values_are_cut_in_the_block_only() {
        let long = format!("{}\n{}end", "x".repeat(5000), "line\n".repeat(500));
        let attempt = Attempt {
            failure: Some(FailureReport {
                message: long.clone(),
                expected: Some(long.clone()),
                found: Some(long.clone()),
                causes: vec![long.clone()],
                ..FailureReport::default()
            }),
            ..Attempt::default()
        };
        let short = attempt_text(&attempt);
        assert_eq!(short.matches("… (5000 bytes)").count(), 4, "{short}");
        assert_eq!(short.matches("… 442 more lines").count(), 4, "{short}");
        assert_eq!(full_text(&attempt).matches("end\n").count(), 4);
    }

    #[test]
    fn nothing_is_repeated() {
        let headline = "failed to run `qemu-io x`: it exited with status 1: no such file";
        let first = "failed to run `qemu-io x`: it exited with status 1";
        for (message, more) in [
            (headline.to_owned(), ""),
            (format!("{first}\n  | no such file\n"), ""),
            (
                format!("{first}\n  | a\n  | no such file"),
                "  | a\n  | no such file",
            ),
            ("something else".to_owned(), "something else"),
            (String::new(), ""),
        ] {
            assert_eq!(remainder(&message, headline), more, "{message}");
        }
        let machine = MachineReport {
            name: "vm".to_owned(),
            stderr_tail: "one\ntwo\n".to_owned(),
            ..MachineReport::default()
        };
        let text = |said: &str| machine_text(&machine, said, Palette::new(false));
        assert!(text("vm printed:\n  | one").contains("| two"));
        assert!(!text("vm printed:\n  | one\n  | two").contains("| two"));
    }

    #[test]
    fn a_panic_is_shown_from_its_message_on() {
        let frames = "  12: tokio::runtime\n".repeat(40);
        let printed = format!("before\nthread 'main' panicked at a.rs:1:\nboom\n{frames}");
        let shown = excerpt(&printed);
        assert!(shown.starts_with("thread 'main' panicked at a.rs:1:\nboom\n"));
        assert!(shown.ends_with("more lines"), "{shown}");
        assert!(excerpt("a\nb\n").ends_with('b'));
    }

    #[test]
    fn a_long_diff_is_cut_and_says_so() {
        let diff = "+x\n".repeat(DIFF_LINES + 5);
        assert!(diff_text(&diff, Palette::new(false)).ends_with("… 5 more lines\n"));
    }
}
