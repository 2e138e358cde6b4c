//! Running machines.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imgtools::process::Signal;
use machine::diagnose::{Diagnoser, Diagnosis};
use machine::{DropReport, EndError, Exit, Expected};
use qmp::types::{HumanMonitorCommand, QueryVersion};
use serde::Serialize;
use serde_json::Value;

use super::command::Cmd;
use super::disk::{Attached, Disks};
use super::export::NbdServerOf;
use super::io::{Printed, whole_lines};
use super::job::Numbers;
use super::monitor::Monitor;
use super::node::{Made, Node};
use crate::author::action::Action;
use crate::author::death::{self, Found};
use crate::author::failure::{CaseResult, Failure};
use crate::author::hang::RUNNING;
use crate::author::origin::Origin;
use crate::author::shared::{Evidence, Shared};
use crate::case::Backend;
use crate::wire::{Death, Finding, MachineReport};

/// How many lines of monitor traffic a report shows.
const TAIL: usize = 20;

/// A running machine. The case must end it with [`Machine::shutdown`], [`Machine::wait_exit`] or
/// [`Machine::kill`]. A machine that is dropped alive is killed, and the case fails unless it has
/// already failed.
pub struct Machine {
    pub(crate) monitor: Monitor,
    machine: Option<machine::Machine>,
    number: u64,
    tolerated: Mutex<Vec<String>>,
    pub(super) printed: Printed,
    /// The last signal that the case sent, which does not count as a crash; 0 for none.
    signalled: Arc<AtomicI32>,
    /// Where it was launched.
    launched: Origin,
    pub(super) disks: Arc<Disks>,
    pub(super) nbd: NbdServerOf,
    pub(super) made: Made,
    /// The numbers in the ids of jobs that create images.
    pub(super) numbers: Numbers,
}

/// What is known about a machine that is still running.
struct Live {
    monitor: Monitor,
    command_line: String,
    diagnoser: Diagnoser,
    signalled: Arc<AtomicI32>,
}

impl Live {
    fn report_with(&self, status: String) -> MachineReport {
        MachineReport {
            name: self.monitor.name.clone(),
            command_line: self.command_line.clone(),
            status,
            qmp_tail: transcript(&self.monitor.client, TAIL),
            ..MachineReport::default()
        }
    }
}

/// The last messages of a monitor, one per line.
fn transcript(client: &qmp::Client, lines: usize) -> Vec<String> {
    let entries = client.transcript_tail(lines);
    entries.iter().map(ToString::to_string).collect()
}

impl Evidence for Live {
    fn report(&self) -> MachineReport {
        self.report_with(RUNNING.to_owned())
    }

    fn diagnose<'a>(
        &'a self,
        time: std::time::Duration,
        monitor: bool,
    ) -> Pin<Box<dyn Future<Output = MachineReport> + 'a>> {
        Box::pin(async move {
            // Before any query on the same connection.
            let mut report = self.report();
            let diagnosis = match monitor {
                true => self.diagnoser.collect_within(time).await,
                false => self.diagnoser.without_monitor().collect_within(time).await,
            };
            report.status = state_of(&diagnosis);
            report.stderr_tail.clone_from(&diagnosis.log_tail);
            report.diagnosis = findings(&diagnosis);
            report
        })
    }

    fn death(&self) -> Option<Death> {
        let status = self.diagnoser.process().ended()?;
        let sent = self.signalled.load(Ordering::Relaxed);
        if status.is_success() || status.signal() == Some(sent) {
            return None;
        }
        let found = Found {
            name: &self.monitor.name,
            status,
            command: self.diagnoser.process().command(),
            printed: &self.diagnoser.process().output().combined_text(),
            core: None,
        };
        Some(found.death(&self.monitor.shared))
    }

    fn output(&self) -> String {
        self.diagnoser.process().output().combined_text()
    }
}

/// What is wrong with a machine, as a phrase that follows its name; [`RUNNING`] if nothing is.
fn state_of(diagnosis: &Diagnosis) -> String {
    if let Some(status) = diagnosis.ended {
        return death::status(status);
    }
    let stopped = diagnosis.processes.iter().find(|one| one.is_stopped());
    let silent = diagnosis.is_silent();
    let what = match (stopped, silent) {
        (Some(_), _) => "stopped by a signal",
        (None, true) => "its monitor does not answer",
        (None, false) => return RUNNING.to_owned(),
    };
    match innermost(diagnosis) {
        Some(function) => format!("hangs: {what}, in {function}"),
        None => format!("hangs: {what}"),
    }
}

