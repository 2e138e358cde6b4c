//! Reaps children until ECHILD, and kills everything below this process.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::process_table::Process;
use super::protocol::End;

/// How long to wait for killed processes to die before looking again.
const KILL_TURN: Duration = Duration::from_millis(50);

/// The result of reaping all children that had ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reaped {
    /// How the case ended, if it was among them.
    pub(super) case: Option<End>,
    /// The kernel returned ECHILD: nothing is left below this process.
    pub(super) none_left: bool,
}

/// Reaps every child that has ended.
pub(super) fn reap(case: Pid) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == case => {
                reaped.case = Some(End::Exited(status))
            }
            Ok(WaitStatus::Signaled(pid, signal, core)) if pid == case => {
                reaped.case = Some(End::Signaled {
                    signal: signal as i32,
                    core,
                });
            }
            Ok(WaitStatus::StillAlive) => return reaped,
            Ok(_) | Err(Errno::EINTR) => {}
            // The child was reaped, but nix cannot represent its status (a real-time signal).
            Err(Errno::EINVAL) => {}
            Err(_) => {
                reaped.none_left = true;
                return reaped;
            }
        }
    }
}

/// The living processes below this one, without zombies.
pub(super) fn alive() -> Vec<Process> {
    let mut processes = Process::descendants(std::process::id());
    processes.retain(|process| !process.is_zombie());
    processes
}

/// Kills one process.
pub(super) fn kill(process: &Process) {
    send(process, Signal::SIGKILL);
}

/// Sends a signal to one process, unless its pid has been reused since it was seen.
pub(crate) fn send(process: &Process, signal: Signal) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    // The descriptor pins the process; the start time then shows whether it is the same one.
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if Process::of(process.pid).is_some_and(|now| now.start_time == process.start_time) {
        // Fails if the process has just ended, which is fine.
        let signal = rustix::process::Signal::from_named_raw(signal as i32);
        let _ = signal.map(|signal| pidfd_send_signal(&descriptor, signal));
    }
}

/// Kills everything below this process until the kernel returns ECHILD. Returns how the case ended,
/// if it had not ended before.
///
/// `child_ended` is a signalfd for SIGCHLD. If a process forks while it is killed, the next turn
/// finds its child, which we inherit.
pub(super) fn kill_all(case: Pid, child_ended: &SignalFd) -> Option<End> {
    let mut end = None;
    loop {
        alive().iter().for_each(kill);
        let reaped = reap(case);
        end = end.or(reaped.case);
        if reaped.none_left {
            return end;
        }
        if wait_readable(child_ended, Some(Instant::now() + KILL_TURN)) {
            // The content does not matter: the next turn reaps.
            let _ = child_ended.read_signal();
        }
    }
}

/// Waits until `fd` is readable, at most until the given time.
pub(super) fn wait_readable(fd: impl AsFd, until: Option<Instant>) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout(until)).is_ok_and(|ready| ready > 0)
}

/// The time left, for poll(2), rounded up.
pub(super) fn timeout(until: Option<Instant>) -> PollTimeout {
    match until {
        None => PollTimeout::NONE,
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    }
}

/// Kills and reaps all children of this process except `keep`, with everything below them. For the
/// runner, which inherits the orphans of a killed supervisor.
pub(crate) fn kill_children_of_self(keep: impl Fn(u32) -> bool) {
    let me = std::process::id();
    for child in Process::descendants(me)
        .into_iter()
        .filter(|process| process.parent == me && !keep(process.pid))
    {
        Process::descendants(child.pid).iter().for_each(kill);
        kill(&child);
        if let Ok(pid) = i32::try_from(child.pid) {
            // Returns soon: it is our child and was sent SIGKILL.
            let _ = waitpid(Pid::from_raw(pid), None);
        }
    }
}
