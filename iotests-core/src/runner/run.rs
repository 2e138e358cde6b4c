//! The dispatcher: starts instances as the schedule allows, hears how they end, and tells the reporters.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::error::RunError;
use super::event::{InstanceInfo, Outcome, RunEvent, RunStarted, Summary};
use super::exit::Exit;
use super::instance::{InstanceJob, Runner};
use super::plan::Planned;
use super::records::Records;
use super::report::Reporter;
use super::schedule::{Load, Schedule};
use super::signals;
use super::supervise::Order;
use super::verdict::Verdict;

/// What a run is to do.
pub(crate) struct Job {
    /// What is shown first.
    pub(crate) started: RunStarted,
    /// What does not run, with the reason.
    pub(crate) skipped: Vec<(InstanceInfo, Planned)>,
    /// What runs.
    pub(crate) instances: Vec<(Load, InstanceJob)>,
    /// Memory that may be used at once.
    pub(crate) memory: u64,
    /// Stop after so many failures.
    pub(crate) max_fail: Option<usize>,
}

/// What other threads tell the dispatcher.
enum Message {
    Event(RunEvent),
    Finished(Load, Result<Box<Outcome>, RunError>),
    Signal(Signal),
}

/// A run in progress.
struct Dispatcher<'r> {
    reporters: &'r mut [Box<dyn Reporter>],
    records: &'r mut Records,
    runner: Arc<Runner>,
    schedule: Schedule<InstanceJob>,
    summary: Summary,
    running: usize,
    max_fail: Option<usize>,
    signals: u32,
    /// A report could not be written: told once, by the file.
    broken: Option<io::Error>,
    error: Option<RunError>,
}

/// Runs all of it. `Ok` is the exit code of the run and whether some directory was kept.
pub(crate) fn run(
    job: Job,
    runner: Arc<Runner>,
    records: &mut Records,
    reporters: &mut [Box<dyn Reporter>],
    deny_skips: bool,
) -> Result<(Exit, Vec<PathBuf>), RunError> {
    let begun = Instant::now();
    let (sender, receiver) = channel();
    signals::forward(sender.clone(), Message::Signal);
    let jobs = job.started.jobs;
    let mut dispatcher = Dispatcher {
        reporters,
        records,
        runner,
        schedule: Schedule::new(job.instances, jobs, job.memory),
        summary: Summary::default(),
        running: 0,
        max_fail: job.max_fail,
        signals: 0,
        broken: None,
        error: None,
    };
    dispatcher.report(&RunEvent::RunStarted(Box::new(job.started)));
    for (instance, planned) in job.skipped {
        if let Some(reason) = planned.skip {
            dispatcher.summary.add(Verdict::Skip, Some(&reason));
            dispatcher.report(&RunEvent::InstanceSkipped { instance, reason });
        }
    }
    let kept = dispatcher.turn(&sender, &receiver);
    dispatcher.summary.elapsed = begun.elapsed();
    let summary = dispatcher.summary.clone();
    dispatcher.report(&RunEvent::RunFinished(Box::new(summary.clone())));
    if let Err(error) = dispatcher.records.write() {
        let text = format!("the times and verdicts of this run could not be recorded: {error}");
        dispatcher.report(&RunEvent::Warning { text });
    }
    if let Some(error) = dispatcher.error {
        return Err(error);
    }
    if let Some(source) = dispatcher.broken {
        return Err(RunError::System {
            doing: "write the reports",
            source,
        });
    }
    let exit = if dispatcher.signals > 0 {
        Exit::Interrupted
    } else if summary.failures() > 0 {
        Exit::Failed
    } else if deny_skips && summary.count(Verdict::Skip) > 0 {
        Exit::SkipsDenied
    } else {
        Exit::Passed
    };
    Ok((exit, kept))
}

