//! Ids of upstream tests: templates, and the lists that must contain them.

use std::collections::BTreeSet;

use linkme::distributed_slice;

use super::declaration::{RowMeta, Table};

/// Lists of upstream's test methods, as tab-separated text with a header: test, class, method, and
/// the release that introduced it; a script has the class `-`. An id that is in no list is
/// rejected; a program without a list has no valid upstream ids.
#[distributed_slice]
pub static UPSTREAM: [&'static str];

/// The contents of these lists: tests, their classes and methods.
pub(super) struct Known<'l>(BTreeSet<Vec<&'l str>>);

impl<'l> Known<'l> {
    pub(super) fn of(lists: &[&'l str]) -> Self {
        let mut known = BTreeSet::new();
        for line in lists.iter().flat_map(|list| list.lines().skip(1)) {
            let columns: Vec<&str> = line.split('\t').take(3).map(str::trim).collect();
            known.extend((1..=columns.len()).map(|count| columns[..count].to_vec()));
        }
        Self(known)
    }

    /// Whether there is such a test, class or method.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.contains(&id.split("::").collect::<Vec<_>>())
    }
}

/// The ids of one combination of rows. `ids` are those of the case and its modules: complete, or
/// with `{parameter}`, which is replaced by the `upstream` of that parameter's row. If that row
/// declares none, the template yields no id: upstream has no such test. The ids of other rows are
/// complete.
pub(super) fn expand(ids: &[&str], tables: &[Table], rows: &[&RowMeta]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for id in ids {
        let mut filled = vec![(*id).to_owned()];
        for (table, row) in std::iter::zip(tables, rows) {
            let place = placeholder(table);
            if id.contains(&place) {
                let parts = row.declaration.upstream.unwrap_or_default();
                let fill = |id: &String| {
                    let with = |part: &&str| id.replace(&place, part);
                    parts.iter().map(with).collect::<Vec<_>>()
                };
                filled = filled.iter().flat_map(fill).collect();
            }
        }
        all.extend(filled);
    }
    for (table, row) in std::iter::zip(tables, rows) {
        if !is_part(ids, table) {
            let whole = row.declaration.upstream.unwrap_or_default();
            all.extend(whole.iter().map(|id| (*id).to_owned()));
        }
    }
    let mut seen = Vec::new();
    all.retain(|id| {
        let is_new = !seen.contains(id);
        seen.push(id.clone());
        is_new
    });
    all
}

/// Whether the `upstream` of a table's rows fills a template.
fn is_part(ids: &[&str], table: &Table) -> bool {
    !table.parameter.is_empty() && ids.iter().any(|id| id.contains(&placeholder(table)))
}

fn placeholder(table: &Table) -> String {
    format!("{{{}}}", table.parameter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Row;

    const LIST: &str = "test\tclass\tmethod\n155\tTestFile\ttest_mirror_full\n206\t-\tscript\n";

    #[test]
    fn a_test_a_class_and_a_method_are_known_and_nothing_else() {
        let known = Known::of(&[LIST]);
        for id in [
            "155",
            "155::TestFile",
            "155::TestFile::test_mirror_full",
            "206",
        ] {
            assert!(known.has(id), "{id}");
        }
        for id in [
            "15",
            "999",
            "test",
            "155::Test",
            "155::TestFile::x",
            "",
            "206::x",
        ] {
            assert!(!known.has(id), "{id}");
        }
        assert!(!Known::of(&[]).has("155"));
    }

    #[test]
    fn a_template_is_filled_by_the_rows_and_yields_nothing_without_a_part() {
        let targets = Table::new(
            "target",
            &[
                Row::new("file", ()).upstream(&["TestFile", "TestOld"]),
                Row::new("null", ()),
            ],
        );
        let syncs = Table::new("sync", &[Row::new("full", ()).upstream(&["full"])]);
        let tables = [targets.clone(), syncs.clone()];
        let ids = ["155::{target}::test_{sync}", "218"];
        let expanded = expand(&ids, &tables, &[&targets.rows[0], &syncs.rows[0]]);
        let expected = ["155::TestFile::test_full", "155::TestOld::test_full", "218"];
        assert_eq!(expanded, expected);
        let expanded = expand(&ids, &tables, &[&targets.rows[1], &syncs.rows[0]]);
        assert_eq!(expanded, ["218"]);
        let whole = expand(&["218"], &tables, &[&targets.rows[0], &syncs.rows[0]]);
        assert_eq!(whole, ["218", "TestFile", "TestOld", "full"]);
    }
}
