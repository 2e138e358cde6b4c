//! Jobs that were started.

use std::future::IntoFuture;
use std::panic::Location;

use qmp::JobOutcome;
use qmp::types::{
    BlockJobCancel, BlockJobComplete, BlockJobPause, BlockJobResume, BlockJobSetSpeed, JobDismiss,
    JobFinalize,
};
use serde_json::{Value, json};

use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::machine::{Machine, Monitor};
use crate::author::origin::Origin;

/// A job that was started. The case must end it with [`Job::wait`], [`Job::complete`],
/// [`Job::cancel`], [`Job::run`] …, or leave it to the end of its machine with [`Job::leave`].
/// Dropping an unfinished job fails the case, unless its machine has been ended before.
pub struct Job {
    pub(super) monitor: Monitor,
    pub(super) id: String,
    pub(super) auto_finalize: bool,
    pub(super) auto_dismiss: bool,
    pub(super) events: qmp::EventStream,
    status: qmp::Job,
    /// Whether it was seen to become ready, so that no remaining event reports it.
    pub(super) is_ready: bool,
    finished: bool,
    /// Where it was started.
    started: Origin,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did its work.
    Completed,
    /// It was cancelled.
    Cancelled,
    /// It failed, with this error.
    Failed(String),
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// The last event of a block job (`BLOCK_JOB_COMPLETED`, `BLOCK_JOB_CANCELLED`); `null` for a
    /// job that has no such event.
    pub event: Value,
}

/// The events of a block job that carry its id as the device.
const BLOCK_JOB_EVENTS: [&str; 4] = [
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_READY",
];

impl Job {
    /// Starts following a job that is about to be started.
    pub(super) fn follow(
        monitor: &Monitor,
        id: String,
        (finalize, dismiss): (bool, bool),
        place: &'static Location<'static>,
    ) -> Self {
        let own = id.clone();
        let mine = move |event: &qmp::Event| {
            let key = if BLOCK_JOB_EVENTS.contains(&event.name.as_str()) {
                "device"
            } else {
                "id"
            };
            event.text(key) == Some(&own)
        };
        let names = BLOCK_JOB_EVENTS.into_iter().chain(["BLOCK_JOB_PENDING", "JOB_STATUS_CHANGE"]);
        let events = monitor.client.subscribe(qmp::Matcher::one_of(names).when(mine));
        let client = monitor.client.with_deadline(monitor.shared.wait_limit());
        Job {
            monitor: monitor.clone(),
            status: client.job(&id),
            id,
            auto_finalize: finalize,
            auto_dismiss: dismiss,
            events,
            is_ready: false,
            finished: false,
            started: Origin::of(place.into()),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What `query-jobs` reports about it.
    #[track_caller]
    pub fn info(&self) -> Action<'_, Value> {
        Action::new(
            format!("the state of job {}", self.id),
            self.find("query-jobs", "id"),
        )
    }

    /// What `query-block-jobs` reports about it.
    #[track_caller]
    pub fn block_info(&self) -> Action<'_, Value> {
        Action::new(
            format!("the state of job {}", self.id),
            self.find("query-block-jobs", "device"),
        )
    }

    async fn find(&self, command: &str, key: &str) -> CaseResult<Value> {
        let jobs = self.monitor.ask(command, Value::Null).await?;
        let mine = jobs.as_array().into_iter().flatten().find(|job| job[key] == self.id.as_str());
        mine.cloned()
            .ok_or_else(|| Failure::new(format!("there is no job {}: {jobs}", self.id)))
    }

