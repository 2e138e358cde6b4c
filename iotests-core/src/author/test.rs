//! `Test`: the one argument of every case.

use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use super::failure::{CaseResult, Failure};
use super::files::{Directories, TestFile};
use super::golden::{Selection, golden_name, is_ci};
use super::log::{Entry, Narration};
use super::shared::Shared;
use crate::case::{Backend, CaseFuture, Format, Protocol, Requirement, Skip};
use crate::wire::{CaseEvent, CaseSpec, Death, FailureReport, GoldenMode, Place};

/// What an unknown version counts as.
const NEWEST: (u32, u32) = (u32::MAX, 0);

/// Receives the events of a case process.
#[derive(Clone)]
pub struct Sink(Arc<Mutex<dyn FnMut(CaseEvent) + Send>>);

impl Sink {
    /// A sink that calls `put` for every event, in order.
    pub fn new(put: impl FnMut(CaseEvent) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(put)))
    }

    /// Passes on one event.
    pub fn put(&self, event: CaseEvent) {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))(event);
    }
}

/// The one argument of every case: gives access to its instance, to everything that it creates, and
/// to its log.
///
/// Everything that it creates (images, machines, servers, jobs, files) cleans up after itself; a
/// case needs no teardown.
pub struct Test {
    pub(crate) shared: Arc<Shared>,
    /// Why nothing can work here; the first operation reports it.
    unusable: Option<String>,
}

impl Test {
    /// A test for this instance, which reports its events to `sink`.
    #[must_use]
    pub fn new(spec: CaseSpec, sink: Sink) -> Self {
        let (directories, unusable) = match Directories::new(&spec.test_dir, &spec.sock_dir) {
            Ok(directories) => (directories, None),
            Err(error) => (Directories::none(), Some(error.to_string())),
        };
        Self {
            shared: Shared::new(spec, sink, directories),
            unusable,
        }
    }

    /// The instance.
    #[must_use]
    pub fn spec(&self) -> &CaseSpec {
        &self.shared.spec
    }

    /// The image format of this instance.
    #[must_use]
    pub fn format(&self) -> Format {
        self.shared.spec.format
    }

