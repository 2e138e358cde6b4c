//! How a process ended, and the verdict on it.

use super::Expected;
use crate::diagnose::Diagnosis;
use crate::evidence::Finding;
use imgtools::process::{CommandLine, Output, ProcessError, Status};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One step to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// QMP `quit`.
    Quit,
    /// QMP `system_powerdown`, to which a guest may react by shutting down.
    Powerdown,
    /// Nothing; the process should exit by itself.
    Wait,
    /// SIGTERM, on which QEMU shuts down cleanly.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// The outcome of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageOutcome {
    /// The process ended.
    Ended,
    /// The process had already ended, so nothing was done.
    HadEnded,
    /// The process was still running at the stage's deadline.
    TimedOut,
    /// The stage could not be carried out.
    Failed(String),
}

/// A record of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageRecord {
    /// What was done.
    pub stage: Stage,
    /// Its time limit; `Duration::MAX` if there was none.
    pub budget: Duration,
    /// The time it took.
    pub took: Duration,
    /// Its outcome.
    pub outcome: StageOutcome,
}

impl StageRecord {
    /// Whether the process was gone at the end of the stage.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.outcome, StageOutcome::Ended | StageOutcome::HadEnded)
    }
}

impl fmt::Display for StageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Quit => "quit",
            Stage::Powerdown => "the power button",
            Stage::Wait => "waiting",
            Stage::Terminate => "SIGTERM",
            Stage::Kill => "SIGKILL",
        };
        let (took, budget) = (self.took, self.budget);
        match (&self.outcome, self.stage) {
            (StageOutcome::HadEnded, Stage::Wait) => f.write_str("it had ended by itself"),
            (StageOutcome::HadEnded, _) => write!(f, "it had ended before {stage}"),
            (StageOutcome::Ended, Stage::Wait) => write!(f, "it ended by itself after {took:.1?}"),
            (StageOutcome::Ended, _) => write!(f, "{stage} ended it after {took:.1?}"),
            (StageOutcome::TimedOut, Stage::Wait) => {
                write!(f, "it did not end by itself within {budget:?}")
            }
            (StageOutcome::TimedOut, _) => write!(f, "{stage} did not end it within {budget:?}"),
            (StageOutcome::Failed(why), _) => write!(f, "{stage} failed after {took:.1?}: {why}"),
        }
    }
}

/// Everything known about a process that has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Exit {
    /// The machine's name in messages.
    pub name: String,
    /// Command, status, all output, and the time from start to end.
    pub output: Output,
    /// What was done to end it, in order.
    pub stages: Vec<StageRecord>,
    /// Reports of sanitizers, valgrind and assertions in its output.
    pub findings: Vec<Finding>,
    /// Its core file, if it dumped one that could be found.
    pub core: Option<PathBuf>,
    /// What it was doing when it did not end in time.
    pub diagnosis: Option<Box<Diagnosis>>,
}

impl Exit {
    /// How it ended.
    #[must_use]
    pub fn status(&self) -> Status {
        self.output.status
    }

    /// Its output, standard output and error in order of arrival.
    #[must_use]
    pub fn log(&self) -> String {
        self.output.captured.combined_text()
    }

    /// The last lines of its output, formatted for messages.
    #[must_use]
    pub fn tail(&self) -> String {
        self.output.tail()
    }
}

/// The parts of a message that follow its first line.
struct Evidence<'a>(&'a Exit);

impl fmt::Display for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exit = self.0;
        for stage in &exit.stages {
            write!(f, "\n  {stage}")?;
        }
        if let Some(core) = &exit.core {
            write!(f, "\n  core file: {}", core.display())?;
        }
        write!(f, "\n  command: {}", exit.output.command)?;
        f.write_str(&exit.tail())?;
        if let Some(diagnosis) = &exit.diagnosis {
            write!(f, "\n{diagnosis}")?;
        }
        Ok(())
    }
}

/// An exit that is an error. All variants but the last keep the whole [`Exit`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// It ended with an unexpected signal or status.
    #[error("failed to end {} as expected ({expected}): it {}{}", exit.name, exit.status(), Evidence(exit))]
    Status {
        /// The expected exits.
        expected: Expected,
        /// The actual exit.
        exit: Box<Exit>,
    },
    /// It did not exit when requested, and had to be terminated or killed.
    #[error("failed to end {} in time: it {}{}", .0.name, .0.status(), Evidence(.0))]
    Escalated(Box<Exit>),
    /// It printed reports of memory errors or failed assertions.
    #[error("failed to run {} cleanly: {} ({} in all){}", .0.name, first_finding(.0), .0.findings.len(), Evidence(.0))]
    Findings(Box<Exit>),
    /// The process could no longer be watched.
    #[error("failed to see the end of {name}")]
    Lost {
        /// The machine's name in messages.
        name: String,
        /// Why.
        source: Box<ProcessError>,
    },
}

fn first_finding(exit: &Exit) -> &str {
    exit.findings.first().map_or("valgrind found errors", |f| f.summary.as_str())
}

impl EndError {
    /// What is known about the exit.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            EndError::Status { exit, .. }
            | EndError::Escalated(exit)
            | EndError::Findings(exit) => Some(exit),
            EndError::Lost { .. } => None,
        }
    }
}

/// The criteria for judging an exit.
pub(crate) struct Judgement {
    pub(crate) expected: Expected,
    /// Whether it did not exit as requested.
    pub(crate) escalated: bool,
    /// Whether findings in its output turn a successful exit into an error.
    pub(crate) findings_count: bool,
}

impl Judgement {
    pub(crate) fn of(self, exit: Exit) -> Result<Exit, EndError> {
        let exit = Box::new(exit);
        let accepted = self.expected.accepts(exit.status());
        // If an abort was expected, so was its assertion.
        let explained = accepted && exit.status().signal().is_some();
        let found = self.findings_count && !exit.findings.is_empty();
        // The most severe first: a report of a memory error explains a bad status.
        if (found || exit.output.valgrind_found_errors()) && !explained {
            Err(EndError::Findings(exit))
        } else if self.escalated {
            Err(EndError::Escalated(exit))
        } else if !accepted {
            Err(EndError::Status {
                expected: self.expected,
                exit,
            })
        } else {
            Ok(*exit)
        }
    }
}

/// A machine that was dropped instead of being shut down.
#[derive(Debug, Clone)]
pub struct DropReport {
    /// The machine's name in messages.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// Its command.
    pub command: CommandLine,
    /// How it ended; `None` if it hangs in the kernel.
    pub status: Option<Status>,
    /// Whether it had exited by itself before the drop, so that the status is its own.
    pub by_itself: bool,
    /// Its core file, if it dumped one that could be found.
    pub core: Option<PathBuf>,
    /// Its output.
    pub log: String,
    /// Whether the drop happened because of a panic.
    pub panicking: bool,
}
