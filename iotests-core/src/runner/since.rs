//! `--since REV`: the instances that a change to QEMU's sources may affect.
//!
//! Each changed file selects instances by an expression in [`map`]. What each file selects is
//! shown. A file that is not on the map selects everything.

mod map;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::RunError;
use super::filter::Filter;
use super::plan::{Able, MorePoints, Planned};
use super::records::Records;
use super::report::text::count;
use map::{Touched, touched};

/// The most files of a group that are named.
const NAMED: usize = 4;

/// The changed files, and what they select.
#[derive(Debug)]
pub(crate) struct Since {
    revision: String,
    source: PathBuf,
    groups: Vec<Group>,
}

/// Files that select the same.
#[derive(Debug)]
struct Group {
    files: Vec<String>,
    touched: Touched,
}

impl Since {
    /// Finds what has changed in the clone with this folder: in commits since the revision, or
    /// since the branch forked off it, and in uncommitted changes.
    pub(crate) fn new(revision: &str, source: &Path) -> Result<Self, RunError> {
        let files = changed(revision, source)?;
        let mut groups: Vec<Group> = Vec::new();
        for file in files {
            let touched = touched(&file);
            match groups.iter_mut().find(|group| group.touched == touched) {
                Some(group) => group.files.push(file),
                None => groups.push(Group {
                    files: vec![file],
                    touched,
                }),
            }
        }
        Ok(Self {
            revision: revision.to_owned(),
            source: source.to_owned(),
            groups,
        })
    }

    /// The matrix points that the change is about, to be run in addition to the defaults.
    pub(crate) fn points(&self) -> MorePoints {
        let mut points = MorePoints::default();
        for filter in self.groups.iter().filter_map(Group::filter) {
            filter.points(&mut points);
        }
        points
    }

    /// Whether each of these instances is selected, and lines for the user about which files select
    /// what.
    pub(crate) fn choose(
        &self,
        planned: &[Planned],
        sets: &[Able],
        records: &Records,
    ) -> (Vec<bool>, Vec<String>) {
        let mut all = vec![false; planned.len()];
        let files: usize = self.groups.iter().map(|group| group.files.len()).sum();
        let mut lines = vec![format!(
            "{} in {} changed since {}{}",
            count(files, "file"),
            self.source.display(),
            self.revision,
            if files > 0 { ":" } else { "" },
        )];
        for group in &self.groups {
            let mut chosen = 0;
            for (one, is_chosen) in planned.iter().zip(&mut all) {
                if group.matches(one, sets, records) {
                    *is_chosen = true;
                    chosen += 1;
                }
            }
            let what = match &group.touched {
                Touched::Nothing => "nothing, because no test covers it".to_owned(),
                Touched::These(text, _) => format!("{text}: {chosen} of {}", planned.len()),
                Touched::Unknown => "everything, because what it affects is unknown".to_owned(),
            };
            lines.push(format!("  {}: {what}", named(&group.files)));
        }
        (all, lines)
    }
}

impl Group {
    fn filter(&self) -> Option<&Filter> {
        match &self.touched {
            Touched::These(_, filter) => Some(filter),
            Touched::Nothing | Touched::Unknown => None,
        }
    }

    fn matches(&self, one: &Planned, sets: &[Able], records: &Records) -> bool {
        match &self.touched {
            Touched::Nothing => false,
            Touched::These(_, filter) => filter.matches(one, sets, records),
            Touched::Unknown => true,
        }
    }
}

/// The first files, and how many more there are.
fn named(files: &[String]) -> String {
    let first = &files[..files.len().min(NAMED)];
    match files.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The sources that a build folder was configured from.
pub(crate) fn source_of_build(build: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(build.join("config-host.mak")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("SRC_PATH="));
    path.map(|path| build.join(path.trim()))
}

/// The paths of changed files, relative to the root of the clone.
fn changed(revision: &str, source: &Path) -> Result<Vec<String>, RunError> {
    let git = |args: &[&str]| git(source, args);
    if revision.starts_with('-') {
        return Err(RunError::Usage(format!("`{revision}` is not a revision")));
    }
    // First, for a distinct error if there is no clone.
    git(&["rev-parse", "--git-dir"])?;
    let commit = git(&["rev-parse", "--verify", &format!("{revision}^{{commit}}")]);
    let commit = commit.map_err(|_| {
        RunError::Usage(format!(
            "--since: there is no revision `{revision}` in {}",
            source.display()
        ))
    })?;
    let commit = commit.trim();
    // A shallow clone may not have the fork point.
    let base = git(&["merge-base", commit, "HEAD"]).unwrap_or_else(|_| commit.to_owned());
    let diff = [
        "-c",
        "diff.relative=false",
        "diff",
        "--name-only",
        "-z",
        "--no-renames",
        base.trim(),
        "--",
    ];
    let files = git(&diff)?;
    let files = files.split('\0').filter(|name| !name.is_empty());
    Ok(files.map(str::to_owned).collect())
}

fn git(source: &Path, args: &[impl AsRef<OsStr>]) -> Result<String, RunError> {
    let failed = |why: &str| {
        RunError::Usage(format!(
            "--since: cannot tell what changed in {}: {why}",
            source.display()
        ))
    };
    let mut command = Command::new("git");
    command.arg("-C").arg(source).args(args).env("LC_ALL", "C");
    let output = command.output().map_err(|error| failed(&format!("cannot start git: {error}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}
