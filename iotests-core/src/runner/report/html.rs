//! One page for a browser, without anything from elsewhere: counts, failures in full, a line for every instance.

use super::story::{Row, Story};
use super::text::duration;
use super::{Palette, failure, summary};
use crate::runner::event::{Outcome, RunStarted};
use crate::runner::verdict::Verdict;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25em .6em; border-bottom: 1px solid var(--line); vertical-align: top; }
pre { overflow-x: auto; padding: .8em; border: 1px solid var(--line); border-radius: 6px; } code, pre { font: 13px/1.4 ui-monospace, monospace; }
.pass { color: #2a8a3a; } .fail { color: #d0342c; font-weight: 600; } .other { color: #b07800; } .skip { opacity: .65; }
summary { cursor: pointer; }
";

/// The page of a run.
pub(crate) fn html(story: &Story) -> String {
    let counts = escaped(&summary::counts(&story.summary, Palette::new(false)));
    let head = story.run.as_ref().map(head).unwrap_or_default();
    let failed = story
        .rows
        .iter()
        .filter(|row| row.outcome.verdict.is_failure());
    let failures: String = failed.map(failure).collect();
    let failures = match failures.is_empty() {
        true => failures,
        false => format!("<h2>Failures</h2>\n{failures}\n"),
    };
    let rows: String = story.rows.iter().map(|row| line(&row.outcome)).collect();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>iotests: {counts}</title>\n\
         <style>{STYLE}</style><h1>{counts}</h1>{head}\n{failures}\
         <h2>Instances</h2><table><tr><th>verdict<th>time<th>instance<th>remarks\n{rows}</table></html>\n"
    )
}

fn head(run: &RunStarted) -> String {
    let mut head = format!(
        "<p><code>{}</code></p><table>",
        escaped(&run.command.join(" "))
    );
    for set in &run.sets {
        let tools: Vec<String> = set
            .tools
            .iter()
            .map(|(kind, tool)| format!("{kind} {}", tool.version))
            .collect();
        let (name, tools) = (escaped(&set.name), escaped(&tools.join(", ")));
        head += &format!("<tr><th>set {name}<td>{tools}");
    }
    let system = escaped(&run.system);
    head + &format!(
        "<tr><th>system<td>{system}<tr><th>seed<td>{}</table>",
        run.seed
    )
}

fn line(outcome: &Outcome) -> String {
    let mut why = match (outcome.skip(), &outcome.note, outcome.last()) {
        (Some(skip), _, _) => skip.to_string(),
        (None, Some(note), _) => note.clone(),
        (None, None, Some(last)) => last.headline.clone(),
        (None, None, None) => String::new(),
    };
    for reason in &outcome.not_run {
        let gap = if why.is_empty() { "" } else { "; " };
        why += &format!("{gap}part not run: {reason}");
    }
    let time = match outcome.elapsed.is_zero() {
        true => String::new(),
        false => duration(outcome.elapsed),
    };
    format!(
        "<tr><td class={}>{}<td>{}<td><code>{}</code><br>{}<td>{}\n",
        class(outcome.verdict),
        escaped(outcome.verdict.word()),
        escaped(&time),
        escaped(&outcome.instance.id),
        escaped(&outcome.instance.description),
        escaped(&why),
    )
}

fn failure(row: &Row) -> String {
    let outcome = &row.outcome;
    let block = failure::block(outcome, Palette::new(false));
    let steps: String = row
        .steps
        .iter()
        .map(|step| format!("<li>{}", escaped(step)))
        .collect();
    let steps = match steps.is_empty() {
        true => steps,
        false => format!("<ol>{steps}</ol>"),
    };
    format!(
        "<details open><summary class=fail>{} {}<br>{}</summary>{steps}<pre>{}</pre></details>\n",
        escaped(outcome.verdict.word()),
        escaped(&outcome.instance.id),
        escaped(outcome.last().map_or("", |last| &last.headline)),
        escaped(block.trim()),
    )
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
