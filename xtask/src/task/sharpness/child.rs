//! A program that can be stopped, by its deadline or by a signal to us.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cargo::{self, XtaskError};

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(60);

/// Whether everything should stop. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    /// Whether the running program has ended.
    ended: bool,
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited(ExitStatus),
    /// Its deadline passed.
    Late,
    Stopped,
}

impl Stop {
    /// A stop that Ctrl-C, SIGTERM and SIGHUP trigger.
    pub(super) fn by_signals() -> Result<Stop, XtaskError> {
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
        let mut signals = signals.map_err(|source| XtaskError::Start {
            program: "handling of signals".to_owned(),
            source,
        })?;
        let stop = Stop::default();
        let all = stop.clone();
        thread::spawn(move || signals.forever().for_each(|_| all.now()));
        Ok(stop)
    }

    pub(super) fn now(&self) {
        self.set(|state| state.stopped = true);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the program has ended. Returns false if something else happens first.
    fn wait_end(&self, until: Instant, even_stopped: bool) -> bool {
        let mut state = self.state();
        while !state.ended && (even_stopped || !state.stopped) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended
    }
}

/// Runs a program until it ends, its deadline passes, or we are stopped. Its output goes to a file.
pub(super) fn run(
    command: &mut Command,
    log: &Path,
    time: Duration,
    stop: &Stop,
) -> Result<End, XtaskError> {
    let output = File::create(log).map_err(XtaskError::file("create", log))?;
    let errors = output.try_clone().map_err(XtaskError::file("open", log))?;
    // It and all its descendants, including a wrapper's programs, form one group, which is ended
    // together.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let program = cargo::display(command);
    let start = |source| XtaskError::Start {
        program: program.clone(),
        source,
    };
    stop.set(|state| state.ended = false);
    if stop.state().stopped {
        return Ok(End::Stopped);
    }
    let mut child = command.spawn().map_err(start)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let waiting = stop.clone();
    let waiter = thread::spawn(move || {
        // It stays a zombie, so that its process id cannot be reused before it is killed.
        while let Err(nix::errno::Errno::EINTR) =
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        {}
        waiting.set(|state| state.ended = true);
    });
    let ended = stop.wait_end(Instant::now() + time, false);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if !stop.state().ended {
            // An error means that it no longer exists.
            let _ = killpg(pid, signal);
            stop.wait_end(Instant::now() + GRACE, true);
        }
    }
    let status = child.wait().map_err(start)?;
    // The thread has nothing more to do.
    let _ = waiter.join();
    Ok(match ended {
        _ if stop.state().stopped => End::Stopped,
        true => End::Exited(status),
        false => End::Late,
    })
}
