//! What a record tells, gathered for the reports that are written when a run has ended, or when it was cut.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::runner::event::{InstanceInfo, Outcome, RunEvent, RunStarted, Summary};
use crate::runner::record::Record;
use crate::runner::verdict::{Attempt, Verdict};
use crate::wire::CaseEvent;

/// One run, or several of which the records were put together.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// What the first of them began with.
    pub(crate) run: Option<RunStarted>,
    /// Every instance, in the order in which they ended.
    pub(crate) rows: Vec<Row>,
    /// Warnings, and why the run was stopped.
    pub(crate) notes: Vec<String>,
    /// The counts.
    pub(crate) summary: Summary,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Row {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The steps of its last attempt.
    pub(crate) steps: Vec<String>,
}

/// An instance that has not ended yet, and what its attempt has said so far.
struct Begun {
    instance: InstanceInfo,
    steps: Vec<String>,
    not_run: Vec<String>,
}

impl Begun {
    const fn new(instance: InstanceInfo) -> Self {
        Self {
            instance,
            steps: Vec::new(),
            not_run: Vec::new(),
        }
    }
}

impl FromIterator<Record> for Story {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut story = Self::default();
        let mut begun: BTreeMap<String, Begun> = BTreeMap::new();
        let mut elapsed = Duration::ZERO;
        for record in records {
            elapsed = elapsed.max(record.elapsed);
            match record.event {
                RunEvent::RunStarted(run) => {
                    // Another record begins: what of the one before had not ended was cut.
                    story.cut(&mut begun);
                    story.run.get_or_insert(*run);
                }
                RunEvent::Warning { text } => story.notes.push(text),
                RunEvent::Stopping { why } => story.notes.push(format!("stopping: {why}")),
                RunEvent::InstanceSkipped { instance, reason } => {
                    story.add(Outcome::skipped(instance, reason), Vec::new());
                }
                RunEvent::InstanceStarted { instance, .. } => {
                    begun.insert(instance.id.clone(), Begun::new(instance));
                }
                RunEvent::Case {
                    id,
                    said: CaseEvent::Step { text, .. },
                } => {
                    if let Some(begun) = begun.get_mut(&id) {
                        begun.steps.push(text);
                    }
                }
                RunEvent::Case {
                    id,
                    said: CaseEvent::NotRun { reason },
                } => {
                    if let Some(begun) = begun.get_mut(&id) {
                        begun.not_run.push(reason);
                    }
                }
                RunEvent::InstanceFinished(outcome) => {
                    let begun = begun.remove(&outcome.instance.id);
                    story.add(*outcome, begun.map(|begun| begun.steps).unwrap_or_default());
                }
                RunEvent::RunFinished(end) => story.summary.not_run += end.not_run,
                RunEvent::Case { .. } | RunEvent::AttemptFailed { .. } => {}
            }
        }
        story.cut(&mut begun);
        story.summary.elapsed = elapsed;
        story
    }
}

impl Story {
    fn add(&mut self, outcome: Outcome, steps: Vec<String>) {
        self.summary.add(&outcome);
        self.rows.push(Row { outcome, steps });
    }

    /// What had begun when the record ends was interrupted.
    fn cut(&mut self, begun: &mut BTreeMap<String, Begun>) {
        for begun in std::mem::take(begun).into_values() {
            let steps = begun.steps;
            let attempt = Attempt {
                verdict: Some(Verdict::Interrupted),
                headline: "the runner was killed meanwhile".to_owned(),
                ..Attempt::default()
            };
            let mut outcome = Outcome::new(begun.instance, Verdict::Interrupted, attempt);
            outcome.not_run = begun.not_run;
            outcome.note = Some(match steps.last() {
                Some(step) => format!("the runner was killed meanwhile, in the step \"{step}\""),
                None => "the runner was killed meanwhile".to_owned(),
            });
            self.add(outcome, steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Place;

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
            slot: None,
            event,
        }
    }

    #[test]
    fn what_had_begun_when_a_record_ends_is_interrupted_in_its_last_step() {
        let started = |id| RunEvent::InstanceStarted {
            instance: info(id),
            attempt: 1,
            expected: None,
        };
        let step = RunEvent::Case {
            id: "b".to_owned(),
            said: CaseEvent::Step {
                text: "the copy".to_owned(),
                place: Place {
                    file: String::new(),
                    line: 1,
                },
            },
        };
        let passed = Outcome::new(info("a"), Verdict::Pass, Attempt::default());
        let finished = RunEvent::InstanceFinished(Box::new(passed));
        let events = [started("a"), started("b"), finished, step];
        let story: Story = events.into_iter().map(record).collect();
        assert_eq!(story.summary.count(Verdict::Pass), 1);
        assert_eq!(story.summary.count(Verdict::Interrupted), 1);
        let cut = story.rows.last().unwrap();
        assert_eq!(cut.outcome.instance.id, "b");
        assert!(cut.outcome.note.as_ref().unwrap().contains("\"the copy\""));
    }
}
