//! A self-contained HTML page: `page.js` draws it from data embedded in it.
//!
//! What cases and processes print is data, never markup: it is embedded as JSON, and the script
//! inserts it as text. The page's security policy allows no other script and no fetching. Each
//! instance's details are in a block of their own, parsed on demand, so that 10,000 instances open
//! as fast as ten.

mod detail;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::cause::{self, causes};
use super::story::{Row, Story};
use super::text::{bytes, duration, slow, visible};
use super::{Palette, summary};
use crate::runner::event::{InstanceInfo, RunStarted};
use crate::runner::verdict::Verdict;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const BODY: &str = include_str!("page.html");

/// Everything the page shows at first. Lists refer to each other by index.
#[derive(Serialize)]
struct Index<'s> {
    counts: String,
    begun: Option<u64>,
    elapsed: u64,
    notes: Vec<String>,
    verdicts: Vec<(&'static str, &'static str, &'static str)>,
    cases: Vec<Case<'s>>,
    formats: Vec<String>,
    sets: Vec<&'s str>,
    lanes: Vec<String>,
    rows: Vec<Line>,
    causes: Vec<(String, Vec<usize>)>,
    skips: Vec<(String, usize)>,
    parts: Vec<(String, usize)>,
    facts: Vec<Table>,
}

/// Name, description, place, upstream ids, groups.
type Case<'s> = (&'s str, String, String, String, Vec<String>);

/// A title, and labels with values.
type Table = (String, Vec<(String, String)>);

/// Case, rest of the id after its name, verdict, milliseconds, format, set, remark, attempts, lane
/// with start and end.
type Line = (
    usize,
    String,
    usize,
    u64,
    Option<usize>,
    usize,
    String,
    usize,
    Option<(usize, u64, u64)>,
);

/// Writes the page. Files below `beside`, the page's folder, are linked relative to it.
pub(crate) fn write(story: &Story, beside: &Path, out: &mut dyn Write) -> io::Result<()> {
    let sum = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; base-uri 'none'; form-action 'none'; \
         style-src 'sha256-{}'; script-src 'sha256-{}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>iotests</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n{BODY}",
        sum(STYLE),
        sum(SCRIPT),
    )?;
    for (number, row) in story.rows.iter().enumerate() {
        if let Some(detail) = detail::of(row, beside) {
            block(out, &format!("d{number}"), &detail)?;
        }
    }
    block(out, "index", &index(story))?;
    write!(out, "<script>{SCRIPT}</script>\n</body>\n</html>\n")
}

/// Embeds data as a block that no character in it can end.
fn block(out: &mut dyn Write, id: &str, data: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(data)?.replace('<', "\\u003c");
    writeln!(
        out,
        "<script type=\"application/json\" id=\"{id}\">{text}</script>"
    )
}

/// Numbers distinct values.
#[derive(Default)]
struct Numbers<T> {
    known: BTreeMap<T, usize>,
    all: Vec<T>,
}

impl<T: Ord + Clone> Numbers<T> {
    fn of(&mut self, value: T) -> usize {
        let next = self.all.len();
        *self.known.entry(value).or_insert_with_key(|value| {
            self.all.push(value.clone());
            next
        })
    }
}

