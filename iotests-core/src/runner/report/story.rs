//! The contents of records, gathered for the reports on complete or truncated runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::text::{count, middle_cut};
use crate::runner::event::{InstanceInfo, Outcome, RunEvent, RunStarted, Summary};
use crate::runner::record::Record;
use crate::runner::verdict::{Attempt, Verdict};
use crate::wire::{CaseEvent, Place};

/// Most bytes of the log of an instance that passed: half of them from the start, half from the
/// end.
const LOG_OF_A_PASS: usize = 2 << 10;
/// Most bytes of the log of any other instance.
const LOG: usize = 64 << 10;
/// Most bytes of all logs together. The record has more.
const ALL_LOGS: usize = 16 << 20;

/// One run, or several whose records are merged.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Their first events.
    pub(crate) runs: Vec<RunStarted>,
    /// All instances, in the order in which they ended.
    pub(crate) rows: Vec<Row>,
    /// Warnings, and why the run was stopped.
    pub(crate) notes: Vec<String>,
    /// The counts.
    pub(crate) summary: Summary,
    /// Why instances did not run or were interrupted: a run was stopped, or its runner killed.
    pub(crate) stopped: Option<String>,
    /// A record has no end because its runner was killed.
    pub(crate) was_killed: bool,
    /// The size of all logs so far.
    logged: usize,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Row {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The steps of its last attempt.
    pub(crate) steps: Vec<Step>,
    /// Where and when it ran.
    pub(crate) ran: Option<Ran>,
}

/// A step of a case, with what was logged in it.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Its text; empty for what was logged before the first step.
    pub(crate) text: String,
    /// Its place in the source.
    pub(crate) place: Option<Place>,
    /// The time since the start of the attempt.
    pub(crate) after: Duration,
    /// What was logged.
    pub(crate) log: String,
}

/// Where and when an instance ran.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    /// The index of the run.
    pub(crate) run: usize,
    /// Its slot among the instances running at the same time.
    pub(crate) slot: u16,
    /// When its first attempt started, since the start of the run.
    pub(crate) from: Duration,
    /// When its last attempt ended.
    pub(crate) to: Duration,
}

/// An instance that has not ended yet, and its current attempt so far.
struct Begun {
    instance: InstanceInfo,
    slot: Option<u16>,
    first: Duration,
    attempt: Duration,
    failed: Vec<Attempt>,
    steps: Vec<Step>,
    not_run: Vec<String>,
}

impl Begun {
    fn step(&mut self, text: String, place: Place, now: Duration) {
        self.steps.push(Step {
            text,
            place: Some(place),
            after: now.saturating_sub(self.attempt),
            log: String::new(),
        });
    }

    fn log(&mut self, text: &str) {
        if self.steps.is_empty() {
            self.steps.push(Step::default());
        }
        if let Some(step) = self.steps.last_mut() {
            step.log += text;
            step.log += if text.ends_with('\n') { "" } else { "\n" };
        }
    }
}

