//! The thread that starts a process, serves its pipes, enforces its deadline and reaps it.
//!
//! One thread for each process, for three reasons: the parent-death signal follows the *thread*
//! that started the process, so that thread must live as long; both pipes are drained and the
//! deadline is enforced whatever the caller does, and without any async runtime; and dropping a
//! handle can wait for the exit without one as well.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::echo::Echo;
use super::exec::{self, FdMap};
use super::shared::{End, Open, Reading, Shared, Wants};
use super::{Signal, Status, Stream};

/// How much is read at once: the capacity of a pipe, unless it was enlarged or pages are large.
const CHUNK: usize = 64 * 1024;

/// Practically infinite, yet short enough to be added to an `Instant`.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Called with each piece of output as it arrives, from the watcher thread.
pub(super) type Hook = Box<dyn FnMut(Stream, &[u8]) + Send>;

/// What the watcher starts, and how it supervises it.
pub(super) struct Plan {
    pub(super) command: process::Command,
    pub(super) fds: FdMap,
    pub(super) pdeathsig: bool,
    pub(super) grace: Duration,
    pub(super) until_exit: bool,
    pub(super) end_group: bool,
    pub(super) echo: Option<Echo>,
    pub(super) hook: Option<Hook>,
}

/// Starts the watcher thread. The outcome of starting the process itself is reported in `shared`.
pub(super) fn start(mut plan: Plan, shared: Arc<Shared>, stdin: bool) -> io::Result<()> {
    let name = "process-watcher".to_owned();
    let body = move || match guarded(|| Watcher::launch(&mut plan, &shared, stdin)) {
        Ok(mut watcher) => watcher.watch(&mut plan),
        Err(error) => shared.not_started(error),
    };
    std::thread::Builder::new().name(name).stack_size(256 * 1024).spawn(body)?;
    Ok(())
}

/// A panic, such as in the caller's hook, becomes an error: waiters must see an end.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread that looks after it has panicked",
        ))
    })
}

struct Watcher<'s> {
    shared: &'s Shared,
    child: process::Child,
    pid: Pid,
    pidfd: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    buffer: Vec<u8>,
    stage: Stage,
}

/// How far ending the process has escalated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Not at all.
    Running,
    /// The deadline has passed; SIGTERM was sent, SIGKILL follows at this time.
    Terminated { until: Instant, exited: bool },
    /// SIGKILL was sent. A process that still exists at this time is abandoned.
    Killed { until: Instant, late: Option<bool> },
}

impl<'s> Watcher<'s> {
    fn launch(plan: &mut Plan, shared: &'s Shared, stdin: bool) -> io::Result<Watcher<'s>> {
        let stdin = if stdin {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            plan.command.stdin(reader);
            Some(writer)
        } else {
            plan.command.stdin(process::Stdio::null());
            None
        };
        let (stdout, child_stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        plan.command.stdout(child_stdout).stderr(child_stderr);
        // Only our ends: the flag belongs to the open file, and each end of a pipe has its own.
        for ours in [stdin.as_ref(), Some(&stdout), Some(&stderr)].into_iter().flatten() {
            rustix::io::ioctl_fionbio(ours, true)?;
        }

        let fds = std::mem::take(&mut plan.fds);
        let mut child = exec::spawn(&mut plan.command, fds, plan.pdeathsig)?;
        // The command holds the child's ends of the pipes; while it does, there would be no EOF.
        plan.command = process::Command::new("");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| Ok((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty())?)));
        let (pid, pidfd) = match pidfd {
            Ok(found) => found,
            Err(error) => {
                // Without it there is no way to wait for everything at once.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(error.into());
            }
        };
        shared.started(child.id());
        tracing::debug!(pid = child.id(), command = %shared.command, "process started");
        Ok(Watcher {
            shared,
            child,
            pid,
            pidfd,
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            buffer: vec![0; CHUNK],
            stage: Stage::Running,
        })
    }

