//! Families: one function, a table of rows, an instance for each.

use super::requirement::Requirement;

/// What is declared about one row of a table.
#[derive(Debug, Clone, Copy)]
pub struct RowMeta {
    /// The name: part of the id, so `kebab-case` and without `/` or `@`.
    pub name: &'static str,
    /// The upstream test that this row covers; several are separated by spaces.
    pub upstream: &'static str,
    /// What this row needs beside the needs of the case.
    pub needs: &'static [Requirement],
}

/// One row of a family's table: a name, a value, and what only this row declares.
#[derive(Debug, Clone, Copy)]
pub struct Row<T> {
    meta: RowMeta,
    value: T,
}

impl<T> Row<T> {
    /// A row without an upstream id or needs of its own.
    pub const fn new(name: &'static str, value: T) -> Self {
        Self {
            meta: RowMeta {
                name,
                upstream: "",
                needs: &[],
            },
            value,
        }
    }

    /// The upstream test this row covers, down to the method: `163::TestShrink512::test_empty_image`. Several are separated by spaces.
    pub const fn upstream(mut self, ids: &'static str) -> Self {
        self.meta.upstream = ids;
        self
    }

    /// What this row needs beside the needs of the case.
    pub const fn needs(mut self, needs: &'static [Requirement]) -> Self {
        self.meta.needs = needs;
        self
    }

    /// What is declared about the row.
    pub const fn meta(&self) -> &RowMeta {
        &self.meta
    }

    /// What the case is given.
    pub const fn value(&self) -> &T {
        &self.value
    }
}

/// The declarations of a whole table, without its type.
pub fn row_metas<T>(rows: &[Row<T>]) -> Vec<RowMeta> {
    rows.iter().map(|row| row.meta).collect()
}