impl FromIterator<Record> for Story {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut story = Self::default();
        let mut begun: BTreeMap<String, Begun> = BTreeMap::new();
        // The instances of the current run that have not ended; `None` after the run's end.
        let mut left: Option<BTreeSet<String>> = None;
        // The elapsed time of the current run, and of the longest one.
        let (mut now, mut longest) = (Duration::ZERO, Duration::ZERO);
        for record in records {
            if let RunEvent::RunStarted(run) = record.event {
                // Another record starts: whatever has not ended in the last one was cut off.
                story.cut(&mut begun, &mut left, now);
                left = Some(run.selected.iter().cloned().collect());
                story.runs.push(*run);
                now = Duration::ZERO;
                continue;
            }
            now = now.max(record.elapsed);
            longest = longest.max(now);
            match record.event {
                RunEvent::RunStarted(_) => {}
                RunEvent::Warning { text } => story.notes.push(text),
                RunEvent::Stopping { why } => {
                    story.notes.push(format!("stopping: {why}"));
                    story.stopped.get_or_insert(why);
                }
                RunEvent::InstanceSkipped { instance, reason } => {
                    story.add(Outcome::skipped(instance, reason), None, now);
                }
                RunEvent::InstanceStarted { instance, .. } => {
                    let earlier = begun.remove(&instance.id);
                    let (first, failed) = match earlier {
                        Some(earlier) => (earlier.first, earlier.failed),
                        None => (record.elapsed, Vec::new()),
                    };
                    let this = Begun {
                        slot: record.slot,
                        first,
                        attempt: record.elapsed,
                        failed,
                        steps: Vec::new(),
                        not_run: Vec::new(),
                        instance,
                    };
                    begun.insert(this.instance.id.clone(), this);
                }
                RunEvent::Case { id, said } => {
                    let Some(begun) = begun.get_mut(&id) else {
                        continue;
                    };
                    match said {
                        CaseEvent::Step { text, place } => begun.step(text, place, record.elapsed),
                        CaseEvent::Log { text } => begun.log(&text),
                        CaseEvent::NotRun { reason } => begun.not_run.push(reason),
                        _ => {}
                    }
                }
                RunEvent::AttemptFailed { id, attempt } => {
                    if let Some(begun) = begun.get_mut(&id) {
                        begun.failed.push(*attempt);
                    }
                }
                RunEvent::InstanceFinished(outcome) => {
                    let begun = begun.remove(&outcome.instance.id);
                    if let Some(left) = &mut left {
                        left.remove(&outcome.instance.id);
                    }
                    story.add(*outcome, begun, now);
                }
                RunEvent::RunFinished(end) => {
                    story.summary.not_run += end.not_run;
                    left = None;
                }
            }
        }
        story.cut(&mut begun, &mut left, now);
        story.summary.elapsed = longest;
        story
    }
}

impl Story {
    /// The first run.
    pub(crate) fn run(&self) -> Option<&RunStarted> {
        self.runs.first()
    }

    /// Adds an outcome that is in no record.
    pub(crate) fn add_outcome(&mut self, outcome: Outcome) {
        self.add(outcome, None, Duration::ZERO);
    }

    fn add(&mut self, outcome: Outcome, begun: Option<Begun>, now: Duration) {
        self.summary.add(&outcome);
        let run = self.runs.len().saturating_sub(1);
        let ran = begun.as_ref().and_then(|begun| {
            Some(Ran {
                run,
                slot: begun.slot?,
                from: begun.first,
                to: now,
            })
        });
        let mut steps = begun.map(|begun| begun.steps).unwrap_or_default();
        let most = match outcome.verdict {
            Verdict::Pass => LOG_OF_A_PASS,
            _ => LOG,
        };
        let mut left = most.min(ALL_LOGS.saturating_sub(self.logged));
        for (index, step) in steps.iter_mut().enumerate().rev() {
            // The last steps matter most; earlier ones share what is left.
            step.log = middle_cut(&step.log, if index == 0 { left } else { left / 2 });
            left = left.saturating_sub(step.log.len());
            self.logged += step.log.len();
        }
        self.rows.push(Row {
            outcome,
            steps,
            ran,
        });
    }

