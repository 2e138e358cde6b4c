//! The handle of a running process.

use std::sync::Arc;
use std::time::Duration;

use super::block_on::{block_on, block_on_at_most};
use super::shared::{Shared, State};
use super::{Captured, CommandLine, Output, ProcessError, Signal, Status, Stream, dying};

/// How long dropping a handle waits for a killed process. Only one that hangs in the kernel takes
/// longer than moments; it is then left to its watcher thread.
const DROP_BOUND: Duration = Duration::from_secs(10);

/// How long [`Child::ended`] waits for a dying process: dumping a large core takes time.
const DYING: Duration = Duration::from_secs(60);

/// A running process. Its pipes are served, its deadline is enforced and its exit is noticed
/// whether or not a caller waits.
///
/// Dropping the handle kills the process (SIGKILL to its group) and reaps it before it returns; no
/// async runtime is needed for that.
#[derive(Debug)]
pub struct Child {
    shared: Arc<Shared>,
}

/// A view of a process at one moment; see [`Child::until`].
pub struct View<'s> {
    state: &'s State,
}

impl View<'_> {
    /// Its output on a stream, from this position on (0: everything). Positions count from the
    /// first byte printed, even if the cap has dropped the head; [`View::end`] is the next one.
    pub fn from(&self, stream: Stream, position: u64) -> &[u8] {
        self.state.capture.from(stream, position)
    }

    /// The position after the last byte of its output on a stream.
    pub fn end(&self, stream: Stream) -> u64 {
        self.state.capture.end(stream)
    }

    /// How it ended, if it has. Its output is then complete.
    pub fn status(&self) -> Option<Status> {
        self.state.status
    }

    /// Whether there will be no further change.
    pub fn is_finished(&self) -> bool {
        self.state.end.is_some()
    }
}

impl Child {
    pub(super) fn new(shared: Arc<Shared>) -> Child {
        Child { shared }
    }

    pub(super) async fn started(self) -> Result<Child, ProcessError> {
        self.shared.wait(|state| self.start_outcome(state)).await.map(|()| self)
    }

    fn start_outcome(&self, state: &mut State) -> Option<Result<(), ProcessError>> {
        match state.is_started() {
            true => Some(Ok(())),
            false => self.shared.outcome(state).map(|outcome| outcome.map(drop)),
        }
    }

    /// The command, without its secrets.
    pub fn command(&self) -> &CommandLine {
        &self.shared.command
    }

    /// The process id. It is not reused until the handle reports that it has finished.
    pub fn pid(&self) -> u32 {
        // Always known: a `Child` exists only once the process was started.
        self.shared.pid().unwrap_or_default()
    }

    /// Waits for the process to exit and for the end of its output.
    ///
    /// # Errors
    /// A missed deadline, for instance. No exit status is an error here; see [`Output::check`].
    pub async fn wait(&self) -> Result<Output, ProcessError> {
        self.shared.wait(|state| self.shared.outcome(state)).await
    }

    /// [`Child::wait`] outside of async code.
    pub fn wait_blocking(&self) -> Result<Output, ProcessError> {
        block_on(self.wait())
    }

    /// How the process ended, if it has.
    pub fn try_wait(&self) -> Option<Status> {
        self.shared.lock().status
    }

    /// How it ended, or is about to end by itself; `None` while it keeps running. Unlike
    /// [`Child::try_wait`] this does not depend on what has been noticed so far: a process that is
    /// being killed by a signal, or dumping core, is waited for, at most a minute. Call this before
    /// killing it, to know whether the kill was the cause.
    pub fn ended(&self) -> Option<Status> {
        if let Some(status) = self.try_wait() {
            return Some(status);
        }
        if !dying::is_dying(self.pid()) {
            return self.try_wait();
        }
        self.set_deadline(Some(DYING));
        self.exited_blocking()
    }

    /// Waits for the process alone, not for others that may still hold its output open. All its
    /// output is then in [`Child::output`]. `None` if the process could not be watched until it
    /// exited.
    pub async fn exited(&self) -> Option<Status> {
        self.shared.wait(exit_of).await
    }

    /// [`Child::exited`] outside of async code.
    pub fn exited_blocking(&self) -> Option<Status> {
        block_on(self.exited())
    }

    /// Waits until both its output pipes are closed by all holders.
    pub async fn closed(&self) {
        self.shared.wait(|state| (!state.output_open).then_some(())).await;
    }

    /// Waits until everything it had printed when this was called is in [`Child::output`]. Output
    /// that a process printed before it answered on another channel (a socket, a file) may still be
    /// in the pipe when the answer arrives.
    pub async fn drained(&self) {
        self.shared.drained().await;
    }

    /// Its output so far.
    pub fn output(&self) -> Captured {
        self.shared.lock().capture.captured()
    }

    /// Calls the function on each change, until it returns a value. `None` if the process ended
    /// without one. The function must be quick.
    pub async fn until<T>(&self, mut ask: impl FnMut(&View<'_>) -> Option<T>) -> Option<T> {
        self.shared.wait(|state| answer_or_end(state, &mut ask)).await
    }

    /// [`Child::until`] outside of async code.
    pub fn until_blocking<T>(&self, ask: impl FnMut(&View<'_>) -> Option<T>) -> Option<T> {
        block_on(self.until(ask))
    }

    /// Waits for more of a pulled standard output (see
    /// [`Command::pull_stdout`](super::Command::pull_stdout)), and takes it. Empty at its end,
    /// which may be due to the deadline: [`Child::wait`] then reports that.
    pub async fn pull(&self) -> Vec<u8> {
        self.shared.pull().await
    }

    /// [`Child::pull`] outside of async code.
    pub fn pull_blocking(&self) -> Vec<u8> {
        block_on(self.pull())
    }

    /// Inspects the process once.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        look(&View {
            state: &self.shared.lock(),
        })
    }

    /// Queues input for a process with [`Command::stdin_piped`](super::Command::stdin_piped). False
    /// if it has closed its input or exited, or if we have closed it.
    pub fn write(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.shared.write(bytes.as_ref())
    }

    /// Closes its input once everything queued has been written.
    pub fn close_stdin(&self) {
        self.shared.close_input();
    }

    /// Sets its deadline from now on, or removes it. When it passes, the process is ended as with
    /// [`Command::deadline`](super::Command::deadline).
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        self.shared.set_deadline(deadline);
    }

    /// Sends a signal to the process. False if it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        self.shared.signal(signal)
    }

    /// Sends a signal to its process group, if it has its own, else to the process. False if there
    /// was no such process.
    pub fn signal_group(&self, signal: Signal) -> bool {
        self.shared.signal_group(signal)
    }

    /// Kills the process group, without waiting for it to exit.
    pub fn kill(&self) {
        self.shared.kill(false);
    }
}

fn exit_of(state: &mut State) -> Option<Option<Status>> {
    match state.status {
        Some(status) => Some(Some(status)),
        None => state.end.is_some().then_some(None),
    }
}

fn answer_or_end<T>(
    state: &mut State,
    ask: &mut impl FnMut(&View<'_>) -> Option<T>,
) -> Option<Option<T>> {
    match ask(&View { state }) {
        Some(answer) => Some(Some(answer)),
        None => state.end.is_some().then_some(None),
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.shared.lock().end.is_some() {
            return;
        }
        self.shared.kill(true);
        let end = self.shared.wait(|state| state.end.as_ref().map(|_| ()));
        let ended = block_on_at_most(DROP_BOUND, end);
        if ended.is_none() {
            tracing::error!(command = %self.shared.command, "killed process does not go away");
        }
    }
}
