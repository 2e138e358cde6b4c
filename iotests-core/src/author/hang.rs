//! Explains what a case is waiting for.
//!
//! It has its own thread and runtime, so that it works even if the case blocks its thread. It keeps
//! no time: the supervisor does, and sends SIGABRT when the deadline has passed, as a user may;
//! SIGUSR1 requests the same of a case that then continues. The report has the step, the lines that
//! wait and for what, the stack of the case, and the state of each machine.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::action::{Wait, current_waits};
use super::shared::Shared;
use super::stack;
use super::test::Test;
use crate::script;
use crate::wire::{CaseEvent, Finding, HangReport, MachineReport};

/// The exit status of a case process that was asked to end and has explained what it waited for.
pub const EXIT_HANG: i32 = 86;

/// The cause of an explanation that ends the case.
pub(crate) const ENDED_BY: &str = "SIGABRT";

/// How long each query to a machine may take, before scaling; if a machine answers at all, it
/// answers at once.
pub(crate) const QUESTION: Duration = Duration::from_secs(5);

/// How long reading the stacks of a machine may take, before scaling.
pub(crate) const STACKS: Duration = Duration::from_secs(20);

/// How long all machines together may take, before scaling. The supervisor waits longer.
const MACHINES: Duration = Duration::from_secs(40);

