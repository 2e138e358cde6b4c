//! JUnit: one file at the end of a run, for CI systems.

use std::fs::File;
use std::io;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::failure;
use super::{Palette, Reporter};
use crate::runner::event::{InstanceInfo, Outcome, RunEvent};
use crate::runner::verdict::{Attempt, Verdict};

/// Collects instances, and writes them when the run has ended.
pub(crate) struct Junit {
    file: File,
    suite: TestSuite,
}

impl Junit {
    /// Into this file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            suite: TestSuite::new("iotests"),
        }
    }

    fn add(
        &mut self,
        instance: &InstanceInfo,
        status: TestCaseStatus,
        time: Duration,
    ) -> &mut TestCase {
        let mut case = TestCase::new(instance.id.as_str(), status);
        case.set_classname(instance.case.as_str());
        case.set_time(time);
        case.add_property(("description", instance.description.as_str()));
        case.add_property(("set", instance.set.as_str()));
        self.suite.test_cases.push(case);
        let last = self.suite.test_cases.len() - 1;
        &mut self.suite.test_cases[last]
    }

    fn finished(&mut self, outcome: &Outcome) {
        let status = status(outcome);
        let (out, err) = (outcome.stdout_tail.clone(), outcome.stderr_tail.clone());
        let case = self.add(&outcome.instance, status, outcome.elapsed);
        if outcome.verdict.is_failure() {
            case.add_property(("rerun", outcome.rerun.as_str()));
            case.set_system_out(out);
            case.set_system_err(err);
        }
        if let Some(note) = &outcome.note {
            case.add_property(("note", note.as_str()));
        }
    }
}

impl Reporter for Junit {
    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        match event {
            RunEvent::RunStarted(run) => {
                self.suite
                    .add_property(("seed", run.seed.to_string().as_str()));
                self.suite.add_property(("system", run.system.as_str()));
                for set in &run.sets {
                    for (kind, tool) in &set.tools {
                        let value = format!("{} {}", tool.version, tool.path.display());
                        self.suite.add_property((
                            format!("{}.{kind}", set.name).as_str(),
                            value.as_str(),
                        ));
                    }
                }
            }
            RunEvent::InstanceSkipped { instance, reason } => {
                self.add(instance, skipped(&reason.to_string()), Duration::ZERO);
            }
            RunEvent::InstanceFinished(outcome) => self.finished(outcome),
            RunEvent::RunFinished(summary) => {
                let mut suite = std::mem::replace(&mut self.suite, TestSuite::new("iotests"));
                suite.set_time(summary.elapsed);
                let counted = suite.test_cases;
                suite.test_cases = Vec::new();
                suite.add_test_cases(counted);
                let mut report = Report::new("iotests");
                report.set_time(summary.elapsed);
                report.add_test_suite(suite);
                report.serialize(&mut self.file).map_err(io::Error::other)?;
            }
            _ => {}
        }
        Ok(())
    }
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
        status.set_description(failure::attempt_text(last, Palette::new(false)));
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
