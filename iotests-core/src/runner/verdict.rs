//! How an instance ended, and how that is judged.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::text::duration;
use super::supervise::{End, Leak, SupervisorReport};
use crate::author::hang::ENDED_BY;
use crate::case::Skip;
use crate::wire::{CaseEvent, Death, FailureReport, Finding, HangReport};

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// Its time ran out.
    Timeout,
    /// A QEMU process or the case process died.
    Crash,
    /// It passed, but left processes behind.
    Leak,
    /// It cannot run here.
    Skip,
    /// It failed, then passed on a retry.
    Flaky,
    /// It failed as expected.
    ExpectedFail,
    /// It passed although it was expected to fail.
    UnexpectedPass,
    /// It failed and is in quarantine.
    Quarantined,
    /// The run was stopped before it ended.
    Interrupted,
}

impl Verdict {
    /// All verdicts, in the order of the summary.
    pub const ALL: [Self; 11] = [
        Self::Pass,
        Self::Fail,
        Self::Timeout,
        Self::Crash,
        Self::Leak,
        Self::UnexpectedPass,
        Self::Flaky,
        Self::ExpectedFail,
        Self::Quarantined,
        Self::Skip,
        Self::Interrupted,
    ];

    /// Whether the run fails because of it.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::Fail | Self::Timeout | Self::Crash | Self::Leak | Self::UnexpectedPass
        )
    }

    /// The word in lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Timeout => "TIMEOUT",
            Self::Crash => "CRASH",
            Self::Leak => "LEAK",
            Self::Skip => "skip",
            Self::Flaky => "flaky",
            Self::ExpectedFail => "expected fail",
            Self::UnexpectedPass => "UNEXPECTED PASS",
            Self::Quarantined => "quarantined",
            Self::Interrupted => "interrupted",
        }
    }

    /// The word in the summary's counts.
    pub const fn counted(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Fail => "failed",
            Self::Timeout => "timed out",
            Self::Crash => "crashed",
            Self::Leak => "leaked",
            Self::Skip => "skipped",
            Self::Flaky => "flaky",
            Self::ExpectedFail => "failed as expected",
            Self::UnexpectedPass => "passed unexpectedly",
            Self::Quarantined => "failed in quarantine",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Everything known about one attempt at an instance, and its verdict before what is known about
/// the case is considered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The verdict; `None` until it is judged.
    pub verdict: Option<Verdict>,
    /// The reason in one line.
    pub headline: String,
    /// The failure that the case reported.
    pub failure: Option<FailureReport>,
    /// The case reported that it passed.
    pub passed: bool,
    /// What it was doing when its time was up, or when it was last asked.
    pub hang: Option<HangReport>,
    /// Why it was skipped.
    pub skip: Option<Skip>,
    /// Processes of the case that died unexpectedly.
    pub deaths: Vec<Death>,
    /// The last step that it started.
    pub step: Option<String>,
    /// Processes that were alive afterwards.
    pub leaks: Vec<Leak>,
    /// How the case process ended; `None` if its supervisor did not report.
    pub end: Option<End>,
    /// What happened to a supervisor that did not report, such as `was killed`.
    pub unsupervised: Option<String>,
    /// Its time was up.
    pub overdue: bool,
    /// The runner ended it.
    pub interrupted: bool,
    /// From the start of the case process to its end, without suspensions.
    pub elapsed: Duration,
    /// Its directory, if kept.
    pub kept: Option<PathBuf>,
    /// Files in that directory that explain it.
    pub evidence: Vec<Evidence>,
}

/// A file that explains why an attempt did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its path relative to the attempt's directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

impl Attempt {
    /// Whether this text is in the failure, the last output of a machine, a death, or what is said
    /// of a machine that hangs.
    pub(crate) fn says(&self, text: &str) -> bool {
        let failed = self.failure.as_ref().is_some_and(|failure| {
            let printed = failure.machines.iter().map(|machine| &machine.stderr_tail);
            std::iter::once(&failure.message).chain(printed).any(|said| said.contains(text))
        });
        // What follows is what the case waits for.
        let hanging = self.hang.as_ref().and_then(|hang| hang.headline.split_once("; "));
        let hangs = hanging.is_some_and(|(machine, _)| machine.contains(text));
        failed || hangs || self.deaths.iter().any(|death| death.headline().contains(text))
    }