    /// Waits until it has this status (`JobStatus` in QEMU's `qapi/job.json`).
    #[track_caller]
    pub fn wait_status(&mut self, status: &str) -> Action<'_, ()> {
        let status = status.to_owned();
        Action::new(format!("job {} to be {status}", self.id), async move {
            self.reach(async |job| job.wait_status(status.as_str()).await).await
        })
    }

    /// Waits until what `query-jobs` reports about it satisfies the condition, and returns the
    /// report.
    #[track_caller]
    pub fn until(
        &self,
        what: &str,
        satisfies: impl Fn(&Value) -> bool + 'static,
    ) -> Action<'static, Value> {
        self.until_in("query-jobs", "id", what, satisfies)
    }

    /// Waits until what `query-block-jobs` reports about it satisfies the condition, and returns
    /// the report.
    #[track_caller]
    pub fn until_block_info(
        &self,
        what: &str,
        satisfies: impl Fn(&Value) -> bool + 'static,
    ) -> Action<'static, Value> {
        self.until_in("query-block-jobs", "device", what, satisfies)
    }

    #[track_caller]
    fn until_in(
        &self,
        command: &'static str,
        key: &'static str,
        what: &str,
        satisfies: impl Fn(&Value) -> bool + 'static,
    ) -> Action<'static, Value> {
        let id = self.id.clone();
        let what = format!("job {id}: {what}");
        self.monitor.until(what, command, self.shown_by(), move |jobs| {
            let mut all = jobs.as_array().into_iter().flatten();
            let job = all.find(|job| job[key] == id.as_str());
            let job = job.ok_or_else(|| Failure::new(format!("job {id} is gone: {jobs}")))?;
            Ok(satisfies(job).then(|| job.clone()))
        })
    }

    /// The events that report changes of its state. (No event reports its progress.)
    fn shown_by(&self) -> qmp::Matcher {
        qmp::Matcher::event("JOB_STATUS_CHANGE").data(json!({"id": self.id}))
    }

    /// Waits until it is ready to be completed.
    #[track_caller]
    pub fn wait_ready(&mut self) -> Action<'_, ()> {
        Action::new(format!("job {} to be ready", self.id), async move {
            match self.ready_or_ended().await? {
                None => Ok(()),
                Some(Ended { outcome, .. }) => Err(Failure::new(format!(
                    "job {} ended before it was ready: {outcome:?}",
                    self.id
                ))),
            }
        })
    }

    /// Waits until it is ready or has ended.
    async fn ready_or_ended(&mut self) -> CaseResult<Option<Ended>> {
        match self.status.wait_ready().await {
            Ok(()) => {
                self.narrate();
                self.is_ready = true;
                Ok(None)
            }
            Err(qmp::Error::Job(error)) if matches!(*error, qmp::JobError::Ended { .. }) => {
                Ok(Some(self.end().await?))
            }
            Err(error) => self.reach(async |_| Err(error)).await,
        }
    }

    /// Waits for the job, and adds its events so far to an error.
    async fn reach<T>(
        &mut self,
        wait: impl AsyncFnOnce(&mut qmp::Job) -> Result<T, qmp::Error>,
    ) -> CaseResult<T> {
        let error = match wait(&mut self.status).await {
            Ok(value) => return Ok(value),
            Err(error) => Failure::from(error),
        };
        let seen = self.seen().join(", ");
        Err(error.context(format!("job {} (events: {seen})", self.id)))
    }

    /// The events that have not been consumed, in short.
    fn seen(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = self.events.try_recv() {
            let status =
                event.text("status").map(|status| format!(" {status}")).unwrap_or_default();
            seen.push(format!("{}{status}", event.name));
        }
        seen
    }

    /// Logs the block job events that have arrived, if narration is on; always returns the last
    /// event that reports its end.
    fn narrate(&mut self) -> Value {
        let mut last = Value::Null;
        while let Ok(Some(event)) = self.events.try_recv() {
            if event.name != "JOB_STATUS_CHANGE" {
                self.monitor.narrate_event(&event);
            }
            if matches!(
                event.name.as_str(),
                "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED"
            ) {
                last = serde_json::to_value(&*event).unwrap_or_default();
            }
        }
        last
    }

    /// Waits until it ends by itself; it must complete, with all of its work done.
    #[track_caller]
    pub fn wait(self) -> Ending {
        Ending {
            job: self,
            way: Way::ByItself,
            place: Location::caller(),
        }
    }

    /// Waits until it is ready, completes it, and waits for its end like [`Job::wait`].
    #[track_caller]
    pub fn complete(self) -> Ending {
        Ending {
            job: self,
            way: Way::Completed,
            place: Location::caller(),
        }
    }

    /// Cancels it, and returns how it ended: a ready mirror completes instead.
    #[track_caller]
    pub fn cancel(self) -> Action<'static, Ended> {
        self.cancelled(false)
    }

    /// Cancels it in any state: even a ready mirror is cancelled.
    #[track_caller]
    pub fn force_cancel(self) -> Action<'static, Ended> {
        self.cancelled(true)
    }

    #[track_caller]
    fn cancelled(mut self, force: bool) -> Action<'static, Ended> {
        let what = format!("job {} to be cancelled", self.id);
        Action::new(what, async move {
            let cancel = BlockJobCancel::new(&self.id).force(force);
            self.monitor.send(cancel).await?;
            self.end().await
        })
    }

    pub(super) async fn end(&mut self) -> CaseResult<Ended> {
        let end = self.reach(async |job| job.wait_end().await).await?;
        self.finished = true;
        let event = self.narrate();
        let outcome = match end {
            JobOutcome::Completed => Outcome::Completed,
            JobOutcome::Cancelled => Outcome::Cancelled,
            JobOutcome::Failed(error) => Outcome::Failed(error),
            JobOutcome::Unknown => {
                let what = format!("job {} is gone, and how it ended is not known", self.id);
                return Err(Failure::new(what));
            }
        };
        Ok(Ended { outcome, event })
    }

    /// Pauses it, and waits until it is really idle.
    #[track_caller]
    pub fn pause(&self) -> Action<'_, ()> {
        let place = Location::caller();
        Action::at(place, format!("job {} to rest", self.id), async move {
            self.monitor.send(BlockJobPause::new(&self.id)).await?;
            let rests = |job: &Value| job["paused"] == true && job["busy"] == false;
            self.until_block_info("at rest", rests).await.map(drop)
        })
    }

    /// Resumes it.
    #[track_caller]
    pub fn resume(&self) -> Action<'static, ()> {
        self.send(BlockJobResume::new(&self.id))
    }

    /// Limits it to this many bytes per second from now on; 0 for no limit.
    #[track_caller]
    pub fn set_speed(&self, bytes: u64) -> Action<'static, ()> {
        // A limit beyond the type's maximum is never reached.
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.send(BlockJobSetSpeed::new(&self.id, bytes))
    }

    /// Finalizes a pending job that was started as [`manual`](super::JobBuilder::manual).
    #[track_caller]
    pub fn finalize(&self) -> Action<'static, ()> {
        self.send(JobFinalize::new(&self.id))
    }

    #[track_caller]
    fn send<C: qmp::Command>(&self, command: C) -> Action<'static, ()> {
        let call = self.monitor.send(command);
        Action::new(C::NAME, async move {
            call.await?;
            Ok(())
        })
    }

    /// Dismisses a job that was started as [`manual`](super::JobBuilder::manual), once it has
    /// concluded. It must have completed, as for [`Job::wait`].
    #[track_caller]
    pub fn dismiss(self) -> Ending {
        Ending {
            job: self,
            way: Way::Dismissed,
            place: Location::caller(),
        }
    }

    /// Leaves it running, for a case about a machine that ends while a job runs.
    pub fn leave(mut self) {
        self.finish();
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.finished && !self.monitor.has_ended() {
            let problem = format!(
                "job {} on {} was still running when the case was done with it",
                self.id, self.monitor.name
            );
            self.monitor.shared.problem(&self.started, problem);
        }
    }
}

