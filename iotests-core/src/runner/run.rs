//! The dispatcher: starts instances as the schedule allows, waits for them to end, and reports.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::console;
use super::error::RunError;
use super::event::{InstanceInfo, Outcome, RunEvent, RunStarted, Summary};
use super::exit::Exit;
use super::instance::{InstanceJob, Runner};
use super::jobs::AdaptiveJobs;
use super::plan::Planned;
use super::record::Recorder;
use super::records::Records;
use super::report::Show;
use super::report::text::count;
use super::schedule::{Load, Schedule};
use super::signals;
use super::supervise::Order;
use super::typed;
use super::verdict::Verdict;
use crate::case::Skip;
use crate::wire::CaseEvent;

/// What a run does.
pub(crate) struct Job {
    /// The first event.
    pub(crate) started: RunStarted,
    /// Warnings to show.
    pub(crate) warnings: Vec<String>,
    /// Skipped instances, with the reason.
    pub(crate) skipped: Vec<(InstanceInfo, Planned)>,
    /// Instances to run.
    pub(crate) instances: Vec<(Load, InstanceJob)>,
    /// Memory that may be used at once.
    pub(crate) memory: u64,
    /// Stop after this many failures.
    pub(crate) max_fail: Option<usize>,
    /// Keep repeating each instance for this long.
    pub(crate) time: Option<Duration>,
    /// How many run at once, if that is not fixed.
    pub(crate) adaptive: Option<AdaptiveJobs>,
    /// The one instance waits for the user before each step.
    pub(crate) step: bool,
    /// Standard output is the only report.
    pub(crate) only_shows: bool,
}

/// The capacity of the message queue. A case that logs faster than events are recorded has to wait,
/// instead of filling the memory.
const WAITING: usize = 1024;

/// A message to the dispatcher from another thread, with its slot.
enum Message {
    Event(u16, RunEvent),
    Finished(u16, Load, Box<InstanceJob>, Result<Box<Outcome>, RunError>),
    Signal(Signal),
    /// A line typed on the terminal, or its end.
    Typed(Option<String>),
}

/// The state of `--step`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stepping {
    /// Instances do not stop at steps.
    Not,
    /// The instance runs to its next step.
    Running,
    /// The instance has stopped at a step.
    Stopped,
}

/// A run in progress.
struct Dispatcher<'r> {
    recorder: &'r mut Recorder,
    display: &'r mut dyn Show,
    /// Writes the reports before an early exit.
    reports: &'r dyn Fn(),
    runner: Arc<Runner>,
    /// The slots in use.
    slots: BTreeSet<u16>,
    schedule: Schedule<InstanceJob>,
    summary: Summary,
    running: usize,
    max_fail: Option<usize>,
    /// How long instances are repeated.
    time: Option<Duration>,
    adaptive: Option<AdaptiveJobs>,
    stepping: Stepping,
    signals: u32,
    /// The first error of writing the record.
    record_error: Option<io::Error>,
    /// The first error of writing to standard output.
    display_error: Option<io::Error>,
    only_shows: bool,
    error: Option<RunError>,
}

/// Runs all instances, and returns the exit code. `reports` writes the reports from what is
/// recorded so far.
pub(crate) fn run(
    job: Job,
    runner: Arc<Runner>,
    recorder: &mut Recorder,
    display: &mut dyn Show,
    reports: &dyn Fn(),
    skips: Skips,
) -> Result<Exit, RunError> {
    let (sender, receiver) = sync_channel(WAITING);
    signals::forward(sender.clone(), Message::Signal);
    if typed::can_type() {
        typed::forward(sender.clone(), Message::Typed);
    }
    let mut adaptive = job.adaptive;
    let jobs = adaptive.as_mut().map_or(job.started.jobs, |adaptive| adaptive.limit(0));
    let mut dispatcher = Dispatcher {
        recorder,
        display,
        reports,
        runner,
        slots: BTreeSet::new(),
        schedule: Schedule::new(job.instances, jobs, job.memory),
        summary: Summary::default(),
        running: 0,
        max_fail: job.max_fail,
        time: job.time,
        adaptive,
        stepping: match job.step {
            true => Stepping::Running,
            false => Stepping::Not,
        },
        signals: 0,
        record_error: None,
        display_error: None,
        only_shows: job.only_shows,
        error: None,
    };
    dispatcher.report(None, &RunEvent::RunStarted(Box::new(job.started)));
    for text in job.warnings {
        dispatcher.report(None, &RunEvent::Warning { text });
    }
    for (instance, planned) in job.skipped {
        if let Some(reason) = planned.skip {
            let skipped = Outcome::skipped(instance.clone(), reason.clone());
            dispatcher.summary.add(&skipped);
            dispatcher.report(None, &RunEvent::InstanceSkipped { instance, reason });
        }
    }
    dispatcher.turn(&sender, &receiver);
    dispatcher.end();
    let summary = &dispatcher.summary;
    if let Some(error) = dispatcher.error {
        return Err(error);
    }
    let errors = [
        ("write the record of the run", dispatcher.record_error),
        ("write to standard output", dispatcher.display_error),
    ];
    for (doing, source) in errors {
        if let Some(source) = source {
            return Err(RunError::System { doing, source });
        }
    }
    Ok(skips.exit(summary, dispatcher.signals > 0))
}

