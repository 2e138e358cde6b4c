//! Runs one instance: its attempts, and the outcome they lead to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imgtools::tools::{Tool, ToolKind};

use super::error::RunError;
use super::event::{InstanceInfo, Metric, Outcome, RunEvent};
use super::evidence;
use super::execute::{Executed, Supervisors, execute};
use super::rundir::{InstanceDir, RunDir};
use super::supervise::Order;
use super::verdict::{Attempt, Verdict};
use super::wrap::{self, Wrap};
use crate::case::{
    Body, Cache, Instance, Judgement, Known, Protocol, Quarantine, judge_failure, judge_pass,
};
use crate::script::{ScriptSpec, Tooling};
use crate::wire::{CaseEvent, CaseSpec, GoldenMode};

/// One instance to run.
#[derive(Debug, Clone)]
pub(crate) struct InstanceJob {
    /// What reports show about it.
    pub(crate) info: InstanceInfo,
    /// The point of the matrix.
    pub(crate) instance: Instance,
    /// The set of programs.
    pub(crate) set: usize,
    /// What is known about it with these programs.
    pub(crate) known: Known,
    /// Where its pending goldens go.
    pub(crate) goldens_dir: PathBuf,
    /// The longest of its recent times.
    pub(crate) usual: Option<Duration>,
    /// The number of the repetition, from 0.
    pub(crate) repetition: u32,
}

impl InstanceJob {
    /// The next repetition, with the next seed.
    pub(crate) fn next(mut self) -> Self {
        self.repetition += 1;
        self.info.id = format!("{}#{}", self.info.base_id(), self.repetition + 1);
        self
    }
}

/// A set of programs as a case process gets it.
#[derive(Debug, Clone)]
pub(crate) struct SetFiles {
    /// Its programs.
    pub(crate) tools: BTreeMap<ToolKind, Tool>,
    /// Its capabilities as a file.
    pub(crate) capabilities: PathBuf,
    /// Accelerators that work, best first.
    pub(crate) accelerators: Vec<String>,
    /// The short name of its emulator's default machine.
    pub(crate) default_machine: String,
}

/// Settings common to all instances of a run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) sets: Vec<SetFiles>,
    pub(crate) imgopts: Vec<String>,
    pub(crate) scale: f64,
    pub(crate) keep: bool,
    /// The wrappers that programs run under.
    pub(crate) wrap: Wrap,
    pub(crate) goldens: GoldenMode,
    pub(crate) seed: u64,
    pub(crate) print: bool,
    pub(crate) debug: bool,
    /// The case waits for the user before each step.
    pub(crate) step: bool,
    pub(crate) confine: bool,
    pub(crate) retries: u32,
    /// The command for a rerun, without seed and id.
    pub(crate) rerun: String,
    /// Today, `YYYY-MM-DD`, for quarantines.
    pub(crate) today: String,
    pub(crate) scripts: ScriptSettings,
}

/// Settings common to all scripts of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScriptSettings {
    /// The interpreter for Python.
    pub(crate) python: Option<PathBuf>,
    /// Where Python keeps compiled code.
    pub(crate) bytecode: PathBuf,
    /// The command line names no cache mode.
    pub(crate) cache_is_default: bool,
    /// Tools that their programs run under.
    pub(crate) tooling: Tooling,
}

/// Runs instances; shared by their threads.
#[derive(Debug)]
pub(crate) struct Runner {
    run_dir: RunDir,
    settings: Settings,
    supervisors: Supervisors,
    number: AtomicUsize,
}

impl Runner {
    /// A runner that creates directories in `run_dir`.
    pub(crate) fn new(run_dir: RunDir, settings: Settings) -> Self {
        Self {
            run_dir,
            settings,
            supervisors: Supervisors::default(),
            number: AtomicUsize::new(1),
        }
    }

    /// Sends an order to all supervisors.
    pub(crate) fn order_all(&self, order: Order) {
        self.supervisors.order_all(order);
    }

    /// Suspends the run; see [`Supervisors::suspend`].
    pub(crate) fn suspend(&self) -> Duration {
        self.supervisors.suspend()
    }

    /// Finishes the run directory.
    pub(crate) fn finish(self) {
        self.run_dir.finish();
    }

