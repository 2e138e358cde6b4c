//! The cases that this program knows: one entry for every `#[case(…)]`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use linkme::distributed_slice;

use super::meta::Meta;
use super::row::RowMeta;
use crate::author::{CaseResult, Test};

/// What a case's function returns once it is boxed.
pub type CaseFuture<'t> = Pin<Box<dyn Future<Output = CaseResult> + 't>>;

/// Every registered case; `#[case(…)]` adds to it, the linker puts it together.
#[distributed_slice]
pub static CASES: [Case];

/// One registered function.
pub struct Case {
    /// Its `module_path!()`, with the crate.
    pub module: &'static str,
    /// Its name.
    pub function: &'static str,
    /// The first paragraph of its doc comment.
    pub description: &'static str,
    /// Its source file, from the root of the workspace.
    pub file: &'static str,
    /// The line of its attribute.
    pub line: u32,
    /// What is declared.
    pub meta: Meta,
    /// How it is called.
    pub body: Body,
}

/// How a case is called.
pub enum Body {
    /// One function, one instance on each point of the matrix.
    Single(for<'t> fn(&'t mut Test) -> CaseFuture<'t>),
    /// A family: an instance for each row.
    Rows {
        /// The declarations of the rows.
        rows: fn() -> Vec<RowMeta>,
        /// Runs the row of this index.
        run: for<'t> fn(&'t mut Test, usize) -> CaseFuture<'t>,
    },
}

impl Case {
    /// The name: the module path below the crate and the function.
    pub fn name(&self) -> String {
        match self.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.function),
            None => self.function.to_owned(),
        }
    }

    /// The rows of a family; one `None` for a single case.
    pub fn rows(&self) -> Vec<Option<RowMeta>> {
        match &self.body {
            Body::Single(_) => vec![None],
            Body::Rows { rows, .. } => rows().into_iter().map(Some).collect(),
        }
    }

    /// Calls the function, for a family with the row of this name. `None` when there is no such row.
    pub fn call<'t>(&self, test: &'t mut Test, row: Option<&str>) -> Option<CaseFuture<'t>> {
        match (&self.body, row) {
            (Body::Single(run), None) => Some(run(test)),
            (Body::Rows { rows, run }, Some(row)) => {
                let index = rows().iter().position(|meta| meta.name == row)?;
                Some(run(test, index))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name())
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}
