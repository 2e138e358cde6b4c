//! Explaining a case that hangs, before it is ended.
//!
//! A thread of its own, with a runtime of its own, so that it speaks even when the case blocks its
//! thread. It wakes at the deadline of the case and on SIGABRT, tells the current step, the lines
//! that wait and for what, how each machine is, and where this process' own threads are; then it
//! ends the process. Whoever supervises the process ends it anyway a little later.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::action::current_waits;
use super::shared::Shared;
use super::test::Test;
use crate::wire::{CaseEvent, HangReport};

/// The exit status of a case process that explained its hang.
pub const EXIT_HANG: i32 = 86;

/// The signal that asks a case where it hangs.
const SIGABRT: i32 = 6;

/// How long each question to a machine may take. Whoever supervises the case waits little longer
/// than its deadline, and an answer that comes at all comes at once.
pub(crate) const ASKING: Duration = Duration::from_millis(500);

/// How long the questions to all machines may take.
const TELLING: Duration = Duration::from_millis(1200);

/// Watches a case until it goes.
#[must_use = "the case is watched for as long as this lives"]
pub struct Watchdog {
    done: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Test {
    /// Begins to watch the case: at its deadline, or on SIGABRT, it is explained and the process
    /// exits with [`EXIT_HANG`]. For the case process; a case has no use for it.
    pub fn watch(&self) -> Watchdog {
        let shared = self.shared.clone();
        let (done, watched) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                // Without a runtime there is no watchdog; the supervisor still ends the case.
                if let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                {
                    runtime.block_on(watch(shared, watched));
                }
            });
        Watchdog {
            done: Some(done),
            thread: thread.ok(),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // It may have ended already.
            let _ = done.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn watch(shared: Arc<Shared>, done: oneshot::Receiver<()>) {
    let deadline = shared
        .spec
        .deadline()
        .saturating_sub(shared.started.elapsed());
    let abort = async {
        match signal(SignalKind::from_raw(SIGABRT)) {
            Ok(mut abort) => drop(abort.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let cause = tokio::select! {
        _ = done => return,
        () = tokio::time::sleep(deadline) => "the deadline has passed",
        () = abort => "SIGABRT",
    };
    let report = report(&shared, cause).await;
    shared.sink.put(CaseEvent::Hang(Box::new(report)));
    std::process::exit(EXIT_HANG);
}

/// All that can be said at this moment.
async fn report(shared: &Shared, cause: &str) -> HangReport {
    let waits = current_waits();
    let innermost = waits.last();
    let waiting: Vec<String> = waits.iter().map(ToString::to_string).collect();
    let mut evidence = Vec::new();
    if !waiting.is_empty() {
        evidence.push(format!(
            "waits, outermost first:\n  {}",
            waiting.join("\n  ")
        ));
    }
    evidence.push(threads(Path::new("/proc/self/task")));
    // The outermost wait is the line of the case; what it waits for is told by the innermost.
    let place = waits.first().map(|wait| wait.place.clone());
    let mut machines = Vec::new();
    let end = std::time::Instant::now() + TELLING;
    for machine in shared.live() {
        let left = end.saturating_duration_since(std::time::Instant::now());
        machines.push(machine.diagnose(left).await);
    }
    HangReport {
        cause: cause.to_owned(),
        elapsed: shared.started.elapsed(),
        step: shared.current_step().map(|(step, _)| step),
        waiting: innermost.map(|wait| wait.what.clone()),
        place,
        machines,
        evidence,
    }
}

/// The threads of a process: name, state, and where each is in the kernel.
fn threads(task: &Path) -> String {
    let mut out = "threads of the case:".to_owned();
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let Ok(entries) = std::fs::read_dir(task) else {
        return out;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let status = read(&path.join("status"));
        let state = status
            .lines()
            .find_map(|line| line.strip_prefix("State:"))
            .unwrap_or("?");
        let _ = write!(
            out,
            "\n  {} {}: {}, in {}",
            entry.file_name().to_string_lossy(),
            read(&path.join("comm")),
            state.trim(),
            read(&path.join("wchan"))
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_threads_are_told_with_name_and_state() {
        let told = threads(Path::new("/proc/self/task"));
        assert!(told.lines().count() > 1, "{told}");
        assert!(told.contains("R (running)"), "{told}");
    }
}
