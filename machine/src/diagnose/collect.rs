//! The collection, step by step.

use super::report::{Backtrace, Diagnosis, QmpFact, SILENT};
use super::{backtrace, procfs};
use crate::cause::chain;
use crate::deadlines::Deadlines;
use imgtools::process::Child;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lines of the QMP transcript in a report.
const TRANSCRIPT: usize = 20;

/// Characters of the output in a report.
const LOG_TAIL: usize = 4000;

/// The minimum time for reading /proc, which usually takes almost none.
const PROC: Duration = Duration::from_millis(500);

/// Queries, those that need the least of QEMU first. A command that the binary lacks is answered
/// with an error, which serves as well.
const QUESTIONS: [&str; 6] = [
    "query-status",
    "query-jobs",
    "query-block-jobs",
    "query-block-exports",
    "query-migrate",
    "x-debug-query-block-graph",
];

/// A handle for diagnosing one machine, independent of its owner. Cheap to clone; it keeps neither
/// the process nor the machine alive.
#[derive(Debug, Clone)]
pub struct Diagnoser {
    name: String,
    child: Arc<Child>,
    qmp: Option<qmp::Client>,
    deadlines: Deadlines,
}

impl Diagnoser {
    pub(crate) fn new(
        name: &str,
        child: &Arc<Child>,
        qmp: Option<qmp::Client>,
        deadlines: Deadlines,
    ) -> Self {
        Self {
            name: name.to_owned(),
            child: Arc::clone(child),
            qmp,
            deadlines,
        }
    }

    /// The machine's name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// The same, without querying the monitor: for when the task that would receive the answers is
    /// known not to run.
    #[must_use]
    pub fn without_monitor(&self) -> Self {
        Self {
            qmp: None,
            ..self.clone()
        }
    }

    /// Collects a diagnosis. Takes no longer than the sum of its steps' deadlines, in practice the
    /// QMP deadline once and the backtrace deadline once per process.
    pub async fn collect(&self) -> Diagnosis {
        self.collect_in(None).await
    }

    /// Collects what is available within this total time. What the kernel and this process know is
    /// included even if it has elapsed; queries and backtraces may be missing.
    pub async fn collect_within(&self, time: Duration) -> Diagnosis {
        self.collect_in(Instant::now().checked_add(time)).await
    }

    async fn collect_in(&self, end: Option<Instant>) -> Diagnosis {
        let begun = Instant::now();
        let left = |step: Duration| match end {
            Some(end) => step.min(end.saturating_duration_since(Instant::now())),
            None => step,
        };
        let pid = self.child.pid();
        let ended = self.child.try_wait();
        // A process ID is only valid until the process is reaped.
        let step = self.deadlines.diagnose_command;
        let processes = match ended {
            None => apart(left(step).max(PROC), move || procfs::tree(pid)).await,
            Some(_) => None,
        };
        let processes = processes.unwrap_or_default();
        let stopped = processes.iter().any(procfs::ProcessState::is_stopped);
        // Before our own queries, so that the last lines are the user's.
        let transcript = self.qmp.iter().flat_map(|q| q.transcript_tail(TRANSCRIPT));
        let transcript = transcript.map(|line| line.to_string()).collect();
        let qmp = self.ask(ended.is_some(), stopped, left).await;
        let mut backtraces = Vec::new();
        for process in processes.iter().filter(|p| !p.is_dead()) {
            if self.child.try_wait().is_some() {
                // By now its PID may have been reused.
                break;
            }
            let step = self.deadlines.diagnose_backtrace;
            let taken = backtrace::take(process.pid, left(step));
            let text = match end {
                None => taken.await,
                // Ending the tool takes time as well; at the deadline it is killed by being
                // dropped.
                Some(_) => tokio::time::timeout(left(Duration::MAX), taken)
                    .await
                    .unwrap_or_else(|_| Err("there was no time left for it".to_owned())),
            };
            if !process.is_stopped() {
                backtrace::undo(process.pid);
            }
            backtraces.push(Backtrace {
                pid: process.pid,
                text,
            });
        }
        // Output printed before the answer may still be in the pipe.
        let _ = tokio::time::timeout(left(step), self.child.drained()).await;
        let log = self.child.output().combined_text();
        let skip = log.chars().count().saturating_sub(LOG_TAIL);
        Diagnosis {
            name: self.name.clone(),
            pid,
            command: self.child.command().to_string(),
            ended,
            processes,
            qmp,
            transcript,
            backtraces,
            log_tail: log.chars().skip(skip).collect(),
            took: begun.elapsed(),
        }
    }

    /// Queries QEMU about itself; after one query without an answer no other is sent.
    async fn ask(
        &self,
        ended: bool,
        stopped: bool,
        left: impl Fn(Duration) -> Duration,
    ) -> Vec<QmpFact> {
        let fact = |command: &str, answer| QmpFact {
            command: command.to_owned(),
            answer,
        };
        let why_not = match &self.qmp {
            None => Some("there is no monitor to ask"),
            Some(_) if ended => Some("the process has ended"),
            Some(_) if stopped => Some("the process is stopped"),
            Some(_) => None,
        };
        let mut facts = Vec::new();
        match (&self.qmp, why_not) {
            (Some(client), None) => {
                for command in QUESTIONS {
                    let answer =
                        question(client, command, left(self.deadlines.diagnose_command)).await;
                    let silent = answer.is_none();
                    let answer = answer.unwrap_or_else(|| Err(SILENT.to_owned()));
                    facts.push(fact(command, answer));
                    if silent {
                        break;
                    }
                }
            }
            (_, why) => facts.push(fact("QMP", Err(why.unwrap_or_default().to_owned()))),
        }
        facts
    }
}

/// Runs this in its own thread, which is abandoned if it takes longer: reading /proc blocks for as
/// long as the process itself hangs (`mmap_lock`).
async fn apart<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("procfs".to_owned())
        .spawn(move || done.send(work()))
        .ok()?;
    tokio::time::timeout(deadline, result).await.ok()?.ok()
}

/// `None` if there was no answer in time.
async fn question(
    client: &qmp::Client,
    command: &str,
    deadline: Duration,
) -> Option<Result<Value, String>> {
    let answer = client.execute(command, ()).deadline(deadline).await;
    match answer {
        Err(error) if error.is_timeout() => None,
        answer => Some(answer.map_err(|error| chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kernel_that_does_not_answer_holds_up_nobody() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hang = apart(Duration::from_millis(5), move || held.recv().is_ok());
        assert_eq!(hang.await, None);
        drop(release);
        assert_eq!(apart(Duration::MAX, || 7).await, Some(7));
    }
}
