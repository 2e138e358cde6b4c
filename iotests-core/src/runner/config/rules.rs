//! What a configuration says about cases: `[[case]]` overrides declarations, `[[expect]]` says how
//! cases end.

use std::collections::BTreeMap;
use std::time::Duration;

use imgtools::tools::Version;
use toml::Spanned;

use super::{CaseTable, Config, ConfigError, ConfigFile, ExpectTable, ExpectedOutcome, Words};
use crate::case::{ExpectedBug, Instance, Meta, Quarantine, Registered, Skip, VersionRange};
use crate::runner::cli;
use crate::runner::filter::{Existing, Filter};
use crate::runner::plan::{ANY_POINT, Able, Planned};
use crate::runner::records::Records;
use crate::runner::select::{self, Places, Selector};
use crate::script::SCRIPTS;

/// All tables about cases, in the order of the files.
#[derive(Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

/// One table.
#[derive(Debug)]
struct Rule {
    /// `FILE:LINE`.
    place: String,
    selectors: Vec<Selector>,
    filter: Option<Filter>,
    versions: Option<VersionRange>,
    set: Option<String>,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
    Change(Change),
    Expect(Expectation),
}

/// Values that override a declaration.
#[derive(Debug)]
struct Change {
    budget: Option<Duration>,
    cpus: Option<u32>,
    memory: Option<u64>,
    exclusive: Option<bool>,
    lock: Option<&'static str>,
}

#[derive(Debug)]
struct Expectation {
    outcome: ExpectedOutcome,
    reason: String,
    /// The last day on which it counts, `YYYY-MM-DD`, which compares as text.
    until: Option<String>,
    says: String,
    intermittent: bool,
}

/// Which cases a table applies to: the keys both kinds of tables share.
struct Scope<'t> {
    select: &'t Option<Spanned<Words>>,
    expression: &'t Option<Spanned<String>>,
    version: &'t Option<Spanned<String>>,
    set: &'t Option<String>,
}

/// A macro because sharing the keys through `#[serde(flatten)]` would lose their places in the
/// file.
macro_rules! scope {
    ($table:expr) => {
        Scope {
            select: &$table.select,
            expression: &$table.expression,
            version: &$table.version,
            set: &$table.set,
        }
    };
}

impl Config {
    /// The tables about cases, checked as far as possible without the cases.
    pub(crate) fn rules(&self) -> Result<Rules, ConfigError> {
        let mut rules = Vec::new();
        for file in &self.files {
            for table in &file.content.cases {
                let effect = Effect::Change(change(file, table.as_ref())?);
                let scope = scope!(table.as_ref());
                rules.push(rule(file, table.span(), &scope, effect)?);
            }
            for table in &file.content.expectations {
                let effect = Effect::Expect(expectation(file, table.as_ref())?);
                let scope = scope!(table.as_ref());
                rules.push(rule(file, table.span(), &scope, effect)?);
            }
        }
        Ok(Rules(rules))
    }
}

fn rule(
    file: &ConfigFile,
    at: std::ops::Range<usize>,
    scope: &Scope<'_>,
    effect: Effect,
) -> Result<Rule, ConfigError> {
    let mut selectors = Vec::new();
    if let Some(words) = scope.select {
        for word in words.as_ref().all() {
            let selector = Selector::parse(word);
            selectors.push(selector.map_err(|error| file.error(words.span(), error.to_string()))?);
        }
    }
    if selectors.is_empty() && scope.expression.is_none() {
        let why = "the table names no case: add `select = \"NAME\"`, as on the command line, or `expression`, as for -E";
        return Err(file.error(at, why));
    }
    let filter = scope.expression.as_ref().map(|text| {
        let parsed = text.as_ref().parse::<Filter>();
        parsed.map_err(|error| file.error(text.span(), error.to_string()))
    });
    let versions = scope.version.as_ref().map(|text| {
        let why =
            "a range is written as \"7.2\", \"10.0.3\", \">=9.1\", \"<10.0\" or \">=9.1, <10.0.3\"";
        versions(text.as_ref()).ok_or_else(|| file.error(text.span(), why))
    });
    Ok(Rule {
        place: format!("{}:{}", file.path.display(), file.line(at)),
        selectors,
        filter: filter.transpose()?,
        versions: versions.transpose()?,
        set: scope.set.clone(),
        effect,
    })
}

