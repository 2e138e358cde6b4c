//! Follows one job to a status or its end, by events and by polling.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::call::within;
use super::events::{EventStream, RecvError};
use super::handle::Client;
use super::progress::JobProgress;
use crate::command::Command;
use crate::error::{Error, JobError};
use crate::matcher::Matcher;
use crate::message::Event;
use crate::types::{
    JobCancel, JobComplete, JobDismiss, JobFinalize, JobInfo, JobPause, JobResume, JobStatus,
    QueryJobs,
};

/// How long to wait for an event before polling again. Events arrive at once; polling covers those
/// that QEMU merged or that were lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The error of a cancelled job as QEMU reports it: `strerror(ECANCELED)`.
const CANCELLED: &str = "Operation canceled";

/// A job, followed from the moment [`Client::job`] was called.
///
/// Events wake it, but it trusts only `query-jobs` and a job's last event, so an event that was
/// merged, lost or meant for an earlier job of the same name cannot mislead it for long. It does
/// not guess what it cannot know: see [`JobOutcome::Unknown`].
///
/// Its waits have no limit but [`Job::timeout`]. The queries that they send are calls, with the
/// deadline for calls.
#[derive(Debug)]
pub struct Job {
    client: Client,
    id: String,
    events: EventStream,
    timeout: Option<Duration>,
    /// A job of this name has existed.
    seen: bool,
    told: Told,
}

/// What the events of the current job of this name have reported.
#[derive(Debug, Default)]
struct Told {
    /// From the last event of a block job, or because it concluded without having aborted.
    end: Option<JobOutcome>,
    /// It had not aborted as of its last event, and no event was lost since.
    on_course: bool,
}

impl Told {
    fn status(&mut self, status: &JobStatus) {
        match status {
            JobStatus::Concluded if self.on_course && self.end.is_none() => {
                self.end = Some(JobOutcome::Completed);
            }
            JobStatus::Aborting => self.on_course = false,
            JobStatus::Concluded | JobStatus::Null | JobStatus::Other(_) => {}
            _ => self.on_course = true,
        }
    }
}

/// What a batch of events reported.
#[derive(Default)]
struct Heard {
    /// One of them started a job of this name.
    begins: bool,
    /// The last status that one of them reported.
    status: Option<JobStatus>,
}

/// What is known of a job after polling.
enum State {
    /// It exists.
    Present(JobInfo),
    /// It existed, and no longer does.
    Gone,
    /// There is no such job, and no trace that there was one.
    Unknown,
}

/// How a job ended, no matter who dismissed it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a job that has ended may have failed"]
pub enum JobOutcome {
    /// It did its work. This includes a mirror that was ready when it was cancelled without force:
    /// it ends with a consistent copy.
    Completed,
    /// It was cancelled.
    Cancelled,
    /// It failed, for the reason that QEMU reports.
    Failed(String),
    /// It is gone, and its last events were lost: they arrived faster than they were read, before
    /// it was followed, or between two sessions ([`Client::resume`]).
    Unknown,
}

