//! What a person types while a run goes on. The terminal stays as it is, so that no way out has to put anything back: a line is what counts.

use std::io::{self, IsTerminal, stdin, stdout};
use std::sync::mpsc::SyncSender;

use nix::sys::signal::{SigSet, Signal};

use super::console;

/// Whether somebody can type, and see what comes of it.
pub(super) fn can_type() -> bool {
    stdin().is_terminal() && console::can_move(&stdout())
}

/// Passes each line on, and `None` when there are no more.
pub(super) fn forward<M: Send + 'static>(sender: SyncSender<M>, message: fn(Option<String>) -> M) {
    std::thread::spawn(move || {
        // In the background a read would stop the whole run; with the signal blocked it is an error.
        let _ = SigSet::from(Signal::SIGTTIN).thread_block();
        loop {
            let mut line = String::new();
            let typed = match stdin().read_line(&mut line) {
                Ok(1..) => Some(line.trim().to_owned()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(String::new()),
                Ok(0) | Err(_) => None,
            };
            let is_last = typed.is_none();
            if sender.send(message(typed)).is_err() || is_last {
                return;
            }
        }
    });
}
