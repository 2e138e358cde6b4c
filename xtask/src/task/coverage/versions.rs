//! docs/versions.md: which cases end differently on different versions of QEMU, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// How one instance ended with one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    verdict: String,
    reason: Option<String>,
}

/// The instances of all runs, by case, by point of the matrix, and by version.
#[derive(Debug, Default)]
pub(super) struct Differences {
    ended: BTreeMap<String, BTreeMap<String, BTreeMap<Version, Ended>>>,
}

/// A version that sorts numerically.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<u64>, String);

impl Version {
    pub(super) fn new(text: &str) -> Self {
        let numbers = text.split('.').filter_map(|part| part.parse().ok());
        Self(numbers.collect(), text.to_owned())
    }

    pub(super) fn text(&self) -> &str {
        &self.1
    }
}

/// The parts of an id without its set and its repetition:
/// `module::case/row@qcow2.system.set=7.2.22#2`.
pub(super) fn name_and_point(id: &str) -> (&str, &str) {
    let (name, point) = id.split_once('@').unwrap_or((id, ""));
    let point = point.split_once('#').map_or(point, |(point, _)| point);
    let point = point.split_once("set=").map_or(point, |(point, _)| point);
    (name, point.trim_end_matches('.'))
}

impl Differences {
    /// Adds an event of a run, given the versions of its sets.
    pub(super) fn add(&mut self, event: &Value, versions: &BTreeMap<String, String>) {
        let ended = match event["event"].as_str() {
            Some("instance-finished") => Ended {
                verdict: event["verdict"].as_str().unwrap_or("unknown").to_owned(),
                reason: reason_of_end(event),
            },
            Some("instance-skipped") => Ended {
                verdict: "skip".to_owned(),
                reason: Some(reason_of_skip(&event["reason"])),
            },
            _ => return,
        };
        let instance = &event["instance"];
        let text = |key: &str| instance[key].as_str().unwrap_or_default();
        let set = text("set");
        let version = Version::new(versions.get(set).map_or(set, String::as_str));
        let id = text("id");
        let (name, point) = name_and_point(id);
        let point = format!("{name}@{point}");
        let of_case = self.ended.entry(text("case").to_owned()).or_default();
        let known = of_case.entry(point).or_default();
        // The programs of the host may be an incomplete set of a version that is also provisioned.
        if ended.verdict != "skip" || !known.contains_key(&version) {
            known.insert(version, ended);
        }
    }

    /// The page.
    pub(super) fn render(&self) -> String {
        let points = || self.ended.values().flat_map(BTreeMap::values);
        let versions: BTreeSet<&Version> = points().flat_map(BTreeMap::keys).collect();
        let mut text = String::from(
            "# What differs between versions of QEMU\n\n\
             Written by `cargo xtask coverage` from runs on every set of QEMU programs at hand; do not\n\
             edit. A case that is not here passed with all of them, at every point of the matrix that these\n\
             runs had. The number is that of the instances (rows, formats, backends) to which a line\n\
             applies.\n\n| case | instances |",
        );
        for version in &versions {
            let _ = write!(text, " {} |", version.text());
        }
        let columns = versions.len() + 2;
        let _ = writeln!(text, "\n|{}", "---|".repeat(columns));
        let mut reasons: BTreeSet<(&str, &str, String)> = BTreeSet::new();
        for (case, points) in &self.ended {
            let mut lines: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
            for ended in points.values() {
                let verdicts: Vec<&str> = versions
                    .iter()
                    .map(|version| ended.get(version).map_or("", |one| one.verdict.as_str()))
                    .collect();
                if verdicts.iter().all(|verdict| ["", "pass", "flaky"].contains(verdict)) {
                    continue;
                }
                *lines.entry(verdicts).or_default() += 1;
                for (version, one) in ended {
                    if let Some(reason) = &one.reason {
                        reasons.insert((
                            case,
                            &one.verdict,
                            format!("{}: {reason}", version.text()),
                        ));
                    }
                }
            }
            for (verdicts, count) in lines {
                let _ = writeln!(text, "| `{case}` | {count} | {} |", verdicts.join(" | "));
            }
        }
        text += "\n## Reasons\n";
        let mut last = None;
        for (case, verdict, reason) in reasons {
            if last.replace(case) != Some(case) {
                let _ = writeln!(text, "\n`{case}`\n");
            }
            let _ = writeln!(text, "- {verdict}, {reason}");
        }
        text
    }
}

