//! TAP version 14: one line for each instance, what explains a failure as YAML below it.

use serde::Serialize;

use super::failure;
use super::story::Story;
use super::text::indented;
use crate::runner::event::Outcome;
use crate::runner::verdict::Verdict;

/// The report of a run; the plan stands at its end.
pub(crate) fn tap(story: &Story) -> String {
    let mut text = "TAP version 14\n".to_owned();
    for note in &story.notes {
        text += &format!("# {}\n", one_line(note));
    }
    for (index, row) in story.rows.iter().enumerate() {
        text += &point(index + 1, &row.outcome);
    }
    text += &format!("1..{}\n", story.rows.len());
    text
}

fn point(number: usize, outcome: &Outcome) -> String {
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
    // A known failure is `not ok` with TODO; all readers count it as no failure.
    let ok = !outcome.verdict.is_failure()
        && !matches!(
            outcome.verdict,
            Verdict::ExpectedFail | Verdict::Quarantined
        );
    let not = if ok { "" } else { "not " };
    let id = escaped(&outcome.instance.id);
    format!("{not}ok {number} - {id}{directive}\n{}", yaml(outcome))
}

/// `#` and `\` have a meaning in descriptions.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('#', r"\#")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn yaml(outcome: &Outcome) -> String {
    let mut text = "  ---\n".to_owned();
    let failed = outcome.last().filter(|_| outcome.verdict.is_failure());
    if let Some(attempt) = failed {
        text += &format!("  message: {}\n", quoted(&attempt.headline));
    }
    text += &format!("  verdict: {}\n", quoted(&outcome.verdict));
    text += &format!("  duration_ms: {}\n", outcome.elapsed.as_millis());
    text += &format!("  at: {}\n", quoted(&outcome.instance.place.to_string()));
    if !outcome.not_run.is_empty() {
        text += &format!("  not_run: {}\n", quoted(&outcome.not_run));
    }
    if let Some(attempt) = failed {
        text += &format!("  rerun: {}\n  details: |\n", quoted(&outcome.rerun));
        text += &indented(&printable(&failure::attempt_text(attempt)), "    ");
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
