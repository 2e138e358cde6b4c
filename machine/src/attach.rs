//! Machines that outlive the program that launched them.

use crate::cause::chain;
use crate::deadlines::Deadlines;
use crate::end::terminate;
use crate::socket;
use imgtools::process::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Why a running process could not be attached to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Nothing listens there.
    #[error("failed to connect to the monitor at {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its process could not be found or watched.
    #[error("failed to watch the process behind the monitor at {}", path.display())]
    Process {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor does not speak QMP, or has another client.
    #[error("failed to negotiate with the monitor at {}", path.display())]
    Monitor {
        /// The path.
        path: PathBuf,
        /// Why.
        source: Box<qmp::Error>,
    },
}

/// Why a process that is not ours could not be ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetachedEndError {
    /// It did not end after `quit` and had to be terminated or killed.
    #[error("failed to end process {pid} in time, {signal} ended it: {reason}")]
    Escalated {
        /// The process.
        pid: u32,
        /// What ended it.
        signal: Signal,
        /// What happened to `quit`.
        reason: String,
    },
    /// It could not be signalled or watched.
    #[error("failed to end process {pid}")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// A running process that is not a child of this one: its monitor and a handle of the process.
///
/// Dropping it leaves the process running. As it is not a child, its output and exit status are
/// unknown.
#[derive(Debug)]
pub struct Attached {
    process: Process,
    qmp: qmp::Client,
    deadlines: Deadlines,
}

impl Attached {
    /// Attaches to the process whose monitor listens at this path. QMP serves one client at a time,
    /// so any other client must have disconnected.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn connect(monitor: &Path, deadlines: Deadlines) -> Result<Self, AttachError> {
        let path = || monitor.to_owned();
        let stream = socket::connect(monitor).map_err(|source| AttachError::Connect {
            path: path(),
            source,
        })?;
        let process = Process::behind(&stream).map_err(|source| AttachError::Process {
            path: path(),
            source,
        })?;
        let options = qmp::Options::default()
            .connect_deadline(deadlines.launch)
            .call_deadline(deadlines.command)
            .peer_pid(process.pid)
            .endpoint(monitor.display().to_string());
        let qmp = qmp::Client::from_fd(stream, options).await;
        let qmp = qmp.map_err(|source| AttachError::Monitor {
            path: path(),
            source: Box::new(source.into()),
        })?;
        Ok(Self {
            process,
            qmp,
            deadlines,
        })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The monitor.
    #[must_use]
    pub fn qmp(&self) -> &qmp::Client {
        &self.qmp
    }

    /// Waits until the process has ended, however long that takes.
    pub async fn wait_exit(&self) {
        self.process.exited().await;
    }

    /// Ends the process: `quit`, then SIGTERM, then SIGKILL, each with its deadline.
    ///
    /// # Errors
    /// See [`DetachedEndError`]; the process is gone, unless it cannot be signalled.
    pub async fn shutdown(self) -> Result<(), DetachedEndError> {
        let quit = async {
            match self.qmp.quit().await {
                Err(error) if self.qmp.closed_cause().is_none() => Err(chain(&error)),
                _ => {
                    self.wait_exit().await;
                    Ok(())
                }
            }
        };
        let limit = self.deadlines.quit;
        let reason = match tokio::time::timeout(limit, quit).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(reason)) => reason,
            Err(_) => format!("it did not follow `quit` within {limit:?}"),
        };
        let pid = self.pid();
        let failed = |source| DetachedEndError::Process { pid, source };
        let budget = self.deadlines.terminate;
        let send = || self.process.signal(rustix::process::Signal::TERM);
        let terminate = terminate(budget, send, || self.wait_exit());
        let signal = match tokio::time::timeout(budget, terminate).await {
            Ok(sent) => {
                sent.map_err(failed)?;
                Signal::SIGTERM
            }
            Err(_) => {
                self.process.signal(rustix::process::Signal::KILL).map_err(failed)?;
                // The kernel ends it as soon as it can.
                self.wait_exit().await;
                Signal::SIGKILL
            }
        };
        Err(DetachedEndError::Escalated {
            pid,
            signal,
            reason,
        })
    }
}

/// A process that is not a child, by its pidfd; a thread waits for its exit.
#[derive(Debug)]
struct Process {
    pid: u32,
    fd: Arc<OwnedFd>,
    ended: watch::Receiver<bool>,
    /// Closed with us, which ends the thread.
    _watched: UnixStream,
}

impl Process {
    /// The process that listens at the other end.
    fn behind(stream: &UnixStream) -> io::Result<Self> {
        let peer: Pid = rustix::net::sockopt::socket_peercred(stream)?.pid;
        let fd = Arc::new(pidfd_open(peer, PidfdFlags::empty())?);
        let (watched, watcher) = UnixStream::pair()?;
        let (sender, ended) = watch::channel(false);
        let process = Arc::clone(&fd);
        std::thread::Builder::new().name(format!("pid {}", peer.as_raw_nonzero())).spawn(
            move || {
                // A pidfd becomes readable when the process exits (pidfd_open(2)).
                let mut fds = [
                    PollFd::new(&process, PollFlags::IN),
                    PollFd::new(&watcher, PollFlags::IN),
                ];
                while let Err(Errno::INTR) = poll(&mut fds, None) {}
                sender.send_replace(fds[0].revents().contains(PollFlags::IN));
            },
        )?;
        Ok(Self {
            pid: peer.as_raw_nonzero().get().unsigned_abs(),
            fd,
            ended,
            _watched: watched,
        })
    }

    async fn exited(&self) {
        // The sender is not dropped before it has sent.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// A process that has already exited is fine.
    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
