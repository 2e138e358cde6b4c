//! What an author declares: the same keys for a module, a case and a row.

use std::time::Duration;

use super::axes::{Aio, Cache, Format, Formats, Guest, Host, Protocol};
use super::known_bug::{Fix, KnownBug, Quarantine};
use super::requirement::Requirement;

/// A group of cases, named as QEMU names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub &'static str);

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.0)
    }
}

/// Declares the keys once: the fields of [`Declaration`], and a setter of each there and on [`Row`].
macro_rules! keys {
    (
        lists { $($(#[$list_doc:meta])* $list:ident: $item:ty,)+ }
        values { $($(#[$value_doc:meta])* $value:ident: $type:ty,)+ }
    ) => {
        /// Keys that one layer declares: a module (`defaults!`), a case (`#[case(…)]`) or a row.
        /// Every key is optional; [`Meta::merge`](super::Meta::merge) puts the layers together.
        ///
        /// Lists add to what the outer layers declare; single values and the points of the matrix
        /// replace it.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Declaration {
            $($(#[$list_doc])* pub $list: Option<&'static [$item]>,)+
            $($(#[$value_doc])* pub $value: Option<$type>,)+
        }

        impl Declaration {
            /// Nothing is declared.
            pub const fn new() -> Self {
                Self { $($list: None,)+ $($value: None,)+ }
            }

            $($(#[$list_doc])* pub const fn $list(mut self, $list: &'static [$item]) -> Self {
                self.$list = Some($list);
                self
            })+
            $($(#[$value_doc])* pub const fn $value(mut self, $value: $type) -> Self {
                self.$value = Some($value);
                self
            })+

            /// The names of the keys that are declared.
            pub(super) fn keys(&self) -> Vec<&'static str> {
                let lists = [$((self.$list.is_some(), stringify!($list)),)+];
                let values = [$((self.$value.is_some(), stringify!($value)),)+];
                let declared = lists.into_iter().chain(values).filter(|(is, _)| *is);
                declared.map(|(_, key)| key).collect()
            }
        }

        impl<T> Row<T> {
            $($(#[$list_doc])* pub const fn $list(mut self, $list: &'static [$item]) -> Self {
                self.declaration.$list = Some($list);
                self
            })+
            $($(#[$value_doc])* pub const fn $value(mut self, $value: $type) -> Self {
                self.declaration.$value = Some($value);
                self
            })+
        }
    };
}

keys! {
    lists {
        /// Upstream tests that are covered, down to the method: `040::TestSingleDrive::test_commit`.
        /// With `{parameter}` in it an id is a template, and the rows of that parameter declare the
        /// parts that fill it.
        upstream: &'static str,
        /// Creation options (`-o`) that do not work with it, such as "refcount_bits" or "compat=0.10".
        unsupported_imgopts: &'static str,
        /// The groups.
        groups: Group,
        /// What has to be there; without it the case is skipped.
        needs: Requirement,
        /// Bugs of QEMU that make it fail.
        known_bugs: KnownBug,
    }
    values {
        /// Exactly these protocols; `file` alone by default.
        protocols: &'static [Protocol],
        /// Exactly these cache modes; all by default.
        caches: &'static [Cache],
        /// Exactly these aio modes; all by default.
        aios: &'static [Aio],
        /// Which process hosts the block layer; none by default.
        host: Host,
        /// What the guest does meanwhile; it is stopped by default.
        guest: Guest,
        /// Time allowed, before the scale.
        budget: Duration,
        /// Nothing else may run at the same time.
        exclusive: bool,
        /// Something of the machine that only one may use at a time, by any name: `"tcp-ports"`.
        lock: &'static str,
        /// It mounts something (FUSE) or runs a setuid program (sudo), which a process confined to
        /// its directories may not.
        unconfined: bool,
        /// Processors that it keeps busy at once; as many of the jobs (`-j`) are left to it.
        cpus: u32,
        /// Memory needed at once, in bytes; the scheduler keeps the sum below what the host has.
        memory: u64,
        /// The change in QEMU that made it work: shown when it fails on an older version.
        fixed_in: Fix,
        /// It is unreliable until a date: `quarantine = until("2027-01-31", "why")`.
        quarantine: Quarantine,
        /// Which formats, as one value; the attribute says `formats` or `formats_except`.
        format_set: Formats,
    }
}

impl Declaration {
    /// Exactly these formats; every generic one by default.
    pub const fn formats(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Only(formats))
    }

    /// Every generic format but these.
    pub const fn formats_except(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Except(formats))
    }
}

/// One row of a family's table: a name, a value, and what only this row declares.
#[derive(Debug, Clone, Copy)]
pub struct Row<T> {
    name: &'static str,
    declaration: Declaration,
    value: T,
}

impl<T> Row<T> {
    /// A row that declares nothing. The name is part of the id, so `kebab-case`.
    pub const fn new(name: &'static str, value: T) -> Self {
        Self {
            name,
            declaration: Declaration::new(),
            value,
        }
    }

    /// Exactly these formats.
    pub const fn formats(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Only(formats))
    }

    /// Every generic format but these.
    pub const fn formats_except(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Except(formats))
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What the case is given.
    pub const fn value(&self) -> &T {
        &self.value
    }
}

/// A row without its value.
#[derive(Debug, Clone, Copy)]
pub struct RowMeta {
    /// The name.
    pub name: &'static str,
    /// What the row declares.
    pub declaration: Declaration,
}

/// A table without its type, and the parameter of the case that its values are given to.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name of the parameter; empty for a pattern without one.
    pub parameter: &'static str,
    /// The rows.
    pub rows: Vec<RowMeta>,
}

impl Table {
    /// The declarations of a table.
    pub fn new<T>(parameter: &'static str, rows: &[Row<T>]) -> Self {
        let meta = |row: &Row<T>| RowMeta {
            name: row.name,
            declaration: row.declaration,
        };
        Self {
            parameter,
            rows: rows.iter().map(meta).collect(),
        }
    }
}

/// A combination of rows that does not exist, and why: `exclude(&["empty", "half-way"], "…")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exclusion {
    /// The name of a row of each table; `*` stands for all of a table.
    pub rows: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

impl Exclusion {
    /// Whether it means this combination.
    pub(super) fn matches(&self, rows: &[&RowMeta]) -> bool {
        is_combination(self.rows, rows)
    }
}

/// Whether these names, one for each table, `*` for all of a table, mean this combination of rows.
pub(super) fn is_combination(names: &[&str], rows: &[&RowMeta]) -> bool {
    names.len() == rows.len()
        && std::iter::zip(names, rows).all(|(name, row)| ["*", row.name].contains(name))
}

/// What a module and those below it declare: `defaults!`.
#[derive(Debug, Clone, Copy)]
pub struct ModuleDefaults {
    /// Its `module_path!()`, with the crate.
    pub module: &'static str,
    /// Its source file, from the root of the workspace.
    pub file: &'static str,
    /// The line of `defaults!`.
    pub line: u32,
    /// The keys.
    pub declaration: Declaration,
}

impl ModuleDefaults {
    /// Whether a module is this one or below it.
    pub(super) fn covers(&self, module: &str) -> bool {
        let rest = module.strip_prefix(self.module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}
