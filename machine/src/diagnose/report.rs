//! The report, as data and as text.

use super::procfs::ProcessState;
use imgtools::process::Status;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// The diagnosis of a machine.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The machine's name in messages.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// Its command.
    pub command: String,
    /// How it ended, if it has.
    pub ended: Option<Status>,
    /// It and its descendants, as /proc shows them.
    pub processes: Vec<ProcessState>,
    /// The monitor's answers.
    pub qmp: Vec<QmpFact>,
    /// The last lines exchanged with the monitor.
    pub transcript: Vec<String>,
    /// Stacks of its threads.
    pub backtraces: Vec<Backtrace>,
    /// The end of its output.
    pub log_tail: String,
    /// How long the collection took.
    pub took: Duration,
}

/// The reason when no answer arrived in time.
pub(super) const SILENT: &str = "the monitor is silent";

/// The answer to one QMP query.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct QmpFact {
    /// The command.
    pub command: String,
    /// Its return value, or why there is none.
    pub answer: Result<Value, String>,
}

/// The stacks of one process.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Backtrace {
    /// The process.
    pub pid: u32,
    /// The tool's output, or why there is none.
    pub text: Result<String, String>,
}

impl Diagnosis {
    /// Whether its monitor was queried and did not answer in time.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let silent = |fact: &QmpFact| matches!(&fact.answer, Err(why) if why == SILENT);
        self.qmp.iter().any(silent)
    }

    /// The answer to this QMP command, if there was one.
    #[must_use]
    pub fn answer(&self, command: &str) -> Option<&Value> {
        self.qmp.iter().find(|f| f.command == command)?.answer.as_ref().ok()
    }
}

fn indented(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.lines().try_for_each(|line| writeln!(f, "    {line}"))
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "diagnosis of {} (pid {}, took {:.1?})",
            self.name, self.pid, self.took
        )?;
        writeln!(f, "  command: {}", self.command)?;
        match self.ended {
            Some(status) => writeln!(f, "  the process has ended: it {status}")?,
            None if self.processes.is_empty() => {
                writeln!(f, "  /proc has no information on the process")?
            }
            None => {}
        }
        for process in &self.processes {
            writeln!(
                f,
                "  process {} ({}): {}",
                process.pid, process.state, process.command_line
            )?;
            for thread in &process.threads {
                let waits = thread.wait_channel.as_deref().unwrap_or("-");
                writeln!(
                    f,
                    "    thread {} {:?} {} in {waits}",
                    thread.tid, thread.name, thread.state
                )?;
            }
        }
        for fact in &self.qmp {
            match &fact.answer {
                Ok(value) => writeln!(f, "  {}: {value}", fact.command)?,
                Err(why) => writeln!(f, "  {}: no answer: {why}", fact.command)?,
            }
        }
        if !self.transcript.is_empty() {
            writeln!(f, "  last QMP lines:")?;
            self.transcript.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        for backtrace in &self.backtraces {
            match &backtrace.text {
                Ok(text) => {
                    writeln!(f, "  stacks of {}:", backtrace.pid)?;
                    indented(f, text)?;
                }
                Err(why) => writeln!(f, "  no stacks of {}: {why}", backtrace.pid)?,
            }
        }
        if !self.log_tail.is_empty() {
            writeln!(f, "  end of its output:")?;
            indented(f, &self.log_tail)?;
        }
        Ok(())
    }
}