/// The function in which the main thread is, from its stack, or else its place in the kernel.
fn innermost(diagnosis: &Diagnosis) -> Option<String> {
    let stacks = diagnosis.backtraces.first();
    let stack = stacks.and_then(|one| one.text.as_ref().ok());
    // The main thread comes last in a debugger's list.
    let frame =
        stack.and_then(|text| text.lines().rev().find(|line| line.trim_start().starts_with("#0")));
    let named = frame.and_then(|line| {
        let name = line.split_once(" in ").map_or(
            line.trim_start().trim_start_matches("#0").trim_start(),
            |(_, rest)| rest,
        );
        let name = name.split([' ', '(']).next()?;
        let name = name.trim_start_matches("__GI_").trim_start_matches('_');
        (!name.is_empty() && !name.contains('?')).then(|| name.to_owned())
    });
    let main = diagnosis.processes.first()?.threads.first();
    named.or_else(|| main?.wait_channel.clone())
}

/// The parts of a diagnosis, the most useful first.
fn findings(diagnosis: &Diagnosis) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |title: &str, text: String| {
        let (title, text) = (title.to_owned(), text);
        findings.push(Finding { title, text });
    };
    let mut threads = String::new();
    for process in &diagnosis.processes {
        for thread in &process.threads {
            let waits = thread.wait_channel.as_deref().unwrap_or("-");
            threads += &format!(
                "{} {}: {} in {waits}\n",
                thread.tid, thread.name, thread.state
            );
        }
    }
    found("threads", threads);
    for backtrace in &diagnosis.backtraces {
        found(
            "stacks",
            backtrace.text.clone().unwrap_or_else(|why| format!("none: {why}")),
        );
    }
    for fact in &diagnosis.qmp {
        let text = match &fact.answer {
            Ok(value) => value.to_string(),
            Err(why) => format!("no answer: {why}"),
        };
        found(&fact.command, text);
    }
    findings.retain(|one| !one.text.is_empty());
    findings
}

/// Makes a launched machine part of the case.
pub(super) async fn adopt(
    shared: &Arc<Shared>,
    backend: Backend,
    machine: machine::Machine,
    tolerated: Vec<String>,
    nodes: &[Node],
    disks: Vec<Attached>,
    launched: Origin,
) -> CaseResult<Machine> {
    let client = machine.qmp().clone();
    let events = client.event_cache();
    let monitor = Monitor {
        shared: shared.clone(),
        name: machine.name().to_owned(),
        backend,
        events: events.ok_or_else(|| Failure::new("the machine keeps no events"))?,
        client,
        ended: Arc::new(AtomicBool::new(false)),
    };
    let signalled = Arc::new(AtomicI32::new(0));
    let live = Live {
        signalled: signalled.clone(),
        monitor: monitor.clone(),
        command_line: machine.command_line().to_string(),
        diagnoser: machine.diagnoser(),
    };
    let number = shared.watch(Arc::new(live));
    let machine = Machine {
        monitor,
        machine: Some(machine),
        number,
        tolerated: Mutex::new(tolerated),
        printed: Printed::default(),
        signalled,
        launched,
        disks: Arc::default(),
        nbd: NbdServerOf::default(),
        made: Made::default(),
        numbers: Numbers::default(),
    };
    nodes.iter().for_each(|node| machine.made.note(node));
    for disk in disks {
        machine.attach(disk).await?;
    }
    Ok(machine)
}

/// A hook that records how a dropped machine ended, for [`Machine`]'s own drop.
pub(super) fn on_drop(shared: &Arc<Shared>) -> impl Fn(&DropReport) + Send + Sync + 'static {
    // Weak, because the shared state may itself own the machine's builder, which owns this hook.
    let shared = Arc::downgrade(shared);
    move |report| {
        if let Some(shared) = shared.upgrade() {
            shared.keep_drop(report.clone());
        }
    }
}