    /// Runs one instance, with retries if allowed and needed. `tell` gets every event but the last;
    /// `expected` is how long it took the last time.
    pub(crate) fn run(
        &self,
        job: &InstanceJob,
        expected: Option<Duration>,
        mut tell: impl FnMut(RunEvent),
    ) -> Result<Outcome, RunError> {
        let begun = Instant::now();
        let mut attempts: Vec<Attempt> = Vec::new();
        loop {
            tell(RunEvent::InstanceStarted {
                instance: job.info.clone(),
                attempt: u32::try_from(attempts.len() + 1).unwrap_or(u32::MAX),
                expected,
            });
            let directories = self.directories(job)?;
            let spec = self.spec(job, &directories.given, &directories.sockets)?;
            let (mut metrics, mut pending_goldens) = (Vec::new(), Vec::new());
            let mut not_run = Vec::new();
            let executed = execute(
                &self.run_dir,
                &self.supervisors,
                &directories,
                &spec,
                self.env(&spec),
                self.settings.step,
                |said| {
                    match &said {
                        CaseEvent::Metric { name, value, unit } => metrics.push(Metric {
                            name: name.clone(),
                            value: *value,
                            unit: unit.clone(),
                        }),
                        CaseEvent::NotRun { reason } => not_run.push(reason.clone()),
                        CaseEvent::PendingGolden { path, .. } => pending_goldens.push(path.clone()),
                        _ => {}
                    }
                    let id = job.info.id.clone();
                    tell(RunEvent::Case { id, said });
                },
            );
            let Executed {
                attempt,
                stdout_tail,
                stderr_tail,
            } = match executed {
                Ok(executed) => executed,
                Err(error) => {
                    directories.remove(false);
                    return Err(error);
                }
            };
            let mut attempt = attempt;
            evidence::take(&directories, &spec, &mut attempt);
            let attempt = attempt.judged();
            let own = attempt.verdict.unwrap_or(Verdict::Crash);
            attempts.push(attempt);
            let (verdict, note) = weigh(own, &attempts, &job.known, &self.settings.today);
            let failed = verdict.is_failure();
            let last = attempts.len() - 1;
            if self.settings.keep || failed || verdict == Verdict::Quarantined {
                directories.remove(true);
                evidence::keep(&directories, &mut attempts[last]);
            } else {
                directories.remove(false);
            }
            // An unexpected pass is not retried until it fails.
            let may_retry = verdict != Verdict::UnexpectedPass
                && attempts.len() <= self.settings.retries as usize;
            if failed && may_retry && !self.supervisors.are_ending() {
                tell(RunEvent::AttemptFailed {
                    id: job.info.id.clone(),
                    attempt: Box::new(attempts[last].clone()),
                });
                continue;
            }
            let elapsed = begun.elapsed();
            return Ok(Outcome {
                // Compare only passes at the first attempt.
                slower_than: job.usual.filter(|usual| {
                    verdict == Verdict::Pass && last == 0 && is_slower(elapsed, *usual)
                }),
                instance: job.info.clone(),
                verdict,
                note,
                kept: attempts[last].kept.clone(),
                attempts,
                elapsed,
                stdout_tail: if failed { stdout_tail } else { String::new() },
                stderr_tail: if failed { stderr_tail } else { String::new() },
                rerun: format!(
                    "{} --seed {} '{}'",
                    self.settings.rerun,
                    spec.seed,
                    job.info.base_id()
                ),
                not_run,
                metrics,
                pending_goldens,
            });
        }
    }

