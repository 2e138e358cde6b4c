//! What the runner and a case process say to each other.
//!
//! A [`CaseSpec`] goes to the case process as one JSON file in its run directory; [`CaseEvent`]s come back as JSON lines on an inherited pipe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::{Aio, Backend, Cache, Format, Guest, Point, Protocol, Skip, Tool, ToolKind};
use crate::script::ScriptSpec;

/// The descriptor on which a case process finds its event pipe.
pub const EVENT_FD: i32 = 3;

/// All that a case process has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseSpec {
    /// The id of the instance.
    pub id: String,
    /// The name of the case, as registered.
    pub case: String,
    /// The row of a family.
    pub row: Option<String>,
    /// The image format.
    pub format: Format,
    /// What carries the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// Creation options for images of the format under test (`-o`).
    pub imgopts: Vec<String>,
    /// Which process hosts the block layer; `None` for a case of tools only.
    pub backend: Option<Backend>,
    /// What the guest does meanwhile.
    pub guest: Guest,
    /// Accelerators that a trial launch accepted, best first; empty without an emulator.
    pub accelerators: Vec<String>,
    /// The directory of this instance: images, stdout, stderr; also the working directory and TMPDIR.
    pub test_dir: PathBuf,
    /// A directory with a short path, for sockets.
    pub sock_dir: PathBuf,
    /// The programs of the set this instance runs on.
    pub tools: BTreeMap<ToolKind, Tool>,
    /// The cached [`Capabilities`](crate::case::Capabilities) of the set, as JSON.
    pub capabilities_file: PathBuf,
    /// The time allowed, before the scale.
    pub budget: Duration,
    /// What every deadline is multiplied with.
    pub scale: f64,
    /// Keep the directory even when the case passes.
    pub keep: bool,
    /// What to do with a golden that differs.
    pub goldens: GoldenMode,
    /// Where pending goldens are written.
    pub goldens_dir: PathBuf,
    /// The seed of everything random in this instance.
    pub seed: u64,
    /// Refuse writes outside of `test_dir` and `sock_dir` (and `goldens_dir` with `Pending`), where the kernel can (Landlock).
    #[serde(default)]
    pub confine: bool,
    /// Copy the log to stderr as it is written.
    pub print: bool,
    /// Trace everything.
    pub debug: bool,
    /// What is run in place of a function of this program.
    #[serde(default)]
    pub script: Option<ScriptSpec>,
}

impl CaseSpec {
    /// Where the instance is in the matrix.
    pub fn point(&self) -> Point {
        Point {
            format: self.format,
            protocol: self.protocol,
            cache: self.cache,
            aio: self.aio,
            backend: self.backend,
        }
    }

    /// The deadline of the whole case: budget times scale.
    pub fn deadline(&self) -> Duration {
        self.budget.mul_f64(self.scale)
    }

    /// A grace for what takes a moment on an idle machine: it grows with the scale, and never shrinks.
    pub fn grace(&self, time: Duration) -> Duration {
        grace(time, self.scale)
    }

    /// Where the case process puts what explains a failure; in `test_dir`, since it may write nowhere else.
    pub fn evidence_dir(&self) -> PathBuf {
        self.test_dir.join(".evidence")
    }
}

/// A grace grows with the scale and never shrinks: a case that is given less time does not explain itself faster.
pub(crate) fn grace(time: Duration, scale: f64) -> Duration {
    time.mul_f64(scale.max(1.0))
}

/// What to do with a golden that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoldenMode {
    /// Fail.
    Compare,
    /// Write what was found to `goldens_dir` and report it as pending.
    Pending,
}

/// What a case process reports while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum CaseEvent {
    /// The process is up and calls the case.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// A phase begins.
    Step {
        /// What it is called.
        text: String,
        /// Where.
        place: Place,
    },
    /// A line of the log.
    Log {
        /// The line or lines.
        text: String,
    },
    /// What it or a program of it printed, as it came; only where somebody wants to see it.
    Printed {
        /// The line or lines.
        text: String,
    },
    /// A number that is worth comparing with other runs.
    Metric {
        /// What was measured.
        name: String,
        /// The value.
        value: f64,
        /// Its unit.
        unit: String,
    },
    /// A part of the case was left out; the rest goes on.
    NotRun {
        /// Why, and which part.
        reason: String,
    },
    /// A golden that differs was written down for review.
    PendingGolden {
        /// The file with what was found.
        path: PathBuf,
        /// The golden it would replace, from the root of the workspace.
        golden: String,
    },
    /// A process of the case ended by itself, and not in good order.
    Died(Box<Death>),
    /// Time is up, or a person asked: what the case waits for, and how its processes are.
    Explained(Box<HangReport>),
    /// The last word: it passed.
    Passed,
    /// The last word: it cannot run here.
    Skipped {
        /// Why.
        reason: Skip,
    },
    /// The last word: it failed.
    Failed(Box<FailureReport>),
}