impl Dispatcher<'_> {
    fn report(&mut self, event: &RunEvent) {
        for reporter in self.reporters.iter_mut() {
            if let Err(error) = reporter.event(event) {
                self.broken.get_or_insert(error);
            }
        }
    }

    /// Until nothing runs and nothing waits. Returns the directories that were kept.
    fn turn(&mut self, sender: &Sender<Message>, receiver: &Receiver<Message>) -> Vec<PathBuf> {
        let mut kept = Vec::new();
        loop {
            while let Some((load, job)) = self.schedule.start() {
                self.start(load, job, sender);
            }
            if self.running == 0 {
                return kept;
            }
            // The sender of this thread lives, so this cannot fail.
            let Ok(message) = receiver.recv() else {
                return kept;
            };
            match message {
                Message::Event(event) => self.report(&event),
                Message::Signal(Signal::SIGUSR1) => self.runner.order_all(Order::Explain),
                Message::Signal(Signal::SIGTSTP) => self.runner.suspend(),
                Message::Signal(signal) => self.signal(signal),
                Message::Finished(load, result) => {
                    self.running -= 1;
                    self.schedule.end(load);
                    match result {
                        Ok(outcome) => kept.extend(self.finished(&outcome)),
                        Err(error) => self.failed(error),
                    }
                }
            }
        }
    }

    fn start(&mut self, load: Load, job: InstanceJob, sender: &Sender<Message>) {
        self.running += 1;
        let runner = Arc::clone(&self.runner);
        let (tell, end) = (sender.clone(), sender.clone());
        // The supervisor dies with the thread that spawned it, so this thread lives as long as the supervisor.
        let thread = thread::Builder::new().spawn(move || {
            let result = caught(|| {
                // Nobody listens only when the run is over.
                runner.run(&job, load.expected, |event| {
                    let _ = tell.send(Message::Event(event));
                })
            });
            // Whoever hears of the end may take the runner apart.
            drop(runner);
            let _ = tell.send(Message::Finished(load, result.map(Box::new)));
        });
        if let Err(source) = thread {
            let doing = "start a thread";
            let error = RunError::System { doing, source };
            // The receiver lives as long as we do.
            let _ = end.send(Message::Finished(load, Err(error)));
        }
    }

    fn finished(&mut self, outcome: &Outcome) -> Option<PathBuf> {
        self.summary.add(outcome.verdict, outcome.skip());
        self.records
            .note(outcome.instance.base_id(), outcome.elapsed, outcome.verdict);
        self.report(&RunEvent::InstanceFinished(Box::new(outcome.clone())));
        if self
            .max_fail
            .is_some_and(|limit| self.summary.failures() >= limit)
        {
            self.stop(format!("{} failures", self.summary.failures()));
        }
        outcome.kept.clone()
    }

    /// Something that fails every instance: nothing more is started.
    fn failed(&mut self, error: RunError) {
        if self.error.is_none() {
            self.stop(format!("failed to {error}"));
            self.error = Some(error);
        }
        self.summary.not_run += 1;
    }

    fn stop(&mut self, why: String) {
        let left = self.schedule.stop();
        if left > 0 {
            self.summary.not_run += left;
            self.report(&RunEvent::Stopping { why });
        }
    }

    /// The first ends what runs with grace, the second at once, the third leaves it to the supervisors.
    fn signal(&mut self, signal: Signal) {
        self.signals += 1;
        self.summary.not_run += self.schedule.stop();
        let why = match self.signals {
            1 => {
                self.runner.order_all(Order::Terminate);
                format!(
                    "{signal}; {} are told to end, once more kills them",
                    self.running
                )
            }
            2 => {
                self.runner.order_all(Order::Kill);
                format!("{signal}; {} are killed", self.running)
            }
            _ => std::process::exit(i32::from(Exit::Interrupted.code())),
        };
        self.report(&RunEvent::Stopping { why });
    }
}

/// A panic is a bug of ours; waiting for ever for the thread that had it would hide it.
fn caught<T>(run: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(RunError::System {
            doing: "run an instance",
            source: io::Error::other("this program panicked, which is a bug of its own"),
        })
    })
}

/// What the last runs took, for the estimate.
pub(crate) fn expected(records: &Records, id: &str) -> Option<Duration> {
    records.get(id).map(|record| record.elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_our_own_ends_the_run_instead_of_leaving_it_to_wait() {
        assert_eq!(caught(|| Ok(3)).unwrap(), 3);
        let error = caught::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
