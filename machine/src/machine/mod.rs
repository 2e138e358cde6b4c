//! A running machine, and its ends.

mod ends;

use crate::builder::DropHook;
use crate::console::Console;
use crate::deadlines::Deadlines;
use crate::diagnose::{Diagnoser, Diagnosis};
use crate::end::{DropReport, Expected};
use crate::program::Program;
use crate::qtest::Qtest;
use imgtools::process::{Captured, Child, CommandLine, Signal, Status};
use qmp::types::{AddFd, Getfd};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Files to remove with the machine.
#[derive(Debug, Default)]
pub(crate) struct Cleanup(Vec<PathBuf>);

impl Cleanup {
    pub(crate) fn add(&mut self, file: PathBuf) {
        self.0.push(file);
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "socket was already gone");
            }
        }
    }
}

/// What a launch produced.
pub(crate) struct Parts {
    pub(crate) program: Program,
    pub(crate) name: String,
    pub(crate) child: Arc<Child>,
    pub(crate) qmp: qmp::Client,
    pub(crate) qtest: Option<Qtest>,
    pub(crate) console: Option<Console>,
    pub(crate) deadlines: Deadlines,
    pub(crate) expected: Mutex<Expected>,
    pub(crate) findings_are_errors: bool,
    pub(crate) started: SystemTime,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) report_file: Option<PathBuf>,
    pub(crate) on_drop: Option<DropHook>,
    /// Held for its `Drop`.
    pub(crate) _cleanup: Cleanup,
}

/// One QEMU process with its monitor.
///
/// Its end is explicit: [`shutdown`](Machine::shutdown), [`powerdown`](Machine::powerdown),
/// [`end_within`](Machine::end_within) or [`kill`](Machine::kill), which check how it ended.
/// [`wait_exit`](Machine::wait_exit) only waits. If dropped while running it is killed and reaped
/// before the drop returns, on any thread, with or without a runtime.
///
/// Everything takes `&self`: share a machine in an [`Arc`] between the task that supervises it
/// and those that use it (see `examples/supervisor.rs`).
pub struct Machine {
    pub(crate) parts: Parts,
    pub(crate) ended: AtomicBool,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, pid) = (&self.parts.name, self.pid());
        f.debug_struct("Machine").field("name", name).field("pid", &pid).finish_non_exhaustive()
    }
}

impl Machine {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            ended: AtomicBool::new(false),
        }
    }

    /// Which kind of process it is.
    #[must_use]
    pub fn program(&self) -> Program {
        self.parts.program
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// The monitor.
    #[must_use]
    pub fn qmp(&self) -> &qmp::Client {
        &self.parts.qmp
    }

    /// The qtest socket, if the builder asked for one.
    #[must_use]
    pub fn qtest(&self) -> Option<&Qtest> {
        self.parts.qtest.as_ref()
    }

    /// The guest's serial console, if the builder asked for one.
    #[must_use]
    pub fn console(&self) -> Option<&Console> {
        self.parts.console.as_ref()
    }

    /// The process id; of the wrapper, if there is one.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.parts.child.pid()
    }

    /// The full command. When displayed, it can be pasted into a shell, but without the inherited
    /// descriptors.
    #[must_use]
    pub fn command_line(&self) -> &CommandLine {
        self.parts.child.command()
    }

    /// The deadlines in effect.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        self.parts.deadlines
    }

    /// All output so far.
    #[must_use]
    pub fn output(&self) -> Captured {
        self.parts.child.output()
    }

    /// The process, for waiting on its output and for signals.
    #[must_use]
    pub fn process(&self) -> &Child {
        &self.parts.child
    }

    /// How it ended, if it has or is about to by itself ([`Child::ended`]); `None` means that it is
    /// running.
    #[must_use]
    pub fn try_exit(&self) -> Option<Status> {
        self.parts.child.ended()
    }

    /// Changes which exits are not errors, from now on.
    pub fn expect_exit(&self, expected: Expected) {
        *lock(&self.parts.expected) = expected;
    }

    pub(crate) fn expected(&self) -> Expected {
        lock(&self.parts.expected).clone()
    }

    /// Sends a descriptor under a name (QMP `getfd`), for `fd:NAME` in later commands.
    ///
    /// # Errors
    /// As the command, which a storage daemon does not have.
    pub async fn getfd(&self, name: &str, fd: OwnedFd) -> Result<(), qmp::Error> {
        self.qmp().call(Getfd::new(name)).fd(fd).await.map(drop)
    }

    /// Sends a descriptor into an fd set (QMP `add-fd`), new if none is named; returns the
    /// number of the set, which `/dev/fdset/NUMBER` names.
    ///
    /// # Errors
    /// As the command, which a storage daemon does not have.
    pub async fn add_fd(&self, set: Option<u64>, fd: OwnedFd) -> Result<u64, qmp::Error> {
        let mut add = AddFd::new();
        add.fdset_id = set.map(u64::cast_signed);
        let added = self.qmp().call(add).fd(fd).await?;
        Ok(added.fdset_id.cast_unsigned())
    }

    /// Sends a signal to the process. False if it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        self.parts.child.signal(signal)
    }

    /// A handle for diagnosing the machine; it may outlive the machine, and can be used from
    /// another thread or task while this one hangs.
    #[must_use]
    pub fn diagnoser(&self) -> Diagnoser {
        let parts = &self.parts;
        Diagnoser::new(
            &parts.name,
            &parts.child,
            Some(parts.qmp.clone()),
            parts.deadlines,
        )
    }

    /// Collects what can be learned about its state, within bounded time, even if it no longer
    /// answers.
    pub async fn diagnose(&self) -> Diagnosis {
        self.diagnoser().collect().await
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Machine {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let child = &self.parts.child;
        // Before the kill, which would look like the cause.
        let by_itself = child.ended().is_some();
        child.kill();
        // Without a runtime, and bounded: the watcher abandons a process that SIGKILL does not end.
        // This waits not only for its death but until it is reaped, even if a diagnoser keeps the
        // handle alive.
        let _ = child.wait_blocking();
        let status = child.try_wait();
        let ended = status.map(|status| status.to_string());
        tracing::debug!(
            name = self.parts.name,
            ended,
            by_itself,
            "dropped without being shut down"
        );
        if let Some(hook) = &self.parts.on_drop {
            (hook.0)(&DropReport {
                name: self.parts.name.clone(),
                pid: child.pid(),
                command: child.command().clone(),
                status,
                by_itself,
                core: status.and_then(|status| self.core(status)),
                log: child.output().combined_text(),
                panicking: std::thread::panicking(),
            });
        }
    }
}
