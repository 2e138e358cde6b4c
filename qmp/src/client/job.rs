//! Follows one job to a status, by events and by asking.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::call::{Call, within};
use super::events::{EventStream, RecvError};
use super::handle::Client;
use crate::error::{Error, JobError};
use crate::matcher::Matcher;
use crate::message::Event;

/// How long to wait for an event before asking again. Events tell at once; asking covers those
/// that QEMU merged or that were lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A job, followed from the moment [`Client::job`] was called.
///
/// Events wake it, but it believes only what `query-jobs` says and the last event of a job, so an
/// event that was merged, lost or meant for an earlier job of the same name cannot mislead it for
/// long.
#[derive(Debug)]
pub struct Job {
    client: Client,
    id: String,
    events: EventStream,
    /// There was a job of this name.
    seen: bool,
    /// The error of a job that was dismissed automatically, from `BLOCK_JOB_COMPLETED`.
    error: Option<String>,
    cancelled: bool,
}

/// What is known of a job after asking for it.
enum State {
    /// It is there.
    Present(Info),
    /// It was there, and is no more.
    Gone,
    /// There is no such job, and no trace that there was one.
    Unknown,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobEnd {
    /// `concluded` if it still waits to be dismissed, `null` if it is gone.
    pub status: String,
    /// The error that QEMU reports.
    pub error: Option<String>,
    /// Whether an event said that it was cancelled.
    pub cancelled: bool,
}

/// What `query-jobs` says of a job.
#[derive(Clone, Debug, Deserialize)]
struct Info {
    id: String,
    status: String,
    error: Option<String>,
}

impl Info {
    fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "concluded" | "null")
    }
}

impl Job {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let own = id.clone();
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
        let events = client.subscribe(Matcher::one_of(names).when(mine));
        Self {
            client,
            id,
            events,
            seen: false,
            error: None,
            cancelled: false,
        }
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until the job waits for `job-complete`.
    ///
    /// # Errors
    /// When it ends before, or time runs out; see [`Job::wait_status`].
    pub async fn wait_ready(&mut self) -> Result<(), Error> {
        self.wait_status("ready").await
    }

    /// Waits until the job waits for `job-finalize`.
    ///
    /// # Errors
    /// When it ends before, or time runs out; see [`Job::wait_status`].
    pub async fn wait_pending(&mut self) -> Result<(), Error> {
        self.wait_status("pending").await
    }

    /// Waits until the job has this status (`JobStatus` in `qapi/job.json`).
    ///
    /// # Errors
    /// [`JobError::Failed`] when it ends with an error before, [`JobError::Passed`] when it ends
    /// without one, [`JobError::Unknown`] when there is no such job; and all of [`Call`](crate::Call).
    pub async fn wait_status(&mut self, wanted: &str) -> Result<(), Error> {
        let deadline = self.client.deadline();
        let task = format!("see job {} {wanted}", self.id);
        within(deadline, || task.clone(), self.follow(wanted)).await
    }

    /// Waits until the job has ended: it is concluded, or gone.
    ///
    /// # Errors
    /// [`JobError::Unknown`] when there is no such job; and all of [`Call`](crate::Call). A job
    /// that failed is not an error here: see [`JobEnd::error`].
    pub async fn wait_end(&mut self) -> Result<JobEnd, Error> {
        let deadline = self.client.deadline();
        let task = format!("see job {} end", self.id);
        within(deadline, || task.clone(), async {
            loop {
                if let Some(end) = self.ended().await? {
                    return Ok(end);
                }
                self.next_change().await?;
            }
        })
        .await
    }

    async fn follow(&mut self, wanted: &str) -> Result<(), Error> {
        loop {
            match self.ask().await? {
                State::Present(info) if info.status == wanted => return Ok(()),
                State::Present(info) if info.has_ended() => {
                    return Err(self.missed(wanted, info.status, info.error));
                }
                State::Present(_) => {}
                State::Gone if wanted == "null" => return Ok(()),
                State::Gone => {
                    let error = self.error.clone();
                    return Err(self.missed(wanted, "null".into(), error));
                }
                State::Unknown => return Err(self.unknown()),
            }
            self.next_change().await?;
        }
    }

