//! The messages between the runner and a case process.
//!
//! The runner passes a [`CaseSpec`] to the case process as a JSON file in its run directory; the
//! process sends [`CaseEvent`]s as JSON lines over a pipe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::{Aio, Backend, Cache, Format, Guest, Point, Protocol, Skip, Tool, ToolKind};
use crate::script::ScriptSpec;

/// Everything that a case process needs to know.
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
    /// The protocol that provides access to the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// Creation options for images of the format under test (`-o`).
    pub imgopts: Vec<String>,
    /// The process that hosts the block layer; `None` for a case that uses only tools.
    pub backend: Option<Backend>,
    /// What the guest does during the case.
    pub guest: Guest,
    /// Accelerators that a trial launch accepted, best first; empty without an emulator.
    pub accelerators: Vec<String>,
    /// The directory of this instance, for images, stdout and stderr; also the working directory
    /// and TMPDIR.
    pub test_dir: PathBuf,
    /// A directory with a short path, for sockets.
    pub sock_dir: PathBuf,
    /// The programs of the set that this instance runs on.
    pub tools: BTreeMap<ToolKind, Tool>,
    /// The cached [`Capabilities`](crate::case::Capabilities) of the set, as JSON.
    pub capabilities_file: PathBuf,
    /// The time allowed, before scaling.
    pub budget: Duration,
    /// The factor by which every deadline is multiplied.
    pub scale: f64,
    /// Whether to keep the directory even if the case passes.
    pub keep: bool,
    /// What to do with a golden that differs.
    pub goldens: GoldenMode,
    /// Where pending goldens are written.
    pub goldens_dir: PathBuf,
    /// The seed of everything random in this instance.
    pub seed: u64,
    /// Whether to refuse writes outside `test_dir` and `sock_dir` (and `goldens_dir` with
    /// `Pending`), if the kernel can (Landlock).
    #[serde(default)]
    pub confine: bool,
    /// Whether to copy the log to stderr as it is written.
    pub print: bool,
    /// Whether to trace everything.
    pub debug: bool,
    /// The script to run instead of a function of this program.
    #[serde(default)]
    pub script: Option<ScriptSpec>,
}

impl CaseSpec {
    /// The instance's point of the matrix.
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

    /// A grace period for something that takes a moment on an idle machine: it grows with the
    /// scale, and never shrinks, since a case that has less time does not explain itself any faster.
    pub fn grace(&self, time: Duration) -> Duration {
        time.mul_f64(self.scale.max(1.0))
    }

    /// Where the case process stores evidence of a failure; inside `test_dir`, since it may not
    /// write elsewhere.
    pub fn evidence_dir(&self) -> PathBuf {
        self.test_dir.join(".evidence")
    }
}

/// What to do with a golden that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoldenMode {
    /// Fail.
    Compare,
    /// Write the actual text to `goldens_dir` and report it as pending.
    Pending,
}

/// What a case process reports while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum CaseEvent {
    /// The process has started and calls the case.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// A phase begins.
    Step {
        /// Its name.
        text: String,
        /// Where it begins.
        place: Place,
    },
    /// A line of the log.
    Log {
        /// The line or lines.
        text: String,
    },
    /// Output of the case or of a program that it runs, as it arrives; only if requested.
    Printed {
        /// The line or lines.
        text: String,
    },
    /// A number worth comparing with other runs.
    Metric {
        /// What was measured.
        name: String,
        /// The value.
        value: f64,
        /// Its unit.
        unit: String,
    },
    /// A part of the case was left out; the case continues.
    NotRun {
        /// Which part, and why.
        reason: String,
    },
    /// A text that differs from its golden was written for review.
    PendingGolden {
        /// The file with the actual text.
        path: PathBuf,
        /// The golden that it would replace, relative to the workspace root.
        golden: String,
    },
    /// A process of the case ended by itself, abnormally.
    Died(Box<Death>),
    /// The deadline has passed, or the user asked: what the case waits for, and the state of its
    /// processes.
    Explained(Box<HangReport>),
    /// The final event: it passed.
    Passed,
    /// The final event: it cannot run here.
    Skipped {
        /// Why.
        reason: Skip,
    },
    /// The final event: it failed.
    Failed(Box<FailureReport>),
}

/// A location in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, relative to the workspace root.
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

/// A process of a case that ended by itself: by a signal, or with an unexpected exit status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Death {
    /// Its name in the case: `vm`, `the NBD server`.
    pub name: String,
    /// How it ended, as a phrase that follows the name: `died of SIGABRT, core dumped`, `exited
    /// with status 1`.
    pub status: String,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
    /// Its last words: the assertion or the sanitizer's first line, or else the last line of its
    /// output.
    pub words: String,
    /// A further possible explanation, such as the kernel's OOM killer.
    pub hint: Option<String>,
    /// The step during which it was noticed.
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
    /// The failure in one line, for lists and reports: the expected and the actual value, not just
    /// that they differ.
    pub headline: String,
    /// One or more lines; the first states what is wrong.
    pub message: String,
    /// Where it was noticed.
    pub place: Option<Place>,
    /// The line of the case that led there, if `place` is in code shared by cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case_place: Option<Place>,
    /// The step during which it happened.
    pub step: Option<String>,
    /// The expected value.
    pub expected: Option<String>,
    /// The actual value.
    pub found: Option<String>,
    /// A unified diff, uncoloured, for longer texts.
    pub diff: Option<String>,
    /// Further causes, outermost first.
    pub causes: Vec<String>,
    /// The state of the case's processes.
    pub machines: Vec<MachineReport>,
}

/// What is known about one QEMU process of a failed case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineReport {
    /// Its name in the case.
    pub name: String,
    /// Its command line, redacted, ready to paste into a shell.
    pub command_line: String,
    /// Running, or how it ended.
    pub status: String,
    /// The last lines of its output.
    pub stderr_tail: String,
    /// The last QMP lines of the case, both directions, without those of a diagnosis.
    pub qmp_tail: Vec<String>,
    /// The findings of its diagnosis, the most useful first: threads, stacks, jobs, block graph.
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

/// What a case waits for and the state of its processes, when the deadline has passed or the user
/// asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HangReport {
    /// In one line: which machine is stuck and why, or what the case waits for.
    pub headline: String,
    /// Why the report was made: the deadline, or a signal.
    pub cause: String,
    /// How long the case has been running.
    pub elapsed: Duration,
    /// The step it is in.
    pub step: Option<String>,
    /// Where it waits, and for what.
    pub waiting: Option<String>,
    /// The place of that wait.
    pub place: Option<Place>,
    /// The QEMU processes of the case.
    pub machines: Vec<MachineReport>,
    /// The case's own process: everything that it waits for, its stack, its threads, and what was
    /// observed from outside.
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