    /// Notes an event of the case.
    pub(crate) fn hear(&mut self, event: &CaseEvent) {
        match event {
            CaseEvent::Passed => self.passed = true,
            CaseEvent::Failed(failure) => self.failure = Some((**failure).clone()),
            CaseEvent::Skipped { reason } => self.skip = Some(reason.clone()),
            CaseEvent::Explained(hang) => self.hang = Some((**hang).clone()),
            CaseEvent::Step { text, .. } => self.step = Some(text.clone()),
            CaseEvent::Died(death) => self.deaths.push((**death).clone()),
            _ => {}
        }
    }

    /// Notes the supervisor's report, or what happened to it; `time` is the case's deadline.
    pub(crate) fn see(
        &mut self,
        report: Result<SupervisorReport, String>,
        interrupted: bool,
        time: Duration,
    ) {
        self.interrupted = interrupted;
        let report = match report {
            Ok(report) => report,
            Err(why) => {
                self.unsupervised = Some(why);
                return;
            }
        };
        self.leaks = report.leaks;
        self.end = Some(report.end);
        self.elapsed = report.elapsed;
        let Some(seen) = report.overdue else { return };
        // It finished after all, at the last moment.
        if self.finished() && self.end == Some(End::Exited(0)) {
            return;
        }
        self.overdue = true;
        // An earlier report on request does not explain the timeout.
        self.hang.take_if(|hang| hang.cause != ENDED_BY);
        let explained = self.hang.is_some();
        let hang = self.hang.get_or_insert_with(|| HangReport {
            headline: format!("the case {}", seen.case),
            elapsed: report.elapsed,
            ..HangReport::default()
        });
        // A stopped process that the case's report does not mention, because it is not a machine,
        // was still starting, or was stopped too late.
        match seen.stopped.first() {
            _ if hang.headline.contains("stopped by a") => {}
            Some(stopped) => hang.headline = format!("{stopped}; {}", hang.headline),
            None if !explained => hang.headline += ", and does not explain itself",
            None => {}
        }
        hang.cause = format!("its deadline was {}", duration(time));
        let found = |text: String| Finding {
            title: "from outside".to_owned(),
            text,
        };
        hang.evidence.extend(seen.evidence.into_iter().map(found));
    }

    /// Whether the case reported its result.
    fn finished(&self) -> bool {
        self.passed || self.failure.is_some() || self.skip.is_some()
    }

    fn in_step(&self) -> String {
        let step = self.step.as_ref();
        step.map(|step| format!(", in the step \"{step}\"")).unwrap_or_default()
    }

    /// Sets verdict and headline; see [`judge`].
    pub(crate) fn judged(mut self) -> Self {
        let (verdict, headline) = judge(&self);
        (self.verdict, self.headline) = (Some(verdict), headline);
        self
    }
}

/// The signals by which a stopped run ends its cases.
const ENDING: [i32; 3] = [2, 9, 15];

