//! Ending a machine, step by step, with a record of what was done.

use super::Machine;
use crate::cause::chain;
use crate::diagnose::Diagnosis;
use crate::end::{EndError, Exit, Judgement, Stage, StageOutcome, StageRecord, terminate};
use crate::evidence::{CorePattern, find_core, find_reports};
use imgtools::process::{Signal, Status};
use qmp::types::SystemPowerdown;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most bytes read of a wrapper's reports.
const MAX_REPORTS: u64 = 16 << 20;

impl Machine {
    /// Ends the machine: `quit`, then SIGTERM, then SIGKILL, each with its deadline.
    ///
    /// It may already have exited with an expected status. If it is about to exit for another
    /// reason, such as SIGTERM, use [`wait_exit`](Machine::wait_exit) instead: the storage daemon
    /// of QEMU 10.0 hangs in its clean-up (`monitor_cleanup`) if a command arrives then.
    ///
    /// Like all ends it can be called by any user of a shared machine, concurrently, and
    /// repeatedly: all get the same [`Exit`], judged by the steps taken so far.
    ///
    /// # Errors
    /// See [`EndError`]; the process has been reaped in any case.
    pub async fn shutdown(&self) -> Result<Exit, EndError> {
        let budget = self.parts.deadlines.quit;
        let record = match self.parts.qmp.closed_cause() {
            // It closed the session, so it is exiting and cannot be sent commands.
            Some(cause) if has_left(&cause) => self.step(Stage::Wait, budget, self.exited()).await,
            _ => self.step(Stage::Quit, budget, self.quit()).await,
        };
        self.end_after(record).await
    }

    async fn quit(&self) -> Result<(), String> {
        let reply = tokio::select! {
            biased;
            _ = self.parts.child.exited() => return Ok(()),
            reply = self.parts.qmp.quit() => reply,
        };
        match reply {
            // The reply may be lost when the process exits, and the exit is what counts.
            Err(qmp::Error::Closed { cause, .. }) if has_left(&cause) => {}
            Err(error) => return Err(chain(&error)),
            Ok(()) => {}
        }
        self.exited().await
    }

    /// Waits, without a deadline, until the machine exits by itself or is ended by another user.
    /// Dropping the future does not affect the machine.
    ///
    /// # Errors
    /// See [`EndError`].
    pub async fn wait_exit(&self) -> Result<Exit, EndError> {
        self.end_within(Duration::MAX).await
    }

    /// Gives a machine this long to exit by itself, then ends it with SIGTERM, then SIGKILL.
    ///
    /// # Errors
    /// See [`EndError`]; [`EndError::Escalated`] means that it did not exit by itself. The process
    /// has been reaped in any case.
    pub async fn end_within(&self, limit: Duration) -> Result<Exit, EndError> {
        let record = self.step(Stage::Wait, limit, self.exited()).await;
        self.end_after(record).await
    }

    /// Asks the guest to shut down, as if its power button were pressed (ACPI), and gives it this
    /// long; then ends the machine with SIGTERM and SIGKILL. Whether a guest reacts to the button
    /// is up to it.
    ///
    /// # Errors
    /// See [`EndError`]; [`EndError::Escalated`] means that the guest did not react. The process
    /// has been reaped in any case.
    pub async fn powerdown(&self, limit: Duration) -> Result<Exit, EndError> {
        let press = async {
            match self.qmp().call(SystemPowerdown::new()).await {
                Err(error) if self.qmp().closed_cause().is_none() => Err(chain(&error)),
                _ => self.exited().await,
            }
        };
        let record = self.step(Stage::Powerdown, limit, press).await;
        self.end_after(record).await
    }

    /// Kills the machine at once.
    ///
    /// # Errors
    /// See [`EndError`]: if it had already crashed, or printed reports of errors. Being killed is
    /// not an error.
    pub async fn kill(&self) -> Result<Exit, EndError> {
        let record = self.put_down().await;
        let judgement = Judgement {
            expected: self.expected().or_signal(Signal::SIGKILL.number()),
            escalated: false,
            findings_count: self.parts.findings_are_errors,
        };
        judgement.of(self.reap(vec![record], None).await?)
    }

