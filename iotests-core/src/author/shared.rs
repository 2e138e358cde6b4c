//! What everything in one case shares: its spec, directories, log, and the problems noticed so far.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use machine::{Deadlines, DropReport};

use super::files::Directories;
use super::filter::Filter;
use super::golden::Goldens;
use super::log::{Entry, Log, Narration};
use super::origin::Origin;
use super::{Failure, Sink};
use crate::case::{Capabilities, Registered, Registry, Requirement, Skip};
use crate::wire::{CaseEvent, CaseSpec, Death, MachineReport, Place};

/// How much of one log entry is sent to the runner; a golden is compared with all of it.
const LONGEST: usize = 1 << 20;

/// Longer than any case, and short enough to be added to the time of day.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shared by the [`Test`](super::Test) and everything that it created.
pub(crate) struct Shared {
    pub(crate) spec: CaseSpec,
    pub(crate) sink: Sink,
    pub(crate) directories: Directories,
    pub(crate) log: Log,
    pub(crate) goldens: Goldens,
    pub(crate) started: Instant,
    /// How often the kernel had killed a process because memory ran out before the case.
    pub(crate) out_of_memory_kills: u64,
    capabilities: OnceLock<Result<Capabilities, String>>,
    entry: OnceLock<Option<Registered>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<(String, Place)>,
    narration: Option<Narration>,
    problems: Vec<(Origin, String)>,
    deaths: Vec<Death>,
    ended: Vec<MachineReport>,
    live: Vec<(u64, Arc<dyn Evidence>)>,
    counter: u64,
    /// Machines that were dropped instead of ended, by name, to be reported.
    dropped: BTreeMap<String, DropReport>,
}

/// A running process whose state can be queried, by the watchdog and for failure reports.
pub(crate) trait Evidence: Send + Sync {
    /// What is known without querying it.
    fn report(&self) -> MachineReport;

