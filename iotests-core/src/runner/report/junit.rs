//! JUnit reports for CI systems, written at the end of a run.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::failure;
use super::story::{Row, Story};
use super::text::{indented, middle_cut, visible};
use crate::runner::event::Outcome;
use crate::runner::verdict::{Attempt, Verdict};

/// The report of a run.
pub(crate) fn junit(story: &Story) -> Report {
    let mut suite = TestSuite::new("iotests");
    if let Some(run) = story.run() {
        suite.add_property(("seed", run.seed.to_string().as_str()));
        suite.add_property(("system", run.system.as_str()));
        suite.add_property(("jobs", run.jobs.to_string().as_str()));
        suite.add_property(("file system", run.host.file_system.as_str()));
        for set in &run.sets {
            for (kind, tool) in &set.tools {
                let name = format!("{}.{kind}", set.name);
                let value = format!("{} {}", tool.version, tool.path.display());
                suite.add_property((name.as_str(), value.as_str()));
            }
        }
    }
    suite.set_time(story.summary.elapsed);
    suite.add_test_cases(story.rows.iter().map(case));
    suite.add_test_cases(not_run(story));
    let mut report = Report::new("iotests");
    report.set_time(story.summary.elapsed);
    report.add_test_suite(suite);
    report
}

/// Most bytes shown of an instance's log: CI systems show all logs on one page.
const LOG: usize = 16 << 10;

fn case(row: &Row) -> TestCase {
    let outcome = &row.outcome;
    let instance = &outcome.instance;
    let mut case = TestCase::new(instance.id.as_str(), status(outcome));
    case.set_classname(instance.case.as_str());
    case.set_time(outcome.elapsed);
    // Not in the schema, but GitLab and others read these attributes.
    case.extra.insert("file".into(), instance.place.file.as_str().into());
    let line = instance.place.line.to_string();
    case.extra.insert("line".into(), line.as_str().into());
    case.add_property(("description", instance.description.as_str()));
    case.add_property(("set", instance.set.as_str()));
    if outcome.verdict.is_failure() {
        case.add_property(("rerun", outcome.rerun.as_str()));
        if let Some(kept) = &outcome.kept {
            case.add_property(("kept", kept.display().to_string().as_str()));
        }
        case.set_system_out(visible(&said(row)));
        case.set_system_err(visible(&outcome.stderr_tail));
    }
    for reason in &outcome.not_run {
        case.add_property(("not-run", reason.as_str()));
    }
    if let Some(note) = &outcome.note {
        case.add_property(("note", note.as_str()));
    }
    if let Some(usual) = outcome.slower_than {
        case.add_property(("slower-than", usual.as_secs_f64().to_string().as_str()));
    }
    case
}

/// An error entry for instances that did not run: an incomplete run must not look like a success,
/// and JUnit has no other way to say so.
fn not_run(story: &Story) -> Option<TestCase> {
    let count = story.summary.not_run;
    if count == 0 && !story.was_killed {
        return None;
    }
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    let why = story.stopped.as_deref().unwrap_or("the run was stopped");
    status.set_type("interrupted");
    status.set_message(format!("{count} not run: {why}"));
    let mut case = TestCase::new(NOT_RUN, status);
    case.set_classname("iotests");
    Some(case)
}

/// The name of the entry for instances that did not run.
const NOT_RUN: &str = "the run as a whole";

/// The steps with their logs, then the output.
fn said(row: &Row) -> String {
    let mut said = String::new();
    for step in &row.steps {
        if !step.text.is_empty() {
            said += &format!("── {}\n", step.text);
        }
        said += &indented(&step.log, "");
    }
    said += &row.outcome.stdout_tail;
    middle_cut(&said, LOG)
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
        // JUnit has no other status for these that does not fail the run.
        Verdict::ExpectedFail | Verdict::Quarantined | Verdict::Interrupted => skipped(&format!(
            "{}: {}",
            outcome.verdict,
            outcome.note.clone().unwrap_or_default()
        )),
        Verdict::Fail
        | Verdict::Leak
        | Verdict::UnexpectedPass
        | Verdict::Timeout
        | Verdict::Crash => failed(outcome),
    }
}

fn skipped(reason: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(reason);
    status
}

fn failed(outcome: &Outcome) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind(outcome.verdict));
    status.set_type(outcome.verdict.word());
    if let Some((last, earlier)) = outcome.attempts.split_last() {
        status.set_message(last.headline.as_str());
        status.set_description(failure::attempt_text(last));
        status.add_reruns(earlier.iter().map(rerun));
    }
    status
}

fn rerun(attempt: &Attempt) -> TestRerun {
    let verdict = attempt.verdict.unwrap_or(Verdict::Crash);
    let mut rerun = TestRerun::new(kind(verdict));
    rerun.set_type(verdict.word());
    rerun.set_message(attempt.headline.as_str());
    rerun.set_description(failure::attempt_text(attempt));
    rerun.set_time(attempt.elapsed);
    rerun
}

/// In JUnit, a failure is reported by the case, an error happens to it.
const fn kind(verdict: Verdict) -> NonSuccessKind {
    match verdict {
        Verdict::Timeout | Verdict::Crash => NonSuccessKind::Error,
        _ => NonSuccessKind::Failure,
    }
}
