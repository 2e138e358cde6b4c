//! The signals of a runner: blocked everywhere, taken by one thread, told as messages.

use std::sync::mpsc::SyncSender;

use nix::sys::signal::{SigSet, Signal};

use super::error::RunError;

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
