//! The state shared by the watcher thread and the handle of a process, and how each wakes the
//! other.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::process::{Pid, kill_process, kill_process_group};

use super::capture::Capture;
use super::{CommandLine, Convention, Output, ProcessError, Signal, Status, Stream};

/// How much of a pulled standard output may be buffered for its reader.
const PULL_AHEAD: usize = 256 * 1024;

/// The outcome of the watcher's work.
#[derive(Debug)]
pub(super) enum End {
    /// The process could not be started.
    NotStarted(io::Error),
    /// The process has exited or was killed by its owner, and its output is complete.
    Finished,
    /// The deadline passed; `exited` says whether the process itself had exited before.
    Late { exited: bool },
    /// The process still exists although SIGKILL was sent.
    Stuck,
    /// The process could not be watched.
    Broken(io::Error),
}

impl End {
    /// What went wrong, if anything did.
    fn problem(&self) -> Option<String> {
        Some(match self {
            End::NotStarted(error) => format!("it never started: {error}"),
            End::Finished => return None,
            End::Late { exited: true } => "its output was still open at the deadline".to_owned(),
            End::Late { exited: false } => "the deadline passed".to_owned(),
            End::Stuck => "it does not go away".to_owned(),
            End::Broken(error) => format!("it could not be watched: {error}"),
        })
    }
}

pub(super) struct Shared {
    pub(super) command: CommandLine,
    convention: Convention,
    group: bool,
    state: Mutex<State>,
    wake: OwnedFd,
}

pub(super) struct State {
    pid: Option<Pid>,
    started: Instant,
    elapsed: Duration,
    pub(super) capture: Capture,
    pub(super) status: Option<Status>,
    pub(super) output_open: bool,
    /// Buffered output of a pulled standard output; `None` if it is captured.
    pulled: Option<Vec<u8>>,
    stdout_open: bool,
    /// The wakers to call on a change. This needs no runtime.
    waiting: Vec<Waker>,
    reaped: bool,
    deadline: Option<(Instant, Duration)>,
    killed: bool,
    abandoned: bool,
    /// How often handles have requested a drain of the pipes, and how many of those requests the
    /// watcher has served.
    drains: (u64, u64),
    input: VecDeque<u8>,
    input_ends: bool,
    input_open: bool,
    pub(super) end: Option<End>,
}

impl State {
    pub(super) fn is_started(&self) -> bool {
        self.pid.is_some()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Process")
            .field("command", &self.command)
            .field("pid", &state.pid)
            .field("status", &state.status)
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}

/// What the watcher waits for next.
pub(super) struct Wants {
    pub(super) feed: bool,
    pub(super) close_stdin: bool,
    pub(super) exited: bool,
    pub(super) stdout: Reading,
    pub(super) deadline: Option<Instant>,
}

/// How standard output is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is captured.
    Capture,
    /// It is read for the puller.
    Pull,
    /// The puller's buffer is full.
    Wait,
}

/// Which of the pipes are open.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

/// What the watcher needs to know to continue.
pub(super) struct Progress {
    pub(super) status: Option<Status>,
    pub(super) killed: bool,
    pub(super) abandoned: bool,
    pub(super) deadline: Option<Instant>,
}

/// The input of a process: the first part, and whether more may follow.
pub(super) struct Input {
    pub(super) data: Vec<u8>,
    pub(super) more: bool,
}