    /// Creates the directories of an attempt.
    pub(super) fn directories(&self, job: &InstanceJob) -> Result<InstanceDir, RunError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let is_script = matches!(job.instance.case.body, Body::Script(_));
        self.run_dir.instance(number, &job.info.id, is_script)
    }

    pub(super) fn spec(
        &self,
        job: &InstanceJob,
        test_dir: &std::path::Path,
        sock_dir: &std::path::Path,
    ) -> Result<CaseSpec, RunError> {
        let settings = &self.settings;
        let set = settings.sets.get(job.set);
        let instance = &job.instance;
        let mut spec = CaseSpec {
            id: job.info.id.clone(),
            case: instance.case.name(),
            row: instance.row.map(str::to_owned),
            format: instance.format,
            protocol: instance.protocol,
            cache: instance.cache,
            aio: instance.aio,
            imgopts: settings.imgopts.clone(),
            backend: instance.backend,
            guest: instance.meta.guest,
            accelerators: set.map(|set| set.accelerators.clone()).unwrap_or_default(),
            test_dir: test_dir.to_owned(),
            sock_dir: sock_dir.to_owned(),
            tools: BTreeMap::new(),
            capabilities_file: set.map(|set| set.capabilities.clone()).unwrap_or_default(),
            budget: match settings.step {
                true => NO_HURRY,
                false => instance.meta.budget,
            },
            scale: settings.scale,
            keep: settings.keep,
            goldens: settings.goldens,
            goldens_dir: job.goldens_dir.clone(),
            seed: settings.seed.wrapping_add(u64::from(job.repetition)),
            confine: settings.confine
                && !instance.meta.unconfined
                && instance.protocol != Protocol::Fuse,
            print: settings.print,
            debug: settings.debug,
            script: self.script(instance, set),
        };
        let Some(set) = set else {
            return Ok(spec);
        };
        let folder = spec.evidence_dir();
        spec.tools = settings.wrap.around(&set.tools, &folder)?;
        for tool in spec.tools.values_mut() {
            tool.echo = spec.print || spec.debug;
            if spec.script.is_some() && !tool.wrapper.is_empty() {
                tool.path = wrap::as_program(tool, &folder.join("bin"))?;
            }
        }
        Ok(spec)
    }

    /// The additional spec of a script.
    fn script(&self, instance: &Instance, set: Option<&SetFiles>) -> Option<ScriptSpec> {
        let Body::Script(script) = &instance.case.body else {
            return None;
        };
        let settings = &self.settings.scripts;
        Some(ScriptSpec {
            script: script.clone(),
            python: settings.python.clone(),
            bytecode: settings.bytecode.clone(),
            default_machine: set.map(|set| set.default_machine.clone()).unwrap_or_default(),
            cache_is_default: settings.cache_is_default && instance.cache == Cache::Writeback,
            tooling: settings.tooling.clone(),
        })
    }

    /// Variables that programs read and that must not depend on the user's environment.
    pub(super) fn env(&self, spec: &CaseSpec) -> Vec<(String, String)> {
        let mut env = vec![
            ("TMPDIR".to_owned(), spec.test_dir.display().to_string()),
            ("LC_ALL".to_owned(), "C".to_owned()),
            ("TZ".to_owned(), "UTC".to_owned()),
        ];
        if std::env::var_os("MALLOC_PERTURB_").is_none() {
            // Overwrites freed memory, to expose use after free. Derived from the seed, so that a
            // rerun has the same value.
            env.push((
                "MALLOC_PERTURB_".to_owned(),
                (spec.seed % 255 + 1).to_string(),
            ));
        }
        env
    }
}

/// The budget of a case that waits for the user.
const NO_HURRY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Whether it took longer than a busy machine explains: more than twice the usual time plus a
/// second.
fn is_slower(elapsed: Duration, usual: Duration) -> bool {
    elapsed > usual * 2 + Duration::from_secs(1)
}