/// Waits for the end of a job, which must succeed unless the case expects otherwise.
#[must_use = "a job is waited for when this is awaited"]
pub struct Ending {
    job: Job,
    way: Way,
    place: &'static Location<'static>,
}

/// How to end a job.
enum Way {
    ByItself,
    Completed,
    Dismissed,
}

impl Ending {
    async fn reach(&mut self) -> CaseResult<Ended> {
        let job = &mut self.job;
        match self.way {
            Way::ByItself => job.end().await,
            Way::Completed => {
                // If it fails before that, its own error is reported.
                if let Some(ended) = job.ready_or_ended().await? {
                    return Ok(ended);
                }
                job.monitor.send(BlockJobComplete::new(&job.id)).await?;
                job.end().await
            }
            Way::Dismissed => {
                job.wait_status("concluded").await?;
                let ended = job.end().await?;
                job.monitor.send(JobDismiss::new(&job.id)).await?;
                Ok(ended)
            }
        }
    }

    /// Accepts any outcome.
    pub fn outcome(mut self) -> Action<'static, Ended> {
        let what = format!("job {} to end", self.job.id);
        Action::at(self.place, what, async move { self.reach().await })
    }

    /// The job must fail with this error.
    pub fn expect_error(mut self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let text = text.into();
        let what = format!("job {} to fail", self.job.id);
        Action::at(self.place, what, async move {
            let job = format!("job {}", self.job.id);
            match self.reach().await?.outcome {
                Outcome::Failed(error) => text.check(&job, &error),
                other => Err(Failure::new(format!(
                    "{job} should have failed with {text}, but it was {other:?}"
                ))),
            }
        })
    }
}

impl IntoFuture for Ending {
    type Output = CaseResult<Ended>;
    type IntoFuture = Action<'static, Ended>;

    fn into_future(mut self) -> Self::IntoFuture {
        let what = format!("job {} to complete", self.job.id);
        Action::at(self.place, what, async move {
            let ended = self.reach().await?;
            let data = &ended.event["data"];
            match &ended.outcome {
                Outcome::Completed if data["offset"] == data["len"] => Ok(ended),
                Outcome::Completed => {
                    let is_short = data["offset"].as_u64() < data["len"].as_u64();
                    let what = match is_short {
                        true => "left work undone",
                        false => "did more than its total",
                    };
                    Err(Failure::new(format!("job {} {what}: {data}", self.job.id)))
                }
                other => Err(Failure::new(format!(
                    "job {} should have completed, but it was {other:?}",
                    self.job.id
                ))),
            }
        })
    }
}

impl Machine {
    /// Asserts that no job of any kind is left.
    #[track_caller]
    pub fn assert_no_jobs(&self) -> Action<'_, ()> {
        Action::new("the list of jobs", async move {
            for list in ["query-jobs", "query-block-jobs"] {
                let jobs = self.monitor.ask(list, Value::Null).await?;
                if !jobs.as_array().is_some_and(Vec::is_empty) {
                    return Err(Failure::new(format!("{list} has {jobs}, expected no job")));
                }
            }
            Ok(())
        })
    }
}
