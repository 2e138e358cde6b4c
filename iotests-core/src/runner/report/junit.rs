//! JUnit: one file at the end of a run, for CI systems.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::failure;
use super::story::Story;
use crate::runner::event::Outcome;
use crate::runner::verdict::{Attempt, Verdict};

/// The report of a run.
pub(crate) fn junit(story: &Story) -> Report {
    let mut suite = TestSuite::new("iotests");
    if let Some(run) = &story.run {
        suite.add_property(("seed", run.seed.to_string().as_str()));
        suite.add_property(("system", run.system.as_str()));
        for set in &run.sets {
            for (kind, tool) in &set.tools {
                let name = format!("{}.{kind}", set.name);
                let value = format!("{} {}", tool.version, tool.path.display());
                suite.add_property((name.as_str(), value.as_str()));
            }
        }
    }
    suite.set_time(story.summary.elapsed);
    suite.add_test_cases(story.rows.iter().map(|row| case(&row.outcome)));
    let mut report = Report::new("iotests");
    report.set_time(story.summary.elapsed);
    report.add_test_suite(suite);
    report
}

fn case(outcome: &Outcome) -> TestCase {
    let instance = &outcome.instance;
    let mut case = TestCase::new(instance.id.as_str(), status(outcome));
    case.set_classname(instance.case.as_str());
    case.set_time(outcome.elapsed);
    case.add_property(("description", instance.description.as_str()));
    case.add_property(("set", instance.set.as_str()));
    if outcome.verdict.is_failure() {
        case.add_property(("rerun", outcome.rerun.as_str()));
        if let Some(kept) = &outcome.kept {
            case.add_property(("kept", kept.display().to_string().as_str()));
        }
        case.set_system_out(outcome.stdout_tail.as_str());
        case.set_system_err(outcome.stderr_tail.as_str());
    }
    for reason in &outcome.not_run {
        case.add_property(("not-run", reason.as_str()));
    }
    if let Some(note) = &outcome.note {
        case.add_property(("note", note.as_str()));
    }
    case
}

fn status(outcome: &Outcome) -> TestCaseStatus {
    match outcome.verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Flaky => {
            let mut status = TestCaseStatus::success();
            let failed = outcome.attempts.len().saturating_sub(1);
            for attempt in &outcome.attempts[..failed] {
                status.add_rerun(rerun(attempt));
            }
            status
        }
        Verdict::Skip => skipped(&outcome.skip().map(ToString::to_string).unwrap_or_default()),
        // JUnit has no word for these that does not fail the run.
        Verdict::ExpectedFail | Verdict::Quarantined | Verdict::Interrupted => skipped(&format!(
            "{}: {}",
            outcome.verdict,
            outcome.note.clone().unwrap_or_default()
        )),
        Verdict::Fail | Verdict::Leak | Verdict::UnexpectedPass => {
            failed(outcome, NonSuccessKind::Failure)
        }
        Verdict::Timeout | Verdict::Crash => failed(outcome, NonSuccessKind::Error),
    }
}

fn skipped(reason: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(reason);
    status
}

fn failed(outcome: &Outcome, kind: NonSuccessKind) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(outcome.verdict.word());
    if let Some((last, earlier)) = outcome.attempts.split_last() {
        status.set_message(last.headline.as_str());
        status.set_description(failure::attempt_text(last));
        status.add_reruns(earlier.iter().map(rerun));
    }
    status
}

fn rerun(attempt: &Attempt) -> TestRerun {
    let mut rerun = TestRerun::new(NonSuccessKind::Failure);
    rerun.set_message(attempt.headline.as_str());
    rerun.set_time(attempt.elapsed);
    rerun
}
