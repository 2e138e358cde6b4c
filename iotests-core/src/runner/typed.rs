//! What the user types during a run. Input is read line by line: the terminal's mode is unchanged,
//! so no exit path has to restore it.

use std::io::{self, IsTerminal, stdin, stdout};
use std::sync::mpsc::SyncSender;

use nix::sys::signal::{SigSet, Signal};

use super::console;

/// Whether a user can type, and see the result.
pub(super) fn can_type() -> bool {
    stdin().is_terminal() && console::can_move(&stdout())
}

/// Passes on each line, and `None` at the end.
pub(super) fn forward<M: Send + 'static>(sender: SyncSender<M>, message: fn(Option<String>) -> M) {
    std::thread::spawn(move || {
        // In the background, a read would stop the whole run. With SIGTTIN blocked, it fails
        // instead.
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
