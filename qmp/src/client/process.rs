//! What can be learned about the process at the other end of a socket.

use tokio::net::UnixStream;

/// The process at the other end of a Unix socket; none if it is this one, as for a socket pair, or
/// has no PID here, as when it is outside this process's PID namespace.
pub(crate) fn peer_of(socket: &UnixStream) -> Option<i32> {
    let own = i32::try_from(std::process::id()).ok()?;
    let peer = socket.peer_cred().ok()?.pid()?;
    (peer > 0 && peer != own).then_some(peer)
}

/// Whether a process is stopped, by a signal or a debugger; false where that cannot be determined,
/// as without `/proc`.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat.rfind(')').and_then(|at| stat[at + 1..].trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}
