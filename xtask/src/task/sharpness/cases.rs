//! The harness: which cases exist, and how they end on a build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::bugs::Selection;
use super::child::{self, End, Stop};
use super::{SharpnessError, iotests};
use crate::cargo::{self, XtaskError};

/// The harness's exit status if nothing is selected.
const NOTHING_SELECTED: i32 = 3;

pub(super) struct Harness {
    program: PathBuf,
    build: PathBuf,
    out: PathBuf,
    jobs: Option<usize>,
    /// The number of instances of each selection.
    counts: BTreeMap<Selection, usize>,
}

/// A run of some cases.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) instances: Vec<Ran>,
    pub(super) end: End,
}

/// An instance that ran.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) id: String,
    /// Its case, without row and point of the matrix.
    pub(super) case: String,
    pub(super) verdict: String,
    /// Why, in one line.
    pub(super) headline: String,
    /// Time since the start of the run.
    pub(super) after: Duration,
}

impl Ran {
    pub(super) fn is_red(&self) -> bool {
        let red = ["fail", "timeout", "crash", "leak", "unexpected-pass"];
        red.contains(&self.verdict.as_str())
    }
}

impl Harness {
    pub(super) fn new(program: PathBuf, build: &Path, out: &Path, jobs: Option<usize>) -> Self {
        Harness {
            program,
            build: build.to_owned(),
            out: out.to_owned(),
            jobs,
            counts: BTreeMap::new(),
        }
    }

    fn command(&self, selection: &Selection) -> Result<Command, XtaskError> {
        let mut command = iotests::command(&self.program)?;
        // Its history and its probes must not affect the usual runs.
        command.args(["--no-config", "--set=host", "--color=never", "--build-dir"]);
        command.arg(self.out.join("harness"));
        command.arg("--qemu-build").arg(&self.build);
        command.args(selection.args());
        Ok(command)
    }

    /// How many instances can run here.
    pub(super) fn count(&mut self, selection: &Selection) -> Result<usize, XtaskError> {
        if let Some(count) = self.counts.get(selection) {
            return Ok(*count);
        }
        let mut command = self.command(selection)?;
        let output = command.arg("--list=ids").output();
        let output = output.map_err(|source| XtaskError::Start {
            program: cargo::display(&command),
            source,
        })?;
        if !output.status.success() && output.status.code() != Some(NOTHING_SELECTED) {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let command = cargo::display(&command);
            return Err(SharpnessError::Harness { command, why }.into());
        }
        let count = output.stdout.split(|byte| *byte == b'\n');
        let count = count.filter(|line| !line.is_empty()).count();
        self.counts.insert(selection.clone(), count);
        Ok(count)
    }

    pub(super) fn run(
        &self,
        name: &str,
        selection: &Selection,
        env: &BTreeMap<String, String>,
        time: Duration,
        stop: &Stop,
    ) -> Result<Run, XtaskError> {
        let record = self.out.join("records").join(format!("{name}.jsonl"));
        // A record of an earlier run must not be mistaken for this one's.
        if record.exists() {
            fs::remove_file(&record).map_err(XtaskError::file("remove", &record))?;
        }
        let mut command = self.command(selection)?;
        command.arg("--jsonl").arg(&record).envs(env);
        if let Some(jobs) = self.jobs {
            command.arg(format!("--jobs={jobs}"));
        }
        let log = self.out.join("logs").join(format!("{name}.txt"));
        let end = child::run(&mut command, &log, time, stop)?;
        let broken = |why: String| SharpnessError::Harness {
            command: cargo::display(&command),
            why: format!("{why}; see {}", log.display()),
        };
        let text = match fs::read_to_string(&record) {
            Ok(text) => text,
            Err(_) if !matches!(end, End::Exited(_)) => String::new(),
            Err(error) => return Err(broken(format!("it left no record: {error}")).into()),
        };
        let instances = instances(&text).map_err(broken)?;
        if matches!(end, End::Exited(_)) && instances.is_empty() {
            return Err(broken("nothing ran".to_owned()).into());
        }
        Ok(Run { instances, end })
    }
}

/// The instances in a record, in the order in which they ended. Its last line may be truncated.
fn instances(record: &str) -> Result<Vec<Ran>, String> {
    let whole = record.rfind('\n').map_or("", |end| &record[..end]);
    let mut instances = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        let line: Value = serde_json::from_str(line)
            .map_err(|error| format!("line {} of its record: {error}", number + 1))?;
        let event = &line["event"];
        if event["event"] != "instance-finished" {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let attempts = event["attempts"].as_array();
        let last = attempts.and_then(|attempts| attempts.last());
        let after = &line["elapsed"];
        let part = |key: &str| after[key].as_u64().unwrap_or_default();
        instances.push(Ran {
            id: text(&event["instance"]["id"]),
            case: text(&event["instance"]["case"]),
            verdict: text(&event["verdict"]),
            headline: last.map(|last| text(&last["headline"])).unwrap_or_default(),
            after: Duration::from_secs(part("secs")) + Duration::from_nanos(part("nanos")),
        });
    }
    Ok(instances)
}
