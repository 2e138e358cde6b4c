//! The table of bugs, the cases that found them, and times.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::bugs::Bug;
use super::cases::Ran;
use crate::cargo::XtaskError;

#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    /// Instances that fail without any bug.
    red: Vec<(String, String)>,
}

/// The result for a bug.
#[derive(Debug)]
pub(super) struct Row {
    id: String,
    what: String,
    /// Includes the build, if the bug has its own.
    elapsed: Duration,
    outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// These instances failed, of so many that pass without the bug.
    Found {
        found: Vec<Ran>,
        ran: usize,
    },
    Missed {
        ran: usize,
    },
    /// No instance that ran passes without the bug.
    NothingGreen,
    /// Nothing failed within this many seconds, and not all had ended.
    Unfinished(u64),
    /// The end of the build's output.
    NotBuilt(String),
    Stopped,
}

impl Row {
    pub(super) fn new(bug: &Bug, elapsed: Duration, outcome: Outcome) -> Row {
        Row {
            id: bug.id.clone(),
            what: bug.what.clone(),
            elapsed,
            outcome,
        }
    }

    pub(super) fn in_a_word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Found { .. } => "found",
            Outcome::Missed { .. } => "missed",
            Outcome::NothingGreen => "nothing-green",
            Outcome::Unfinished(_) => "unfinished",
            Outcome::NotBuilt(_) => "not-built",
            Outcome::Stopped => "stopped",
        }
    }

    /// The cases that found it, each with the number of its instances that did, and the result of
    /// the first of them.
    fn cases(&self) -> BTreeMap<&str, (usize, &str)> {
        let mut cases = BTreeMap::new();
        if let Outcome::Found { found, .. } = &self.outcome {
            for ran in found {
                let first = (0, ran.verdict.as_str());
                cases.entry(ran.case.as_str()).or_insert(first).0 += 1;
            }
        }
        cases
    }

    /// The time from the start of the run until the first case found it.
    fn first(&self) -> Option<Duration> {
        match &self.outcome {
            Outcome::Found { found, .. } => found.iter().map(|ran| ran.after).min(),
            _ => None,
        }
    }

    fn found_by(&self) -> String {
        match &self.outcome {
            Outcome::Found { .. } => {
                let cases = self.cases().into_iter();
                let cases = cases.map(|(case, (count, verdict))| match verdict {
                    "fail" => format!("`{case}` ({count})"),
                    verdict => format!("`{case}` ({count}, {verdict})"),
                });
                cases.collect::<Vec<_>>().join(", ")
            }
            Outcome::Missed { ran } => format!("**nothing**, of {ran}"),
            Outcome::NothingGreen => "no case is green without it".to_owned(),
            Outcome::Unfinished(time) => format!("nothing in {time} s, and not all had ended"),
            Outcome::NotBuilt(_) => "does not build".to_owned(),
            Outcome::Stopped => "stopped".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let mut row = json!({
            "id": self.id,
            "what": self.what,
            "outcome": self.in_a_word(),
            "elapsed": self.elapsed.as_secs_f64(),
            "first": self.first().map(|first| first.as_secs_f64()),
        });
        match &self.outcome {
            Outcome::Found { found, ran } => {
                let found = found.iter().map(|ran| {
                    json!({
                        "id": ran.id, "case": ran.case, "verdict": ran.verdict,
                        "headline": ran.headline, "after": ran.after.as_secs_f64(),
                    })
                });
                row["found"] = found.collect();
                row["ran"] = (*ran).into();
            }
            Outcome::Missed { ran } => row["ran"] = (*ran).into(),
            Outcome::NotBuilt(output) => row["output"] = output.as_str().into(),
            Outcome::NothingGreen | Outcome::Unfinished(_) | Outcome::Stopped => {}
        }
        row
    }
}

impl Report {
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn red_without_any_bug(&mut self, ran: &Ran) {
        self.red.push((ran.id.clone(), ran.headline.clone()));
    }

    pub(super) fn is_stopped(&self) -> bool {
        let stopped = |row: &Row| matches!(row.outcome, Outcome::Stopped);
        self.rows.iter().any(stopped)
    }

    /// Whether each bug was found or missed, by cases that all pass without it.
    pub(super) fn is_complete(&self) -> bool {
        let known = |row: &Row| matches!(row.in_a_word(), "found" | "missed");
        self.red.is_empty() && self.rows.iter().all(known)
    }

    pub(super) fn summary(&self) -> String {
        let count = |word: &str| self.rows.iter().filter(|r| r.in_a_word() == word).count();
        let of = self.rows.len();
        let mut text = format!(
            "{} of {of} found, {} missed",
            count("found"),
            count("missed")
        );
        let other = of - count("found") - count("missed");
        if other > 0 {
            let _ = write!(text, ", {other} not measured");
        }
        text.push('\n');
        for row in &self.rows {
            if let Outcome::NotBuilt(output) = &row.outcome {
                let _ = writeln!(text, "{} does not build:\n{output}", row.id);
            }
        }
        for (id, headline) in &self.red {
            let _ = writeln!(
                text,
                "red without any bug, and so not counted: {id}: {headline}"
            );
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "| bug | what was broken | found by | first after | all in |\n|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
            let first = row.first().map(|first| format!("{:.1} s", first.as_secs_f64()));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.0} s |",
                row.id,
                cell(&row.what),
                cell(&row.found_by()),
                first.unwrap_or_default(),
                row.elapsed.as_secs_f64(),
            );
        }
        text
    }

    /// Writes both forms.
    pub(super) fn write(&self, out: &Path) -> Result<(), XtaskError> {
        let red = self.red.iter().map(|(id, why)| json!({"id": id, "headline": why}));
        let json = json!({
            "bugs": self.rows.iter().map(Row::json).collect::<Value>(),
            "red_without_any_bug": red.collect::<Value>(),
        });
        let page = format!("{}\n{}", self.markdown(), self.summary());
        for (name, text) in [
            ("sharpness.md", page),
            ("sharpness.json", format!("{json:#}\n")),
        ] {
            let path = out.join(name);
            fs::write(&path, text).map_err(XtaskError::file("write", &path))?;
        }
        Ok(())
    }
}
