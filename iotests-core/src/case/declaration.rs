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

/// Defines the keys once: the fields of [`Declaration`], and a setter for each there and on
/// [`Row`].
macro_rules! keys {
    (
        lists { $($(#[$list_doc:meta])* $list:ident: $item:ty,)+ }
        values { $($(#[$value_doc:meta])* $value:ident: $type:ty,)+ }
    ) => {
        /// Keys that one layer declares: a module (`defaults!`), a case (`#[case(…)]`) or a row.
        /// Every key is optional; [`Meta::merge`](super::Meta::merge) merges the layers.
        ///
        /// Lists add to those of the outer layers; single values and points of the matrix replace
        /// them.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Declaration {
            $($(#[$list_doc])* pub $list: Option<&'static [$item]>,)+
            $($(#[$value_doc])* pub $value: Option<$type>,)+
        }

        impl Declaration {
            /// An empty declaration.
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

            /// The names of the declared keys.
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
        /// The upstream tests that it covers, down to the method:
        /// `040::TestSingleDrive::test_commit`. An id that contains `{parameter}` is a template,
        /// filled with the parts that the rows of that parameter declare.
        upstream: &'static str,
        /// Creation options (`-o`) that it cannot work with, such as "refcount_bits" or
        /// "compat=0.10".
        unsupported_imgopts: &'static str,
        /// Its groups.
        groups: Group,
        /// What it needs; the case is skipped if something is missing.
        needs: Requirement,
        /// QEMU bugs that make it fail.
        known_bugs: KnownBug,
    }
    values {
        /// Exactly these protocols; only `file` by default.
        protocols: &'static [Protocol],
        /// Exactly these cache modes; all by default.
        caches: &'static [Cache],
        /// Exactly these aio modes; all by default.
        aios: &'static [Aio],
        /// The process that hosts the block layer; none by default.
        host: Host,
        /// What the guest does during the case; it is stopped by default.
        guest: Guest,
        /// The time allowed, before scaling.
        budget: Duration,
        /// Whether it must run alone.
        exclusive: bool,
        /// A machine-wide resource that only one case may use at a time, by an arbitrary name:
        /// `"tcp-ports"`.
        lock: &'static str,
        /// Whether it mounts something (FUSE) or runs a setuid program (sudo), which a process
        /// confined to its directories cannot do.
        unconfined: bool,
        /// The number of processors that it keeps busy; it occupies as many of the jobs (`-j`).
        cpus: u32,
        /// The memory that it needs, in bytes; the scheduler keeps the sum below the host's memory.
        memory: u64,
        /// The change in QEMU that made it work; shown when it fails on an older version.
        fixed_in: Fix,
        /// Marks it as unreliable until a date: `quarantine = until("2027-01-31", "why")`.
        quarantine: Quarantine,
        /// The formats as one value; the attribute uses `formats` or `formats_except`.
        format_set: Formats,
    }
}

impl Declaration {
    /// Exactly these formats; every generic one by default.
    pub const fn formats(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Only(formats))
    }

    /// Every generic format except these.
    pub const fn formats_except(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Except(formats))
    }
}

/// One row of a family's table: a name, a value, and the declarations of this row alone.
#[derive(Debug, Clone, Copy)]
pub struct Row<T> {
    name: &'static str,
    declaration: Declaration,
    value: T,
}

impl<T> Row<T> {
    /// A row without declarations. The name becomes part of the id, so it must be `kebab-case`.
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

    /// Every generic format except these.
    pub const fn formats_except(self, formats: &'static [Format]) -> Self {
        self.format_set(Formats::Except(formats))
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The value passed to the case.
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

/// A table without its type, and the parameter of the case that receives its values.
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

/// An excluded combination of rows, and why: `exclude(&["empty", "half-way"], "…")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exclusion {
    /// The name of one row per table; `*` stands for all rows of a table.
    pub rows: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

impl Exclusion {
    /// Whether it matches this combination.
    pub(super) fn matches(&self, rows: &[&RowMeta]) -> bool {
        is_combination(self.rows, rows)
    }
}

/// Whether these names, one per table, with `*` for all rows of a table, match this combination.
pub(super) fn is_combination(names: &[&str], rows: &[&RowMeta]) -> bool {
    names.len() == rows.len()
        && std::iter::zip(names, rows).all(|(name, row)| ["*", row.name].contains(name))
}

/// The declarations for a module and its submodules: `defaults!`.
#[derive(Debug, Clone, Copy)]
pub struct ModuleDefaults {
    /// Its `module_path!()`, including the crate.
    pub module: &'static str,
    /// Its source file, relative to the workspace root.
    pub file: &'static str,
    /// The line of `defaults!`.
    pub line: u32,
    /// The keys.
    pub declaration: Declaration,
}

impl ModuleDefaults {
    /// Whether `module` is this one or a submodule of it.
    pub(super) fn covers(&self, module: &str) -> bool {
        let rest = module.strip_prefix(self.module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}