fn change(file: &ConfigFile, table: &CaseTable) -> Result<Change, ConfigError> {
    let budget = table
        .timeout
        .as_ref()
        .map(|text| cli::time(text.as_ref()).map_err(|why| file.error(text.span(), why)));
    let memory = table.memory.as_ref().map(|text| {
        let why = "it must be a number and a unit, such as 512MiB or 4GiB";
        memory(text.as_ref()).ok_or_else(|| file.error(text.span(), why))
    });
    Ok(Change {
        budget: budget.transpose()?,
        cpus: table.cpus,
        memory: memory.transpose()?,
        exclusive: table.exclusive,
        // Declarations are 'static.
        lock: table.lock.clone().map(|name| &*name.leak()),
    })
}

fn expectation(file: &ConfigFile, table: &ExpectTable) -> Result<Expectation, ConfigError> {
    if table.reason.as_ref().trim().is_empty() {
        let why = "the reason is empty: name a bug, or a person who knows";
        return Err(file.error(table.reason.span(), why));
    }
    let until = table.until.as_ref().map(|at| match at.as_ref() {
        toml::value::Datetime {
            date: Some(date),
            time: None,
            ..
        } => Ok(date.to_string()),
        _ => Err(file.error(at.span(), "`until` must be a day, such as 2027-06-30")),
    });
    let is_failure = table.outcome == ExpectedOutcome::KnownFailure;
    if !is_failure && (table.says.is_some() || table.intermittent) {
        let why = "`says` and `intermittent` are only for `outcome = \"known-failure\"`";
        return Err(file.error(table.reason.span(), why));
    }
    Ok(Expectation {
        outcome: table.outcome,
        reason: table.reason.as_ref().clone(),
        until: until.transpose()?,
        says: table.says.clone().unwrap_or_default(),
        intermittent: table.intermittent,
    })
}

/// Parses a range such as `>=9.1, <10.0.3`. A bare version is that release or, with two numbers,
/// that branch.
fn versions(text: &str) -> Option<VersionRange> {
    let mut range = VersionRange::ANY;
    for part in text.split(',').map(str::trim) {
        if let Some(version) = part.strip_prefix(">=") {
            range.since = Some(version.trim().parse().ok()?);
        } else if let Some(version) = part.strip_prefix('<') {
            range.before = Some(version.trim().parse().ok()?);
        } else {
            let first: Version = part.parse().ok()?;
            range.since = Some(first);
            range.before = Some(match part.matches('.').count() {
                1 => Version::new(first.major, first.minor + 1, 0),
                _ => Version::new(first.major, first.minor, first.micro + 1),
            });
        }
    }
    Some(range)
}

fn memory(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// What rules are applied against.
pub(crate) struct Asked<'a> {
    /// All entries, whether selected or not.
    pub(crate) entries: &'static [Registered],
    pub(crate) sets: &'a [Able],
    pub(crate) records: &'a Records,
    pub(crate) today: &'a str,
}

impl Rules {
    /// Applies all rules to the plan, and returns warnings about those that are obsolete.
    pub(crate) fn apply(&self, planned: &mut [Planned], asked: &Asked<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.0.is_empty() {
            return warnings;
        }
        let anywhere = asked.entries.iter().map(|entry| Instance::new(entry, ANY_POINT));
        let anywhere: Vec<Instance> = anywhere.collect();
        let places = Places::of(&anywhere);
        // By entry, so that an instance is checked only against rules that may apply to it.
        let mut by_entry: BTreeMap<*const Meta, Vec<usize>> = BTreeMap::new();
        for (index, rule) in self.0.iter().enumerate() {
            if let Some(warning) = rule.expired(asked.today) {
                warnings.push(warning);
                continue;
            }
            let mut is_used = false;
            for instance in anywhere.iter().filter(|one| rule.may_match(one, &places)) {
                by_entry.entry(instance.meta).or_default().push(index);
                is_used = true;
            }
            if !is_used && !rule.may_be_about_others(asked.entries) {
                warnings.push(rule.matches_nothing(&anywhere, asked));
            }
        }
        let mut changed: BTreeMap<(*const Meta, Vec<usize>), &'static Meta> = BTreeMap::new();
        for one in planned {
            let declared: *const Meta = one.instance.meta;
            let mut changes = Vec::new();
            for index in by_entry.get(&declared).into_iter().flatten() {
                let rule = &self.0[*index];
                if !rule.matches(one, &places, asked) {
                    continue;
                }
                match &rule.effect {
                    Effect::Change(_) => changes.push(*index),
                    Effect::Expect(expected) => expected.weigh_in(one, &rule.place),
                }
            }
            if !changes.is_empty() {
                let meta = one.instance.meta;
                let key = (declared, changes.clone());
                one.instance.meta = changed
                    .entry(key)
                    // Leaked because declarations are 'static; once per combination of changes.
                    .or_insert_with(|| Box::leak(Box::new(self.changed(meta, &changes))));
            }
        }
        warnings
    }