impl Job {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let events = Self::follow_events(&client, &id);
        Self {
            client,
            id,
            events,
            timeout: None,
            seen: false,
            told: Told::default(),
        }
    }

    fn follow_events(client: &Client, id: &str) -> EventStream {
        let own = id.to_owned();
        let names = [
            "JOB_STATUS_CHANGE",
            "BLOCK_JOB_COMPLETED",
            "BLOCK_JOB_CANCELLED",
        ];
        let mine = move |event: &Event| {
            let member = if event.name == "JOB_STATUS_CHANGE" {
                "id"
            } else {
                "device"
            };
            event.text(member) == Some(&own)
        };
        client.subscribe(Matcher::one_of(names).when(mine))
    }

    /// Whether the client has moved on to another session.
    fn is_left_behind(&self) -> bool {
        !self.events.is_of(&self.client.shared())
    }

    /// Follows it in the client's current session, if that has changed.
    fn rejoin(&mut self) {
        if !self.is_left_behind() {
            return;
        }
        self.take_events();
        self.events = Self::follow_events(&self.client, &self.id);
        // What happened between the sessions is unknown; an end reported before remains valid.
        self.told.on_course = false;
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Limits each wait. Default: none, because only the caller knows how much there is to copy.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What `query-jobs` reports for it now; none if it does not exist.
    ///
    /// # Errors
    /// As for any call.
    pub async fn info(&mut self) -> Result<Option<JobInfo>, Error> {
        Ok(match self.ask().await? {
            State::Present(info) => Some(info),
            State::Gone | State::Unknown => None,
        })
    }

    /// Its status; [`JobStatus::Null`] if it does not exist.
    ///
    /// # Errors
    /// As for any call.
    pub async fn status(&mut self) -> Result<JobStatus, Error> {
        let info = self.info().await?;
        Ok(info.map_or(JobStatus::Null, |info| info.status))
    }

    /// Its progress: what `query-jobs` reports at once, then on each change of status and at least
    /// once per `interval`, until it has ended or is gone.
    ///
    /// ```no_run
    /// # async fn f(mut job: qmp::Job) -> Result<(), qmp::Error> {
    /// let mut progress = job.progress(std::time::Duration::from_millis(200));
    /// while let Some(info) = progress.next().await? {
    ///     println!("{} of {}", info.current_progress, info.total_progress);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn progress(&mut self, interval: Duration) -> JobProgress<'_> {
        JobProgress::new(self, interval)
    }

    /// Waits until the job waits for `job-complete`.
    ///
    /// # Errors
    /// When it ends first, or the timeout expires; see [`Job::wait_status`].
    pub async fn wait_ready(&mut self) -> Result<(), Error> {
        self.wait_status(JobStatus::Ready).await
    }

    /// Waits until the job waits for `job-finalize`.
    ///
    /// # Errors
    /// When it ends first, or the timeout expires; see [`Job::wait_status`].
    pub async fn wait_pending(&mut self) -> Result<(), Error> {
        self.wait_status(JobStatus::Pending).await
    }

    /// Waits until the job has this status.
    ///
    /// # Errors
    /// [`JobError::Ended`] when it ends first, [`JobError::Unknown`] when there is no such job,
    /// [`Error::Timeout`]; and all of [`Call`](crate::Call).
    pub async fn wait_status(&mut self, wanted: impl Into<JobStatus>) -> Result<(), Error> {
        let wanted = wanted.into();
        let task = format!("see job {} {wanted}", self.id);
        within(self.timeout, || task.clone(), self.follow(&wanted)).await
    }

    /// Waits until the job has ended: it is concluded, or gone.
    ///
    /// # Errors
    /// [`JobError::Unknown`] when there is no such job, [`Error::Timeout`]; and all of
    /// [`Call`](crate::Call). A job that failed is not an error here; see [`Job::wait_completed`].
    pub async fn wait_end(&mut self) -> Result<JobOutcome, Error> {
        let task = format!("see job {} end", self.id);
        within(self.timeout, || task.clone(), async {
            loop {
                if let Some(outcome) = self.outcome().await? {
                    return Ok(outcome);
                }
                self.next_change(ASK_AGAIN).await?;
            }
        })
        .await
    }

    /// Waits until the job has ended, which it must do as [`JobOutcome::Completed`].
    ///
    /// # Errors
    /// As [`Job::wait_end`], and [`JobError::Ended`] for any other outcome.
    pub async fn wait_completed(&mut self) -> Result<(), Error> {
        match self.wait_end().await? {
            JobOutcome::Completed => Ok(()),
            outcome => Err(self.ended("completed", outcome)),
        }
    }

    async fn follow(&mut self, wanted: &JobStatus) -> Result<(), Error> {
        loop {
            match self.ask().await? {
                State::Present(info) if info.status == *wanted => return Ok(()),
                State::Present(info) if has_ended(&info) => {
                    let outcome = self.outcome_of(&info);
                    return Err(self.ended(wanted.as_str(), outcome));
                }
                State::Present(_) => {}
                State::Gone if *wanted == JobStatus::Null => return Ok(()),
                State::Gone => {
                    let outcome = self.told_outcome();
                    return Err(self.ended(wanted.as_str(), outcome));
                }
                State::Unknown => return Err(self.unknown()),
            }
            self.next_change(ASK_AGAIN).await?;
        }
    }

    /// How the job has ended, if it has.
    async fn outcome(&mut self) -> Result<Option<JobOutcome>, Error> {
        match self.ask().await? {
            State::Present(info) if has_ended(&info) => Ok(Some(self.outcome_of(&info))),
            State::Present(_) => Ok(None),
            State::Gone => Ok(Some(self.told_outcome())),
            State::Unknown => Err(self.unknown()),
        }
    }

    /// How a job that still exists ended.
    fn outcome_of(&self, info: &JobInfo) -> JobOutcome {
        match &info.error {
            None => JobOutcome::Completed,
            Some(error) if error == CANCELLED => JobOutcome::Cancelled,
            Some(_) if self.told.end == Some(JobOutcome::Cancelled) => JobOutcome::Cancelled,
            Some(error) => JobOutcome::Failed(error.clone()),
        }
    }

    /// How a job that is gone ended, from its events.
    fn told_outcome(&self) -> JobOutcome {
        self.told.end.clone().unwrap_or(JobOutcome::Unknown)
    }

    /// Queries QEMU, and processes the events up to its answer.
    async fn ask(&mut self) -> Result<State, Error> {
        let found = loop {
            self.rejoin();
            self.take_events();
            let jobs = match self.client.call(QueryJobs::new()).await {
                // The client has moved to another session, which can be queried as well.
                Err(error) if error.is_closed() && self.is_left_behind() => continue,
                jobs => jobs?,
            };
            let found = jobs.into_iter().find(|job| job.id == self.id);
            // Events from before the answer were delivered before it, and perhaps a few later ones.
            // If these start a job of this name, the answer may be about its predecessor; if the
            // job has changed since the answer, no further event may report it.
            let heard = self.take_events();
            let answered = found.as_ref().map_or(&JobStatus::Null, |job| &job.status);
            let is_old = heard.status.is_some_and(|status| status != *answered);
            if !heard.begins && !is_old {
                break found;
            }
        };
        Ok(match found {
            Some(info) => {
                self.seen = true;
                self.told.status(&info.status);
                if has_ended(&info) {
                    self.told.end = Some(self.outcome_of(&info));
                }
                State::Present(info)
            }
            None if self.seen => State::Gone,
            None => State::Unknown,
        })
    }

    /// Processes the events that have arrived.
    fn take_events(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            match self.events.try_recv() {
                Ok(Some(event)) => {
                    let status = self.note(&event);
                    heard.begins |= status == Some(JobStatus::Created);
                    heard.status = status.or(heard.status);
                }
                Err(RecvError::Lagged(_)) => self.told = Told::default(),
                Ok(None) | Err(_) => return heard,
            }
        }
    }

    /// Processes an event; returns the status that it reports.
    fn note(&mut self, event: &Arc<Event>) -> Option<JobStatus> {
        match event.name.as_str() {
            "JOB_STATUS_CHANGE" => {
                self.seen = true;
                let status = JobStatus::from(event.text("status").unwrap_or_default());
                if status == JobStatus::Created {
                    self.told = Told::default();
                }
                self.told.status(&status);
                return Some(status);
            }
            "BLOCK_JOB_CANCELLED" => self.told.end = Some(JobOutcome::Cancelled),
            _ => {
                self.told.end = Some(match event.text("error") {
                    Some(error) => JobOutcome::Failed(error.to_owned()),
                    None => JobOutcome::Completed,
                });
            }
        }
        None
    }

    /// Waits for an event, or until it is time to poll again.
    pub(super) async fn next_change(&mut self, pause: Duration) -> Result<(), Error> {
        match tokio::time::timeout(pause, self.events.recv()).await {
            Ok(Ok(event)) => {
                self.note(&event);
            }
            Ok(Err(RecvError::Lagged(_))) => self.told = Told::default(),
            Ok(Err(_)) if self.is_left_behind() => {}
            Ok(Err(end)) => return Err(end.into_error(format!("follow job {}", self.id))),
            Err(_) => {}
        }
        Ok(())
    }

    fn unknown(&self) -> Error {
        Error::Job(Box::new(JobError::Unknown {
            id: self.id.clone(),
        }))
    }

    fn ended(&self, wanted: &str, outcome: JobOutcome) -> Error {
        Error::Job(Box::new(JobError::Ended {
            id: self.id.clone(),
            wanted: wanted.to_owned(),
            outcome,
        }))
    }

    /// `job-pause`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn pause(&self) -> Result<(), Error> {
        self.send(JobPause::new(&self.id)).await
    }

    /// `job-resume`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn resume(&self) -> Result<(), Error> {
        self.send(JobResume::new(&self.id)).await
    }

    /// `job-cancel`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.send(JobCancel::new(&self.id)).await
    }

    /// `job-complete`: lets a job that is ready finish.
    ///
    /// # Errors
    /// As for any call.
    pub async fn complete(&self) -> Result<(), Error> {
        self.send(JobComplete::new(&self.id)).await
    }

    /// `job-finalize`: lets a job that is pending make its changes.
    ///
    /// # Errors
    /// As for any call.
    pub async fn finalize(&self) -> Result<(), Error> {
        self.send(JobFinalize::new(&self.id)).await
    }

    /// `job-dismiss`: removes a job that is concluded.
    ///
    /// # Errors
    /// As for any call.
    pub async fn dismiss(&self) -> Result<(), Error> {
        self.send(JobDismiss::new(&self.id)).await
    }

    async fn send<C: Command>(&self, order: C) -> Result<(), Error> {
        self.client.call(order).await.map(drop)
    }
}

/// A job that is gone is not listed at all.
pub(super) fn has_ended(info: &JobInfo) -> bool {
    info.status == JobStatus::Concluded
}

impl fmt::Display for JobOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("it has completed"),
            Self::Cancelled => f.write_str("it was cancelled"),
            Self::Failed(error) => write!(f, "it failed: {error}"),
            Self::Unknown => f.write_str("it is gone, and how it ended is not known"),
        }
    }
}
