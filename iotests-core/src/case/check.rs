//! What is wrong with declarations: found when a program starts, and by its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declaration::{Declaration, ModuleDefaults};
use super::names::GROUPS;
use super::registry::{Case, Registered, combinations};
use super::requirement::Requirement;
use super::upstream;

/// The accelerators of QEMU.
const ACCELERATORS: &[&str] = &["qtest", "kvm", "tcg", "hvf", "whpx", "nvmm", "xen", "mshv"];

/// All that is wrong with the declarations of a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Collects problems, each with its place.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, file: &str, line: u32, what: &str, why: impl fmt::Display) {
        let problem = format!("{file}:{line}: {what}: {why}");
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }
}

/// Checks all declarations.
pub(super) fn check(
    cases: &[Case],
    defaults: &[ModuleDefaults],
    entries: &[Registered],
    lists: &[&str],
) -> Result<(), Problems> {
    let mut found = Found::default();
    let mut modules = BTreeSet::new();
    for module in defaults {
        let mut add = |why: String| found.add(module.file, module.line, module.module, why);
        if !modules.insert(module.module) {
            add("this module has `defaults!` already".to_owned());
        }
        declaration(&module.declaration, &mut add);
    }
    for case in cases {
        let name = case.name();
        let mut add = |why: String| found.add(case.file, case.line, &name, why);
        if case.description.trim().is_empty() {
            add("it needs a doc comment, whose first paragraph describes it".to_owned());
        }
        declaration(&case.declaration, &mut add);
        family(case, &mut add);
    }
    let mut names: BTreeMap<String, &Case> = BTreeMap::new();
    for entry in entries {
        let (case, name) = (entry.case, entry.name());
        let mut add = |why: String| found.add(case.file, case.line, &name, why);
        if let Some(other) = names.insert(name.clone(), case) {
            add(format!(
                "this name is taken, see {}:{}",
                other.file, other.line
            ));
        }
        for id in &entry.meta.upstream {
            if !upstream::is_known(lists, id) {
                add(format!("upstream has no test `{id}`"));
            }
        }
        if entry.meta.formats.to_vec().is_empty() {
            add("it has no format to run with".to_owned());
        }
        for (axis, is_empty) in [
            ("protocol", entry.meta.protocols.is_empty()),
            ("cache mode", entry.meta.caches.is_empty()),
            ("aio mode", entry.meta.aios.is_empty()),
            ("time", entry.meta.budget.is_zero()),
        ] {
            if is_empty {
                add(format!("it has no {axis} to run with"));
            }
        }
    }
    match found.0.is_empty() {
        true => Ok(()),
        false => Err(Problems(found.0)),
    }
}

/// The rows of a case, and their combinations.
fn family(case: &Case, add: &mut dyn FnMut(String)) {
    let tables = case.tables();
    for table in &tables {
        if table.rows.is_empty() {
            add(format!("the table of `{}` has no rows", table.parameter));
        }
        let mut names = BTreeSet::new();
        for row in &table.rows {
            if !is_kebab_case(row.name) {
                add(format!(
                    "the name of the row `{}` is not kebab-case",
                    row.name
                ));
            }
            if !names.insert(row.name) {
                add(format!("there are two rows `{}`", row.name));
            }
            declaration(&row.declaration, &mut |why| {
                add(format!("row `{}`: {why}", row.name));
            });
        }
    }
    for excluded in case.excluded {
        let names = excluded.rows.join(", ");
        if excluded.reason.trim().is_empty() {
            add(format!("excluding ({names}) needs a reason"));
        }
        let matches = |indices: &Vec<usize>| {
            let rows: Vec<_> = std::iter::zip(&tables, indices)
                .map(|(table, index)| &table.rows[*index])
                .collect();
            excluded.matches(&rows)
        };
        if !combinations(&tables).iter().any(matches) {
            add(format!("there is no combination ({names}) to exclude"));
        }
    }
    for id in case.declaration.upstream.unwrap_or_default() {
        for place in id.split('{').skip(1) {
            let name = place.split('}').next().unwrap_or_default();
            if !tables.iter().any(|table| table.parameter == name) {
                add(format!(
                    "upstream `{id}`: no table has the parameter `{name}`"
                ));
            }
        }
    }
}

/// What one layer declares.
fn declaration(declared: &Declaration, add: &mut dyn FnMut(String)) {
    for group in declared.groups.unwrap_or_default() {
        if !GROUPS.contains(group) {
            add(format!("there is no group `{group}`"));
        }
    }
    for need in declared.needs.unwrap_or_default() {
        requirement(need, add);
    }
    for bug in declared.known_bugs.unwrap_or_default() {
        if bug.reason.trim().is_empty() {
            add("a known bug needs a reason".to_owned());
        }
        if bug.says.trim().is_empty() {
            add(format!(
                "the known bug \"{}\" needs the text of the failure",
                bug.reason
            ));
        }
        requirement(&bug.when, add);
    }
    if let Some(quarantine) = declared.quarantine {
        if quarantine.reason.trim().is_empty() {
            add("a quarantine needs a reason".to_owned());
        }
        if !is_date(quarantine.until) {
            add(format!(
                "a quarantine ends on a day YYYY-MM-DD, not `{}`",
                quarantine.until
            ));
        }
    }
    if declared.fixed_in.is_some_and(|fix| fix.releases.is_empty()) {
        add("`fixed_in` needs a release".to_owned());
    }
}

fn requirement(needed: &Requirement, add: &mut dyn FnMut(String)) {
    needed.walk(&mut |one| match one {
        Requirement::Accelerator(name) if !ACCELERATORS.contains(name) => add(format!(
            "there is no accelerator `{name}`; there is {}",
            ACCELERATORS.join(", ")
        )),
        Requirement::Version(range) | Requirement::VersionOf(_, range) if range.is_empty() => {
            add(format!("no version is {range}"));
        }
        Requirement::AnyOf([]) => add("`AnyOf(&[])` never holds".to_owned()),
        _ => {}
    });
}

/// Words of lower-case letters and digits, joined with single hyphens.
fn is_kebab_case(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split('-').all(is_word)
}

/// `YYYY-MM-DD`, as far as it matters for comparing.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return false;
    };
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(0_u32))
    };
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}