    fn watch(&mut self, plan: &mut Plan) {
        let end = loop {
            match guarded(|| self.turn(plan)) {
                Ok(Some(end)) => break end,
                Ok(None) => {}
                Err(error) => {
                    self.shared.kill_group();
                    break End::Broken(error);
                }
            }
        };
        if let Some(echo) = plan.echo.take() {
            // A process that is being ended is not drained any further.
            let until = match self.stage {
                Stage::Running => Some(self.shared.wants().deadline),
                Stage::Terminated { .. } | Stage::Killed { .. } => None,
            };
            echo.finish(&self.shared.command, until);
        }
        if matches!(end, End::Stuck) {
            self.shared.finish(end);
            // No caller waits for it any longer, but it must be reaped, and this thread must live
            // as long as the process.
            let _ = self.child.wait();
        } else {
            // Outside the lock that separates signalling and reaping, as it may take a while.
            let _ = rustix::process::waitid(
                WaitId::Pid(self.pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            if plan.end_group {
                // While the zombie keeps the group ID from being reused.
                self.shared.kill_group();
            }
            self.shared.reap(|| self.child.wait().map(Status::from));
            self.shared.finish(end);
        }
    }

    /// Waits for an event, and handles all pending ones.
    fn turn(&mut self, plan: &mut Plan) -> io::Result<Option<End>> {
        let wants = self.shared.wants();
        let ready = self.poll(&wants)?;
        let now = Instant::now();
        if ready.wake {
            self.shared.clear_wake();
        }
        if ready.stdin {
            self.feed();
        }
        // The order of these reads is guaranteed. A program that writes to stderr and then to
        // stdout (as qemu-io does: messages, then the prompt) has its stderr seen no later than the
        // stdout that followed; and both are complete when its exit is seen.
        let exited = ready.exit.then(|| self.exit_status()).transpose()?.flatten();
        let (asked, done) = self.shared.drains();
        let whole = exited.is_some() || asked != done;
        let mut news = Vec::new();
        match wants.stdout {
            Reading::Capture => self.read(Stream::Stdout, whole, &mut news)?,
            Reading::Pull => self.read(Stream::Stdout, false, &mut news)?,
            Reading::Wait => {}
        }
        self.read(Stream::Stderr, true, &mut news)?;
        for (stream, bytes) in &news {
            if let Some(echo) = &mut plan.echo {
                echo.show(&self.shared.command, *stream, bytes);
            }
            if let Some(hook) = &mut plan.hook {
                hook(*stream, bytes);
            }
        }
        let open = Open {
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
        };
        let state = self.shared.advance(news, exited, open, asked);

        // In turn: deadline, SIGTERM, grace, SIGKILL, grace, abandoned.
        let grace_ends = now + plan.grace.min(FOREVER);
        let exited = state.status.is_some();
        match self.stage {
            Stage::Running if state.killed => {
                // Once more: when its owner did, the process may have been just about to start.
                self.shared.kill_group();
                self.stage = Stage::Killed {
                    until: grace_ends,
                    late: None,
                };
            }
            Stage::Running if state.deadline.is_some_and(|deadline| now >= deadline) => {
                self.shared.signal_group(Signal::SIGTERM);
                self.stage = Stage::Terminated {
                    until: grace_ends,
                    exited,
                };
            }
            Stage::Terminated {
                until,
                exited: in_time,
            } if exited || now >= until => {
                self.shared.kill_group();
                self.stage = Stage::Killed {
                    until: grace_ends,
                    late: Some(in_time),
                };
            }
            _ => {}
        }
        Ok(self.end(plan, now, exited, state.abandoned))
    }

    /// Whether the work is done.
    fn end(&self, plan: &Plan, now: Instant, exited: bool, abandoned: bool) -> Option<End> {
        let drained = self.stdout.is_none() && self.stderr.is_none();
        match self.stage {
            Stage::Running if exited && (drained || plan.until_exit || abandoned) => {
                Some(End::Finished)
            }
            Stage::Killed { until, late }
                if exited && (drained || plan.until_exit || abandoned || now >= until) =>
            {
                Some(late.map_or(End::Finished, |exited| End::Late { exited }))
            }
            Stage::Killed { until, .. } if now >= until => Some(End::Stuck),
            _ => None,
        }
    }

    fn poll(&mut self, wants: &Wants) -> io::Result<Ready> {
        if wants.close_stdin {
            self.stdin = None;
        }
        let until = match self.stage {
            Stage::Running => wants.deadline,
            Stage::Terminated { until, .. } | Stage::Killed { until, .. } => Some(until),
        };
        // Rounded up: waking a moment early would only poll again.
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(1);
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        // Without requested events poll still reports that the other end was closed.
        let stdin_wish = if wants.feed {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        let pidfd = (!wants.exited).then_some(&self.pidfd);
        let stdout = self.stdout.as_ref();
        let stdout = stdout.filter(|_| wants.stdout != Reading::Wait);
        let slots = [
            (Some(self.shared.wake_fd()), PollFlags::IN),
            (self.stdin.as_ref(), stdin_wish),
            (pidfd, PollFlags::IN),
            (stdout, PollFlags::IN),
            (self.stderr.as_ref(), PollFlags::IN),
        ];
        let mut fds: Vec<PollFd<'_>> =
            slots.iter().filter_map(|(fd, flags)| fd.map(|fd| PollFd::new(fd, *flags))).collect();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut results = fds.iter().map(|fd| !fd.revents().is_empty());
        // The reads do not block, so it does not matter which pipe is ready.
        let [wake, stdin, exit, ..] =
            slots.map(|(fd, _)| fd.and_then(|_| results.next()).unwrap_or(false));
        Ok(Ready { wake, stdin, exit })
    }

    /// Writes as much of the queued input as the pipe accepts.
    fn feed(&mut self) {
        let Some(fd) = &self.stdin else { return };
        let fed = self.shared.feed(|bytes| match rustix::io::write(fd, bytes) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error),
        });
        // The process has closed its input, which is allowed; the rest is dropped.
        if fed.is_err() || self.reader_is_gone() {
            self.stdin = None;
        }
    }

    /// Whether the read end of stdin is closed.
    fn reader_is_gone(&self) -> bool {
        let Some(fd) = &self.stdin else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().contains(PollFlags::ERR)
    }

    /// Reads once, or (with `whole`) at least what was in the pipe when this was called.
    fn read(&mut self, stream: Stream, whole: bool, news: &mut News) -> io::Result<()> {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        // An endless writer must not keep us here.
        let mut left = match slot {
            Some(fd) if whole => rustix::io::ioctl_fionread(fd)?.max(CHUNK as u64),
            _ => 0,
        };
        while let Some(fd) = slot {
            match rustix::io::read(fd, &mut self.buffer[..]) {
                Ok(0) => *slot = None,
                Ok(count) => {
                    news.push((stream, self.buffer[..count].to_vec()));
                    left = left.saturating_sub(count as u64);
                    if left == 0 {
                        break;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The status of the process if it has exited. It is left unreaped: as a zombie it keeps its
    /// PID, and its group's, from being reused.
    fn exit_status(&self) -> io::Result<Option<Status>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let Some(found) = rustix::process::waitid(WaitId::Pid(self.pid), options)? else {
            return Ok(None);
        };
        let status = match (found.exit_status(), found.terminating_signal()) {
            (Some(code), _) => Some(Status::Exited(code)),
            (None, Some(signal)) => Some(Status::Signaled {
                signal,
                core: found.dumped(),
            }),
            (None, None) => None,
        };
        Ok(status)
    }
}

type News = Vec<(Stream, Vec<u8>)>;

struct Ready {
    wake: bool,
    stdin: bool,
    exit: bool,
}