    /// The steps after the first.
    async fn end_after(&self, first: StageRecord) -> Result<Exit, EndError> {
        let escalated = !first.has_ended();
        let mut stages = vec![first];
        let mut diagnosis = None;
        if escalated {
            // Before any action that would change its state.
            diagnosis = Some(Box::new(self.diagnose().await));
            let budget = self.parts.deadlines.terminate;
            let send = || {
                self.parts.child.signal_group(Signal::SIGTERM);
                Ok(())
            };
            let terminate = terminate(budget, send, || self.parts.child.exited());
            let second = self.step(Stage::Terminate, budget, terminate).await;
            let lives = !second.has_ended();
            stages.push(second);
            if lives {
                stages.push(self.put_down().await);
            }
        }
        let judgement = Judgement {
            expected: self.expected(),
            escalated,
            findings_count: self.parts.findings_are_errors,
        };
        judgement.of(self.reap(stages, diagnosis).await?)
    }

    async fn exited(&self) -> Result<(), String> {
        self.parts.child.exited().await;
        Ok(())
    }

    /// The last step. It has no deadline of its own: the watcher abandons a process that hangs in
    /// the kernel.
    async fn put_down(&self) -> StageRecord {
        self.step(Stage::Kill, Duration::MAX, async {
            self.parts.child.kill();
            self.exited().await
        })
        .await
    }

    /// Takes one step to end the process, and records its outcome. If it has already exited,
    /// nothing is done.
    async fn step(
        &self,
        stage: Stage,
        budget: Duration,
        act: impl Future<Output = Result<(), String>>,
    ) -> StageRecord {
        let begun = Instant::now();
        let outcome = match self.try_exit() {
            Some(_) => StageOutcome::HadEnded,
            None => match tokio::time::timeout(budget, act).await {
                Ok(Ok(())) => StageOutcome::Ended,
                Ok(Err(why)) => StageOutcome::Failed(why),
                Err(_) => StageOutcome::TimedOut,
            },
        };
        StageRecord {
            stage,
            budget,
            took: begun.elapsed(),
            outcome,
        }
    }

    /// Takes the output of a process that has ended.
    async fn reap(
        &self,
        stages: Vec<StageRecord>,
        diagnosis: Option<Box<Diagnosis>>,
    ) -> Result<Exit, EndError> {
        let name = self.parts.name.clone();
        let waited = self.parts.child.wait().await;
        self.ended.store(true, Ordering::Release);
        if let Some(console) = &self.parts.console {
            // The last output is still in the pipe; the timeout is for a daemon that holds it open.
            let budget = self.parts.deadlines.terminate;
            let _ = tokio::time::timeout(budget, console.closed()).await;
        }
        let output = waited.map_err(|source| {
            let source = Box::new(source);
            EndError::Lost {
                name: name.clone(),
                source,
            }
        })?;
        let mut findings = find_reports(&output.captured.combined_text());
        if let Some(file) = &self.parts.report_file {
            findings.extend(find_reports(&self.read_reports(file)));
        }
        let core = self.core(output.status);
        Ok(Exit {
            name,
            output,
            stages,
            findings,
            core,
            diagnosis,
        })
    }

    /// A wrapper's reports in a separate file, as far as readable: its exit status counts anyway.
    fn read_reports(&self, file: &Path) -> String {
        // Relative to the wrapper's working directory.
        let dir = self.parts.current_dir.as_deref().unwrap_or(Path::new("."));
        let mut bytes = Vec::new();
        let read = File::open(dir.join(file))
            .and_then(|file| file.take(MAX_REPORTS).read_to_end(&mut bytes));
        if let Err(error) = read {
            tracing::warn!(file = %file.display(), %error, "cannot read the wrapper's reports");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The core file of a process that dumped one.
    pub(super) fn core(&self, status: Status) -> Option<std::path::PathBuf> {
        let Status::Signaled { core: true, .. } = status else {
            return None;
        };
        let dir = self.parts.current_dir.as_deref().unwrap_or(Path::new("."));
        // Whoever reads it may be in another folder.
        let dir = std::path::absolute(dir).ok()?;
        find_core(
            &CorePattern::of_host(),
            self.pid(),
            &dir,
            self.parts.started,
        )
    }
}

/// Whether the session ended because the process closed it, not because we did.
fn has_left(cause: &qmp::Closed) -> bool {
    !matches!(cause, qmp::Closed::Local)
}