    fn changed(&self, meta: &Meta, changes: &[usize]) -> Meta {
        let mut meta = meta.clone();
        for index in changes {
            if let Effect::Change(change) = &self.0[*index].effect {
                meta.budget = change.budget.unwrap_or(meta.budget);
                meta.cpus = change.cpus.unwrap_or(meta.cpus);
                meta.memory = change.memory.unwrap_or(meta.memory);
                meta.exclusive = change.exclusive.unwrap_or(meta.exclusive);
                meta.lock = change.lock.or(meta.lock);
            }
        }
        meta
    }
}

impl Rule {
    fn expired(&self, today: &str) -> Option<String> {
        let Effect::Expect(Expectation {
            until: Some(until),
            reason,
            ..
        }) = &self.effect
        else {
            return None;
        };
        let place = &self.place;
        (until.as_str() < today).then(|| {
            format!("{place}: this expectation expired on {until}; renew or remove it ({reason})")
        })
    }

    /// The warning about a rule that matches no case.
    fn matches_nothing(&self, anywhere: &[Instance], asked: &Asked<'_>) -> String {
        let place = &self.place;
        let mut names = self.selectors.iter().map(|one| {
            let near = select::nearest(&one.text, anywhere);
            let near = near.first().map(|near| format!(" (similar: {near})"));
            format!("`{}`{}", one.text, near.unwrap_or_default())
        });
        let existing = Existing {
            entries: asked.entries,
            sets: asked.sets,
        };
        let filter = self.filter.as_ref();
        let why = match filter.and_then(|filter| filter.check(&existing).err()) {
            Some(error) => error.to_string(),
            None if self.selectors.is_empty() => "its expression matches none".to_owned(),
            None => names.by_ref().collect::<Vec<_>>().join(", "),
        };
        format!("{place}: this matches no case of this program; correct or remove it: {why}")
    }

    /// Whether it may apply to an entry at some point and on some set.
    fn may_match(&self, instance: &Instance, places: &Places) -> bool {
        (self.selectors.is_empty() || self.selectors.iter().any(|one| one.names(instance, places)))
            && self.filter.as_ref().is_none_or(|filter| filter.may_match(instance))
    }

    fn matches(&self, one: &Planned, places: &Places, asked: &Asked<'_>) -> bool {
        let set = asked.sets.get(one.set);
        let name = set.map(|set| set.name.as_str());
        let selected = || {
            let mut selectors = self.selectors.iter();
            self.selectors.is_empty()
                || selectors.any(|selector| selector.matches(&one.instance, name, places))
        };
        let in_range = |range: &VersionRange| {
            let version = set.and_then(|set| set.capabilities.version(one.instance.backend));
            version.is_some_and(|version| range.contains(version))
        };
        selected()
            && self.set.as_deref().is_none_or(|set| name == Some(set))
            && self.versions.as_ref().is_none_or(in_range)
            && self
                .filter
                .as_ref()
                .is_none_or(|filter| filter.matches(one, asked.sets, asked.records))
    }

    /// Whether it may be about scripts while the program's own cases run, or the other way round.
    fn may_be_about_others(&self, entries: &[Registered]) -> bool {
        let is_script = |name: &str| name.starts_with(SCRIPTS);
        let scripts_run = entries.first().is_some_and(|entry| is_script(&entry.case.name()));
        let mut selectors = self.selectors.iter();
        scripts_run || selectors.any(|selector| is_script(&selector.text))
    }
}