/// Why it did not simply pass: what is known about it, or the headline of its failure.
pub(super) fn reason_of_end(event: &Value) -> Option<String> {
    if matches!(event["verdict"].as_str(), Some("pass" | "flaky")) {
        return None;
    }
    let attempts = event["attempts"].as_array();
    let last = attempts.and_then(|all| all.last());
    let headline = last.and_then(|one| one["headline"].as_str());
    let skipped = last.map(|one| &one["skip"]).filter(|skip| skip.is_object());
    let text = event["note"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| headline.map(str::to_owned))
        .or_else(|| skipped.map(reason_of_skip))?;
    Some(cell(&text))
}

/// The kind of a skip and its subject.
pub(super) fn reason_of_skip(reason: &Value) -> String {
    let mut words = Vec::new();
    for value in reason.as_object().into_iter().flat_map(|all| all.values()) {
        match value {
            Value::String(text) => words.push(text.clone()),
            Value::Array(all) => {
                words.extend(all.iter().filter_map(|one| one.as_str().map(str::to_owned)));
            }
            _ => {}
        }
    }
    cell(&words.join(" "))
}

/// A text for a table cell, without paths of the machine that made the run.
fn cell(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.contains("/runs/run-") {
        true => "TEST_DIR",
        false => word,
    });
    words.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_name_and_a_point_and_is_the_same_in_each_repetition() {
        let parts = |id: &'static str| name_and_point(id);
        assert_eq!(parts("a::b/c@qcow2.system"), ("a::b/c", "qcow2.system"));
        assert_eq!(parts("a@raw.qsd.set=7.2.22#2"), ("a", "raw.qsd"));
        assert_eq!(parts("upstream::040@qcow2#12"), ("upstream::040", "qcow2"));
        assert_eq!(parts("a"), ("a", ""));
    }

    #[test]
    fn a_reason_names_no_place_of_the_machine_where_the_run_was() {
        let reason = json!({"kind": "by-case", "why": "a|b on /home/me/iotests/runs/run-1-x/58-upstream/test is no good"});
        assert_eq!(
            reason_of_skip(&reason),
            "by-case a\\|b on TEST_DIR is no good"
        );
    }

    use serde_json::json;

    fn finished(case: &str, point: &str, set: &str, verdict: &str, note: Option<&str>) -> Value {
        json!({"event": "instance-finished", "verdict": verdict, "note": note, "attempts": [],
            "instance": {"id": format!("{case}@{point}.set={set}"), "case": case, "set": set}})
    }

    fn page(events: &[Value]) -> String {
        let versions = ["7.2.22", "10.0.2"].map(|name| (name.to_owned(), name.to_owned()));
        let mut differences = Differences::default();
        for event in events {
            differences.add(event, &versions.clone().into());
        }
        differences.render()
    }

    #[test]
    fn what_ends_alike_everywhere_is_left_out_and_the_rest_has_its_reason() {
        let text = page(&[
            finished("a::same", "qcow2", "7.2.22", "pass", None),
            finished("a::same", "qcow2", "10.0.2", "pass", None),
            finished(
                "a::bug",
                "qcow2",
                "7.2.22",
                "expected-fail",
                Some("it aborts"),
            ),
            finished("a::bug", "qcow2", "10.0.2", "pass", None),
            finished(
                "a::bug",
                "raw",
                "7.2.22",
                "expected-fail",
                Some("it aborts"),
            ),
            finished("a::bug", "raw", "10.0.2", "pass", None),
        ]);
        assert!(!text.contains("a::same"), "{text}");
        assert!(
            text.contains("| case | instances | 7.2.22 | 10.0.2 |"),
            "{text}"
        );
        assert!(
            text.contains("| `a::bug` | 2 | expected-fail | pass |"),
            "{text}"
        );
        assert!(
            text.ends_with("`a::bug`\n\n- expected-fail, 7.2.22: it aborts\n"),
            "{text}"
        );
    }

    #[test]
    fn a_skip_of_a_set_without_an_emulator_gives_way_to_a_whole_one_of_the_version() {
        let skipped = json!({"event": "instance-skipped",
            "instance": {"id": "a::b@qcow2.system", "case": "a::b", "set": "10.0.2"},
            "reason": {"kind": "no-tool", "tool": "system"}});
        let passed = finished("a::b", "qcow2.system", "10.0.2", "pass", None);
        assert!(!page(&[skipped.clone(), passed.clone()]).contains("a::b"));
        assert!(!page(&[passed, skipped.clone()]).contains("a::b"));
        let text = page(&[skipped]);
        assert!(text.contains("- skip, 10.0.2: no-tool system\n"), "{text}");
    }
}
