//! `qemu-nbd --fork` and its three outcomes.
//!
//! The parent's exit status does not show whether a server is running: it is 1 as soon as the
//! daemon has printed anything, even a warning. What counts is whether the daemon is alive.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use imgtools::process::Output;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::builder::QemuNbd;
use super::error::QemuNbdError;
use super::pid_file::PidFile;
use crate::unix::SocketFile;
use crate::uri::{Address, Uri};

/// The outcome of `--fork`.
#[derive(Debug)]
pub enum Forked {
    /// A daemon is serving, and printed nothing.
    Serving(ForkedQemuNbd, Box<Output>),
    /// A daemon is serving, but it printed something, so the parent reported failure.
    ServingDespite(ForkedQemuNbd, Box<Output>),
    /// No daemon is left.
    Failed(Box<Output>),
}

impl Forked {
    /// The daemon, if there is one.
    pub fn daemon(self) -> Option<ForkedQemuNbd> {
        match self {
            Forked::Serving(daemon, _) | Forked::ServingDespite(daemon, _) => Some(daemon),
            Forked::Failed(_) => None,
        }
    }

    /// What the parent printed, and its exit status.
    pub fn output(&self) -> &Output {
        match self {
            Forked::Serving(_, output)
            | Forked::ServingDespite(_, output)
            | Forked::Failed(output) => output,
        }
    }
}

/// A daemon, which is not our child. Dropping the handle kills it.
#[derive(Debug)]
pub struct ForkedQemuNbd {
    pid: u32,
    /// Identifies the process even after its PID has been reused.
    process: Receiver,
    uri: Uri,
    file: SocketFile,
    stop_within: Duration,
}

pub(super) async fn start(
    builder: &QemuNbd,
    image: &OsStr,
    socket: &Path,
) -> Result<Forked, QemuNbdError> {
    let pid_file = PidFile::new().map_err(|source| QemuNbdError::File {
        path: "pid file".into(),
        source,
    })?;
    let address = Address::Unix(socket.to_owned());
    let forking = builder.clone().arg("--fork");
    // The daemon may keep our pipes open as long as it lives (with `-v` it does), so do not wait
    // for the end of the output. If this future is dropped the daemon is killed, whether its PID is
    // known by then or not.
    let mut guard = Abandoned {
        pid_file: pid_file.path().to_owned(),
        socket: (!socket.exists()).then(|| socket.to_owned()),
    };
    let command = forking.unactivated(image, &address, pid_file.path()).until_exit();
    let output = Box::new(command.deadline(builder.ready_within).run().await?);
    guard.pid_file = PathBuf::new();
    // The file now has its final content: the parent waited for that.
    let Some(pid) = pid_file.pid() else {
        return Ok(Forked::Failed(output));
    };
    let watch = |source| QemuNbdError::Watch { pid, source };
    let process = match Pid::from_raw(pid as i32).map(|p| pidfd_open(p, PidfdFlags::NONBLOCK)) {
        Some(Ok(process)) => process,
        Some(Err(rustix::io::Errno::SRCH)) | None => return Ok(Forked::Failed(output)),
        Some(Err(error)) => return Err(watch(error.into())),
    };
    // A pidfd becomes readable when the process has exited, even as a zombie; it is never read.
    let process = Receiver::from_owned_fd_unchecked(process).map_err(watch)?;
    let file = SocketFile::default();
    file.made(socket);
    let daemon = ForkedQemuNbd {
        file,
        pid,
        process,
        uri: builder.uri(address),
        stop_within: builder.stop_within,
    };
    if daemon.has_ended() {
        return Ok(Forked::Failed(output));
    }
    Ok(match output.status.is_success() {
        true => Forked::Serving(daemon, output),
        false => Forked::ServingDespite(daemon, output),
    })
}

/// A daemon whose start was abandoned. The parent is dead by the time this is dropped (its handle
/// is dropped first), so it cannot create further processes, and existing ones have the path of our
/// own pid file in their command line.
struct Abandoned {
    pid_file: PathBuf,
    /// Where the daemon creates its socket, if nothing was there before.
    socket: Option<PathBuf>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if self.pid_file.as_os_str().is_empty() {
            return;
        }
        let mut quiet = 0;
        // A process may fork and exit between two scans, so one clean scan is not enough.
        while quiet < 2 {
            quiet = match kill_all_with(self.pid_file.as_os_str().as_bytes()) {
                0 => quiet + 1,
                _ => 0,
            };
        }
        if let Some(socket) = &self.socket {
            // It may not have got that far.
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Kills each process that has this argument, and returns how many there were.
fn kill_all_with(argument: &[u8]) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let mut found = 0;
    for id in ids {
        let Some(pid) = Pid::from_raw(id) else {
            continue;
        };
        // The pidfd is opened first: what is then read and killed is this very process.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|b| *b == 0);
        if arguments.any(|a| a == argument) {
            found += 1;
            // It may have exited in between, which is fine.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
    found
}

/// Retries SIGTERM until it has exited; `None` at the deadline. The parent's exit signals that the
/// daemon is serving, but qemu-nbd loses a SIGTERM that arrives between that and its main loop, so
/// once is not enough.
async fn ask_until<T>(
    within: Duration,
    ask: impl Fn(),
    ended: impl Future<Output = T>,
) -> Option<T> {
    let mut ended = pin!(ended);
    let last = Instant::now() + within;
    let mut pause = Duration::from_millis(20);
    loop {
        ask();
        let next = last.min(Instant::now() + pause);
        match tokio::time::timeout_at(next, ended.as_mut()).await {
            Ok(ended) => return Some(ended),
            Err(_) if next == last => return None,
            Err(_) => pause *= 2,
        }
    }
}

impl ForkedQemuNbd {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What a client connects to.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether it has exited. Only the process that adopted it can read its exit status.
    pub fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
    }

    /// Terminates it with SIGTERM and waits. `false` if it had to be killed.
    pub async fn stop(self) -> Result<bool, QemuNbdError> {
        let ended = ask_until(self.stop_within, || self.signal(Signal::TERM), self.ended());
        match ended.await {
            Some(ended) => ended.map(|()| true),
            None => {
                self.signal(Signal::KILL);
                self.ended().await.map(|()| false)
            }
        }
    }

    /// Waits until it ends.
    pub async fn ended(&self) -> Result<(), QemuNbdError> {
        let ready = self.process.readable().await;
        ready.map(drop).map_err(|source| QemuNbdError::Watch {
            pid: self.pid,
            source,
        })
    }

    fn signal(&self, signal: Signal) {
        // It may already have exited, which is fine.
        let _ = pidfd_send_signal(&self.process, signal);
    }
}

impl Drop for ForkedQemuNbd {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // A daemon that exited cleanly has removed it itself; anything there now is not ours.
        self.file.remove();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn who_forgets_that_it_was_asked_is_asked_again_until_the_time_is_up() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(async {
            let asked = Semaphore::new(0);
            let ask = || asked.add_permits(1);
            let hours = Duration::from_secs(9999);
            let third = asked.acquire_many(3);
            assert!(ask_until(hours, ask, third).await.unwrap().is_ok());
            let never = std::future::pending::<()>();
            assert_eq!(ask_until(Duration::ZERO, ask, never).await, None);
        });
    }
}
