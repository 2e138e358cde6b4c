//! The cases in this program: one entry for every `#[case(…)]`, or for every row of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

use linkme::distributed_slice;

use super::check::{Problems, check};
use super::declaration::{Declaration, Exclusion, ModuleDefaults, RowMeta, Table};
use super::meta::{Meta, Origin};
use super::upstream::{self, UPSTREAM};
use crate::author::{CaseResult, Failure, Test};
use crate::script::Script;

/// The boxed future of a case's function.
pub type CaseFuture<'t> = Pin<Box<dyn Future<Output = CaseResult> + 't>>;

/// Every registered case; `#[case(…)]` adds to it, and the linker collects the entries.
#[distributed_slice]
pub static CASES: [Case];

/// Module-wide declarations; `defaults!` adds to it.
#[distributed_slice]
pub static DEFAULTS: [ModuleDefaults];

/// One registered function.
pub struct Case {
    /// Its `module_path!()`, including the crate.
    pub module: &'static str,
    /// Its name.
    pub function: &'static str,
    /// The first paragraph of its doc comment.
    pub description: &'static str,
    /// Its source file, relative to the workspace root.
    pub file: &'static str,
    /// The line of its attribute.
    pub line: u32,
    /// What its attribute declares.
    pub declaration: Declaration,
    /// Combinations of rows that are excluded.
    pub excluded: &'static [Exclusion],
    /// How it is called.
    pub body: Body,
}

/// How a case is called.
pub enum Body {
    /// One function, with one instance per point of the matrix.
    Single(for<'t> fn(&'t mut Test) -> CaseFuture<'t>),
    /// A family: one instance per row, or per combination of rows of several tables.
    Rows {
        /// The tables, in the order of the parameters.
        tables: fn() -> Vec<Table>,
        /// Runs the combination with these indices.
        run: for<'t> fn(&'t mut Test, &[usize]) -> CaseFuture<'t>,
    },
    /// An upstream script, run in its own process.
    Script(Script),
}

impl Case {
    /// The name: the module path below the crate and the function.
    pub fn name(&self) -> String {
        match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.function),
            None => self.function.to_owned(),
        }
    }

    /// The name, followed by a row.
    pub fn name_with(&self, row: Option<&str>) -> String {
        match row {
            Some(row) => format!("{}/{row}", self.name()),
            None => self.name(),
        }
    }

    /// The tables of a family.
    pub(super) fn tables(&self) -> Vec<Table> {
        match &self.body {
            Body::Single(_) | Body::Script(_) => Vec::new(),
            Body::Rows { tables, .. } => tables(),
        }
    }

    /// Expands it: into itself, or into one entry per combination of rows.
    pub fn entries(&'static self, defaults: &[ModuleDefaults]) -> Vec<Registered> {
        let mut outer: Vec<&ModuleDefaults> =
            defaults.iter().filter(|module| module.covers(self.module)).collect();
        outer.sort_by_key(|module| module.module.len());
        let mut layers: Vec<(Origin, Declaration)> = outer
            .iter()
            .map(|module| (Origin::Module(module.module), module.declaration))
            .collect();
        layers.push((Origin::Attribute, self.declaration));
        let ids: Vec<&str> = layers
            .iter()
            .flat_map(|(_, layer)| layer.upstream.unwrap_or_default())
            .copied()
            .collect();
        let tables = self.tables();
        let entry = |indices: Vec<usize>| {
            let rows: Vec<&RowMeta> = std::iter::zip(&tables, &indices)
                .map(|(table, index)| &table.rows[*index])
                .collect();
            if self.excluded.iter().any(|excluded| excluded.matches(&rows)) {
                return None;
            }
            let mut layers = layers.clone();
            layers.extend(rows.iter().map(|row| (Origin::Row(row.name), row.declaration)));
            let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
            let mut meta = Meta::merge(&layers);
            meta.known_bugs.retain(|bug| bug.concerns(&rows));
            Some(Registered {
                case: self,
                row: (!names.is_empty()).then(|| names.join("-")),
                meta: Meta {
                    upstream: upstream::expand(&ids, &tables, &rows),
                    ..meta
                },
                indices,
            })
        };
        combinations(&tables).into_iter().filter_map(entry).collect()
    }
}

/// The indices of all combinations of rows; a single empty one if there are no tables.
pub(super) fn combinations(tables: &[Table]) -> Vec<Vec<usize>> {
    tables.iter().fold(vec![Vec::new()], |all, table| {
        let longer = |one: &Vec<usize>| {
            let one = one.clone();
            (0..table.rows.len()).map(move |index| [one.as_slice(), &[index]].concat())
        };
        all.iter().flat_map(longer).collect()
    })
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A case, or one row of it, with everything declared about it.
#[derive(Debug)]
pub struct Registered {
    /// The case.
    pub case: &'static Case,
    /// The names of its rows, joined with `-`.
    pub row: Option<String>,
    /// Its merged declaration.
    pub meta: Meta,
    /// The row of each table.
    indices: Vec<usize>,
}

impl Registered {
    /// A script with its merged declaration.
    pub(crate) fn script(case: &'static Case, meta: Meta) -> Self {
        Self {
            case,
            row: None,
            meta,
            indices: Vec::new(),
        }
    }

    /// The name of the case, followed by the row.
    pub fn name(&self) -> String {
        self.case.name_with(self.row.as_deref())
    }

    /// Calls the function; for a family, with the values of its rows.
    pub fn call<'t>(&self, test: &'t mut Test) -> CaseFuture<'t> {
        match &self.case.body {
            Body::Single(run) => run(test),
            Body::Rows { run, .. } => run(test, &self.indices),
            Body::Script(script) => {
                let text = format!("{} has no function to be called", script.name);
                Box::pin(async { Err(Failure::new(text)) })
            }
        }
    }
}

/// All entries, checked.
#[derive(Debug)]
pub struct Registry {
    entries: Vec<Registered>,
}

impl Registry {
    /// The entries of these cases.
    ///
    /// # Errors
    /// Everything that is wrong with their declarations, and where.
    pub fn new(
        cases: &'static [Case],
        defaults: &[ModuleDefaults],
        upstream: &[&str],
    ) -> Result<Self, Problems> {
        let entries: Vec<Registered> =
            cases.iter().flat_map(|case| case.entries(defaults)).collect();
        check(cases, defaults, &entries, upstream)?;
        Ok(Self { entries })
    }

    /// The registry of this program.
    ///
    /// # Errors
    /// Everything that is wrong with their declarations, and where.
    pub fn get() -> Result<&'static Self, &'static Problems> {
        static REGISTRY: OnceLock<Result<Registry, Problems>> = OnceLock::new();
        REGISTRY.get_or_init(|| Self::new(&CASES, &DEFAULTS, &UPSTREAM)).as_ref()
    }

    /// The entry of this case and row in this program. Not checked, for a process that runs a
    /// single case: the runner has already checked all entries, and repeating that here would take
    /// longer than most cases.
    pub(crate) fn one(case: &str, row: Option<&str>) -> Option<Registered> {
        let entries = |one: &'static Case| one.entries(&DEFAULTS);
        let mut entries = CASES.iter().filter(|one| one.name() == case).flat_map(entries);
        entries.find(|entry| entry.row.as_deref() == row)
    }

    /// All of them.
    pub fn entries(&self) -> &[Registered] {
        &self.entries
    }

    /// The entry of this case and row.
    pub fn find(&self, case: &str, row: Option<&str>) -> Option<&Registered> {
        let is_it = |entry: &&Registered| entry.row.as_deref() == row && entry.case.name() == case;
        self.entries.iter().find(is_it)
    }
}
