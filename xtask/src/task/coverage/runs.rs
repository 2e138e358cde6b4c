//! The results of runs: how each instance of a case or a script ended, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Method;
use super::versions::{Differences, Version, name_and_point, reason_of_end, reason_of_skip};
use crate::cargo::XtaskError;

/// The result of one instance in a run.
#[derive(Debug)]
pub(super) struct Ran {
    /// `module::case/row`, or `upstream::040`.
    pub(super) case: String,
    upstream: Vec<String>,
    pub(super) version: Version,
    /// The backend of the case, if it has a choice, or the format of a script.
    pub(super) kind: Option<String>,
    /// How it ended.
    pub(super) verdict: String,
    /// Why it did not simply pass.
    pub(super) reason: Option<String>,
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    cases: Vec<Ran>,
    /// Upstream's own scripts, of `--upstream`.
    scripts: Vec<Ran>,
    pub(super) differences: Differences,
}

impl Runs {
    pub(super) fn add(&mut self, path: &Path) -> Result<(), XtaskError> {
        let text = fs::read_to_string(path).map_err(XtaskError::file("read", path))?;
        self.add_events(&text).map_err(|why| XtaskError::Data {
            path: path.to_owned(),
            why,
        })
    }

    pub(super) fn add_events(&mut self, text: &str) -> Result<(), String> {
        let mut versions: BTreeMap<String, String> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let record: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            let event = &record["event"];
            let (verdict, reason) = match event["event"].as_str().unwrap_or_default() {
                "run-started" => {
                    versions = set_versions(event);
                    continue;
                }
                "instance-finished" => (
                    event["verdict"].as_str().unwrap_or("unknown"),
                    reason_of_end(event),
                ),
                "instance-skipped" => ("skip", Some(reason_of_skip(&event["reason"]))),
                _ => continue,
            };
            let ran = ran(&event["instance"], verdict, reason, &versions);
            // A script is not a port of itself.
            if is_script(&ran.case) {
                self.scripts.push(ran);
            } else {
                self.differences.add(event, &versions);
                self.cases.push(ran);
            }
        }
        Ok(())
    }

    /// Ids that match nothing upstream: mistakes in a case.
    pub(super) fn unknown(&self, methods: &[Method]) -> Vec<String> {
        let ids: BTreeSet<&String> = self.cases.iter().flat_map(|ran| &ran.upstream).collect();
        ids.into_iter()
            .filter(|id| !methods.iter().any(|method| method.is_meant_by(id)))
            .cloned()
            .collect()
    }

    /// The cases that cover this method.
    pub(super) fn of<'a>(&'a self, method: &Method) -> Vec<&'a Ran> {
        let covers = |ran: &&Ran| ran.upstream.iter().any(|id| method.is_meant_by(id));
        self.cases.iter().filter(covers).collect()
    }

    /// The script of this test.
    pub(super) fn script<'a>(&'a self, test: &str) -> Vec<&'a Ran> {
        let is = |ran: &&Ran| ran.upstream.iter().any(|id| id == test);
        self.scripts.iter().filter(is).collect()
    }
}

/// The id of a script of `--upstream`.
fn is_script(id: &str) -> bool {
    id.starts_with("upstream::")
}

fn set_versions(event: &Value) -> BTreeMap<String, String> {
    let none = Vec::new();
    let sets = event["sets"].as_array().unwrap_or(&none);
    sets.iter()
        .filter_map(|set| {
            let tools = set["tools"].as_object()?;
            let version = tools.values().find_map(|tool| tool["version"].as_str())?;
            Some((set["name"].as_str()?.to_owned(), version.to_owned()))
        })
        .collect()
}

fn ran(
    instance: &Value,
    verdict: &str,
    reason: Option<String>,
    versions: &BTreeMap<String, String>,
) -> Ran {
    let text = |key: &str| instance[key].as_str().unwrap_or_default();
    let set = text("set");
    let (case, point) = name_and_point(text("id"));
    let mut parts = point.split('.').filter(|part| !part.is_empty());
    let kind = match is_script(case) {
        true => parts.next(),
        false => parts.find(|part| ["system", "qsd"].contains(part)),
    };
    let upstream = instance["upstream"].as_array();
    let ids = upstream.into_iter().flatten().filter_map(Value::as_str);
    Ran {
        case: case.to_owned(),
        upstream: ids.map(str::to_owned).collect(),
        version: Version::new(versions.get(set).map_or(set, String::as_str)),
        kind: kind.map(str::to_owned),
        verdict: verdict.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_line_is_named() {
        let error = Runs::default().add_events("{}\n{").unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
    }
}
