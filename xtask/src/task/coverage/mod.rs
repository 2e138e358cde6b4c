//! `cargo xtask coverage`: writes COVERAGE.md, which upstream tests are ported and where they ran,
//! and which only the scripts themselves cover; and docs/versions.md, what differs between versions
//! of QEMU.

mod page;
mod runs;
mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cargo::{self, XtaskError};
use crate::task::iotests;
use runs::Runs;

/// Options of the coverage report.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Records of earlier runs (`--jsonl`) with the results, including those of `--upstream`.
    /// Default: runs every case on every available set of QEMU programs.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
}

/// Writes COVERAGE.md and docs/versions.md.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let files = if args.from.is_empty() {
        vec![run_all()?]
    } else {
        args.from
    };
    let methods = read_methods(&cargo::root().join("data/upstream-methods.tsv"))?;
    let notes = read_notes(&cargo::root().join("data/coverage-notes.tsv"))?;
    let mut runs = Runs::default();
    for file in &files {
        runs.add(file)?;
    }
    let unknown = runs.unknown(&methods);
    if !unknown.is_empty() {
        return Err(XtaskError::Data {
            path: PathBuf::from("data/upstream-methods.tsv"),
            why: format!(
                "it has no {}, which cases name as upstream",
                unknown.join(", ")
            ),
        });
    }
    let path = cargo::root().join("COVERAGE.md");
    fs::write(&path, page::render(&methods, &notes, &runs))
        .map_err(XtaskError::file("write", &path))?;
    println!("{} written", path.display());
    let path = cargo::root().join("docs/versions.md");
    fs::write(&path, runs.differences.render()).map_err(XtaskError::file("write", &path))?;
    println!("{} written", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs everything on everything; failed cases appear in the report and do not fail this task.
fn run_all() -> Result<PathBuf, XtaskError> {
    let events = cargo::target_dir()?.join("coverage.jsonl");
    let mut command = iotests::command(&iotests::build()?)?;
    command.args(["--set", "all", "--format", "all", "--jsonl"]).arg(&events);
    match cargo::check(&mut command) {
        Ok(()) | Err(XtaskError::Failed { .. }) => Ok(events),
        Err(error) => Err(error),
    }
}

/// One upstream method; a script is a test with the single method `script`, or `bash` for a bash
/// script.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Method {
    test: String,
    class: String,
    name: String,
}

impl Method {
    fn new(test: &str, class: &str, name: &str) -> Self {
        Self {
            test: test.to_owned(),
            class: class.to_owned(),
            name: name.to_owned(),
        }
    }

    fn is_script(&self) -> bool {
        self.class == "-"
    }

    fn is_bash(&self) -> bool {
        self.is_script() && self.name == "bash"
    }

    /// Whether `id`, as written in cases, covers this method: as its test, its class or itself.
    fn is_meant_by(&self, id: &str) -> bool {
        let mut parts = id.split("::");
        parts.next() == Some(&self.test)
            && parts.next().is_none_or(|class| class == self.class)
            && parts.next().is_none_or(|name| name == self.name)
            && parts.next().is_none()
    }
}

fn read_methods(path: &Path) -> Result<Vec<Method>, XtaskError> {
    let rows = read_table(path, 4)?;
    Ok(rows.into_iter().map(|row| Method::new(&row[0], &row[1], &row[2])).collect())
}

/// The notes about methods or tests: the id as written in cases, and the note.
fn read_notes(path: &Path) -> Result<Vec<(String, String)>, XtaskError> {
    Ok(read_table(path, 2)?.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect())
}

/// The rows of a tab-separated file below its header.
fn read_table(path: &Path, columns: usize) -> Result<Vec<Vec<String>>, XtaskError> {
    let text = fs::read_to_string(path).map_err(XtaskError::file("read", path))?;
    let rows = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(number, line)| {
        let row: Vec<String> = line.split('\t').map(|field| field.trim().to_owned()).collect();
        if row.len() == columns {
            return Ok(row);
        }
        let why = format!(
            "line {} has {} fields, not {columns}",
            number + 1,
            row.len()
        );
        Err(XtaskError::Data {
            path: path.to_owned(),
            why,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_means_its_method_or_all_below_it() {
        let one = Method::new("040", "TestActive", "test_commit");
        for id in ["040", "040::TestActive", "040::TestActive::test_commit"] {
            assert!(one.is_meant_by(id), "{id}");
        }
        for id in [
            "04",
            "041",
            "040::Test",
            "040::TestActive::test",
            "040::TestActive::test_commit::x",
        ] {
            assert!(!one.is_meant_by(id), "{id}");
        }
    }
}
