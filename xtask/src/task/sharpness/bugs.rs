//! The list of bugs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::SharpnessError;

/// A bug, and the cases that should find it.
#[derive(Debug)]
pub(super) struct Bug {
    pub(super) id: String,
    /// A short description of the bug.
    pub(super) what: String,
    pub(super) source: Source,
    pub(super) env: BTreeMap<String, String>,
    pub(super) selection: Selection,
    /// Seconds.
    pub(super) timeout: u64,
}

/// How a bug is put into the tree.
#[derive(Debug)]
pub(super) enum Source {
    Patch(PathBuf),
    /// Reverts a commit, in these files or in all.
    Revert(String, Vec<PathBuf>),
}

/// Which cases run, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selection {
    pub(super) formats: Vec<String>,
    pub(super) backend: Option<String>,
    pub(super) cases: Vec<String>,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args().join(" "))
    }
}

impl Selection {
    /// The harness's arguments for it.
    pub(super) fn args(&self) -> Vec<String> {
        let formats = self.formats.iter().map(|format| format!("-f{format}"));
        let backend = self.backend.iter().map(|b| format!("--backend={b}"));
        let cases = self.cases.iter().cloned();
        formats.chain(backend).chain(cases).collect()
    }

    /// Merges the selections with the same formats and backend.
    pub(super) fn together<'a>(all: impl Iterator<Item = &'a Selection>) -> BTreeSet<Selection> {
        let mut together: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for one in all {
            let key = (one.formats.clone(), one.backend.clone());
            let cases = together.entry(key).or_default();
            cases.extend(one.cases.iter().cloned());
        }
        let selection = |((formats, backend), cases): ((_, _), BTreeSet<_>)| Selection {
            formats,
            backend,
            cases: cases.into_iter().collect(),
        };
        together.into_iter().map(selection).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default = "ten_minutes")]
    timeout: u64,
    #[serde(default)]
    bug: Vec<Entry>,
}

fn ten_minutes() -> u64 {
    600
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    what: String,
    patch: Option<PathBuf>,
    revert: Option<String>,
    #[serde(default)]
    files: Vec<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cases: Vec<String>,
    #[serde(default)]
    formats: Vec<String>,
    backend: Option<String>,
    timeout: Option<u64>,
}

/// Reads the list; if `only` is not empty, only those bugs.
pub(super) fn read(path: &Path, only: &[String]) -> Result<Vec<Bug>, SharpnessError> {
    let wrong = |why: String| SharpnessError::List {
        path: path.to_owned(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let list: List = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let beside = path.parent().unwrap_or(Path::new(""));
    let mut bugs: Vec<Bug> = Vec::new();
    for entry in list.bug {
        let id = entry.id.clone();
        if bugs.iter().any(|bug| bug.id == id) {
            return Err(wrong(format!("there are two bugs `{id}`")));
        }
        let bug = entry.bug(beside, list.timeout);
        bugs.push(bug.map_err(|why| wrong(format!("bug `{id}`: {why}")))?);
    }
    if let Some(id) = only.iter().find(|id| !bugs.iter().any(|b| b.id == **id)) {
        return Err(wrong(format!("there is no bug `{id}`")));
    }
    bugs.retain(|bug| only.is_empty() || only.contains(&bug.id));
    if bugs.is_empty() {
        return Err(wrong("there is no bug in it".to_owned()));
    }
    Ok(bugs)
}

impl Entry {
    fn bug(self, beside: &Path, timeout: u64) -> Result<Bug, String> {
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.id.is_empty() || !self.id.chars().all(harmless) || self.id.starts_with('.') {
            return Err("an id names files, so it has letters, digits, `-`, `_` and `.`".into());
        }
        let source = match (self.patch, self.revert) {
            (Some(_), None) if !self.files.is_empty() => {
                return Err("`files` limits `revert`; a patch names its own".into());
            }
            (Some(patch), None) => Source::Patch(beside.join(patch)),
            (None, Some(commit)) => Source::Revert(commit, self.files),
            (Some(_), Some(_)) => return Err("it has `patch` and `revert`".into()),
            (None, None) => return Err("it has neither `patch` nor `revert`".into()),
        };
        if self.cases.is_empty() {
            return Err("`cases` names none".into());
        }
        Ok(Bug {
            id: self.id,
            what: self.what,
            source,
            env: self.env,
            selection: Selection {
                formats: self.formats,
                backend: self.backend,
                cases: self.cases,
            },
            timeout: self.timeout.unwrap_or(timeout),
        })
    }
}