/// Adjusts the verdict to what is known about the case, with a note that explains it.
fn weigh(
    own: Verdict,
    attempts: &[Attempt],
    known: &Known,
    today: &str,
) -> (Verdict, Option<String>) {
    let says = |text: &str| attempts.last().is_some_and(|last| last.says(text));
    let judged = match own {
        Verdict::Fail | Verdict::Timeout | Verdict::Crash => judge_failure(&known.bugs, says),
        Verdict::Pass => judge_pass(&known.bugs),
        _ => Judgement::Irrelevant,
    };
    let mut notes = match judged {
        Judgement::Expected(reason) => return (Verdict::ExpectedFail, Some(reason.to_owned())),
        Judgement::UnexpectedPass(reason) => {
            let note = format!("was expected to fail: {reason}");
            return (Verdict::UnexpectedPass, Some(note));
        }
        Judgement::Otherwise(notes) => notes,
        Judgement::Irrelevant => Vec::new(),
    };
    if own == Verdict::Pass && attempts.len() > 1 {
        let note = "passed on a retry".to_owned();
        return (Verdict::Flaky, Some(note));
    }
    let mut verdict = own;
    if let Some(quarantine) = known.quarantine.filter(|_| own.is_failure()) {
        // ISO dates compare as text.
        notes.push(if today <= quarantine.until {
            verdict = Verdict::Quarantined;
            match quarantine.until {
                Quarantine::FOREVER => quarantine.reason.to_owned(),
                until => format!("{} (until {until})", quarantine.reason),
            }
        } else {
            format!(
                "its quarantine ended on {}: {}",
                quarantine.until, quarantine.reason
            )
        });
    } else if own.is_failure() {
        notes.extend(known.missing_fix.clone());
    }
    (verdict, (!notes.is_empty()).then(|| notes.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::ExpectedBug;
    use crate::case::names::until;
    use crate::wire::{FailureReport, MachineReport};

    const TODAY: &str = "2026-06-15";

    fn bug(says: &'static str) -> Known {
        let bug = ExpectedBug {
            reason: "bug 1",
            says,
            is_certain: true,
        };
        Known {
            bugs: vec![bug],
            ..Known::default()
        }
    }

    fn attempt(own: Verdict) -> Attempt {
        let mut attempt = Attempt::default();
        if own == Verdict::Fail {
            attempt.failure = Some(FailureReport {
                message: "it says bug 1".to_owned(),
                ..FailureReport::default()
            });
        }
        attempt
    }

    fn weighed(own: Verdict, known: &Known, quarantine: Option<Quarantine>) -> Verdict {
        let quarantine = quarantine.or(known.quarantine);
        let known = Known {
            quarantine,
            ..known.clone()
        };
        weigh(own, &[attempt(own)], &known, TODAY).0
    }

    #[test]
    fn a_known_bug_explains_a_failure_that_says_so_and_a_pass_is_unexpected() {
        let known = bug("says bug");
        assert_eq!(weighed(Verdict::Fail, &known, None), Verdict::ExpectedFail);
        assert_eq!(
            weighed(Verdict::Pass, &known, None),
            Verdict::UnexpectedPass
        );
        assert_eq!(
            weighed(Verdict::Leak, &known, None),
            Verdict::Leak,
            "a leak is another bug"
        );
        let none = Known::default();
        assert_eq!(weighed(Verdict::Fail, &none, None), Verdict::Fail);
        assert_eq!(weighed(Verdict::Pass, &none, None), Verdict::Pass);
    }

    #[test]
    fn a_failure_with_another_message_than_the_known_one_is_another_bug() {
        let other = bug("it says bug 2");
        assert_eq!(weighed(Verdict::Fail, &other, None), Verdict::Fail);
        // This attempt has no text that could match.
        assert_eq!(
            weighed(Verdict::Timeout, &bug("bug"), None),
            Verdict::Timeout
        );
        // A quarantine still applies.
        let races = Some(until(TODAY, "races"));
        assert_eq!(weighed(Verdict::Fail, &other, races), Verdict::Quarantined);
        let mut attempt = Attempt {
            failure: Some(FailureReport::default()),
            ..Attempt::default()
        };
        assert!(!attempt.says("Assertion"));
        let report = attempt.failure.as_mut().unwrap();
        report.machines = vec![MachineReport {
            stderr_tail: "x.c:1: Assertion `y' failed.\n".to_owned(),
            ..MachineReport::default()
        }];
        assert!(attempt.says("Assertion `y' failed"));
    }

    #[test]
    fn a_later_pass_is_flaky() {
        let twice = |own| {
            let attempts = [attempt(own), attempt(own)];
            weigh(own, &attempts, &Known::default(), TODAY).0
        };
        assert_eq!(twice(Verdict::Pass), Verdict::Flaky);
        assert_eq!(twice(Verdict::Fail), Verdict::Fail);
    }

    #[test]
    fn a_quarantine_includes_its_last_day() {
        let (none, valid) = (Known::default(), Some(until(TODAY, "races")));
        assert_eq!(weighed(Verdict::Crash, &none, valid), Verdict::Quarantined);
        assert_eq!(weighed(Verdict::Pass, &none, valid), Verdict::Pass);
        let over = Some(until("2026-06-14", "races"));
        assert_eq!(weighed(Verdict::Crash, &none, over), Verdict::Crash);
    }

    #[test]
    fn a_failure_names_the_missing_fix() {
        let known = Known {
            missing_fix: Some("no fix".to_owned()),
            ..Known::default()
        };
        let note = |own| weigh(own, &[attempt(own)], &known, TODAY).1;
        assert_eq!(note(Verdict::Fail).as_deref(), Some("no fix"));
        assert_eq!(note(Verdict::Pass), None);
    }
}