impl Shared {
    pub(super) fn new(
        command: CommandLine,
        convention: Convention,
        group: bool,
        cap: usize,
        deadline: Option<Duration>,
        pull: bool,
        input: Option<Input>,
    ) -> io::Result<Shared> {
        let now = Instant::now();
        let state = State {
            pid: None,
            started: now,
            elapsed: Duration::ZERO,
            capture: Capture::new(cap),
            status: None,
            output_open: true,
            pulled: pull.then(Vec::new),
            stdout_open: true,
            waiting: Vec::new(),
            reaped: false,
            deadline: deadline.and_then(|time| Some((now.checked_add(time)?, time))),
            killed: false,
            abandoned: false,
            drains: (0, 0),
            input_ends: input.as_ref().is_none_or(|input| !input.more),
            input_open: input.is_some(),
            input: input.map(|input| input.data.into()).unwrap_or_default(),
            end: None,
        };
        Ok(Shared {
            command,
            convention,
            group,
            state: Mutex::new(state),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a caller's closure leaves the state intact: closures only read it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- For the watcher.

    pub(super) fn wake_fd(&self) -> &OwnedFd {
        &self.wake
    }

    pub(super) fn clear_wake(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    pub(super) fn not_started(&self, error: io::Error) {
        self.finish(End::NotStarted(error));
    }

    pub(super) fn started(&self, pid: u32) {
        let mut state = self.lock();
        state.pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.notify(state);
    }

    pub(super) fn wants(&self) -> Wants {
        let state = self.lock();
        Wants {
            feed: !state.input.is_empty(),
            close_stdin: state.input.is_empty() && state.input_ends,
            exited: state.status.is_some(),
            stdout: match &state.pulled {
                None => Reading::Capture,
                Some(pulled) if pulled.len() < PULL_AHEAD || state.abandoned => Reading::Pull,
                Some(_) => Reading::Wait,
            },
            deadline: state.deadline.map(|(at, _)| at),
        }
    }

    /// Offers the queued input to `write`, and removes what it accepted.
    pub(super) fn feed(
        &self,
        write: impl FnOnce(&[u8]) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<()> {
        let mut state = self.lock();
        let (front, _) = state.input.as_slices();
        if !front.is_empty() {
            let written = write(front)?;
            state.input.drain(..written);
        }
        Ok(())
    }

    /// How often handles have requested a drain, and how often that was done. Must be read before
    /// the pipes are.
    pub(super) fn drains(&self) -> (u64, u64) {
        self.lock().drains
    }

    /// Publishes all changes at once; `drained` is how often the pipes were drained.
    pub(super) fn advance(
        &self,
        news: Vec<(Stream, Vec<u8>)>,
        exited: Option<Status>,
        open: Open,
        drained: u64,
    ) -> Progress {
        let mut state = self.lock();
        let changed = !news.is_empty()
            || exited.is_some()
            || state.drains.1 != drained
            || (state.input_open, state.stdout_open) != (open.stdin, open.stdout)
            || state.output_open != (open.stdout || open.stderr);
        for (stream, bytes) in news {
            match (&mut state.pulled, stream) {
                (Some(pulled), Stream::Stdout) => pulled.extend(bytes),
                _ => state.capture.push(stream, &bytes),
            }
        }
        if let Some(status) = exited {
            state.status = Some(status.under(self.convention));
        }
        (state.input_open, state.stdout_open) = (open.stdin, open.stdout);
        state.output_open = open.stdout || open.stderr;
        state.drains.1 = drained;
        let progress = Progress {
            status: state.status,
            killed: state.killed,
            abandoned: state.abandoned,
            deadline: state.deadline.map(|(at, _)| at),
        };
        if changed {
            self.notify(state);
        }
        progress
    }

    pub(super) fn reap(&self, wait: impl FnOnce() -> io::Result<Status>) {
        let mut state = self.lock();
        if let Ok(status) = wait() {
            state.status.get_or_insert(status.under(self.convention));
        }
        state.reaped = true;
    }

    pub(super) fn finish(&self, end: End) {
        let mut state = self.lock();
        state.elapsed = state.started.elapsed();
        let (status, problem) = (state.status.map(|status| status.to_string()), end.problem());
        tracing::debug!(
            status, elapsed = ?state.elapsed, problem, command = %self.command,
            "process ended",
        );
        state.end = Some(end);
        (state.output_open, state.stdout_open) = (false, false);
        state.input_open = false;
        self.notify(state);
    }

    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    // ---- For the handle.

    /// Makes the watcher re-examine the state.
    fn wake(&self) {
        // Fails only if the counter is full, and then the watcher has already been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Sends a signal to the process or (`to_group`) to its group; returns whether it still
    /// existed.
    fn signal_locked(&self, state: &State, signal: Signal, to_group: bool) -> bool {
        match state.pid {
            Some(pid) if !state.reaped => {
                if to_group && self.group {
                    kill_process_group(pid, signal.system()).is_ok()
                } else {
                    state.status.is_none() && kill_process(pid, signal.system()).is_ok()
                }
            }
            _ => false,
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> bool {
        self.signal_locked(&self.lock(), signal, false)
    }

    pub(super) fn signal_group(&self, signal: Signal) -> bool {
        self.signal_locked(&self.lock(), signal, true)
    }

    /// Sends SIGKILL to the group. With `abandon` the rest of the output is not needed.
    pub(super) fn kill(&self, abandon: bool) {
        let mut state = self.lock();
        self.signal_locked(&state, Signal::SIGKILL, true);
        state.killed = true;
        state.abandoned |= abandon;
        drop(state);
        self.wake();
    }

    pub(super) fn kill_group(&self) {
        self.signal_group(Signal::SIGKILL);
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.lock().pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    pub(super) fn set_deadline(&self, deadline: Option<Duration>) {
        let now = Instant::now();
        self.lock().deadline = deadline.and_then(|time| Some((now.checked_add(time)?, time)));
        self.wake();
    }

    /// Queues input; false if the process no longer accepts any.
    pub(super) fn write(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let open = state.input_open && !state.input_ends;
        if open {
            state.input.extend(bytes);
        }
        drop(state);
        self.wake();
        open
    }

    pub(super) fn close_input(&self) {
        self.lock().input_ends = true;
        self.wake();
    }

    /// Waits until the watcher has read everything that was in the pipes when this was called.
    pub(super) async fn drained(&self) {
        let mine = {
            let mut state = self.lock();
            state.drains.0 += 1;
            state.drains.0
        };
        self.wake();
        self.wait(|state| (state.drains.1 >= mine || state.end.is_some()).then_some(())).await;
    }

    /// Waits for more of a pulled standard output; empty at its end.
    pub(super) async fn pull(&self) -> Vec<u8> {
        let pulled = self.wait(|state| match &mut state.pulled {
            Some(pulled) if !pulled.is_empty() => Some(std::mem::take(pulled)),
            Some(_) if state.stdout_open => None,
            _ => Some(Vec::new()),
        });
        let pulled = pulled.await;
        self.wake();
        pulled
    }

    /// Waits until the function returns a value, calling it on each change. It must return one at
    /// the end.
    pub(super) async fn wait<T>(&self, mut ask: impl FnMut(&mut State) -> Option<T>) -> T {
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if let Some(answer) = ask(&mut state) {
                return Poll::Ready(answer);
            }
            // A task polled for another reason is already registered.
            let waker = context.waker();
            if !state.waiting.iter().any(|known| known.will_wake(waker)) {
                state.waiting.push(waker.clone());
            }
            Poll::Pending
        })
        .await
    }

    /// The outcome of the process, once it has ended.
    pub(super) fn outcome(&self, state: &State) -> Option<Result<Output, ProcessError>> {
        let end = state.end.as_ref()?;
        let command = || Box::new(self.command.clone());
        let source = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        let output = state.status.map(|status| Output {
            command: self.command.clone(),
            status,
            captured: state.capture.captured(),
            elapsed: state.elapsed,
            convention: self.convention,
        });
        Some(match (end, output) {
            (End::NotStarted(error), _) => Err(ProcessError::Spawn {
                command: command(),
                source: source(error),
            }),
            (End::Broken(error), _) => Err(ProcessError::Watch {
                command: command(),
                source: source(error),
            }),
            (End::Finished, Some(output)) => Ok(output),
            (End::Late { exited }, Some(output)) => Err(ProcessError::Deadline {
                output: Box::new(output),
                deadline: state.deadline.map_or(state.elapsed, |(_, time)| time),
                exited: *exited,
            }),
            (End::Stuck | End::Finished | End::Late { .. }, _) => {
                Err(ProcessError::Unkillable { command: command() })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::block_on::block_on;

    /// A test cannot make the kernel hang.
    #[test]
    fn a_process_that_does_not_go_away_is_told_to_who_waits() {
        let mut command = CommandLine::default();
        command.push_word("tool".as_ref());
        let convention = Convention::Direct;
        let shared = Shared::new(command, convention, true, 0, None, false, None).unwrap();
        shared.finish(End::Stuck);
        let outcome = block_on(shared.wait(|state| shared.outcome(state)));
        let error = outcome.unwrap_err();
        assert!(matches!(error, ProcessError::Unkillable { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "failed to kill `tool`: it does not leave the kernel"
        );
    }
}
