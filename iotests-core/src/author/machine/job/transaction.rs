//! Transactions: several actions, of which all are carried out or none.

use std::panic::Location;

use serde_json::{Value, json};

use super::builder::JobBuilder;
use super::handle::Job;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::machine::{Machine, Monitor};

/// Jobs and other actions that start together, or not at all.
#[must_use = "a transaction is sent by start()"]
pub struct Transaction {
    monitor: Monitor,
    actions: Vec<Part>,
    grouped: bool,
    place: &'static Location<'static>,
}

enum Part {
    Plain(Value),
    Job(JobBuilder),
}

impl Machine {
    /// An empty transaction, to which actions are added.
    #[track_caller]
    pub fn transaction(&self) -> Transaction {
        Transaction {
            monitor: self.monitor.clone(),
            actions: Vec::new(),
            grouped: false,
            place: Location::caller(),
        }
    }
}

impl Transaction {
    /// Adds an action that starts no job, such as `block-dirty-bitmap-add`, with its data.
    pub fn action(mut self, kind: &str, data: Value) -> Self {
        let action = json!({"type": kind, "data": data});
        self.actions.push(Part::Plain(action));
        self
    }

    /// Adds a job of the same machine.
    pub fn job(mut self, job: JobBuilder) -> Self {
        self.actions.push(Part::Job(job));
        self
    }

    /// Groups the completion of the jobs: if one fails or is cancelled, the others are cancelled.
    pub fn grouped(mut self) -> Self {
        self.grouped = true;
        self
    }

    /// Sends it, and returns its jobs in the order in which they were added:
    /// `let [one, two] = ….start().await?;`.
    pub fn start<const N: usize>(self) -> Action<'static, [Job; N]> {
        Action::at(self.place, "a transaction", async move {
            let monitor = self.monitor.clone();
            let (arguments, jobs) = self.begin().await?;
            let jobs: [Job; N] = match jobs.try_into() {
                Ok(jobs) => jobs,
                Err(jobs) => {
                    let wrong = format!("the transaction has {} jobs, not {N}", jobs.len());
                    jobs.into_iter().for_each(Job::leave);
                    return Err(Failure::new(wrong));
                }
            };
            match monitor.cmd("transaction", arguments).outcome().await? {
                Ok(_) => Ok(jobs),
                Err(refused) => {
                    jobs.into_iter().for_each(Job::leave);
                    Err(refused.into())
                }
            }
        })
    }

    /// Sends it; it must fail with this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let text = text.into();
        Action::at(self.place, "a transaction to be refused", async move {
            let monitor = self.monitor.clone();
            let (arguments, jobs) = self.begin().await?;
            jobs.into_iter().for_each(Job::leave);
            let command = monitor.cmd("transaction", arguments);
            command.expect_error(text).await
        })
    }

    /// The arguments of the command, and its jobs, whose events are followed from now on.
    async fn begin(self) -> CaseResult<(Value, Vec<Job>)> {
        let (mut actions, mut jobs) = (Vec::new(), Vec::new());
        for part in self.actions {
            match part {
                Part::Plain(action) => actions.push(action),
                Part::Job(builder) => {
                    let (kind, data, job) = builder.resolved().await?.follow()?;
                    actions.push(json!({"type": kind, "data": data}));
                    jobs.push(job);
                }
            }
        }
        let mode = if self.grouped {
            "grouped"
        } else {
            "individual"
        };
        let properties = json!({"completion-mode": mode});
        let arguments = json!({"actions": actions, "properties": properties});
        Ok((arguments, jobs))
    }
}