/// A place in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, from the root of the workspace.
    pub file: String,
    /// The line.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl From<&std::panic::Location<'_>> for Place {
    fn from(location: &std::panic::Location<'_>) -> Self {
        Self {
            file: location.file().to_owned(),
            line: location.line(),
        }
    }
}

/// A process of a case that ended by itself: by a signal, or with an exit status that nobody expected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Death {
    /// Its name in the case: `vm`, `the NBD server`.
    pub name: String,
    /// How it ended, to be read after the name: `died of SIGABRT, core dumped`, `exited with status 1`.
    pub status: String,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
    /// Its last words: the assertion or the sanitizer's first line, else the last line it printed.
    pub words: String,
    /// What else may explain it, such as the kernel's OOM killer.
    pub hint: Option<String>,
    /// The step in which it was noticed.
    pub step: Option<String>,
    /// The program, for a debugger.
    pub program: String,
    /// Its core file.
    pub core: Option<PathBuf>,
    /// The stacks of its threads when it died, if a debugger could read them from the core.
    pub backtrace: String,
}

impl Death {
    /// `vm died of SIGABRT: qemu: x.c:1: Assertion `y' failed.`
    pub fn headline(&self) -> String {
        let mut text = format!("{} {}", self.name, self.status);
        if !self.words.is_empty() {
            text += &format!(": {}", self.words);
        }
        if let Some(hint) = &self.hint {
            text += &format!(" ({hint})");
        }
        text
    }
}

/// Why a case failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureReport {
    /// The failure in one line, for lists and reports: what was expected and what was found, not just that something differs.
    pub headline: String,
    /// One or more lines; the first says what is wrong.
    pub message: String,
    /// Where it was noticed.
    pub place: Option<Place>,
    /// The line of the case that led there, where `place` is in code that cases share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case_place: Option<Place>,
    /// The step it happened in.
    pub step: Option<String>,
    /// What should have been.
    pub expected: Option<String>,
    /// What was.
    pub found: Option<String>,
    /// A unified diff, uncoloured, for longer texts.
    pub diff: Option<String>,
    /// Further causes, outermost first.
    pub causes: Vec<String>,
    /// The processes of the case, as they were.
    pub machines: Vec<MachineReport>,
}

/// What is known about one QEMU of a failed case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineReport {
    /// Its name in the case.
    pub name: String,
    /// Its command line, redacted, to be pasted.
    pub command_line: String,
    /// Running, or how it ended.
    pub status: String,
    /// The last lines it printed.
    pub stderr_tail: String,
    /// The last QMP lines of the case, both directions, without what a diagnosis asked.
    pub qmp_tail: Vec<String>,
    /// How it was found when it was diagnosed, the most useful first: threads, stacks, jobs, block graph.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diagnosis: Vec<Finding>,
}

/// One part of a diagnosis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is: `threads`, `stacks`, `query-jobs`.
    pub title: String,
    /// One line or more.
    pub text: String,
}

/// What a case waits for and how its processes are, when its time is up or when somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HangReport {
    /// In one line: which machine does not go on and why, or what the case waits for.
    pub headline: String,
    /// Why the report was made: time is up, or a signal.
    pub cause: String,
    /// How long the case has been running.
    pub elapsed: Duration,
    /// The step it is in.
    pub step: Option<String>,
    /// Where it waits, and for what.
    pub waiting: Option<String>,
    /// The place of that wait.
    pub place: Option<Place>,
    /// The QEMUs of the case.
    pub machines: Vec<MachineReport>,
    /// The case's own process: all that it waits for, its stack, its threads, and what was seen from outside.
    pub evidence: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire_as_one_line_each() {
        let events = [
            CaseEvent::Started { pid: 7 },
            CaseEvent::Step {
                text: "two\nlines".to_owned(),
                place: Place {
                    file: "a.rs".to_owned(),
                    line: 3,
                },
            },
            CaseEvent::Failed(Box::new(FailureReport {
                message: "no".to_owned(),
                ..Default::default()
            })),
            CaseEvent::Skipped { reason: Skip::Root },
            CaseEvent::Passed,
        ];
        for event in events {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<CaseEvent>(&line).unwrap(), event);
        }
    }
}
