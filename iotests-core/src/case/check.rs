//! Validates declarations, when a program starts and in its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declaration::{Declaration, ModuleDefaults, is_combination};
use super::names::GROUPS;
use super::registry::{Case, Registered, combinations};
use super::requirement::Requirement;
use super::upstream;

/// The accelerators of QEMU.
const ACCELERATORS: &[&str] = &["qtest", "kvm", "tcg", "hvf", "whpx", "nvmm", "xen", "mshv"];

/// Everything that is wrong with the declarations of a program.
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
    let known = upstream::Known::of(lists);
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
            if !known.has(id) {
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

/// Checks the rows of a case, and their combinations.
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
    let combinations = combinations(&tables);
    let exists = |names: &[&str]| {
        combinations.iter().any(|indices| {
            let rows: Vec<_> = std::iter::zip(&tables, indices)
                .map(|(table, index)| &table.rows[*index])
                .collect();
            is_combination(names, &rows)
        })
    };
    for excluded in case.excluded {
        let names = excluded.rows.join(", ");
        if excluded.reason.trim().is_empty() {
            add(format!("excluding ({names}) needs a reason"));
        }
        if !exists(excluded.rows) {
            add(format!("there is no combination ({names}) to exclude"));
        }
    }
    for bug in case.declaration.known_bugs.unwrap_or_default() {
        for names in bug.rows.iter().filter(|names| !exists(names)) {
            add(format!(
                "the known bug \"{}\": there is no combination ({})",
                bug.reason,
                names.join(", ")
            ));
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

/// Checks the declaration of one layer.
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
            "there is no accelerator `{name}`; known: {}",
            ACCELERATORS.join(", ")
        )),
        Requirement::Version(range) | Requirement::VersionOf(_, range) if range.is_empty() => {
            add(format!("no version is {range}"));
        }
        Requirement::AnyOf([]) => add("`AnyOf(&[])` never holds".to_owned()),
        _ => {}
    });
}

/// Whether it consists of words of lower-case letters and digits, joined with single hyphens.
fn is_kebab_case(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split('-').all(is_word)
}

