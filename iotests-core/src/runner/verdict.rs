//! How an instance ended, and from what that follows.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::supervise::{End, Leak, SupervisorReport};
use crate::case::Skip;
use crate::wire::{CaseEvent, FailureReport, HangReport};

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
    /// It was not at its end at the deadline.
    Timeout,
    /// Its process died without a verdict.
    Crash,
    /// It passed, but something was alive afterwards.
    Leak,
    /// It cannot run here.
    Skip,
    /// It failed at first and passed when it was tried again.
    Flaky,
    /// It failed as it is known to.
    ExpectedFail,
    /// It passed although it is known to fail.
    UnexpectedPass,
    /// It failed and is in quarantine.
    Quarantined,
    /// The run was stopped before it ended.
    Interrupted,
}

impl Verdict {
    /// All of them, in the order of the summary.
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

/// What one attempt at an instance came to, before what is known about the case is weighed in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The verdict; `None` only before it was judged.
    pub verdict: Option<Verdict>,
    /// Why it failed, where the case said so.
    pub failure: Option<FailureReport>,
    /// Where it hung.
    pub hang: Option<HangReport>,
    /// Why it was skipped.
    pub skip: Option<Skip>,
    /// What was alive afterwards.
    pub leaks: Vec<Leak>,
    /// How the process ended.
    pub end: Option<End>,
    /// From the start of the case process to its end.
    pub elapsed: Duration,
}

impl Attempt {
    /// Whether the failure, or a machine at its end, said this.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.failure.as_ref().is_some_and(|failure| {
            let printed = failure.machines.iter().map(|machine| &machine.stderr_tail);
            std::iter::once(&failure.message)
                .chain(printed)
                .any(|said| said.contains(text))
        })
    }
}

/// Judges one attempt by what the case said and what its supervisor saw.
///
/// `interrupted`: the runner itself told the supervisor to end the case. `report` is `None` when the supervisor died.
pub fn judge(
    events: &[CaseEvent],
    report: Option<&SupervisorReport>,
    interrupted: bool,
) -> Attempt {
    let mut attempt = Attempt::default();
    let mut passed = false;
    for event in events {
        match event {
            CaseEvent::Passed => passed = true,
            CaseEvent::Failed(failure) => attempt.failure = Some((**failure).clone()),
            CaseEvent::Skipped { reason } => attempt.skip = Some(reason.clone()),
            CaseEvent::Hang(hang) => attempt.hang = Some((**hang).clone()),
            _ => {}
        }
    }
    let finished = passed || attempt.failure.is_some() || attempt.skip.is_some();
    let overdue = report.is_some_and(|report| report.overdue);
    if let Some(report) = report {
        attempt.leaks.clone_from(&report.leaks);
        attempt.end = Some(report.end.clone());
        attempt.elapsed = report.elapsed;
        if overdue {
            let hang = attempt.hang.get_or_insert_with(|| HangReport {
                cause: "the deadline passed and the case did not explain itself".to_owned(),
                elapsed: report.elapsed,
                ..HangReport::default()
            });
            hang.evidence.extend(report.evidence.iter().cloned());
        }
    }
    let ended_well = attempt.end == Some(End::Exited(0));
    attempt.verdict = Some(if overdue || (attempt.hang.is_some() && !finished) {
        if interrupted {
            Verdict::Interrupted
        } else {
            Verdict::Timeout
        }
    } else if interrupted && !finished {
        Verdict::Interrupted
    } else if !finished || !ended_well {
        Verdict::Crash
    } else if attempt.failure.is_some() {
        Verdict::Fail
    } else if !attempt.leaks.is_empty() {
        Verdict::Leak
    } else if attempt.skip.is_some() {
        Verdict::Skip
    } else {
        Verdict::Pass
    });
    attempt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(end: End) -> SupervisorReport {
        SupervisorReport {
            end,
            leaks: Vec::new(),
            overdue: false,
            evidence: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn failed() -> CaseEvent {
        CaseEvent::Failed(Box::default())
    }

    fn hang() -> CaseEvent {
        CaseEvent::Hang(Box::default())
    }

    fn verdict(events: &[CaseEvent], report: &SupervisorReport) -> Verdict {
        judge(events, Some(report), false).verdict.unwrap()
    }

    #[test]
    fn the_last_word_of_the_case_decides_when_its_process_ended_well() {
        let fine = report(End::Exited(0));
        assert_eq!(verdict(&[CaseEvent::Passed], &fine), Verdict::Pass);
        assert_eq!(verdict(&[failed()], &fine), Verdict::Fail);
        assert_eq!(
            verdict(&[CaseEvent::Skipped { reason: Skip::Root }], &fine),
            Verdict::Skip
        );
    }

    #[test]
    fn a_process_that_dies_has_crashed_whatever_it_said() {
        let signaled = report(End::Signaled {
            signal: 11,
            core: false,
        });
        assert_eq!(verdict(&[], &signaled), Verdict::Crash);
        assert_eq!(verdict(&[CaseEvent::Passed], &signaled), Verdict::Crash);
        assert_eq!(verdict(&[], &report(End::Exited(3))), Verdict::Crash);
        assert_eq!(
            verdict(&[], &report(End::Exited(0))),
            Verdict::Crash,
            "no last word"
        );
        assert_eq!(
            judge(&[CaseEvent::Passed], None, false).verdict,
            Some(Verdict::Crash),
            "no supervisor"
        );
    }

    #[test]
    fn something_left_makes_a_leak_of_a_pass_and_of_a_skip_but_not_of_a_failure() {
        let mut left = report(End::Exited(0));
        left.leaks.push(Leak {
            pid: 1,
            argv: vec!["sleep".to_owned()],
        });
        assert_eq!(verdict(&[CaseEvent::Passed], &left), Verdict::Leak);
        assert_eq!(
            verdict(&[CaseEvent::Skipped { reason: Skip::Root }], &left),
            Verdict::Leak
        );
        assert_eq!(verdict(&[failed()], &left), Verdict::Fail);
        assert_eq!(judge(&[failed()], Some(&left), false).leaks.len(), 1);
    }

    #[test]
    fn a_hang_is_a_timeout_whether_the_case_explained_it_or_not() {
        assert_eq!(
            verdict(&[hang()], &report(End::Exited(1))),
            Verdict::Timeout
        );
        let mut overdue = report(End::Signaled {
            signal: 9,
            core: false,
        });
        overdue.overdue = true;
        overdue.evidence.push("stopped".to_owned());
        let attempt = judge(&[], Some(&overdue), false);
        assert_eq!(attempt.verdict, Some(Verdict::Timeout));
        assert_eq!(attempt.hang.unwrap().evidence, ["stopped"]);
    }

    #[test]
    fn a_case_that_explained_itself_on_demand_and_went_on_is_judged_by_its_last_word() {
        assert_eq!(
            verdict(&[hang(), CaseEvent::Passed], &report(End::Exited(0))),
            Verdict::Pass
        );
    }

    #[test]
    fn what_the_runner_ended_is_interrupted_unless_it_had_finished() {
        let killed = report(End::Signaled {
            signal: 15,
            core: false,
        });
        assert_eq!(
            judge(&[], Some(&killed), true).verdict,
            Some(Verdict::Interrupted)
        );
        let fine = report(End::Exited(0));
        assert_eq!(
            judge(&[CaseEvent::Passed], Some(&fine), true).verdict,
            Some(Verdict::Pass)
        );
    }
}
