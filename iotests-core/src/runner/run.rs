//! The dispatcher: starts instances as the schedule allows, waits for their ends, and informs the reporters.

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
use super::jobs::Carried;
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

/// What a run is to do.
pub(crate) struct Job {
    /// What is shown first.
    pub(crate) started: RunStarted,
    /// What a person should know besides.
    pub(crate) warnings: Vec<String>,
    /// What does not run, with the reason.
    pub(crate) skipped: Vec<(InstanceInfo, Planned)>,
    /// What runs.
    pub(crate) instances: Vec<(Load, InstanceJob)>,
    /// Memory that may be used at once.
    pub(crate) memory: u64,
    /// Stop after so many failures.
    pub(crate) max_fail: Option<usize>,
    /// Run each instance again until so much time has passed.
    pub(crate) time: Option<Duration>,
    /// How many run at once, where that is not fixed.
    pub(crate) carried: Option<Carried>,
    /// A person lets the one instance go on after each step.
    pub(crate) step: bool,
    /// Standard output is all that it is run for.
    pub(crate) only_shows: bool,
}

/// How many messages may wait. A case that says more than is recorded waits itself, instead of filling the memory.
const WAITING: usize = 1024;

/// A message to the dispatcher from another thread, with its slot.
enum Message {
    Event(u16, RunEvent),
    Finished(u16, Load, Box<InstanceJob>, Result<Box<Outcome>, RunError>),
    Signal(Signal),
    /// A line on the terminal, or the end of what can be typed.
    Typed(Option<String>),
}

/// How the one instance goes through its steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stepping {
    /// Without a stop.
    Not,
    /// It runs up to the next one.
    Running,
    /// It has stopped.
    Stopped,
}

/// A run in progress.
struct Dispatcher<'r> {
    recorder: &'r mut Recorder,
    face: &'r mut dyn Show,
    /// Writes the reports, for a run that is left in a hurry.
    reports: &'r dyn Fn(),
    runner: Arc<Runner>,
    /// The slots in use.
    slots: BTreeSet<u16>,
    schedule: Schedule<InstanceJob>,
    summary: Summary,
    running: usize,
    max_fail: Option<usize>,
    /// How long instances are run again.
    time: Option<Duration>,
    carried: Option<Carried>,
    stepping: Stepping,
    signals: u32,
    /// The record could not be written.
    broken: Option<io::Error>,
    /// What is shown could not be.
    unshown: Option<io::Error>,
    only_shows: bool,
    error: Option<RunError>,
}

/// Runs all of it, and gives the exit code. `reports` writes the reports from what is recorded so far.
pub(crate) fn run(
    job: Job,
    runner: Arc<Runner>,
    recorder: &mut Recorder,
    face: &mut dyn Show,
    reports: &dyn Fn(),
    skips: Skips,
) -> Result<Exit, RunError> {
    let (sender, receiver) = sync_channel(WAITING);
    signals::forward(sender.clone(), Message::Signal);
    if typed::can_type() {
        typed::forward(sender.clone(), Message::Typed);
    }
    let mut carried = job.carried;
    let jobs = carried.as_mut().map_or(job.started.jobs, |carried| carried.limit(0));
    let mut dispatcher = Dispatcher {
        recorder,
        face,
        reports,
        runner,
        slots: BTreeSet::new(),
        schedule: Schedule::new(job.instances, jobs, job.memory),
        summary: Summary::default(),
        running: 0,
        max_fail: job.max_fail,
        time: job.time,
        carried,
        stepping: match job.step {
            true => Stepping::Running,
            false => Stepping::Not,
        },
        signals: 0,
        broken: None,
        unshown: None,
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
    let broken = [
        ("write the record of the run", dispatcher.broken),
        ("write to standard output", dispatcher.unshown),
    ];
    for (doing, source) in broken {
        if let Some(source) = source {
            return Err(RunError::System { doing, source });
        }
    }
    Ok(skips.exit(summary, dispatcher.signals > 0))
}

/// What skips do to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skips {
    /// They fail it only when there is nothing else.
    Some,
    /// `--deny-skips`: each fails it.
    Denied,
    /// `--allow-all-skipped`: none fails it.
    Allowed,
}