/// Explains a case until it is dropped.
#[must_use = "the case can be explained for as long as this lives"]
pub struct Explainer {
    done: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Test {
    /// From now on the case explains itself on request: after SIGUSR1 it continues, after SIGABRT
    /// the process exits with [`EXIT_HANG`]. For the main thread of the case process; cases do not
    /// need it.
    pub fn explain_on_signals(&self) -> Explainer {
        let shared = self.shared.clone();
        let case = Handle::try_current().ok();
        stack::prepare();
        let (done, ended) = oneshot::channel();
        // A signal that arrives before the thread listens would be lost. A closed channel is an
        // answer as well.
        let (listens, ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("explainer".to_owned()).spawn(move || {
            // Without a runtime nothing is explained; the supervisor still ends the case, and
            // inspects it from outside.
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build()
            {
                runtime.block_on(listen(shared, case, ended, listens));
            }
        });
        let _ = ready.recv();
        Explainer {
            done: Some(done),
            thread: thread.ok(),
        }
    }
}

impl Drop for Explainer {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The thread may have ended already.
            let _ = done.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(
    shared: Arc<Shared>,
    case: Option<Handle>,
    mut ended: oneshot::Receiver<()>,
    listens: std::sync::mpsc::Sender<()>,
) {
    let mut go_on = signal(SignalKind::user_defined1()).ok();
    let mut end = signal(SignalKind::from_raw(
        nix::sys::signal::Signal::SIGABRT as i32,
    ))
    .ok();
    drop(listens);
    loop {
        let (cause, ends) = tokio::select! {
            _ = &mut ended => return,
            () = next(&mut go_on) => ("SIGUSR1", false),
            () = next(&mut end) => (ENDED_BY, true),
        };
        let mut report = report(&shared, case.as_ref(), cause).await;
        if let Some(own) = &shared.spec.script {
            let (headline, findings) = script::explain(&shared.spec, own, ends);
            report.headline = headline;
            report.evidence = findings;
        }
        if ends {
            for machine in shared.live() {
                if let Some(death) = machine.death() {
                    shared.death(death);
                }
            }
        }
        shared.sink.put(CaseEvent::Explained(Box::new(report)));
        if ends {
            for machine in shared.live() {
                let name = machine.report().name;
                shared.keep_evidence(&format!("{name}.output"), &machine.output());
            }
            std::process::exit(EXIT_HANG);
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the runtime of the case runs its tasks; it does not if the case spins or blocks its
/// thread.
async fn runs(case: Option<&Handle>, within: Duration) -> bool {
    let Some(case) = case else { return false };
    let (answer, heard) = oneshot::channel();
    // The answer shows that it has run.
    drop(case.spawn(async move { answer.send(()) }));
    matches!(tokio::time::timeout(within, heard).await, Ok(Ok(())))
}

/// Everything that can be reported at this moment.
async fn report(shared: &Shared, case: Option<&Handle>, cause: &str) -> HangReport {
    let waits = current_waits();
    let question = shared.spec.grace(QUESTION);
    let stack = stack::of_case(question);
    let runs = runs(case, question).await;
    let mut evidence = Vec::new();
    let mut found = |title: &str, text: String| {
        if !text.is_empty() {
            let title = title.to_owned();
            evidence.push(Finding { title, text });
        }
    };
    let lines: Vec<String> = waits.iter().map(ToString::to_string).collect();
    found("waits of the case, outermost first", lines.join("\n"));
    found("stack of the case", stack.join("\n"));
    found("threads of the case", threads(Path::new("/proc/self/task")));
    let end = std::time::Instant::now() + shared.spec.grace(MACHINES);
    let mut machines = Vec::new();
    for machine in shared.live() {
        let left = end.saturating_duration_since(std::time::Instant::now());
        machines.push(machine.diagnose(left, runs).await);
    }
    let step = shared.current_step().map(|(step, _)| step);
    HangReport {
        headline: headline(&waits, step.as_deref(), runs, &stack, &machines),
        cause: cause.to_owned(),
        elapsed: shared.started.elapsed(),
        step,
        waiting: waits.last().map(|wait| wait.what.clone()),
        // The outermost wait is the line of the case; the innermost knows what it waits for.
        place: waits.first().map(|wait| wait.place.clone()),
        machines,
        evidence,
    }
}

/// A faulty machine comes first, then a case that does not run, then what the case waits for.
fn headline(
    waits: &[Wait],
    step: Option<&str>,
    runs: bool,
    stack: &[String],
    machines: &[MachineReport],
) -> String {
    let waiting = match (waits.first(), waits.last()) {
        (Some(outer), Some(inner)) => {
            format!("the case waits for {} at {}", inner.what, outer.place)
        }
        _ => match step {
            Some(step) => format!("the case is not waiting on the harness in the step \"{step}\""),
            None => "the case is not waiting on the harness".to_owned(),
        },
    };
    if let Some(machine) = machines.iter().find(|one| one.status != RUNNING) {
        return format!("{} {}; {waiting}", machine.name, machine.status);
    }
    if !runs {
        let own = stack.iter().find(|frame| stack::is_own(frame));
        let place = own.or(stack.first()).map(|frame| format!(", in {frame}"));
        return format!(
            "the case spins or blocks its thread{}",
            place.unwrap_or_default()
        );
    }
    waiting
}

/// The status of a machine without a problem.
pub(crate) const RUNNING: &str = "is running";

/// The threads of a process: name, state, and kernel function of each.
fn threads(task: &Path) -> String {
    let mut out = String::new();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let Ok(entries) = std::fs::read_dir(task) else {
        return out;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let status = read(&path.join("status"));
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?");
        let _ = writeln!(
            out,
            "{} {}: {}, in {}",
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
    use crate::wire::Place;

    #[test]
    fn the_own_threads_are_listed_with_name_and_state() {
        let listed = threads(Path::new("/proc/self/task"));
        assert!(listed.contains("R (running)"), "{listed}");
    }

    #[test]
    fn the_headline_names_who_does_not_go_on() {
        let wait = |what: &str| Wait {
            what: what.to_owned(),
            place: Place {
                file: "a.rs".to_owned(),
                line: 7,
            },
            elapsed: Duration::ZERO,
        };
        let machine = |status: &str| MachineReport {
            name: "vm".to_owned(),
            status: status.to_owned(),
            ..MachineReport::default()
        };
        let waits = [wait("a job to end"), wait("query-jobs on vm")];
        let stack = ["case::spin at a.rs:9".to_owned()];
        let fine = [machine(RUNNING)];
        let stopped = [machine("hangs: stopped by a signal, in ppoll")];
        assert_eq!(
            headline(&waits, None, true, &stack, &stopped),
            "vm hangs: stopped by a signal, in ppoll; the case waits for query-jobs on vm at a.rs:7"
        );
        assert_eq!(
            headline(&waits, None, true, &stack, &fine),
            "the case waits for query-jobs on vm at a.rs:7"
        );
        assert_eq!(
            headline(&[], Some("a step"), false, &stack, &fine),
            "the case spins or blocks its thread, in case::spin at a.rs:9"
        );
        assert_eq!(
            headline(&[], Some("a step"), true, &stack, &fine),
            "the case is not waiting on the harness in the step \"a step\""
        );
    }
}
