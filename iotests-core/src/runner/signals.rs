//! The signals of a runner: blocked everywhere, taken by one thread, passed on as messages.

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

/// The signals that end a run, the one that asks what it does, and the one that suspends it.
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

/// Blocks them in this thread, and so in all that it starts from now on.
pub(crate) fn block() -> Result<(), RunError> {
    block_these(&taken())
}

/// Outlives the child that this program waits for: the keyboard signals the child as well, and what is sent to this process alone is passed on.
/// The second time it is killed, with all that is below this process.
///
/// Handlers and not a mask, which the child would inherit.
pub(crate) struct Outlive {
    runtime: Runtime,
    listeners: [Listener; 4],
}

impl Outlive {
    /// From now on no such signal ends this process.
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
                    // It is not reaped yet, so that this is no other's process.
                    let _ = pid.map(|pid| kill(pid, signal));
                } else {
                    let below = Process::descendants(std::process::id());
                    below.iter().for_each(|one| send(one, Signal::SIGKILL));
                }
            }
        })
    }
}

/// Whether the keys of a terminal signal this process, and with it its children.
fn is_in_foreground() -> bool {
    let terminal = File::open("/dev/tty").ok();
    let group = terminal.and_then(|terminal| tcgetpgrp(terminal).ok());
    group == Some(getpgrp())
}

/// Blocks the signal that a limit on the size of files sends, which then is an error of the write.
pub(crate) fn bear_file_limits() -> Result<(), RunError> {
    block_these(&SigSet::from(Signal::SIGXFSZ))
}

fn block_these(signals: &SigSet) -> Result<(), RunError> {
    signals.thread_block().map_err(|error| RunError::System {
        doing: "block signals",
        source: error.into(),
    })
}

/// Takes signals as long as somebody listens.
pub(crate) fn forward<M: Send + 'static>(sender: SyncSender<M>, message: fn(Signal) -> M) {
    std::thread::spawn(move || {
        while let Ok(signal) = taken().wait() {
            if sender.send(message(signal)).is_err() {
                return;
            }
        }
    });
}
