//! `iotests explain CASE`: what a case does and needs, why it cannot run here, and how its last
//! runs ended.

use std::collections::BTreeMap;

use super::plan::{Able, Planned};
use super::records::Records;
use super::report::text::duration;
use super::report::{Palette, Ways, remedies};
use crate::case::Instance;
use crate::runner::event::{Outcome, Summary};

/// The selected instances, and what earlier runs recorded about them.
pub(crate) struct Known<'a> {
    pub(crate) planned: &'a [Planned],
    pub(crate) sets: &'a [Able],
    pub(crate) records: &'a Records,
}

impl Known<'_> {
    /// Everything known about them, by case and row.
    pub(crate) fn explain(&self, palette: Palette) -> String {
        let mut by_name: BTreeMap<String, Vec<&Planned>> = BTreeMap::new();
        for one in self.planned {
            by_name.entry(one.instance.name()).or_default().push(one);
        }
        let mut text = String::new();
        let mut skipped = Summary::default();
        for (name, instances) in by_name {
            let Some(first) = instances.first() else {
                continue;
            };
            let case = first.instance.case;
            text += &format!("{}\n    {}\n", palette.bold(name), case.description);
            for (label, value) in declared(&first.instance) {
                if !value.is_empty() {
                    text += &format!("    {label:<11}{value}\n");
                }
            }
            for one in instances {
                text += &self.instance(one, palette);
                if let Some(reason) = &one.skip {
                    skipped.add(&Outcome::skipped(one.info(self.sets), reason.clone()));
                }
            }
            text.push('\n');
        }
        text + &remedies(&skipped, &Ways::with(self.sets, None))
    }

    fn instance(&self, one: &Planned, palette: Palette) -> String {
        let set = self.sets.get(one.set).map_or("", |set| set.name.as_str());
        let mut text = match &one.skip {
            Some(reason) => format!(
                "    {}  {}\n",
                one.id,
                palette.warn(format!("cannot run here: {reason}"))
            ),
            None => format!(
                "    {}  {}\n",
                one.id,
                palette.good(format!("runs on the set {set}"))
            ),
        };
        for bug in &one.known.bugs {
            text += &palette.dim(format!("        expected to fail: {}\n", bug.reason));
        }
        if let Some(fix) = &one.known.missing_fix {
            text += &palette.dim(format!("        {fix}\n"));
        }
        text += &palette.dim(match self.records.get(&one.id) {
            None => "        never completed, according to the build folder\n".to_owned(),
            Some(known) => {
                format!(
                    "        last runs, newest first: {}; {}\n",
                    joined(known.verdicts.iter().rev(), ", "),
                    duration(known.elapsed)
                )
            }
        });
        text
    }
}

/// A case's declarations, as label and text.
fn declared(instance: &Instance) -> Vec<(&'static str, String)> {
    let (case, meta) = (instance.case, instance.meta);
    let mut special = Vec::new();
    if meta.exclusive {
        special.push("runs alone".to_owned());
    }
    if let Some(lock) = meta.lock {
        special.push(format!("one at a time with others that need `{lock}`"));
    }
    if meta.unconfined {
        special.push("may write outside its directory".to_owned());
    }
    if let Some(quarantine) = &meta.quarantine {
        special.push(format!(
            "in quarantine until {}: {}",
            quarantine.until, quarantine.reason
        ));
    }
    let backends = meta.host.backends();
    let formats = meta.formats.to_vec();
    vec![
        ("source", format!("{}:{}", case.file, case.line)),
        ("upstream", joined(instance.upstream(), " ")),
        ("groups", joined(meta.groups.iter().map(|one| one.0), " ")),
        ("formats", joined(formats.iter().map(|one| one.name()), " ")),
        (
            "protocols",
            joined(meta.protocols.iter().map(|one| one.name()), " "),
        ),
        (
            "host",
            joined(backends.iter().flatten().map(|one| one.name()), " or "),
        ),
        ("needs", joined(&meta.needs, ", ")),
        ("budget", duration(meta.budget)),
        (
            "known bugs",
            joined(meta.known_bugs.iter().map(|one| one.reason), "; "),
        ),
        ("notes", special.join("; ")),
    ]
}

fn joined(parts: impl IntoIterator<Item = impl ToString>, between: &str) -> String {
    let parts: Vec<String> = parts.into_iter().map(|one| one.to_string()).collect();
    parts.join(between)
}