/// How skips affect the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skips {
    /// The run fails if everything is skipped.
    Some,
    /// `--deny-skips`: the run fails if anything is skipped.
    Denied,
    /// `--allow-all-skipped`: skips never fail the run.
    Allowed,
}

impl Skips {
    /// The exit code of a run with these counts.
    pub(crate) fn exit(self, summary: &Summary, was_interrupted: bool) -> Exit {
        let denied = |(skip, _): &(Skip, usize)| !skip.is_intended();
        if was_interrupted {
            Exit::Interrupted
        } else if summary.failures() > 0 {
            Exit::Failed
        } else if self == Skips::Denied && summary.skips.iter().any(denied) {
            Exit::SkipsDenied
        } else if self != Skips::Allowed && summary.count(Verdict::Skip) == summary.total() {
            Exit::NothingRan
        } else {
            Exit::Passed
        }
    }
}

impl Dispatcher<'_> {
    /// Records and shows an event; if one of the two fails, the other is still done.
    fn report(&mut self, slot: Option<u16>, event: &RunEvent) {
        let recorded = self.recorder.record(slot, event);
        let shown = self.display.event(event);
        if let Err(error) = recorded {
            self.record_error.get_or_insert(error);
        }
        self.shown(shown);
    }

    fn shown(&mut self, shown: io::Result<()>) {
        if let Err(error) = shown {
            self.display_error.get_or_insert(error);
        }
    }

    /// Ends the run if nobody reads its output any more, as with `| head`.
    fn stop_if_unread(&mut self) {
        let has_more = self.running > 0 || !self.schedule.is_empty();
        if self.only_shows && self.signals == 0 && has_more && console::is_unread(&io::stdout()) {
            // If nobody reads standard error either, there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "note: nobody reads standard output any more, so the run ends"
            );
            self.signal(Signal::SIGPIPE);
        }
    }

    /// Reports the last event.
    fn end(&mut self) {
        self.summary.elapsed = self.recorder.elapsed();
        let end = RunEvent::RunFinished(Box::new(self.summary.clone()));
        self.report(None, &end);
    }

    /// Starts instances and handles messages until nothing runs or waits.
    fn turn(&mut self, sender: &SyncSender<Message>, receiver: &Receiver<Message>) {
        loop {
            while let Some((load, job)) = self.schedule.start() {
                self.start(load, job, sender);
            }
            if self.running == 0 {
                return;
            }
            // Cannot fail: this thread holds a sender.
            let Ok(message) = receiver.recv() else {
                return;
            };
            match message {
                Message::Event(slot, event) => {
                    self.report(Some(slot), &event);
                    self.stop_at_step(&event);
                }
                Message::Typed(line) => self.typed(line.as_deref()),
                Message::Signal(Signal::SIGUSR1) => {
                    self.status();
                    self.runner.order_all(Order::Explain);
                }
                Message::Signal(Signal::SIGTSTP) => {
                    let paused = self.runner.suspend();
                    self.recorder.paused(paused);
                }
                Message::Signal(signal) => self.signal(signal),
                Message::Finished(slot, load, job, result) => {
                    self.ended(slot, load, result);
                    self.again(load, *job);
                    self.stop_if_unread();
                }
            }
        }
    }

    fn ended(&mut self, slot: u16, load: Load, result: Result<Box<Outcome>, RunError>) {
        if let Some(adaptive) = &mut self.adaptive {
            self.schedule.set_jobs(adaptive.limit(self.running));
        }
        self.running -= 1;
        self.slots.remove(&slot);
        self.schedule.end(load);
        match result {
            Ok(outcome) => self.finished(slot, *outcome),
            Err(error) => self.failed(error),
        }
    }

    fn status(&mut self) {
        let shown = self.display.status(&self.summary);
        self.shown(shown);
    }

    /// With `--step`, notes that the case has stopped at a step.
    fn stop_at_step(&mut self, event: &RunEvent) {
        let is_step = matches!(
            event,
            RunEvent::Case {
                said: CaseEvent::Step { .. },
                ..
            }
        );
        if self.stepping == Stepping::Not || !is_step {
            return;
        }
        self.stepping = Stepping::Stopped;
        let shown = self.display.stopped();
        self.shown(shown);
    }

    /// Handles a typed line: it asks for the progress or, if the case has stopped at a step,
    /// continues it.
    fn typed(&mut self, line: Option<&str>) {
        match (self.stepping, line) {
            (Stepping::Not | Stepping::Running, Some(_)) => self.status(),
            (Stepping::Not, None) => {}
            (Stepping::Stopped, Some("q")) => self.signal(Signal::SIGINT),
            (Stepping::Stopped, Some("")) => {
                self.stepping = Stepping::Running;
                self.runner.order_all(Order::Step);
            }
            (Stepping::Stopped, Some("c")) => self.stop_stepping(),
            (Stepping::Stopped, Some(_)) => {
                let shown = self.display.stopped();
                self.shown(shown);
            }
            // The terminal is gone.
            (Stepping::Running | Stepping::Stopped, None) => self.stop_stepping(),
        }
    }

    fn stop_stepping(&mut self) {
        self.stepping = Stepping::Not;
        self.runner.order_all(Order::Run);
    }

    /// With `--for`, repeats an instance that has ended while there is time.
    fn again(&mut self, load: Load, job: InstanceJob) {
        let elapsed = self.recorder.elapsed();
        if self.time.is_some_and(|time| elapsed < time) {
            self.schedule.add(load, job.next());
        }
    }

    fn start(&mut self, load: Load, job: InstanceJob, sender: &SyncSender<Message>) {
        self.running += 1;
        let slot = (0..u16::MAX).find(|slot| !self.slots.contains(slot));
        let slot = slot.unwrap_or(u16::MAX);
        self.slots.insert(slot);
        let runner = Arc::clone(&self.runner);
        let tell = sender.clone();
        // The supervisor dies with the thread that spawned it, so this thread outlives it.
        let thread = thread::Builder::new().spawn(move || {
            let job = Box::new(job);
            let result = catch_panic(|| {
                // Fails only when the run is over.
                runner.run(&job, load.expected, |event| {
                    let _ = tell.send(Message::Event(slot, event));
                })
            });
            // After the last message, the receiver takes the runner apart.
            drop(runner);
            let _ = tell.send(Message::Finished(slot, load, job, result.map(Box::new)));
        });
        if let Err(source) = thread {
            let doing = "start a thread";
            self.ended(slot, load, Err(RunError::System { doing, source }));
        }
    }

    fn finished(&mut self, slot: u16, outcome: Outcome) {
        self.summary.add(&outcome);
        self.report(Some(slot), &RunEvent::InstanceFinished(Box::new(outcome)));
        if self.max_fail.is_some_and(|limit| self.summary.failures() >= limit) {
            self.stop(count(self.summary.failures(), "failure"));
        }
    }

    /// Handles an error that would affect every instance: stops the run.
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
            self.report(None, &RunEvent::Stopping { why });
        }
    }

    /// The first signal ends running cases gracefully, the second kills them, the third exits at
    /// once.
    fn signal(&mut self, signal: Signal) {
        self.signals += 1;
        self.summary.not_run += self.schedule.stop();
        let why = match self.signals {
            1 => {
                self.runner.order_all(Order::Terminate);
                format!(
                    "{signal}: {} end now, a second signal kills them",
                    self.running
                )
            }
            2 => {
                self.runner.order_all(Order::Kill);
                format!("{signal}: {} are killed", self.running)
            }
            _ => {
                // The supervisors end what still runs; write what is known.
                self.end();
                (self.reports)();
                std::process::exit(i32::from(Exit::Interrupted.code()))
            }
        };
        self.report(None, &RunEvent::Stopping { why });
    }
}

/// Turns a panic, which is a bug in the runner, into an error, or the run would wait forever for
/// this thread.
fn catch_panic<T>(run: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(RunError::System {
            doing: "run an instance",
            source: io::Error::other("this program panicked, which is a bug in it"),
        })
    })
}

/// How long an instance took the last time, for the estimate.
pub(crate) fn expected(records: &Records, id: &str) -> Option<Duration> {
    records.get(id).map(|record| record.elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_runner_ends_the_run_instead_of_hanging_it() {
        assert_eq!(catch_panic(|| Ok(3)).unwrap(), 3);
        let error = catch_panic::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
