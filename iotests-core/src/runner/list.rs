//! `--list`: the cases, and why some cannot run here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cli::ListHow;
use super::error::RunError;
use super::event::InstanceInfo;
use super::plan::{Able, Planned};
use super::records::{History, Records};
use super::report::Palette;
use super::report::text::{count, duration};
use crate::case::{Instance, Protocol, Skip};

/// The selected instances, and what earlier runs recorded about them.
pub(crate) struct List<'a> {
    pub(crate) planned: &'a [Planned],
    pub(crate) sets: &'a [Able],
    pub(crate) records: &'a Records,
}

/// An instance as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    info: InstanceInfo,
    /// Why it cannot run here.
    skip: Option<String>,
    /// The verdicts of the last runs, newest last, and how long the last one took.
    last: Option<&'a History>,
}

impl List<'_> {
    /// The list in the requested form.
    pub(crate) fn print(&self, how: ListHow, palette: Palette) -> Result<String, RunError> {
        Ok(match how {
            ListHow::Text => list(self, palette),
            ListHow::Ids => {
                let runs = self.planned.iter().filter(|one| one.skip.is_none());
                runs.map(|one| format!("{}\n", one.id)).collect()
            }
            ListHow::Json => {
                let written = |source: serde_json::Error| RunError::System {
                    doing: "write the list",
                    source: source.into(),
                };
                let lines = self.planned.iter().map(|one| {
                    let line = Line {
                        info: one.info(self.sets),
                        skip: one.skip.as_ref().map(ToString::to_string),
                        last: self.records.get(&one.id),
                    };
                    let line = serde_json::to_string(&line).map_err(written)?;
                    Ok(line + "\n")
                });
                lines.collect::<Result<_, RunError>>()?
            }
        })
    }

    /// Why no id is listed.
    pub(crate) fn why_empty(&self) -> Option<String> {
        if self.planned.iter().any(|one| one.skip.is_none()) {
            return None;
        }
        let first = self.planned.first()?;
        let skip = first.skip.as_ref()?;
        Some(match self.planned.len() {
            1 => format!("{} cannot run here: {skip}", first.id),
            count => format!(
                "none of {count} instances can run here; {}: {skip}; --list shows why for each",
                first.id
            ),
        })
    }
}

/// One entry per case and row; matrix points share a line.
fn list(all: &List<'_>, palette: Palette) -> String {
    let planned = all.planned;
    let mut by_name: BTreeMap<String, Vec<&Planned>> = BTreeMap::new();
    for one in planned {
        by_name.entry(one.instance.name()).or_default().push(one);
    }
    let mut text = String::new();
    for (name, instances) in &by_name {
        let Some(first) = instances.first() else {
            continue;
        };
        let case = first.instance.case;
        text += &format!("{}\n    {}\n", palette.bold(name), case.description);
        text += &palette.dim(format!("    {}\n", facts(&first.instance)));
        text += &format!("    runs on: {}\n", runs_on(instances, all));
        for (skip, points) in skipped(instances) {
            text += &palette.warn(format!("    not on {}: {skip}\n", points.join(", ")));
        }
    }
    let runnable = planned.iter().filter(|one| one.skip.is_none()).count();
    let cases = by_name.len();
    text += &format!(
        "{}, {}: {}, {}\n",
        count(cases, "case"),
        count(planned.len(), "instance"),
        verb(runnable, "runs here", "run here"),
        verb(planned.len() - runnable, "does not", "do not")
    );
    text
}

fn verb(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// Formats, protocols unless only `file`, groups, upstream ids.
fn facts(instance: &Instance) -> String {
    let formats: Vec<&str> =
        instance.meta.formats.to_vec().iter().map(|format| format.name()).collect();
    let groups: Vec<&str> = instance.meta.groups.iter().map(|group| group.0).collect();
    let upstream: Vec<&str> = instance.upstream().collect();
    let mut parts = vec![format!("formats: {}", formats.join(" "))];
    match instance.meta.protocols {
        [Protocol::File] => {}
        Protocol::ALL => parts.push("protocols: all".to_owned()),
        some => {
            let names: Vec<&str> = some.iter().map(|protocol| protocol.name()).collect();
            parts.push(format!("protocols: {}", names.join(" ")));
        }
    }
    if !groups.is_empty() {
        parts.push(format!("groups: {}", groups.join(" ")));
    }
    if !upstream.is_empty() {
        parts.push(format!("upstream: {}", upstream.join(" ")));
    }
    parts.join("; ")
}

fn runs_on(instances: &[&Planned], all: &List<'_>) -> String {
    let points: Vec<String> = instances
        .iter()
        .filter(|one| one.skip.is_none())
        .map(|one| {
            let set = all.sets.get(one.set);
            let set = set.map(|set| set.name.as_str()).unwrap_or_default();
            let last = all.records.get(&one.id).and_then(|last| {
                let verdict = last.verdicts.last()?;
                Some(format!("; {verdict}, {}", duration(last.elapsed)))
            });
            format!(
                "{} ({set}{})",
                one.instance.point(),
                last.unwrap_or_default()
            )
        })
        .collect();
    if points.is_empty() {
        "nothing here".to_owned()
    } else {
        points.join(", ")
    }
}

/// The reasons for skips, each with its matrix points.
fn skipped<'a>(instances: &[&'a Planned]) -> Vec<(&'a Skip, Vec<String>)> {
    let mut reasons: Vec<(&Skip, Vec<String>)> = Vec::new();
    for one in instances {
        let Some(skip) = &one.skip else { continue };
        let point = one.instance.point();
        match reasons.iter_mut().find(|(known, _)| *known == skip) {
            Some((_, points)) => points.push(point),
            None => reasons.push((skip, vec![point])),
        }
    }
    reasons
}
