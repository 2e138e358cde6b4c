//! Signals to the runner: blocked in all threads, received by one, and passed on as messages.

use std::fs::File;
use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::SyncSender;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal as Listener, SignalKind};

use super::error::RunError;
use super::supervise::{Process, send};

/// The signals that end a run, ask for its progress, or suspend it.
fn taken() -> SigSet {
    SigSet::from_iter([
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGTSTP,
    ])
}

/// Blocks the signals in this thread, and so in all that it starts later.
pub(crate) fn block() -> Result<(), RunError> {
    block_these(&taken())
}

/// Keeps this process alive until its child has ended. Signals from the keyboard reach the child
/// anyway; others are passed on to it. The second of these kills everything below this process.
///
/// Uses handlers rather than a mask, which the child would inherit.
pub(crate) struct Outlive {
    runtime: Runtime,
    listeners: [Listener; 4],
}

impl Outlive {
    /// Installs the handlers: from now on, these signals do not end this process.
    pub(crate) fn new() -> Result<Self, RunError> {
        let failed = |source| RunError::System {
            doing: "handle signals",
            source,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let entered = runtime.enter();
        let listen = |signal: Signal| {
            tokio::signal::unix::signal(SignalKind::from_raw(signal as i32)).map_err(failed)
        };
        let listeners = [
            listen(Signal::SIGINT)?,
            listen(Signal::SIGQUIT)?,
            listen(Signal::SIGTERM)?,
            listen(Signal::SIGHUP)?,
        ];
        drop(entered);
        Ok(Self { runtime, listeners })
    }

    /// Runs a child to its end.
    pub(crate) fn run(self, command: std::process::Command) -> io::Result<ExitStatus> {
        let [mut int, mut quit, mut term, mut hup] = self.listeners;
        self.runtime.block_on(async {
            let mut child = tokio::process::Command::from(command).spawn()?;
            let pid = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
            let mut passed_on = 0;
            loop {
                let signal = tokio::select! {
                    status = child.wait() => return status,
                    _ = int.recv() => Signal::SIGINT,
                    _ = quit.recv() => Signal::SIGQUIT,
                    _ = term.recv() => Signal::SIGTERM,
                    _ = hup.recv() => Signal::SIGHUP,
                };
                let is_of_a_key = matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
                if is_of_a_key && is_in_foreground() {
                    continue;
                }
                passed_on += 1;
                if passed_on == 1 {
                    // The child is not reaped yet, so its pid cannot have been reused.
                    let _ = pid.map(|pid| kill(pid, signal));
                } else {
                    let below = Process::descendants(std::process::id());
                    below.iter().for_each(|one| send(one, Signal::SIGKILL));
                }
            }
        })
    }
}

/// Whether keys on the terminal send signals to this process and its children.
fn is_in_foreground() -> bool {
    let terminal = File::open("/dev/tty").ok();
    let group = terminal.and_then(|terminal| tcgetpgrp(terminal).ok());
    group == Some(getpgrp())
}

/// Blocks SIGXFSZ, so that a write beyond the file size limit fails instead.
pub(crate) fn block_file_size_signal() -> Result<(), RunError> {
    block_these(&SigSet::from(Signal::SIGXFSZ))
}

fn block_these(signals: &SigSet) -> Result<(), RunError> {
    signals.thread_block().map_err(|error| RunError::System {
        doing: "block signals",
        source: error.into(),
    })
}

/// Receives signals, and passes them on until nobody listens.
pub(crate) fn forward<M: Send + 'static>(sender: SyncSender<M>, message: fn(Signal) -> M) {
    std::thread::spawn(move || {
        while let Ok(signal) = taken().wait() {
            if sender.send(message(signal)).is_err() {
                return;
            }
        }
    });
}