impl Skips {
    /// The exit code of a run with these counts, live or from its record.
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
    /// One that cannot be recorded is shown all the same, and the other way round.
    fn report(&mut self, slot: Option<u16>, event: &RunEvent) {
        let recorded = self.recorder.record(slot, event);
        let shown = self.face.event(event);
        if let Err(error) = recorded {
            self.broken.get_or_insert(error);
        }
        self.shown(shown);
    }

    fn shown(&mut self, shown: io::Result<()>) {
        if let Err(error) = shown {
            self.unshown.get_or_insert(error);
        }
    }

    /// Ends a run that nobody looks at any more, as with `| head`.
    fn stop_unread(&mut self) {
        let has_more = self.running > 0 || !self.schedule.is_empty();
        if self.only_shows && self.signals == 0 && has_more && console::is_unread(&io::stdout()) {
            // Where nobody reads that either, there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "note: nobody reads standard output any more, so the run ends"
            );
            self.signal(Signal::SIGPIPE);
        }
    }

    /// The last event.
    fn end(&mut self) {
        self.summary.elapsed = self.recorder.elapsed();
        let end = RunEvent::RunFinished(Box::new(self.summary.clone()));
        self.report(None, &end);
    }

    /// Until nothing runs and nothing waits.
    fn turn(&mut self, sender: &SyncSender<Message>, receiver: &Receiver<Message>) {
        loop {
            while let Some((load, job)) = self.schedule.start() {
                self.start(load, job, sender);
            }
            if self.running == 0 {
                return;
            }
            // The sender of this thread lives, so this cannot fail.
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
                    let rested = self.runner.suspend();
                    self.recorder.rested(rested);
                }
                Message::Signal(signal) => self.signal(signal),
                Message::Finished(slot, load, job, result) => {
                    self.ended(slot, load, result);
                    self.again(load, *job);
                    self.stop_unread();
                }
            }
        }
    }

    fn ended(&mut self, slot: u16, load: Load, result: Result<Box<Outcome>, RunError>) {
        if let Some(carried) = &mut self.carried {
            self.schedule.set_jobs(carried.limit(self.running));
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
        let shown = self.face.status(&self.summary);
        self.shown(shown);
    }

    /// A case that stops at its steps has come to one.
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
        let shown = self.face.stopped();
        self.shown(shown);
    }

    /// A person who typed something wants to know how far it is, or wants a case that has stopped to go on.
    fn typed(&mut self, line: Option<&str>) {
        match (self.stepping, line) {
            (Stepping::Not | Stepping::Running, Some(_)) => self.status(),
            (Stepping::Not, None) => {}
            (Stepping::Stopped, Some("q")) => self.signal(Signal::SIGINT),
            (Stepping::Stopped, Some("")) => {
                self.stepping = Stepping::Running;
                self.runner.order_all(Order::Step);
            }
            (Stepping::Stopped, Some("c")) => self.step_no_more(),
            (Stepping::Stopped, Some(_)) => {
                let shown = self.face.stopped();
                self.shown(shown);
            }
            // Nobody is there any more.
            (Stepping::Running | Stepping::Stopped, None) => self.step_no_more(),
        }
    }

    fn step_no_more(&mut self) {
        self.stepping = Stepping::Not;
        self.runner.order_all(Order::Run);
    }

    /// One that has ended begins anew while there is time.
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
        // The supervisor dies with the thread that spawned it, so this thread lives as long as the supervisor.
        let thread = thread::Builder::new().spawn(move || {
            let job = Box::new(job);
            let result = caught(|| {
                // Nobody listens only when the run is over.
                runner.run(&job, load.expected, |event| {
                    let _ = tell.send(Message::Event(slot, event));
                })
            });
            // Whoever hears of the end may take the runner apart.
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
            self.report(None, &RunEvent::Stopping { why });
        }
    }

    /// The first ends what runs with grace, the second at once, the third leaves it to the supervisors.
    fn signal(&mut self, signal: Signal) {
        self.signals += 1;
        self.summary.not_run += self.schedule.stop();
        let why = match self.signals {
            1 => {
                self.runner.order_all(Order::Terminate);
                format!("{signal}; {} end now, once more kills them", self.running)
            }
            2 => {
                self.runner.order_all(Order::Kill);
                format!("{signal}; {} are killed", self.running)
            }
            _ => {
                // What runs is left to the supervisors; what is known is not lost.
                self.end();
                (self.reports)();
                std::process::exit(i32::from(Exit::Interrupted.code()))
            }
        };
        self.report(None, &RunEvent::Stopping { why });
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
