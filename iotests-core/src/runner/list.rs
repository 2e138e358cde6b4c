//! `--list`: what there is, and why something cannot run here.

use std::collections::BTreeMap;

use super::plan::{Able, Planned};
use super::report::Palette;
use crate::case::{Instance, Skip};

/// The list of the selected cases, by case and row; points of the matrix share a line.
pub(crate) fn list(planned: &[Planned], sets: &[Able], palette: Palette) -> String {
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
        text += &format!("    runs on: {}\n", runs_on(instances, sets));
        for (skip, points) in skipped(instances) {
            text += &palette.warn(format!("    not on {}: {skip}\n", points.join(", ")));
        }
    }
    let runnable = planned.iter().filter(|one| one.skip.is_none()).count();
    let cases = by_name.len();
    text += &format!(
        "{cases} cases, {} instances: {runnable} run here, {} do not\n",
        planned.len(),
        planned.len() - runnable
    );
    text
}

/// Formats, groups, upstream ids.
fn facts(instance: &Instance) -> String {
    let formats: Vec<&str> = instance
        .meta
        .formats
        .to_vec()
        .iter()
        .map(|format| format.name())
        .collect();
    let groups: Vec<&str> = instance.meta.groups.iter().map(|group| group.0).collect();
    let upstream: Vec<&str> = instance.upstream().collect();
    let mut parts = vec![format!("formats: {}", formats.join(" "))];
    if !groups.is_empty() {
        parts.push(format!("groups: {}", groups.join(" ")));
    }
    if !upstream.is_empty() {
        parts.push(format!("upstream: {}", upstream.join(" ")));
    }
    parts.join("; ")
}

fn runs_on(instances: &[&Planned], sets: &[Able]) -> String {
    let points: Vec<String> = instances
        .iter()
        .filter(|one| one.skip.is_none())
        .map(|one| {
            let set = sets
                .get(one.set)
                .map(|set| set.name.as_str())
                .unwrap_or_default();
            format!("{} ({set})", one.instance.point())
        })
        .collect();
    if points.is_empty() {
        "nothing here".to_owned()
    } else {
        points.join(", ")
    }
}

/// The reasons, each with the points of the matrix it holds for.
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
