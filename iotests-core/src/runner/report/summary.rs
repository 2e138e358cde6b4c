//! The summary of a run: the counts, the reasons of skips, and how to avoid them.

use std::collections::BTreeMap;

use super::palette::Palette;
use super::text::{count, duration};
use crate::case::{Backend, Remedy};
use crate::provision;
use crate::runner::called_as;
use crate::runner::event::Summary;
use crate::runner::plan::Able;
use crate::runner::verdict::Verdict;

/// What the user can do here about missing requirements.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// The command that starts this program.
    pub(crate) called_as: String,
    /// A set that has a working emulator.
    pub(crate) emulator_in: Option<String>,
    /// The only set, if `--set` names one.
    pub(crate) only_set: Option<String>,
}

impl Ways {
    /// What can be done with these sets.
    pub(crate) fn with(sets: &[Able], only_set: Option<String>) -> Self {
        let with_emulator =
            sets.iter().find(|set| set.capabilities.host(Backend::System).is_some());
        Self {
            called_as: called_as(),
            emulator_in: with_emulator.map(|set| set.name.clone()),
            only_set,
        }
    }
}

/// The counts in one line: `12 passed, 1 failed, 3 skipped in 4.5 s`.
pub(crate) fn counts(summary: &Summary, palette: Palette) -> String {
    let mut parts: Vec<String> = Verdict::ALL
        .iter()
        .filter(|verdict| summary.count(**verdict) > 0)
        .map(|verdict| {
            palette.verdict(
                *verdict,
                format!("{} {}", summary.count(*verdict), verdict.counted()),
            )
        })
        .collect();
    if summary.not_run > 0 {
        parts.push(palette.warn(format!("{} not run", summary.not_run)));
    }
    if parts.is_empty() {
        parts.push("nothing ran".to_owned());
    }
    format!("{} in {}", parts.join(", "), duration(summary.elapsed))
}

/// The reasons of skips and of parts left out, one per line, then how to get what is missing.
pub(crate) fn skips(summary: &Summary, ways: &Ways, palette: Palette) -> String {
    let mut text = String::new();
    for (skip, number) in &summary.skips {
        text += &palette.dim(format!("  {number:>4} skipped: {skip}\n"));
    }
    for (reason, number) in &summary.parts {
        text += &palette.dim(format!("  {number:>4} partly not run: {reason}\n"));
    }
    text + &remedies(summary, ways)
}

/// How to get what is missing.
pub(crate) fn remedies(summary: &Summary, ways: &Ways) -> String {
    let mut remedies: BTreeMap<Remedy, usize> = BTreeMap::new();
    for (skip, number) in &summary.skips {
        if let Some(remedy) = skip.remedy() {
            *remedies.entry(remedy).or_default() += number;
        }
    }
    remedies.into_iter().map(|(remedy, number)| how(remedy, number, ways)).collect()
}

/// The advice on one remedy; empty if nothing can be done.
fn how(remedy: Remedy, number: usize, ways: &Ways) -> String {
    let cases = count(number, "instance");
    let verb = |one: &str, more: &str| if number == 1 { one } else { more }.to_owned();
    let need = verb("needs", "need");
    match remedy {
        Remedy::Provision => match (&ways.emulator_in, &ways.only_set) {
            (Some(set), Some(only)) => format!(
                "{cases} {need} an emulator: the set `{set}` has one; use `--set {set}`, or drop `--set {only}`.\n"
            ),
            (Some(_), None) => String::new(),
            (None, _) => format!(
                "{cases} {need} an emulator: `{} --provision` fetches one and changes no installed package.\n",
                ways.called_as
            ),
        },
        Remedy::InstallTools => format!(
            "{cases} {need} more of QEMU's tools: {}\n",
            provision::install_command()
        ),
        Remedy::OtherUser => {
            format!(
                "{cases} {need} another user: run as root or as a normal user, as their reasons say.\n"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use imgtools::tools::ToolKind;

    use super::*;
    use crate::case::Skip;
    use crate::runner::event::{InstanceInfo, Outcome};
    use crate::runner::verdict::Attempt;

    #[test]
    fn counts_omit_zeros() {
        let mut summary = Summary::default();
        for verdict in [Verdict::Pass, Verdict::Pass, Verdict::Timeout] {
            let instance = InstanceInfo::default();
            summary.add(&Outcome::new(instance, verdict, Attempt::default()));
        }
        assert_eq!(
            counts(&summary, Palette::new(false)),
            "2 passed, 1 timed out in 0 ms"
        );
        assert_eq!(summary.failures(), 1);
    }

    #[test]
    fn skips_are_grouped_and_followed_by_remedies() {
        let mut summary = Summary::default();
        let mut skipped = |reason| {
            let instance = InstanceInfo::default();
            summary.add(&Outcome::skipped(instance, reason));
        };
        for _ in 0..3 {
            let tool = ToolKind::System;
            skipped(Skip::NoTool { tool });
        }
        let reason = "too small a disk".to_owned();
        skipped(Skip::Case { reason });
        let mut ways = Ways {
            called_as: "cargo xtask iotests".to_owned(),
            ..Ways::default()
        };
        let text = skips(&summary, &ways, Palette::new(false));
        let expected = "     3 skipped: needs an emulator (qemu-system-*)\n     1 skipped: too small a disk\n\
            3 instances need an emulator: `cargo xtask iotests --provision` fetches one and changes no installed package.\n";
        assert_eq!(text, expected);
        ways.emulator_in = Some("7.2.22".to_owned());
        assert!(!skips(&summary, &ways, Palette::new(false)).contains("need an"));
        ways.only_set = Some("host".to_owned());
        let text = skips(&summary, &ways, Palette::new(false));
        assert!(
            text.ends_with("the set `7.2.22` has one; use `--set 7.2.22`, or drop `--set host`.\n"),
            "{text}"
        );
    }

    #[test]
    fn verbs_agree_with_the_count() {
        let ways = Ways::default();
        assert!(how(Remedy::Provision, 1, &ways).starts_with("1 instance needs an"));
        assert!(how(Remedy::InstallTools, 2, &ways).starts_with("2 instances need more of"));
        assert!(how(Remedy::OtherUser, 1, &ways).starts_with("1 instance needs another user"));
        assert!(how(Remedy::InstallTools, 1, &ways).contains(provision::install_command()));
    }
}