    /// Handles the end of a record: instances that had started were interrupted, others did not
    /// run.
    fn cut(
        &mut self,
        begun: &mut BTreeMap<String, Begun>,
        left: &mut Option<BTreeSet<String>>,
        now: Duration,
    ) {
        if let Some(mut left) = left.take() {
            left.retain(|id| !begun.contains_key(id));
            self.was_killed = true;
            self.summary.not_run += left.len();
            let why = "the runner was killed".to_owned();
            self.notes.push(match left.len() {
                0 => why.clone(),
                left => format!("{why}: {} did not run", count(left, "instance")),
            });
            self.stopped.get_or_insert(why);
        }
        for mut begun in std::mem::take(begun).into_values() {
            let attempt = Attempt {
                verdict: Some(Verdict::Interrupted),
                headline: "the runner was killed".to_owned(),
                ..Attempt::default()
            };
            let instance = begun.instance.clone();
            let mut outcome = Outcome::new(instance, Verdict::Interrupted, attempt);
            outcome.attempts.splice(0..0, std::mem::take(&mut begun.failed));
            outcome.not_run = std::mem::take(&mut begun.not_run);
            outcome.elapsed = now.saturating_sub(begun.first);
            let step = begun.steps.iter().rfind(|step| !step.text.is_empty());
            outcome.note = Some(match step {
                Some(step) => format!("the runner was killed in the step \"{}\"", step.text),
                None => "the runner was killed".to_owned(),
            });
            self.add(outcome, Some(begun), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str) -> InstanceInfo {
        InstanceInfo {
            id: id.to_owned(),
            ..InstanceInfo::default()
        }
    }

    fn record(event: RunEvent) -> Record {
        Record {
            at: 0,
            elapsed: Duration::from_secs(1),
            slot: Some(2),
            event,
        }
    }

    fn started(id: &str) -> RunEvent {
        RunEvent::InstanceStarted {
            instance: info(id),
            attempt: 1,
            expected: None,
        }
    }

    fn said(id: &str, said: CaseEvent) -> RunEvent {
        let id = id.to_owned();
        RunEvent::Case { id, said }
    }

    fn finished(id: &str, verdict: Verdict) -> RunEvent {
        let outcome = Outcome::new(info(id), verdict, Attempt::default());
        RunEvent::InstanceFinished(Box::new(outcome))
    }

    #[test]
    fn instances_running_when_a_record_ends_are_interrupted_in_their_last_step() {
        let step = CaseEvent::Step {
            text: "the copy".to_owned(),
            place: Place::default(),
        };
        let failed = RunEvent::AttemptFailed {
            id: "b".to_owned(),
            attempt: Box::default(),
        };
        let events = [
            started("a"),
            started("b"),
            finished("a", Verdict::Pass),
            failed,
            started("b"),
            said("b", step),
        ];
        let story: Story = events.into_iter().map(record).collect();
        assert!(!story.was_killed, "how it began is not known");
        assert_eq!(story.summary.count(Verdict::Pass), 1);
        assert_eq!(story.summary.count(Verdict::Interrupted), 1);
        let cut = story.rows.last().unwrap();
        assert_eq!(cut.outcome.instance.id, "b");
        assert!(cut.outcome.note.as_ref().unwrap().contains("\"the copy\""));
        assert_eq!(cut.outcome.attempts.len(), 2, "the earlier one is known");
        assert_eq!(cut.ran.unwrap().slot, 2);
    }

    fn begins(selected: &[&str]) -> RunEvent {
        RunEvent::RunStarted(Box::new(RunStarted {
            selected: selected.iter().map(ToString::to_string).collect(),
            ..RunStarted::default()
        }))
    }

    #[test]
    fn the_rest_of_a_run_without_an_end_did_not_run() {
        let pass = |id| [started(id), finished(id, Verdict::Pass)];
        let end = RunEvent::RunFinished(Box::default());
        let whole = [begins(&["a"])].into_iter().chain(pass("a")).chain([end]);
        let whole: Vec<RunEvent> = whole.collect();
        let story: Story = whole.iter().cloned().map(record).collect();
        assert!(!story.was_killed && story.summary.not_run == 0);

        let cut = [begins(&["b", "c", "d", "e"])].into_iter().chain(pass("b"));
        let cut: Vec<RunEvent> = cut.chain([started("c")]).collect();
        for events in [[&whole[..], &cut].concat(), [&cut[..], &whole].concat()] {
            let story: Story = events.into_iter().map(record).collect();
            assert!(story.was_killed);
            assert_eq!(story.summary.not_run, 2);
            assert_eq!(story.summary.count(Verdict::Interrupted), 1);
            let note = "the runner was killed: 2 instances did not run";
            assert_eq!(story.notes, [note]);
        }
    }

    #[test]
    fn a_log_is_in_its_step_and_all_logs_together_are_limited() {
        let log = |text: String| CaseEvent::Log { text };
        let many = 300;
        let events = (0..many).flat_map(|number| {
            let id = number.to_string();
            [
                started(&id),
                said(&id, log(format!("first {number}"))),
                said(&id, log("x".repeat(LOG))),
                finished(&id, Verdict::Fail),
            ]
        });
        let story: Story = events.map(record).collect();
        assert!(story.rows[0].steps[0].log.starts_with("first 0\nxxx"));
        let bytes: usize = story.rows.iter().map(|row| row.steps[0].log.len()).sum();
        assert!(bytes <= ALL_LOGS + many * 64, "{bytes}");
        let all_but_cut = story.rows.iter().filter(|row| row.steps[0].log.len() > 100);
        assert!(all_but_cut.count() >= ALL_LOGS / LOG - 1);
    }
}
