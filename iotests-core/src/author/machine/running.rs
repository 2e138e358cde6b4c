//! A running machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imgtools::process::Signal;
use machine::diagnose::Diagnoser;
use machine::{DropReport, EndError, Exit, Expected};
use serde::Serialize;
use serde_json::{Value, json};

use super::command::Cmd;
use super::io::{NodeAccess, Printed};
use super::monitor::Monitor;
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Failure};
use crate::author::shared::{Evidence, Shared};
use crate::case::Backend;
use crate::wire::MachineReport;

/// How many lines of a monitor's traffic a report shows.
const TAIL: usize = 20;

/// A running machine. It has to be ended: [`Machine::shutdown`], [`Machine::wait_exit`] or
/// [`Machine::kill`]. Dropped alive it is killed, and the case fails unless it has failed already.
pub struct Machine {
    pub(crate) monitor: Monitor,
    pub(crate) access: NodeAccess,
    machine: Option<machine::Machine>,
    number: u64,
    tolerated: Vec<String>,
    pub(super) printed: Printed,
    /// The drive of an emulator that each image is in.
    pub(super) drives: BTreeMap<String, String>,
}

/// What is told of a machine that still runs.
struct Live {
    monitor: Monitor,
    command_line: String,
    diagnoser: Diagnoser,
}

impl Live {
    fn report_with(&self, status: String, stderr_tail: String) -> MachineReport {
        MachineReport {
            name: self.monitor.name.clone(),
            command_line: self.command_line.clone(),
            status,
            stderr_tail,
            qmp_tail: self
                .monitor
                .client
                .transcript_tail(TAIL)
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl Evidence for Live {
    fn report(&self) -> MachineReport {
        self.report_with("running".to_owned(), String::new())
    }

    fn diagnose<'a>(
        &'a self,
        time: std::time::Duration,
    ) -> Pin<Box<dyn Future<Output = MachineReport> + 'a>> {
        Box::pin(async move {
            let diagnosis = self.diagnoser.collect_within(time).await;
            self.report_with("running".to_owned(), diagnosis.to_string())
        })
    }
}

/// Takes a machine that was launched into the case.
pub(super) fn adopt(
    shared: &Arc<Shared>,
    backend: Backend,
    machine: machine::Machine,
    tolerated: Vec<String>,
    drives: BTreeMap<String, String>,
) -> CaseResult<Machine> {
    let monitor = Monitor {
        shared: shared.clone(),
        name: machine.name().to_owned(),
        backend,
        client: machine.qmp().clone(),
        ended: Arc::new(AtomicBool::new(false)),
    };
    let live = Live {
        monitor: monitor.clone(),
        command_line: machine.command_line().to_string(),
        diagnoser: machine.diagnoser(),
    };
    let number = shared.watch(Arc::new(live));
    let access = NodeAccess::default();
    Ok(Machine {
        monitor,
        access,
        machine: Some(machine),
        number,
        tolerated,
        printed: Printed::default(),
        drives,
    })
}

/// What happens when a machine is dropped alive: the case is told, and keeps the evidence.
pub(super) fn on_drop(shared: &Arc<Shared>) -> impl Fn(&DropReport) + Send + Sync + 'static {
    // Weak: the machine's builder, which holds this, may itself be held by what the case shares.
    let shared = Arc::downgrade(shared);
    move |report| {
        if let Some(shared) = shared.upgrade() {
            shared.problem(format!(
                "{} was still running at the end of the case: shut it down",
                report.name
            ));
            shared.keep_output(&report.name, &report.log);
        }
    }
}