impl Machine {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.monitor.name
    }

    /// Whether it is an emulator or a storage daemon.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.monitor.backend
    }

    pub(crate) fn inner(&self) -> CaseResult<&machine::Machine> {
        let ended = || Failure::new(format!("{} has ended", self.name()));
        self.machine.as_ref().ok_or_else(ended)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.machine.as_ref().map(machine::Machine::pid)
    }

    /// A QMP command with these arguments (`()` for none), as in the QMP reference.
    #[track_caller]
    pub fn cmd(&self, name: &str, arguments: impl Serialize) -> Cmd {
        self.monitor.cmd(name, arguments)
    }

    /// Runs a command of the human monitor and returns its output; emulators only.
    #[track_caller]
    pub fn hmp(&self, command: &str) -> Action<'_, String> {
        let call = self.monitor.send(HumanMonitorCommand::new(command));
        Action::new("a command of the human monitor", async move {
            let text = call.await?;
            Ok(text.as_str().unwrap_or_default().replace("\r\n", "\n"))
        })
    }

    /// Waits for an event, or takes the oldest matching one that has already arrived. Other events
    /// are kept for later. Pass a name such as `"STOP"`, or a [`qmp::Matcher`].
    #[track_caller]
    pub fn event(&self, which: impl Into<qmp::Matcher>) -> Action<'_, Value> {
        let matcher = which.into();
        Action::new(
            format!("the event {matcher} of {}", self.name()),
            async move {
                let limit = self.monitor.shared.wait_limit();
                let events = self.monitor.events.with_deadline(limit);
                let event = events.wait(matcher).await?;
                self.monitor.narrate_event(&event);
                Ok(super::monitor::event_json(&event))
            },
        )
    }

    /// Takes all matching events that have arrived, without waiting.
    pub fn take_events(&self, which: impl Into<qmp::Matcher>) -> Vec<Value> {
        let events = self.monitor.events.take_all(which);
        events.iter().map(|event| super::monitor::event_json(event)).collect()
    }

    /// Asserts that no matching event has arrived, or arrives before the machine answers a command.
    #[track_caller]
    pub fn assert_no_event(&self, which: impl Into<qmp::Matcher>) -> Action<'_, ()> {
        let matcher = which.into();
        Action::new(format!("{} to answer", self.name()), async move {
            // An event sent before the answer has arrived when the answer arrives.
            self.monitor.query(QueryVersion::new()).await?;
            match self.monitor.events.take(matcher) {
                Some(event) => Err(Failure::new(format!(
                    "expected no such event, but there is {}",
                    super::monitor::event_json(&event)
                ))),
                None => Ok(()),
            }
        })
    }

    /// Advances an emulator's virtual clock by this much. Needs
    /// [`crate::case::Guest::VirtualClock`].
    #[track_caller]
    pub fn step_clock(&self, by: std::time::Duration) -> Action<'_, ()> {
        Action::new("the virtual clock", async move {
            let qtest = self.machine.as_ref().and_then(machine::Machine::qtest);
            let qtest = qtest.ok_or_else(|| {
                Failure::new("there is no clock to step: declare Guest::VirtualClock")
            })?;
            qtest.clock_step(u64::try_from(by.as_nanos())?).await?;
            Ok(())
        })
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        if let Some(machine) = &self.machine {
            self.signalled.store(signal.number(), Ordering::Relaxed);
            machine.signal(signal);
        }
    }

    /// Shuts it down cleanly, and returns its output. It must exit with status 0, in time, and may
    /// have printed to stderr only what [`super::MachineBuilder::tolerate`] allows, apart from
    /// warnings, which vary between versions.
    #[track_caller]
    pub fn shutdown(self) -> Action<'static, String> {
        self.end("shut down", |machine| Box::pin(machine.shutdown()))
    }

    /// Waits until it ends by itself; the same must hold as for [`Machine::shutdown`].
    #[track_caller]
    pub fn wait_exit(self) -> Action<'static, String> {
        self.end("exit", until_exit)
    }

    /// Waits until it ends by itself with this exit status.
    #[track_caller]
    pub fn wait_exit_status(self, status: i32) -> Action<'static, String> {
        if let Some(machine) = &self.machine {
            machine.expect_exit(Expected::code(status));
        }
        self.end("exit", until_exit)
    }

    /// Kills it, simulating a power cut, and returns its output.
    #[track_caller]
    pub fn kill(self) -> Action<'static, String> {
        self.end("die", |machine| Box::pin(machine.kill()))
    }

    #[track_caller]
    fn end(mut self, what: &str, how: End) -> Action<'static, String> {
        let what = format!("{} to {what}", self.name());
        Action::at(Location::caller(), what, async move {
            self.monitor.ended.store(true, Ordering::Relaxed);
            let Some(machine) = self.machine.take() else {
                return Err(Failure::new(format!("{} has ended already", self.name())));
            };
            let command_line = machine.command_line().to_string();
            let ended = how(&machine).await;
            let exit = match &ended {
                Ok(exit) => Some(exit),
                Err(error) => error.exit(),
            };
            let report = MachineReport {
                name: self.name().to_owned(),
                command_line,
                status: exit.map_or_else(|| "lost".to_owned(), |exit| death::status(exit.status())),
                stderr_tail: exit.map(|exit| death::tail(&exit.log())).unwrap_or_default(),
                qmp_tail: transcript(&self.monitor.client, TAIL),
                ..MachineReport::default()
            };
            let printed = exit.map(Exit::log).unwrap_or_default();
            let file = format!("{}.output", self.name());
            self.monitor.shared.keep_evidence(&file, &printed);
            self.monitor.shared.forget(self.number, report);
            if let Err(error @ (EndError::Status { .. } | EndError::Findings(_))) = &ended
                && let Some(exit) = error.exit()
            {
                let found = Found {
                    name: &exit.name,
                    status: exit.status(),
                    command: &exit.output.command,
                    printed: &exit.log(),
                    core: exit.core.as_deref(),
                };
                self.note_death(&found);
            }
            let exit = ended?;
            self.check_output(&exit)?;
            Ok(exit.log())
        })
    }

    /// Records a crash if a signal ended the process, unless the case sent the signal.
    fn note_death(&self, found: &Found<'_>) {
        let sent = self.signalled.load(Ordering::Relaxed);
        if found.status.signal().is_some_and(|signal| signal != sent) {
            self.monitor.shared.death(found.death(&self.monitor.shared));
        }
    }

    /// Whether the case expects such a line.
    pub(super) fn tolerates(&self, line: &str) -> bool {
        let tolerated = self.tolerated.lock().unwrap_or_else(PoisonError::into_inner);
        tolerated.iter().any(|text| line.contains(text))
    }

    /// From now on, the case expects lines that contain this text.
    pub(super) fn tolerate(&self, text: &str) {
        let mut tolerated = self.tolerated.lock().unwrap_or_else(PoisonError::into_inner);
        tolerated.push(text.to_owned());
    }

    /// Checks that stderr and failed qemu-io commands contain only what the case tolerates or has
    /// seen.
    fn check_output(&self, exit: &Exit) -> CaseResult {
        let mut stderr = &*exit.output.captured.stderr;
        if exit.status().signal().is_some() {
            // The signal may have truncated a line, which then cannot be judged.
            stderr = whole_lines(stderr);
        }
        let stderr = String::from_utf8_lossy(stderr);
        let stdout = exit.output.captured.stdout_text();
        let mut wrong: Vec<&str> = stderr.lines().filter(|line| is_complaint(line)).collect();
        wrong.extend(imgtools::io::failures(&stdout));
        let mut wrong = self.printed.unknown(wrong);
        wrong.retain(|line| !self.tolerates(line));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} printed:\n  {}",
            self.name(),
            wrong.join("\n  ")
        )))
    }
}