/// The verdict on an attempt, and the reason in one line. A death outranks a hang, a hang a
/// failure, a failure a leak, and a leak a skip.
pub fn judge(attempt: &Attempt) -> (Verdict, String) {
    let finished = attempt.finished();
    // A process ended by the runner has neither crashed nor hung.
    let by_runner = |signal: i32| attempt.interrupted && ENDING.contains(&signal);
    let deaths = || {
        let own = |death: &&Death| !death.signal.is_some_and(by_runner);
        attempt.deaths.iter().filter(own)
    };
    let killed = match attempt.end {
        Some(End::Signaled { signal, .. }) => Some(signal),
        _ => None,
    };
    let cut_at_its_end = attempt.failure.is_none() && killed.is_some_and(by_runner);
    let cut = attempt.interrupted && (!finished || cut_at_its_end);
    let aborted = attempt.end == Some(End::Exited(crate::author::hang::EXIT_HANG));
    if let Some(death) = deaths().find(|death| death.signal.is_some()) {
        return (Verdict::Crash, death.headline());
    }
    if let Some(end) = &attempt.end
        && killed.is_some_and(|signal| !by_runner(signal))
        && !attempt.overdue
        && !cut
    {
        return (
            Verdict::Crash,
            format!("the case process was {end}{}", attempt.in_step()),
        );
    }
    if cut {
        return (Verdict::Interrupted, "the run was stopped".to_owned());
    }
    if let Some(hang) = attempt.hang.as_ref().filter(|_| attempt.overdue || (aborted && !finished))
    {
        return (
            Verdict::Timeout,
            format!("{} ({})", hang.headline, hang.cause),
        );
    }
    match &attempt.end {
        Some(End::Exited(0)) if finished => {}
        // It had reported its failure, and the runner did not wait for it to exit.
        Some(_) if finished && killed.is_some_and(by_runner) => {}
        Some(end) => {
            return (
                Verdict::Crash,
                format!(
                    "the case process ended without a verdict: {end}{}",
                    attempt.in_step()
                ),
            );
        }
        None => {
            let why = attempt.unsupervised.as_deref().unwrap_or("was killed");
            let text = format!("the supervisor of the case {why}");
            return (Verdict::Crash, text);
        }
    }
    if let Some(death) = deaths().next() {
        return (Verdict::Fail, death.headline());
    }
    if let Some(failure) = &attempt.failure {
        return (Verdict::Fail, failure.headline.clone());
    }
    if let Some(leak) = attempt.leaks.first() {
        return (Verdict::Leak, format!("left behind: {leak}"));
    }
    match &attempt.skip {
        Some(skip) => (Verdict::Skip, skip.to_string()),
        None => (Verdict::Pass, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::supervise::Seen;

    /// Something that can be true of an attempt.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Cause {
        Death,
        CaseDeath,
        Hang,
        NoWord,
        Quit,
        Failure,
        Leak,
        Skip,
        Pass,
    }

    use Cause::*;

    /// In order of precedence.
    const CAUSES: [Cause; 9] = [
        Death, CaseDeath, Hang, NoWord, Quit, Failure, Leak, Skip, Pass,
    ];

    fn death(signal: Option<i32>) -> crate::wire::Death {
        crate::wire::Death {
            name: "vm".to_owned(),
            status: "died".to_owned(),
            signal,
            ..Default::default()
        }
    }

    fn add(attempt: &mut Attempt, cause: Cause) {
        match cause {
            Death => attempt.deaths.push(death(Some(6))),
            CaseDeath => {
                attempt.end = Some(End::Signaled {
                    signal: 11,
                    core: false,
                });
            }
            Hang => {
                attempt.overdue = true;
                attempt.hang = Some(HangReport::default());
            }
            NoWord => {
                if attempt.end == Some(End::Exited(0)) {
                    attempt.end = Some(End::Exited(3));
                }
            }
            Quit => attempt.deaths.push(death(None)),
            Failure => attempt.failure = Some(FailureReport::default()),
            Leak => attempt.leaks.push(super::Leak {
                pid: 1,
                argv: vec!["sleep".to_owned()],
            }),
            Skip => attempt.skip = Some(crate::case::Skip::Root),
            Pass => attempt.passed = true,
        }
    }

    fn expected(cause: Cause) -> Verdict {
        match cause {
            Death | CaseDeath | NoWord => Verdict::Crash,
            Hang => Verdict::Timeout,
            Quit | Failure => Verdict::Fail,
            Leak => Verdict::Leak,
            Skip => Verdict::Skip,
            Pass => Verdict::Pass,
        }
    }

    fn attempt(causes: &[Cause]) -> Attempt {
        let mut attempt = Attempt {
            end: Some(End::Exited(0)),
            ..Attempt::default()
        };
        for cause in causes {
            add(&mut attempt, *cause);
        }
        attempt
    }

    #[test]
    fn of_each_pair_of_causes_the_graver_one_decides() {
        for one in CAUSES {
            for other in CAUSES {
                let mut both = [one, other];
                both.sort();
                let mut attempt = attempt(&both);
                // The case also reported its result, even if it leaked.
                attempt.passed |= !both.iter().any(|cause| matches!(cause, Failure | Skip));
                let graver = match both {
                    // A hanging case is killed: its signal is not a crash.
                    [CaseDeath, Hang] => Hang,
                    [graver, _] => graver,
                };
                assert_eq!(judge(&attempt).0, expected(graver), "{both:?}");
            }
        }
    }

    #[test]
    fn a_case_ended_by_the_runner_is_interrupted_unless_it_had_finished_or_crashed() {
        let killed = |signal| End::Signaled {
            signal,
            core: false,
        };
        let judged = |causes: &[Cause], end, deaths: &[i32]| {
            let mut attempt = attempt(causes);
            attempt.interrupted = true;
            attempt.end = Some(end);
            let deaths = deaths.iter().map(|signal| death(Some(*signal)));
            attempt.deaths.extend(deaths);
            judge(&attempt).0
        };
        assert_eq!(judged(&[], killed(15), &[]), Verdict::Interrupted);
        assert_eq!(judged(&[], killed(15), &[15]), Verdict::Interrupted);
        assert_eq!(judged(&[Hang], killed(9), &[9]), Verdict::Interrupted);
        assert_eq!(judged(&[], killed(15), &[6]), Verdict::Crash);
        assert_eq!(judged(&[Pass], End::Exited(0), &[]), Verdict::Pass);
        assert_eq!(judged(&[Pass], End::Exited(0), &[15]), Verdict::Pass);
        // It had reported its result, but not exited yet.
        assert_eq!(judged(&[Pass], killed(15), &[]), Verdict::Interrupted);
        assert_eq!(judged(&[Skip], killed(9), &[]), Verdict::Interrupted);
        assert_eq!(judged(&[Failure], killed(15), &[]), Verdict::Fail);
        assert_eq!(judged(&[Pass], killed(11), &[]), Verdict::Crash);
        assert_eq!(judged(&[Failure], killed(11), &[]), Verdict::Crash);
    }

    #[test]
    fn a_case_that_explained_itself_on_request_is_judged_by_its_result() {
        let mut attempt = attempt(&[Pass]);
        attempt.hang = Some(HangReport::default());
        assert_eq!(judge(&attempt).0, Verdict::Pass);
        attempt.passed = false;
        attempt.end = Some(End::Exited(crate::author::hang::EXIT_HANG));
        assert_eq!(
            judge(&attempt).0,
            Verdict::Timeout,
            "and one that was to end"
        );
    }

    #[test]
    fn a_hang_says_what_hangs() {
        let mut attempt = attempt(&[Hang]);
        attempt.hang = Some(HangReport {
            headline: "vm hangs: its monitor does not answer; the case waits for a job".to_owned(),
            ..HangReport::default()
        });
        assert!(attempt.says("its monitor does not answer"));
        assert!(!attempt.says("a job"));
        assert!(!attempt.says("stopped by a signal"));
    }

    #[test]
    fn no_supervisor_and_no_result_are_crashes() {
        let mut attempt = attempt(&[Pass]);
        attempt.end = None;
        assert_eq!(judge(&attempt).0, Verdict::Crash);
        assert_eq!(judge(&super::tests::attempt(&[])).0, Verdict::Crash);
    }

    #[test]
    fn a_hang_says_what_was_seen_from_outside() {
        let mut attempt = Attempt::default();
        let report = SupervisorReport {
            end: End::Signaled {
                signal: 9,
                core: false,
            },
            leaks: Vec::new(),
            overdue: Some(Seen {
                case: "is stopped by a signal".to_owned(),
                stopped: Vec::new(),
                evidence: vec!["process 7 is stopped".to_owned()],
            }),
            elapsed: Duration::from_secs(2),
        };
        attempt.see(Ok(report), false, Duration::from_secs(2));
        let attempt = attempt.judged();
        assert_eq!(attempt.verdict, Some(Verdict::Timeout));
        assert_eq!(
            attempt.headline,
            "the case is stopped by a signal (its deadline was 2.0 s)"
        );
        assert_eq!(
            attempt.hang.unwrap().evidence[0].text,
            "process 7 is stopped"
        );
    }
}