impl Machine {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.monitor.name
    }

    /// Which of the two it is.
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

    /// A command of the human monitor, returning what it prints; emulators only.
    #[track_caller]
    pub fn hmp(&self, command: &str) -> Action<'_, String> {
        let call = self.cmd("human-monitor-command", json!({"command-line": command}));
        Action::new("a command of the human monitor", async move {
            let text = call.await?;
            Ok(text.as_str().unwrap_or_default().replace("\r\n", "\n"))
        })
    }

    /// Waits for an event, or takes the oldest one like this that has come already. Others stay for
    /// later. `"STOP"`, or a [`qmp::Matcher`] for more.
    #[track_caller]
    pub fn event(&self, which: impl Into<qmp::Matcher>) -> Action<'_, Value> {
        let matcher = which.into();
        Action::new(
            format!("the event {matcher} of {}", self.name()),
            async move {
                let patience = self.monitor.shared.patience();
                let event = self
                    .monitor
                    .client
                    .events()
                    .with_deadline(patience)
                    .wait(matcher)
                    .await?;
                self.monitor.narrate_event(&event);
                Ok(super::monitor::event_json(&event))
            },
        )
    }

    /// Takes all events like this that have come, without waiting.
    pub fn take_events(&self, which: impl Into<qmp::Matcher>) -> Vec<Value> {
        let events = self.monitor.client.events().drain_matching(which);
        events
            .iter()
            .map(|event| super::monitor::event_json(event))
            .collect()
    }

    /// No event like this has come, and none comes before the machine answers a command.
    #[track_caller]
    pub fn assert_no_event(&self, which: impl Into<qmp::Matcher>) -> Action<'_, ()> {
        let matcher = which.into();
        Action::new(format!("{} to answer", self.name()), async move {
            // An event that was sent before the answer is there when the answer is.
            self.monitor.ask("query-version", Value::Null).await?;
            match self.monitor.client.events().poll(matcher) {
                Some(event) => Err(Failure::new(format!(
                    "expected no such event, but there is {}",
                    super::monitor::event_json(&event)
                ))),
                None => Ok(()),
            }
        })
    }

    /// Shows an emulator's virtual clock that this much time has passed. Needs
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
            machine.signal(signal);
        }
    }

    /// Ends it in good order, and returns what it printed. It must exit with status 0, in time, and
    /// must not have printed anything to stderr that [`super::MachineBuilder::tolerate`] does not
    /// allow, warnings aside: which of those there are depends on the version.
    #[track_caller]
    pub fn shutdown(self) -> Action<'static, String> {
        self.end("shut down", |machine| Box::pin(machine.shutdown()))
    }

    /// Waits until it ends by itself; what must hold is as for [`Machine::shutdown`].
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

    /// Kills it, as a power cut would, and returns what it printed.
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
                status: exit.map_or_else(|| "lost".to_owned(), |exit| exit.status().to_string()),
                stderr_tail: exit.map(Exit::tail).unwrap_or_default(),
                qmp_tail: self
                    .monitor
                    .client
                    .transcript_tail(TAIL)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            };
            self.monitor.shared.forget(self.number, report);
            let exit = ended?;
            self.check_output(&exit)?;
            Ok(exit.log())
        })
    }

    /// Whether the case said that it expects such a line.
    pub(super) fn tolerates(&self, line: &str) -> bool {
        self.tolerated.iter().any(|text| line.contains(text))
    }

    /// Nothing on stderr, and no failed qemu-io command, but what the case tolerates or was told.
    fn check_output(&self, exit: &Exit) -> CaseResult {
        let wanting = |line: &&str| {
            let warning = line.starts_with("warning:") || line.contains(": warning:");
            !warning && !self.tolerates(line)
        };
        let stderr = exit.output.captured.stderr_text();
        let stdout = exit.output.captured.stdout_text();
        let mut wrong: Vec<&str> = stderr
            .lines()
            .filter(|line| !line.trim().is_empty())
            .filter(wanting)
            .collect();
        let failures = self.printed.untold(imgtools::io::failures(&stdout));
        wrong.extend(failures.into_iter().filter(wanting));
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

/// What ends by itself does so within the time for one command, which is the case's budget.
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
            let qmp_tail = self
                .monitor
                .client
                .transcript_tail(TAIL)
                .iter()
                .map(ToString::to_string)
                .collect();
            let status = match machine.try_exit() {
                Some(status) => format!("had ended by itself: {status}"),
                None => "killed at the end of the case".to_owned(),
            };
            // Its hook tells the case, and keeps what it printed.
            drop(machine);
            let stderr_tail = self.monitor.shared.kept_output(self.name());
            let name = self.name().to_owned();
            let report = MachineReport {
                name,
                command_line,
                status,
                stderr_tail,
                qmp_tail,
            };
            self.monitor.shared.forget(self.number, report);
        }
    }
}