/// Whether it is `YYYY-MM-DD`, as far as comparison requires.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::Test;
    use crate::case::names::{ALWAYS, exclude, known, secs, until};
    use crate::case::{Body, CaseFuture, Exclusion, Group, KnownBug, Registry, Row, Table};

    const LIST: &str = "test\tclass\tmethod\n040\tTestA\ttest_b\n";

    fn nothing<'t>(_: &'t mut Test) -> CaseFuture<'t> {
        Box::pin(async { Ok(()) })
    }

    fn nothing_with<'t>(_: &'t mut Test, _: &[usize]) -> CaseFuture<'t> {
        Box::pin(async { Ok(()) })
    }

    const CASE: Case = Case {
        module: "x::area",
        function: "case",
        description: "It shows something.",
        file: "x/area.rs",
        line: 7,
        declaration: Declaration::new(),
        excluded: &[],
        body: Body::Single(nothing),
    };

    fn family(tables: fn() -> Vec<Table>, excluded: &'static [Exclusion]) -> Case {
        Case {
            excluded,
            body: Body::Rows {
                tables,
                run: nothing_with,
            },
            ..CASE
        }
    }

    /// Everything that is wrong with these cases.
    fn problems(cases: Vec<Case>) -> Vec<String> {
        match Registry::new(cases.leak(), &[], &[LIST]) {
            Ok(_) => Vec::new(),
            Err(Problems(problems)) => problems,
        }
    }

    fn declared(declaration: Declaration) -> Vec<String> {
        problems(vec![Case {
            declaration,
            ..CASE
        }])
    }

    #[test]
    fn what_is_right_is_accepted() {
        let right = Declaration::new().upstream(&["040::TestA::test_b", "040"]);
        assert_eq!(declared(right), [""; 0]);
    }

    #[test]
    fn a_name_that_is_taken_is_refused_and_both_places_are_named() {
        let other = Case { line: 9, ..CASE };
        assert_eq!(
            problems(vec![CASE, other]),
            ["x/area.rs:9: area::case: this name is taken, see x/area.rs:7"]
        );
    }

    #[test]
    fn rows_have_names_of_their_own_in_kebab_case() {
        let tables = || {
            let rows = [
                Row::new("a", ()),
                Row::new("a", ()),
                Row::new("Bad_one", ()),
            ];
            vec![Table::new("row", &rows)]
        };
        let found = problems(vec![family(tables, &[])]).join("\n");
        assert!(found.contains("there are two rows `a`"), "{found}");
        assert!(
            found.contains("the row `Bad_one` is not kebab-case"),
            "{found}"
        );
    }

    #[test]
    fn joined_names_that_are_equal_are_refused() {
        let tables = || {
            vec![
                Table::new("one", &[Row::new("a", ()), Row::new("a-b", ())]),
                Table::new("two", &[Row::new("b-c", ()), Row::new("c", ())]),
            ]
        };
        let found = problems(vec![family(tables, &[])]).join("\n");
        assert!(
            found.contains("area::case/a-b-c: this name is taken"),
            "{found}"
        );
    }

    #[test]
    fn an_exclusion_needs_a_combination_and_a_reason() {
        let tables = || vec![Table::new("row", &[Row::new("a", ()), Row::new("b", ())])];
        let found = problems(vec![family(
            tables,
            const { &[exclude(&["c"], "why"), exclude(&["b"], " ")] },
        )])
        .join("\n");
        assert!(
            found.contains("there is no combination (c) to exclude"),
            "{found}"
        );
        assert!(found.contains("excluding (b) needs a reason"), "{found}");
    }

    #[test]
    fn a_known_bug_of_some_rows_needs_their_combinations_and_concerns_no_others() {
        const BUGS: &[KnownBug] = &[known("why", "says", ALWAYS).only(&[&["b"], &["c"]])];
        let tables = || vec![Table::new("row", &[Row::new("a", ()), Row::new("b", ())])];
        let case = || Case {
            declaration: Declaration::new().known_bugs(BUGS),
            ..family(tables, &[])
        };
        let known: Vec<usize> = Box::leak(Box::new(case()))
            .entries(&[])
            .iter()
            .map(|entry| entry.meta.known_bugs.len())
            .collect();
        assert_eq!(known, [0, 1]);
        let found = problems(vec![case()]).join("\n");
        assert!(
            found.contains("the known bug \"why\": there is no combination (c)"),
            "{found}"
        );
        assert!(!found.contains("(b)"), "{found}");
    }

    #[test]
    fn an_upstream_id_has_to_exist_and_its_parameters_too() {
        let found = declared(Declaration::new().upstream(&["999::Nonsense"]));
        assert_eq!(
            found,
            ["x/area.rs:7: area::case: upstream has no test `999::Nonsense`"]
        );
        let found = declared(Declaration::new().upstream(&["040::{size}"])).join("\n");
        assert!(
            found.contains("no table has the parameter `size`"),
            "{found}"
        );
    }

    #[test]
    fn reasons_texts_and_dates_are_demanded() {
        for (declaration, expected) in [
            (
                Declaration::new().known_bugs(const { &[known("", "says", ALWAYS)] }),
                "a known bug needs a reason",
            ),
            (
                Declaration::new().known_bugs(const { &[known("why", "", ALWAYS)] }),
                "the known bug \"why\" needs the text of the failure",
            ),
            (
                Declaration::new().quarantine(until("31.12.2026", "why")),
                "a quarantine ends on a day YYYY-MM-DD, not `31.12.2026`",
            ),
            (
                Declaration::new().groups(&[Group("quik")]),
                "there is no group `quik`",
            ),
            (
                Declaration::new().needs(&[Requirement::Accelerator("kmv")]),
                "there is no accelerator `kmv`",
            ),
            (
                Declaration::new().formats(&[]),
                "it has no format to run with",
            ),
            (
                Declaration::new().caches(&[]),
                "it has no cache mode to run with",
            ),
            (
                Declaration::new().budget(secs(0)),
                "it has no time to run with",
            ),
        ] {
            let found = declared(declaration).join("\n");
            assert!(found.contains(expected), "{expected}: {found}");
        }
        let empty = problems(vec![Case {
            description: " ",
            ..CASE
        }])
        .join("\n");
        assert!(empty.contains("it needs a doc comment"), "{empty}");
    }

    #[test]
    fn a_module_has_its_defaults_once() {
        let module = ModuleDefaults {
            module: "x::area",
            file: "x/area.rs",
            line: 3,
            declaration: Declaration::new().exclusive(true),
        };
        let cases: &'static [Case] = Box::leak(Box::new([CASE]));
        let once = Registry::new(cases, &[module], &[]).unwrap();
        assert!(once.entries()[0].meta.exclusive);
        let twice = Registry::new(cases, &[module, module], &[]).unwrap_err();
        assert!(twice.to_string().contains("`defaults!` already"), "{twice}");
        let elsewhere = ModuleDefaults {
            module: "x::are",
            ..module
        };
        let other = Registry::new(cases, &[elsewhere], &[]).unwrap();
        assert!(
            !other.entries()[0].meta.exclusive,
            "a part of a name is no module"
        );
    }
}