impl Expectation {
    fn weigh_in(&self, one: &mut Planned, place: &str) {
        // Declarations are 'static.
        let reason = || &*format!("{} ({place})", self.reason).leak();
        match self.outcome {
            ExpectedOutcome::Skip => {
                one.skip.get_or_insert_with(|| Skip::Expectation {
                    reason: self.reason.clone(),
                    place: place.to_owned(),
                });
            }
            ExpectedOutcome::KnownFailure => one.known.bugs.push(ExpectedBug {
                reason: reason(),
                says: self.says.clone().leak(),
                is_certain: !self.intermittent,
            }),
            ExpectedOutcome::Quarantine => {
                let until = self.until.clone();
                one.known.quarantine = Some(Quarantine {
                    reason: reason(),
                    until: until.map_or(Quarantine::FOREVER, |day| day.leak()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        let file = ConfigFile::parse(Path::new("c.toml").into(), text.to_owned());
        let files = vec![file.map_err(|error| error.to_string())?];
        let config = Config { files };
        config.rules().map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_selects_cases_and_gives_a_reason() {
        let about = "[[expect]]\nselect = \"a\"\noutcome = \"skip\"\nreason = \"r\"\n";
        assert!(rules(about).is_ok());
        for (text, wanted) in [
            (
                "[[case]]\nlock = \"a\"".to_owned(),
                "c.toml:1: the table names no case",
            ),
            ("[[case]]\nselect = \"a@x\"".to_owned(), "c.toml:2: "),
            (
                "[[case]]\nexpression = \"nam(a)\"".to_owned(),
                "c.toml:2: there is no `nam()`",
            ),
            (
                "[[case]]\nselect = \"a\"\ntimeout = \"5\"".to_owned(),
                "c.toml:3: it must be a number and a unit",
            ),
            (
                "[[case]]\nselect = \"a\"\nmemory = \"5\"".to_owned(),
                "c.toml:3: it must be a number and a unit",
            ),
            (
                about.to_owned() + "version = \">9\"",
                "c.toml:5: a range is written as",
            ),
            (
                about.to_owned() + "until = 2027-01-01T10:00:00Z",
                "c.toml:5: `until` must be a day",
            ),
            (
                about.to_owned() + "says = \"x\"",
                "are only for `outcome = \"known-failure\"`",
            ),
            (
                about.replace("\"r\"", "\" \""),
                "c.toml:4: the reason is empty",
            ),
        ] {
            let error = rules(&text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_of_versions_is_a_release_a_branch_or_has_bounds() {
        let is_in = |range: &str, version: &str| {
            versions(range).unwrap().contains(version.parse().unwrap())
        };
        for (range, inside, outside) in [
            ("7.2", ["7.2.0", "7.2.22"], ["7.1.9", "8.0.0"]),
            ("10.0.3", ["10.0.3", "10.0.3"], ["10.0.2", "10.0.4"]),
            (">=9.1", ["9.1.0", "11.0.0"], ["9.0.9", "8.0.0"]),
            (">= 9.1, <10.0.3", ["9.1.0", "10.0.2"], ["9.0.0", "10.0.3"]),
        ] {
            assert!(
                inside.iter().all(|version| is_in(range, version)),
                "{range}"
            );
            assert!(
                !outside.iter().any(|version| is_in(range, version)),
                "{range}"
            );
        }
        for bad in ["", "x", ">9", ">=9.1,", "9"] {
            assert!(versions(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_table_overrides_declarations() {
        let rules = rules(
            "[[case]]\nselect = \"a\"\ntimeout = \"5m\"\nmemory = \"1GiB\"\nexclusive = true\ncpus = 3\nlock = \"ports\"\n[[case]]\nselect = \"b\"\ntimeout = \"9s\"",
        );
        let rules = rules.unwrap();
        let changed = rules.changed(&Meta::default(), &[0, 1]);
        assert_eq!(changed.budget.as_secs(), 9, "the later one counts");
        assert_eq!(
            (changed.memory, changed.exclusive, changed.lock),
            (1 << 30, true, Some("ports"))
        );
        assert_eq!(changed.cpus, 3);
        assert_eq!(
            rules.changed(&Meta::default(), &[1]).memory,
            Meta::default().memory
        );
    }

    #[test]
    fn memory_has_a_unit() {
        assert_eq!(memory("512MiB"), Some(512 << 20));
        assert_eq!(memory("4 GiB"), Some(4 << 30));
        for bad in ["", "5", "GiB", "-1GiB", "99999999999999GiB"] {
            assert_eq!(memory(bad), None, "{bad}");
        }
    }
}
