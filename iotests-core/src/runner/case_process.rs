//! The case process: one instance, from its spec to its last event.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use super::confine::confine;
use crate::author::origin::Origin;
use crate::author::{Sink, Test};
use crate::case::{CaseFuture, Registered, Registry};
use crate::script::{self, ScriptSpec};
use crate::wire::{CaseEvent, CaseSpec, FailureReport, Place};

/// Why a case process could not start its case.
#[derive(Debug, thiserror::Error)]
enum CaseProcessError {
    #[error("find the case `{0}` in this program")]
    UnknownCase(String),
    #[error("set up the process: {0}")]
    Process(nix::Error),
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("confine the case to its directories: {0}")]
    Confine(landlock::RulesetError),
    #[error("start: the supervisor is gone")]
    Orphan,
}

/// The life of a case process, from its [`CaseSpec`] to its exit status. Its events go to a pipe.
///
/// With `stopped`, it waits after each reported step for a byte on this pipe, or its end.
pub(crate) fn main(
    spec: CaseSpec,
    supervisor: u32,
    events: OwnedFd,
    stopped: Option<OwnedFd>,
) -> i32 {
    match run(spec, supervisor, events, stopped) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("case process: failed to {error}");
            1
        }
    }
}

fn run(
    spec: CaseSpec,
    supervisor: u32,
    events: OwnedFd,
    stopped: Option<OwnedFd>,
) -> Result<(), CaseProcessError> {
    set_up_process(supervisor)?;
    let sink = sink(File::from(events), stopped.map(File::from));
    if spec.debug {
        let folder = |path: &Path| path.display().to_string();
        super::trace::show_all(vec![
            (folder(&spec.test_dir), "TEST_DIR"),
            (folder(&spec.sock_dir), "SOCK_DIR"),
        ]);
    }
    if spec.confine {
        confine(&spec).map_err(CaseProcessError::Confine)?;
    }
    let work = Work::of(&spec)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CaseProcessError::Runtime)?;
    let panics = record_panics(work.file());
    sink.put(CaseEvent::Started {
        pid: std::process::id(),
    });

    let body = {
        let (sink, panicked) = (sink.clone(), Arc::clone(&panics));
        async move {
            let mut test = Test::new(spec, sink);
            let _explainer = test.explain_on_signals();
            let result = Test::guard(work.start(&mut test), || take(&panicked)).await;
            test.finish(result).await;
            Ok(())
        }
    };
    // Unwinding drops the case's machines, which kills and reaps them before the verdict is
    // reported.
    match panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(body))) {
        Ok(result) => result,
        Err(_) => {
            let report = take(&panics).unwrap_or_default();
            sink.put(CaseEvent::Failed(Box::new(report)));
            Ok(())
        }
    }
}

/// What runs: a function of this program, or a script.
enum Work {
    Case(Box<Registered>),
    Script(ScriptSpec),
}

impl Work {
    fn of(spec: &CaseSpec) -> Result<Self, CaseProcessError> {
        match &spec.script {
            Some(script) => Ok(Self::Script(script.clone())),
            None => Registry::one(&spec.case, spec.row.as_deref())
                .map(|entry| Self::Case(Box::new(entry)))
                .ok_or_else(|| CaseProcessError::UnknownCase(spec.id.clone())),
        }
    }

    /// The source file, as a panic names it; a script has none here.
    fn file(&self) -> &'static str {
        match self {
            Self::Case(entry) => entry.case.file,
            Self::Script(_) => "",
        }
    }

    fn start<'t>(&'t self, test: &'t mut Test) -> CaseFuture<'t> {
        match self {
            Self::Case(entry) => entry.call(test),
            Self::Script(script) => script::body(test, script),
        }
    }
}

/// Resets the signal mask inherited from the supervisor, and ties this process's life to the
/// supervisor's.
fn set_up_process(supervisor: u32) -> Result<(), CaseProcessError> {
    // With SIGXFSZ blocked, a write beyond the file size limit fails instead.
    SigSet::from(Signal::SIGXFSZ).thread_set_mask().map_err(CaseProcessError::Process)?;
    prctl::set_name(c"iot-case").map_err(CaseProcessError::Process)?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(CaseProcessError::Process)?;
    if std::os::unix::process::parent_id() != supervisor {
        return Err(CaseProcessError::Orphan);
    }
    Ok(())
}

fn sink(mut events: File, mut stopped: Option<File>) -> Sink {
    Sink::new(move |event| {
        let Ok(mut line) = serde_json::to_vec(&event) else {
            return;
        };
        line.push(b'\n');
        // If the runner is gone nobody needs events, and the supervisor kills this process at once.
        let _ = events.write_all(&line);
        if let (CaseEvent::Step { .. }, Some(stopped)) = (&event, &mut stopped) {
            // This stops all of the case: it has one thread.
            let _ = stopped.read_exact(&mut [0]);
        }
    })
}

fn take(panicked: &Mutex<Option<FailureReport>>) -> Option<FailureReport> {
    panicked.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Keeps the first panic for the verdict. Panics are still printed.
fn record_panics(file: &'static str) -> Arc<Mutex<Option<FailureReport>>> {
    let first = Arc::new(Mutex::new(None));
    let record = Arc::clone(&first);
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let place = info.location().map(Place::from);
        let case_place = place.clone().and_then(|place| Origin::of(place).case_line(file));
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        let report = FailureReport {
            message: format!("panicked: {message}"),
            place,
            case_place,
            ..FailureReport::default()
        };
        record.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(report);
        print(info);
    }));
    first
}