    /// What it answers within this time, and what is known without that; free of side effects.
    /// `monitor`: whether its answers could be received.
    fn diagnose<'a>(
        &'a self,
        time: Duration,
        monitor: bool,
    ) -> std::pin::Pin<Box<dyn std::future::Future<Output = MachineReport> + 'a>>;

    /// How it ended, if it ended by itself and abnormally.
    fn death(&self) -> Option<Death>;

    /// Everything that it has printed.
    fn output(&self) -> String;
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
            out_of_memory_kills: super::death::out_of_memory_kills(),
            capabilities: OnceLock::new(),
            entry: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn step(&self, text: String, place: Place) {
        tracing::debug!("── {text}");
        self.state().step = Some((text.clone(), place.clone()));
        self.sink.put(CaseEvent::Step { text, place });
    }

    pub(crate) fn current_step(&self) -> Option<(String, Place)> {
        self.state().step.clone()
    }

    /// Logs an entry, and sends it to the runner.
    pub(crate) fn say(&self, entry: impl Into<Entry>) {
        if let Some(mut text) = self.log.say(entry) {
            if text.len() > LONGEST {
                let cut = text.floor_char_boundary(LONGEST);
                let missing = text.len() - cut;
                text.truncate(cut);
                text += &format!("… ({missing} bytes more)");
            }
            self.sink.put(CaseEvent::Log { text });
        }
    }

    /// Logs what the harness does on behalf of the case, if narration is on.
    pub(crate) fn narrate(&self, entry: impl FnOnce() -> Entry) {
        let narration = self.state().narration.clone();
        if let Some(narration) = narration {
            self.say(narration.style(entry()));
        }
    }

    pub(crate) fn turn_narration(&self, how: Narration) {
        self.state().narration = Some(how).filter(Narration::is_on);
    }

    /// Records a problem that fails a case that would otherwise pass.
    pub(crate) fn problem(&self, origin: &Origin, text: impl Into<String>) {
        self.state().problems.push((origin.clone(), text.into()));
    }

    pub(crate) fn take_problems(&self) -> Vec<(Origin, String)> {
        std::mem::take(&mut self.state().problems)
    }

    /// Records that a process ended by itself. This is reported to the runner at once, whatever the
    /// outcome of the case.
    pub(crate) fn death(&self, death: Death) {
        self.sink.put(CaseEvent::Died(Box::new(death.clone())));
        self.state().deaths.push(death);
    }

    pub(crate) fn take_deaths(&self) -> Vec<Death> {
        std::mem::take(&mut self.state().deaths)
    }

    /// A number that is unique in this case.
    pub(crate) fn next_number(&self) -> u64 {
        let mut state = self.state();
        state.counter += 1;
        state.counter
    }

    /// Registers a running process, until [`Shared::forget`].
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

    /// Writes a machine's monitor traffic to a file as it happens: it must exist whatever ends the
    /// case.
    pub(crate) fn transcript_file(
        &self,
        machine: &str,
    ) -> impl Fn(&qmp::transcript::Entry) + Send + Sync + use<> {
        let path = self.evidence(&format!("{machine}.qmp"));
        let file = path.and_then(|path| File::options().create(true).append(true).open(path));
        let file = file.map_err(|error| tracing::debug!(machine, %error, "no transcript")).ok();
        let name = machine.to_owned();
        move |entry| {
            tracing::debug!("{name}: {entry}");
            if let Some(mut file) = file.as_ref() {
                // An incomplete file is not a reason to fail.
                let _ = file.write_all(format!("{entry}\n").as_bytes());
            }
        }
    }

    /// The path of a piece of evidence; its folder is created.
    fn evidence(&self, name: &str) -> std::io::Result<PathBuf> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = name.replace(|c| !is_plain(c), "-");
        let folder = self.spec.evidence_dir();
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(name))
    }

    /// Appends to a file of evidence for a case that did not pass.
    pub(crate) fn append_evidence(&self, name: &str, text: &str) {
        let open = |path| File::options().create(true).append(true).open(path);
        let written =
            self.evidence(name).and_then(open).and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(name, %error, "evidence is lost");
        }
    }

    /// Writes a file of evidence for a case that did not pass. Errors are ignored.
    pub(crate) fn keep_evidence(&self, name: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let written = self.evidence(name).and_then(|path| std::fs::write(path, text));
        if let Err(error) = written {
            tracing::debug!(name, %error, "evidence is lost");
        }
    }

    /// Records how a dropped machine ended.
    pub(crate) fn keep_drop(&self, report: DropReport) {
        self.state().dropped.insert(report.name.clone(), report);
    }

    /// How this machine ended, if it was dropped.
    pub(crate) fn take_drop(&self, machine: &str) -> Option<DropReport> {
        self.state().dropped.remove(machine)
    }

    pub(crate) fn live(&self) -> Vec<Arc<dyn Evidence>> {
        self.state().live.iter().map(|(_, process)| process.clone()).collect()
    }

    /// What is known about every process that the case started, running or not.
    pub(crate) fn machine_reports(&self) -> Vec<MachineReport> {
        let live = self.live();
        let ended = self.state().ended.clone();
        ended.into_iter().chain(live.iter().map(|process| process.report())).collect()
    }

    /// How long a wait that begins now may take: as long as the case. Only the supervisor keeps
    /// time, and makes an overdue case explain itself and end; a wait that gave up earlier would
    /// hide what it waits for.
    pub(crate) fn wait_limit(&self) -> Duration {
        NO_LIMIT
    }

    /// The deadlines of a machine: only a requested end and a diagnosis are limited.
    pub(crate) fn deadlines(&self) -> Deadlines {
        let spec = &self.spec;
        let limit = self.wait_limit();
        let mut deadlines = Deadlines::default().scaled(spec.scale.max(1.0));
        deadlines.diagnose_command = spec.grace(super::hang::QUESTION);
        deadlines.diagnose_backtrace = spec.grace(super::hang::STACKS);
        for deadline in [
            &mut deadlines.launch,
            &mut deadlines.command,
            &mut deadlines.quit,
        ] {
            *deadline = limit;
        }
        deadlines
    }

    /// The registered case, if this process knows it.
    pub(crate) fn entry(&self) -> Option<&Registered> {
        let find = || Registry::one(&self.spec.case, self.spec.row.as_deref());
        self.entry.get_or_init(find).as_ref()
    }

    /// The capabilities of the programs of this run, which the runner probes once.
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

    /// Checks whether a requirement holds for this instance; the inner error says why not.
    pub(crate) fn check(&self, requirement: &Requirement) -> Result<Result<(), Skip>, Failure> {
        Ok(requirement.check(self.capabilities()?, &self.spec.point()))
    }
}
