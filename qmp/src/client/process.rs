//! What can be known of the process at the other end of a socket.

use std::os::fd::AsFd;

/// The process at the other end of a Unix socket; none if it is this one, as for a socket pair.
pub(crate) fn peer_of(socket: impl AsFd) -> Option<i32> {
    let peer = rustix::net::sockopt::socket_peercred(socket).ok()?.pid;
    (peer != rustix::process::getpid()).then(|| peer.as_raw_nonzero().get())
}

/// Whether a process is stopped, by a signal or a debugger.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat
        .rfind(')')
        .and_then(|at| stat[at + 1..].trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}