/// Whether a line on stderr needs an explanation. Warnings do not; they vary between versions.
pub(super) fn is_complaint(line: &str) -> bool {
    let warning = line.starts_with("warning:") || line.contains(": warning:");
    !warning && !line.trim().is_empty()
}

/// A machine that ends by itself must do so within the time for one command, which is the case's
/// budget.
fn until_exit(
    machine: &machine::Machine,
) -> Pin<Box<dyn Future<Output = Result<Exit, EndError>> + '_>> {
    Box::pin(machine.end_within(machine.deadlines().command))
}

type End =
    for<'m> fn(&'m machine::Machine) -> Pin<Box<dyn Future<Output = Result<Exit, EndError>> + 'm>>;

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            self.monitor.ended.store(true, Ordering::Relaxed);
            let command_line = machine.command_line().to_string();
            let qmp_tail = transcript(&self.monitor.client, TAIL);
            // Its hook records how it ended.
            drop(machine);
            let shared = &self.monitor.shared;
            let dropped = shared.take_drop(self.name());
            let stderr_tail =
                dropped.as_ref().map(|dropped| dropped.log.clone()).unwrap_or_default();
            shared.keep_evidence(&format!("{}.output", self.name()), &stderr_tail);
            let status = match dropped {
                Some(DropReport {
                    by_itself: true,
                    status: Some(status),
                    command,
                    core,
                    ..
                }) => {
                    let words = death::status(status);
                    let sent = self.signalled.load(Ordering::Relaxed);
                    if status.is_success() || status.signal() == Some(sent) {
                        let early = "before the case was done with it: wait for its end";
                        let problem = format!("{} {words} {early}", self.name());
                        shared.problem(&self.launched, problem);
                    } else {
                        let found = Found {
                            name: self.name(),
                            status,
                            command: &command,
                            printed: &stderr_tail,
                            core: core.as_deref(),
                        };
                        shared.death(found.death(shared));
                    }
                    words
                }
                _ => {
                    let late = "was still running at the end of the case: shut it down";
                    shared.problem(&self.launched, format!("{} {late}", self.name()));
                    "killed at the end of the case".to_owned()
                }
            };
            let name = self.name().to_owned();
            let report = MachineReport {
                name,
                command_line,
                status,
                stderr_tail: death::tail(&stderr_tail),
                qmp_tail,
                ..MachineReport::default()
            };
            self.monitor.shared.forget(self.number, report);
        }
    }
}