    /// The protocol of this instance.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.shared.spec.protocol
    }

    /// Whether the machines of this instance are emulators or storage daemons; `None` for a case
    /// that uses only tools.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.shared.spec.backend
    }

    /// Names the phase that begins here, for the log, the failure and the timeout report.
    #[track_caller]
    pub fn step(&self, text: impl Into<String>) {
        self.shared.step(text.into(), Place::from(Location::caller()));
    }

    /// Adds text or JSON to the log that [`Test::golden`] compares. Paths, times and generated names
    /// are hidden.
    pub fn log(&self, entry: impl Into<Entry>) {
        self.shared.say(entry);
    }

    /// Turns logging of the harness's own actions on or off: QMP commands and replies, the events
    /// of jobs and migrations, servers started and stopped.
    ///
    /// Off by default, because most cases assert on results instead.
    pub fn narrate(&self, how: impl Into<Narration>) {
        self.shared.turn_narration(how.into());
    }

    /// Compares what was logged since the last comparison with the golden of this case.
    ///
    /// # Errors
    /// If the texts differ or there is no golden. With `--bless`, the log is saved for review
    /// instead.
    #[track_caller]
    pub fn golden(&self) -> CaseResult {
        let shared = &self.shared;
        let text = shared.log.take();
        let name = golden_name(&shared.spec.case, shared.spec.row.as_deref());
        let selection = self.selection();
        let Err(error) = shared.goldens.compare(&name, &selection, &text) else {
            return Ok(());
        };
        if shared.spec.goldens == GoldenMode::Compare {
            return Err(error.into_failure());
        }
        let (folder, id) = (&shared.spec.goldens_dir, &shared.spec.id);
        let (major, minor) = selection.version;
        let mut origin = format!("{id} at {}", Place::from(Location::caller()));
        if selection.version != NEWEST {
            origin += &format!(", with QEMU {major}.{minor}");
        }
        let path = shared.goldens.bless(folder, &name, &selection, &text, &origin, is_ci())?;
        self.pending_golden(path);
        Ok(())
    }

    fn selection(&self) -> Selection {
        let spec = &self.shared.spec;
        let version = self.shared.capabilities().ok().and_then(|c| c.version(spec.backend));
        Selection {
            format: spec.format.to_string(),
            protocol: spec.protocol.to_string(),
            backend: spec.backend.map(|backend| backend.to_string()),
            version: version.map_or(NEWEST, |version| (version.major, version.minor)),
        }
    }

    /// Ends the case as skipped, at any point: `t.skip("reason")?`.
    ///
    /// # Errors
    /// Always returns the skip.
    #[track_caller]
    pub fn skip(&self, reason: impl Into<String>) -> CaseResult {
        Err(Failure::skip(Skip::Case {
            reason: reason.into(),
        }))
    }

    /// Records that a part of the case is left out here, and why; the case continues. Every report
    /// shows it.
    ///
    /// For conditions that cannot be declared in advance and are too minor to skip the whole case.
    pub fn not_run(&self, reason: impl AsRef<str>) {
        let reason = self.shared.directories.redact(reason.as_ref());
        self.shared.sink.put(CaseEvent::NotRun { reason });
    }

    /// Ends the case as skipped if this does not hold, for needs that only the running case can
    /// determine. Needs that are known in advance belong in `needs`.
    ///
    /// # Errors
    /// The skip, or a failure if the capabilities cannot be read.
    #[track_caller]
    pub fn require(&self, requirement: Requirement) -> CaseResult {
        match self.shared.check(&requirement)? {
            Ok(()) => Ok(()),
            Err(skip) => Err(Failure::skip(skip)),
        }
    }

    /// Whether this holds, for a case that behaves differently if something is missing.
    ///
    /// # Errors
    /// If the capabilities cannot be read.
    #[track_caller]
    pub fn has(&self, requirement: Requirement) -> CaseResult<bool> {
        Ok(self.shared.check(&requirement)?.is_ok())
    }

    /// A file in the test directory, which is removed when the value is dropped.
    ///
    /// # Errors
    /// If this is not a file name.
    #[track_caller]
    pub fn file(&self, name: &str) -> CaseResult<TestFile> {
        self.usable()?;
        Ok(self.shared.directories.file(name)?)
    }

    /// Several files in the test directory: `let [a, b] = t.files(["a", "b"])?;`.
    ///
    /// # Errors
    /// If one of these is not a file name.
    #[track_caller]
    pub fn files<const N: usize>(&self, names: [&str; N]) -> CaseResult<[TestFile; N]> {
        let mut files = Vec::with_capacity(N);
        for name in names {
            files.push(self.file(name)?);
        }
        files.try_into().map_err(|_| Failure::new("an array lost an element"))
    }

    /// A path for a socket. It is short, however deep the test directory is.
    ///
    /// # Errors
    /// If the path would be longer than the kernel allows.
    #[track_caller]
    pub fn socket(&self, name: &str) -> CaseResult<TestFile> {
        self.usable()?;
        Ok(self.shared.directories.socket(name)?)
    }

    /// Shuffles these: at random, but always in the same order for the same seed, so that a failure
    /// can be reproduced.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        fastrand::Rng::with_seed(self.shared.spec.seed).shuffle(items);
    }

    /// Reports the output of another program, unchanged.
    pub(crate) fn say_printed(&self, text: &str) {
        let text = text.to_owned();
        self.shared.sink.put(CaseEvent::Log { text });
    }

    /// Reports a text that waits for review.
    pub(crate) fn pending_golden(&self, path: PathBuf) {
        let golden = path.with_extension("").display().to_string();
        self.shared.sink.put(CaseEvent::PendingGolden { path, golden });
    }

    #[track_caller]
    pub(crate) fn usable(&self) -> CaseResult {
        match &self.unusable {
            Some(reason) => Err(Failure::new(reason.clone())),
            None => Ok(()),
        }
    }

    /// Runs the body of a case; a panic in it, such as a failed `assert_eq!`, becomes its failure,
    /// so that it is reported like any other. `hooked` returns what the panic hook has seen, if
    /// there is one. When this returns, the body and everything that it created have been dropped.
    pub async fn guard(
        body: CaseFuture<'_>,
        hooked: impl FnOnce() -> Option<FailureReport>,
    ) -> CaseResult {
        let mut body = body;
        let result = std::future::poll_fn(|cx| {
            let poll = || body.as_mut().poll(cx);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        })
        .await;
        drop(body);
        result.unwrap_or_else(|panic| Err(Failure::from_panic(&*panic, hooked())))
    }

    /// Sends the final event: the result of the body, then the checks at the end of every case. The
    /// runner, which also receives every death, makes the final judgement.
    pub async fn finish(self, result: CaseResult) {
        let shared = self.shared;
        let (deaths, problems) = (shared.take_deaths(), shared.take_problems());
        let result = match result {
            Ok(()) if !deaths.is_empty() => Err(Failure::new(headlines(&deaths).join("\n"))),
            Ok(()) if !problems.is_empty() => {
                let texts: Vec<&str> = problems.iter().map(|(_, text)| text.as_str()).collect();
                Err(Failure::from_origin(&problems[0].0, texts.join("\n")))
            }
            Ok(()) if shared.log.is_uncompared() => Err(Failure::new(
                "the case logs, but never compares its log: end it with `t.golden()`",
            )),
            result => result,
        };
        shared.sink.put(match result {
            Ok(()) => CaseEvent::Passed,
            Err(failure) => match failure.skip_reason() {
                Some(reason) => CaseEvent::Skipped {
                    reason: reason.clone(),
                },
                None => failed(&shared, failure, &deaths),
            },
        });
    }
}

fn headlines(deaths: &[Death]) -> Vec<String> {
    deaths.iter().map(Death::headline).collect()
}

/// The final event of a failed case, with the possible cause.
fn failed(shared: &Shared, failure: Failure, deaths: &[Death]) -> CaseEvent {
    let file = shared.entry().map(|entry| entry.case.file);
    let case_place = file.and_then(|file| failure.case_line(file));
    let mut report = failure.map_text(|text| shared.directories.redact(text)).report();
    report.case_place = case_place;
    report.step = shared.current_step().map(|(step, _)| step);
    let is_news = |cause: &String| !report.message.contains(cause.as_str());
    report.causes = headlines(deaths).into_iter().filter(is_news).collect();
    report.machines = shared.machine_reports();
    CaseEvent::Failed(Box::new(report))
}
