//! The signals of a runner: blocked everywhere, taken by one thread, told as messages.

use std::sync::mpsc::Sender;

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
    taken().thread_block().map_err(|error| RunError::System {
        doing: "block signals",
        source: error.into(),
    })
}

/// Takes signals as long as somebody listens.
pub(crate) fn forward<M: Send + 'static>(sender: Sender<M>, message: fn(Signal) -> M) {
    std::thread::spawn(move || {
        while let Ok(signal) = taken().wait() {
            if sender.send(message(signal)).is_err() {
                return;
            }
        }
    });
}
