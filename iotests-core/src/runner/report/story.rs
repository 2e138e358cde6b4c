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

impl FromIterator<Record> for Story {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut story = Self::default();
        let mut begun: BTreeMap<String, (InstanceInfo, Vec<String>)> = BTreeMap::new();
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
                    let attempt = Attempt {
                        verdict: Some(Verdict::Skip),
                        skip: Some(reason),
                        ..Attempt::default()
                    };
                    story.add(Outcome::new(instance, Verdict::Skip, attempt), Vec::new());
                }
                RunEvent::InstanceStarted { instance, .. } => {
                    begun.insert(instance.id.clone(), (instance, Vec::new()));
                }
                RunEvent::Case {
                    id,
                    said: CaseEvent::Step { text, .. },
                } => {
                    if let Some((_, steps)) = begun.get_mut(&id) {
                        steps.push(text);
                    }
                }
                RunEvent::InstanceFinished(outcome) => {
                    let steps = begun.remove(&outcome.instance.id);
                    story.add(*outcome, steps.map(|(_, steps)| steps).unwrap_or_default());
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
        self.summary.add(outcome.verdict, outcome.skip());
        self.rows.push(Row { outcome, steps });
    }

    /// What had begun when the record ends was interrupted.
    fn cut(&mut self, begun: &mut BTreeMap<String, (InstanceInfo, Vec<String>)>) {
        for (instance, steps) in std::mem::take(begun).into_values() {
            let attempt = Attempt {
                verdict: Some(Verdict::Interrupted),
                headline: "the runner was killed meanwhile".to_owned(),
                ..Attempt::default()
            };
            let mut outcome = Outcome::new(instance, Verdict::Interrupted, attempt);
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
