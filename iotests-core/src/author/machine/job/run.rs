//! Runs a job from its start to its dismissal.

use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;

use qmp::types::{JobCancel, JobComplete, JobDismiss, JobFinalize, QueryJobs};

use super::builder::JobBuilder;
use super::handle::Job;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::log::Entry;
use crate::author::machine::Monitor;

type Hook<'a> = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = CaseResult> + 'a>> + 'a>;

/// Runs a job to its end: completes it when it is ready, finalizes it when it is pending, dismisses
/// it when it is concluded. Awaiting it requires that the job succeeds.
///
/// If [narration](crate::author::Test::narrate) is on, the job's events and the commands are
/// logged.
#[must_use = "a job is seen through when this is awaited"]
pub struct Run<'a> {
    job: Begun,
    before_finalize: Option<Hook<'a>>,
    cancel: bool,
    place: &'static Location<'static>,
}

enum Begun {
    Started(Box<Job>),
    NotYet(Box<JobBuilder>),
}

impl Job {
    /// Runs it to its dismissal.
    #[track_caller]
    pub fn run<'a>(self) -> Run<'a> {
        let place = Location::caller();
        Run {
            job: Begun::Started(Box::new(self)),
            before_finalize: None,
            cancel: false,
            place,
        }
    }
}

impl<'a> Run<'a> {
    /// A run whose job has not been started yet.
    pub(super) fn starting(job: JobBuilder) -> Self {
        let place = job.place();
        Run {
            job: Begun::NotYet(Box::new(job)),
            before_finalize: None,
            cancel: false,
            place,
        }
    }

    /// Runs this before a pending job is finalized, for example to use its machine. The job must
    /// have been started as [`manual`](JobBuilder::manual).
    pub fn before_finalize<'b, F>(self, hook: impl FnOnce() -> F + 'b) -> Run<'b>
    where
        F: Future<Output = CaseResult> + 'b,
    {
        let Run {
            job, cancel, place, ..
        } = self;
        let before_finalize: Option<Hook<'b>> = Some(Box::new(move || Box::pin(hook())));
        Run {
            job,
            before_finalize,
            cancel,
            place,
        }
    }

    /// Sets the id of a job that has not been started yet.
    pub fn id(mut self, id: &str) -> Self {
        if let Begun::NotYet(job) = self.job {
            self.job = Begun::NotYet(Box::new(job.id(id)));
        }
        self
    }

    /// Cancels a pending job instead of finalizing it.
    pub fn cancel(mut self) -> Self {
        self.cancel = true;
        self
    }

    /// The job must fail, or its start be refused, with this error.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'a, ()> {
        let text = text.into();
        Action::at(self.place, "a job to fail", async move {
            match self.reach().await? {
                Some(error) => text.check("the job", &error),
                None => Err(Failure::new(format!(
                    "the job should have failed with {text}"
                ))),
            }
        })
    }

    /// Returns the error if the job fails or its start is refused.
    pub fn error(self) -> Action<'a, Option<String>> {
        Action::at(self.place, "a job to end", self.reach())
    }

    async fn reach(mut self) -> CaseResult<Option<String>> {
        // The id stays reserved until this job is gone.
        let mut _number = None;
        let job = match self.job {
            Begun::Started(job) => *job,
            Begun::NotYet(mut builder) => {
                _number = builder.take_number();
                match builder.begin().await? {
                    Ok(job) => job,
                    Err(refused) => return Ok(Some(refused.desc)),
                }
            }
        };
        let mut through = Through {
            job,
            error: None,
            hook: self.before_finalize.take(),
            cancel: self.cancel,
        };
        through.go().await?;
        through.job.finish();
        Ok(through.error)
    }
}

struct Through<'a> {
    job: Job,
    error: Option<String>,
    hook: Option<Hook<'a>>,
    cancel: bool,
}

impl Through<'_> {
    async fn go(&mut self) -> CaseResult {
        if self.job.is_ready {
            self.monitor().send(JobComplete::new(self.id())).await?;
        }
        loop {
            let event = self.job.events.recv().await?;
            if event.name != "JOB_STATUS_CHANGE" {
                self.job.monitor.narrate_event(&event);
                if event.name == "BLOCK_JOB_COMPLETED" {
                    // Early enough even for a job that dismisses itself.
                    self.error = event.text("error").map(str::to_owned).or(self.error.take());
                }
                continue;
            }
            let status = event.text("status").unwrap_or_default().to_owned();
            match status.as_str() {
                "aborting" | "concluded" => {
                    self.note_error().await?;
                    if status == "concluded" && !self.job.auto_dismiss {
                        self.monitor().send(JobDismiss::new(self.id())).await?;
                    }
                }
                "ready" => drop(self.monitor().send(JobComplete::new(self.id())).await?),
                "pending" if !self.job.auto_finalize => {
                    if let Some(hook) = self.hook.take() {
                        hook().await?;
                    }
                    let command = match self.cancel {
                        true => self.monitor().send(JobCancel::new(self.id())),
                        false => self.monitor().send(JobFinalize::new(self.id())),
                    };
                    command.await?;
                }
                "null" => return Ok(()),
                _ => {}
            }
        }
    }

    fn monitor(&self) -> &Monitor {
        &self.job.monitor
    }

    fn id(&self) -> &str {
        &self.job.id
    }

    /// A job that dismisses itself may be gone already; then its last event has the error.
    async fn note_error(&mut self) -> CaseResult {
        if self.error.is_some() {
            return Ok(());
        }
        let jobs = self.monitor().query(QueryJobs::new()).await?;
        let mine = jobs.into_iter().find(|job| job.id == self.job.id);
        if let Some(error) = mine.and_then(|job| job.error) {
            let shared = &self.job.monitor.shared;
            shared.narrate(|| Entry::from(format!("Job failed: {error}")));
            self.error = Some(error);
        }
        Ok(())
    }
}

impl<'a> IntoFuture for Run<'a> {
    type Output = CaseResult;
    type IntoFuture = Action<'a, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Action::at(self.place, "a job to end", async move {
            match self.reach().await? {
                None => Ok(()),
                Some(error) => Err(Failure::new(format!("the job failed: {error}"))),
            }
        })
    }
}
