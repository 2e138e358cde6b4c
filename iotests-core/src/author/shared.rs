//! What everything in one case shares: its spec, directories, log, and what was noticed on the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::files::Directories;
use super::filter::Filter;
use super::golden::Goldens;
use super::log::{Entry, Log};
use super::{Failure, Sink};
use crate::case::{Capabilities, Registered, Registry, Requirement, Skip};
use crate::wire::{CaseEvent, CaseSpec, MachineReport, Place};

/// The part of the case's time that its waits may use; the rest is for telling what was awaited.
const PATIENCE: f64 = 0.9;

/// Shared by the [`Test`](super::Test) and all that it handed out.
pub(crate) struct Shared {
    pub(crate) spec: CaseSpec,
    pub(crate) sink: Sink,
    pub(crate) directories: Directories,
    pub(crate) log: Log,
    pub(crate) goldens: Goldens,
    pub(crate) started: Instant,
    capabilities: OnceLock<Result<Capabilities, String>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<(String, Place)>,
    narrating: bool,
    problems: Vec<String>,
    deaths: Vec<String>,
    ended: Vec<MachineReport>,
    live: Vec<(u64, Arc<dyn Evidence>)>,
    counter: u64,
    /// What machines that were dropped alive had printed, by name.
    outputs: BTreeMap<String, String>,
}

/// A running process which can be asked how it is, by the watchdog and for failure reports.
pub(crate) trait Evidence: Send + Sync {
    /// What is known without asking it anything.
    fn report(&self) -> MachineReport;

    /// What it says when asked, in this time, and what can be said without that; free of side effects.
    fn diagnose<'a>(
        &'a self,
        time: Duration,
    ) -> std::pin::Pin<Box<dyn std::future::Future<Output = MachineReport> + 'a>>;
}

impl Shared {
    pub(crate) fn new(spec: CaseSpec, sink: Sink, directories: Directories) -> Arc<Self> {
        let log = Log::new(Filter::unsteady(directories.hidden()));
        log.turn(true);
        Arc::new(Shared {
            spec,
            sink,
            directories,
            log,
            goldens: Goldens::embedded(),
            started: Instant::now(),
            capabilities: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn step(&self, text: String, place: Place) {
        self.state().step = Some((text.clone(), place.clone()));
        self.sink.put(CaseEvent::Step { text, place });
    }

    pub(crate) fn current_step(&self) -> Option<(String, Place)> {
        self.state().step.clone()
    }

    /// Logs, and tells the runner.
    pub(crate) fn say(&self, entry: impl Into<Entry>) {
        if let Some(text) = self.log.say(entry) {
            self.sink.put(CaseEvent::Log { text });
        }
    }

    /// Logs what the harness does on behalf of the case, if the case wants that.
    pub(crate) fn narrate(&self, entry: impl FnOnce() -> Entry) {
        if self.is_narrating() {
            self.say(entry());
        }
    }

    pub(crate) fn turn_narration(&self, on: bool) {
        self.state().narrating = on;
    }

    pub(crate) fn is_narrating(&self) -> bool {
        self.state().narrating
    }

    /// Notes something that makes a case fail which otherwise passes.
    pub(crate) fn problem(&self, text: impl Into<String>) {
        self.state().problems.push(text.into());
    }

    pub(crate) fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.state().problems)
    }

    /// Notes a process that ended by itself: a problem like others, and where the case fails anyway
    /// perhaps the cause of that.
    pub(crate) fn death(&self, text: impl Into<String>) {
        self.state().deaths.push(text.into());
    }

    pub(crate) fn take_deaths(&self) -> Vec<String> {
        std::mem::take(&mut self.state().deaths)
    }

    /// A number that nothing else in this case has.
    pub(crate) fn next_number(&self) -> u64 {
        let mut state = self.state();
        state.counter += 1;
        state.counter
    }

    /// Registers a running process; it is forgotten by [`Shared::forget`].
    pub(crate) fn watch(&self, process: Arc<dyn Evidence>) -> u64 {
        let number = self.next_number();
        self.state().live.push((number, process));
        number
    }

    /// The process has ended; its report is kept for the report of the case.
    pub(crate) fn forget(&self, number: u64, last: MachineReport) {
        let mut state = self.state();
        state.live.retain(|(live, _)| *live != number);
        state.ended.push(last);
    }

    /// Keeps what a machine printed that was dropped alive.
    pub(crate) fn keep_output(&self, machine: &str, output: &str) {
        self.state()
            .outputs
            .insert(machine.to_owned(), output.to_owned());
    }

    /// What was kept of this machine's output.
    pub(crate) fn kept_output(&self, machine: &str) -> String {
        self.state().outputs.remove(machine).unwrap_or_default()
    }

    pub(crate) fn live(&self) -> Vec<Arc<dyn Evidence>> {
        self.state()
            .live
            .iter()
            .map(|(_, process)| process.clone())
            .collect()
    }

    /// What is known about every process that the case started, running or not.
    pub(crate) fn machine_reports(&self) -> Vec<MachineReport> {
        let live = self.live();
        let ended = self.state().ended.clone();
        ended
            .into_iter()
            .chain(live.iter().map(|process| process.report()))
            .collect()
    }

    /// How long a wait that begins now may take: what is left of the case's own budget, less what
    /// it takes to tell the story. Never a number of seconds in the code.
    pub(crate) fn patience(&self) -> Duration {
        self.spec
            .deadline()
            .mul_f64(PATIENCE)
            .saturating_sub(self.started.elapsed())
    }

    /// The time that is always left for telling what went wrong.
    pub(crate) fn reserve(&self) -> Duration {
        self.spec.deadline().mul_f64((1.0 - PATIENCE) / 2.0)
    }

    /// The case as it is registered, if this process knows it.
    pub(crate) fn entry(&self) -> Option<&'static Registered> {
        let registry = Registry::get().ok()?;
        registry.find(&self.spec.case, self.spec.row.as_deref())
    }

    /// What the programs of this run can do: asked once a run, by the runner.
    pub(crate) fn capabilities(&self) -> Result<&Capabilities, Failure> {
        let read = || {
            let path = &self.spec.capabilities_file;
            let text = std::fs::read(path).map_err(|error| error.to_string());
            text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
                .map_err(|error| format!("failed to read {}: {error}", path.display()))
        };
        self.capabilities
            .get_or_init(read)
            .as_ref()
            .map_err(|error| Failure::new(error.clone()))
    }

    /// Whether a requirement holds for this instance, else why not.
    pub(crate) fn check(&self, requirement: &Requirement) -> Result<Result<(), Skip>, Failure> {
        Ok(requirement.check(self.capabilities()?, &self.spec.point()))
    }
}