fn index(story: &Story) -> Index<'_> {
    let mut names = Numbers::default();
    let mut cases: Vec<Case<'_>> = Vec::new();
    let (mut formats, mut sets) = (Numbers::default(), Numbers::default());
    let mut lanes = Numbers::default();
    for row in &story.rows {
        if let Some(ran) = row.ran {
            lanes.of((ran.run, ran.slot));
        }
    }
    // Lanes are drawn in this order.
    lanes.all.sort_unstable();
    let place = |lane| lanes.all.iter().position(|known| *known == lane);
    let rows = story.rows.iter().map(|row| {
        let outcome = &row.outcome;
        let instance = &outcome.instance;
        let number = names.of(instance.case.as_str());
        if number == cases.len() {
            cases.push(case(instance));
        }
        let suffix = instance.id.strip_prefix(instance.case.as_str());
        let format = instance.point.as_ref().map(|point| {
            let name = point.format.to_string();
            formats.of(name)
        });
        let lane = row.ran.and_then(|ran| {
            let lane = place((ran.run, ran.slot))?;
            Some((lane, millis(ran.from), millis(ran.to)))
        });
        let verdict = Verdict::ALL.iter().position(|it| *it == outcome.verdict);
        (
            number,
            suffix.map_or_else(|| format!("={}", instance.id), str::to_owned),
            verdict.unwrap_or_default(),
            millis(outcome.elapsed),
            format,
            sets.of(instance.set.as_str()),
            visible(&remark(row)),
            outcome.attempts.len(),
            lane,
        )
    });
    let rows: Vec<Line> = rows.collect();
    let lane = |(run, slot): &(usize, u16)| match story.runs.len() {
        0 | 1 => format!("{slot}"),
        _ => format!("{}: {slot}", run + 1),
    };
    let failed = story.rows.iter().enumerate();
    let failed = failed.filter(|(_, row)| row.outcome.verdict.is_failure());
    let groups = causes(failed.map(|(number, row)| (number, &row.outcome)));
    let groups = groups.into_iter();
    let skips = &story.summary.skips;
    Index {
        counts: summary::counts(&story.summary, Palette::new(false)),
        begun: story.run().map(|run| run.started),
        elapsed: millis(story.summary.elapsed),
        notes: story.notes.iter().map(|note| visible(note)).collect(),
        verdicts: Verdict::ALL.iter().map(|it| verdict(*it)).collect(),
        lanes: lanes.all.iter().map(lane).collect(),
        rows,
        cases,
        formats: formats.all,
        sets: sets.all,
        causes: groups.map(|cause| (visible(&cause.headline), cause.failed)).collect(),
        skips: skips.iter().map(|(skip, count)| (visible(&skip.to_string()), *count)).collect(),
        parts: story.summary.parts.iter().map(|(part, count)| (visible(part), *count)).collect(),
        facts: story.runs.iter().flat_map(facts).collect(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn case(instance: &InstanceInfo) -> Case<'_> {
    let groups = instance.point.as_ref().map(|point| point.groups.clone());
    (
        &instance.case,
        visible(&instance.description),
        instance.place.to_string(),
        instance.upstream.join(" "),
        groups.unwrap_or_default(),
    )
}

/// A verdict's word, its word in counts, and its style.
fn verdict(verdict: Verdict) -> (&'static str, &'static str, &'static str) {
    let kind = match verdict {
        Verdict::Pass => "pass",
        Verdict::Skip => "skip",
        verdict if verdict.is_failure() => "fail",
        _ => "other",
    };
    (verdict.word(), verdict.counted(), kind)
}

/// An instance's remark in the list.
fn remark(row: &Row) -> String {
    let outcome = &row.outcome;
    let mut remark = match (outcome.skip(), outcome.verdict.is_failure(), &outcome.note) {
        (Some(skip), _, _) => skip.to_string(),
        (None, false, Some(note)) => note.clone(),
        _ => cause::headline(outcome).to_owned(),
    };
    let parts = outcome.not_run.iter();
    let parts = parts.map(|reason| format!("part not run: {reason}"));
    for more in parts.chain(slow(outcome)) {
        let gap = if remark.is_empty() { "" } else { "; " };
        remark += &format!("{gap}{more}");
    }
    remark
}

/// The circumstances of a run.
fn facts(run: &RunStarted) -> Vec<Table> {
    let host = &run.host;
    let mut facts = vec![
        ("command", run.command.join(" ")),
        ("system", run.system.clone()),
        ("processors", host.processors.to_string()),
        ("memory", bytes(host.memory)),
        ("user", host.user.clone()),
        ("file system", host.file_system.clone()),
        ("directories", run.run_dir.display().to_string()),
        ("TMPDIR", host.temporary.display().to_string()),
        ("at once, at most", run.jobs.to_string()),
        ("deadlines", format!("× {}", run.scale)),
        ("seed", run.seed.to_string()),
    ];
    if let Some(shard) = &run.shard {
        facts.push(("partition", shard.to_string()));
    }
    let known: Duration = run.expected.values().sum();
    if !known.is_zero() {
        facts.push(("expected time", duration(known)));
    }
    let variables = &host.variables;
    facts.extend(variables.iter().map(|(name, value)| (&**name, value.clone())));
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let facts = facts.map(|(label, value)| (label.to_owned(), visible(&value)));
    let mut tables = vec![("run".to_owned(), facts.collect())];
    for set in &run.sets {
        let tools = set.tools.iter().map(|(kind, tool)| {
            let mut text = format!("{}\n{}", tool.version, tool.path.display());
            if let Some(sum) = &tool.sha256 {
                text += &format!("\nsha256 {sum}");
            }
            (kind.to_string(), visible(&text))
        });
        tables.push((format!("set {}", visible(&set.name)), tools.collect()));
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_data_can_end_its_block() {
        let mut out = Vec::new();
        block(&mut out, "d1", &"</script><!--<script>").unwrap();
        let text = String::from_utf8(out).unwrap();
        let inner = text.split_once('>').unwrap().1;
        let inner = inner.strip_suffix("</script>\n").unwrap();
        assert!(!inner.contains('<'), "{inner}");
        let read: String = serde_json::from_str(inner).unwrap();
        assert_eq!(read, "</script><!--<script>");
    }

    #[test]
    fn the_script_makes_no_markup_of_data() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "DOMParser",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }
}