    /// Whether the job has ended, and how.
    async fn ended(&mut self) -> Result<Option<JobEnd>, Error> {
        match self.ask().await? {
            State::Present(info) if info.has_ended() => Ok(Some(JobEnd {
                status: info.status,
                error: info.error,
                cancelled: self.cancelled,
            })),
            State::Present(_) => Ok(None),
            State::Gone => Ok(Some(JobEnd {
                status: "null".into(),
                error: self.error.clone(),
                cancelled: self.cancelled,
            })),
            State::Unknown => Err(self.unknown()),
        }
    }

    /// Asks QEMU, and takes in the events up to its answer.
    async fn ask(&mut self) -> Result<State, Error> {
        let jobs: Vec<Info> = loop {
            self.take_events();
            let ask = Call::new(&self.client, "query-jobs", Ok(None));
            let jobs = ask.no_deadline().await?;
            // What happened before the answer has been delivered before it, and perhaps a little
            // more. If a job of this name begins with that, the answer may be about the one before.
            if !self.take_events() {
                break jobs;
            }
        };
        Ok(match jobs.into_iter().find(|job| job.id == self.id) {
            Some(info) => {
                self.seen = true;
                State::Present(info)
            }
            None if self.seen => State::Gone,
            None => State::Unknown,
        })
    }

    /// Takes in the events that have come; says whether a job of this name begins with them.
    fn take_events(&mut self) -> bool {
        let mut begins = false;
        loop {
            match self.events.try_recv() {
                Ok(Some(event)) => begins |= self.note(&event),
                Err(RecvError::Lagged(_)) => {}
                Ok(None) | Err(RecvError::Closed(_)) => return begins,
            }
        }
    }

    /// Takes in an event; says whether a job of this name begins with it.
    fn note(&mut self, event: &Arc<Event>) -> bool {
        match event.name.as_str() {
            "JOB_STATUS_CHANGE" => {
                self.seen = true;
                if event.text("status") == Some("created") {
                    self.error = None;
                    self.cancelled = false;
                    return true;
                }
            }
            "BLOCK_JOB_CANCELLED" => self.cancelled = true,
            _ => self.error = event.text("error").map(str::to_owned),
        }
        false
    }

    async fn next_change(&mut self) -> Result<(), Error> {
        match tokio::time::timeout(ASK_AGAIN, self.events.recv()).await {
            Ok(Ok(event)) => {
                self.note(&event);
            }
            Ok(Err(RecvError::Lagged(_))) | Err(_) => {}
            Ok(Err(RecvError::Closed(cause))) => {
                let task = format!("follow job {}", self.id);
                return Err(Error::Closed { task, cause });
            }
        }
        Ok(())
    }

    fn unknown(&self) -> Error {
        Error::Job(Box::new(JobError::Unknown {
            id: self.id.clone(),
        }))
    }

    fn missed(&self, wanted: &str, status: String, error: Option<String>) -> Error {
        let id = self.id.clone();
        Error::Job(Box::new(match error {
            Some(message) => JobError::Failed { id, message },
            None => JobError::Passed {
                id,
                wanted: wanted.into(),
                status,
            },
        }))
    }

    /// Sends a job command such as `job-pause` or `job-cancel`.
    async fn command(&self, name: &str) -> Result<(), Error> {
        self.client
            .execute(name, json!({"id": self.id}))
            .await
            .map(drop)
    }

    /// `job-pause`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn pause(&self) -> Result<(), Error> {
        self.command("job-pause").await
    }

    /// `job-resume`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn resume(&self) -> Result<(), Error> {
        self.command("job-resume").await
    }

    /// `job-cancel`.
    ///
    /// # Errors
    /// As for any call.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.command("job-cancel").await
    }

    /// `job-complete`: lets a job that is ready finish.
    ///
    /// # Errors
    /// As for any call.
    pub async fn complete(&self) -> Result<(), Error> {
        self.command("job-complete").await
    }

    /// `job-finalize`: lets a job that is pending make its changes.
    ///
    /// # Errors
    /// As for any call.
    pub async fn finalize(&self) -> Result<(), Error> {
        self.command("job-finalize").await
    }

    /// `job-dismiss`: removes a job that is concluded.
    ///
    /// # Errors
    /// As for any call.
    pub async fn dismiss(&self) -> Result<(), Error> {
        self.command("job-dismiss").await
    }
}
