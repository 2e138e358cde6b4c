//! A job's progress over time.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::job::{Job, has_ended};
use crate::error::Error;
use crate::types::JobInfo;

/// The progress of a job; see [`Job::progress`]. Also a [`futures_core::Stream`].
pub struct JobProgress<'a> {
    next: Next<'a>,
    interval: Duration,
    first: bool,
}

type Asked<'a> = (&'a mut Job, Result<Option<JobInfo>, Error>);

enum Next<'a> {
    Idle(&'a mut Job),
    Asking(Pin<Box<dyn Future<Output = Asked<'a>> + Send + 'a>>),
    Over,
}

impl<'a> JobProgress<'a> {
    pub(super) fn new(job: &'a mut Job, interval: Duration) -> Self {
        Self {
            next: Next::Idle(job),
            interval,
            first: true,
        }
    }

    /// The job's next state; none once it is gone. A job that has ended but not been dismissed is
    /// reported once.
    ///
    /// # Errors
    /// As for any call; nothing follows.
    pub async fn next(&mut self) -> Result<Option<JobInfo>, Error> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<JobInfo>, Error>> {
        loop {
            match std::mem::replace(&mut self.next, Next::Over) {
                Next::Over => return Poll::Ready(Ok(None)),
                Next::Idle(job) => {
                    let pause = (!std::mem::take(&mut self.first)).then_some(self.interval);
                    self.next = Next::Asking(Box::pin(async move {
                        let waited = match pause {
                            Some(pause) => job.next_change(pause).await,
                            None => Ok(()),
                        };
                        let info = match waited {
                            Ok(()) => job.info().await,
                            Err(error) => Err(error),
                        };
                        (job, info)
                    }));
                }
                Next::Asking(mut asking) => match asking.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.next = Next::Asking(asking);
                        return Poll::Pending;
                    }
                    Poll::Ready((job, Ok(Some(info)))) => {
                        if !has_ended(&info) {
                            self.next = Next::Idle(job);
                        }
                        return Poll::Ready(Ok(Some(info)));
                    }
                    Poll::Ready((_, end)) => return Poll::Ready(end),
                },
            }
        }
    }
}

impl futures_core::Stream for JobProgress<'_> {
    type Item = Result<JobInfo, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx).map(Result::transpose)
    }
}

impl fmt::Debug for JobProgress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobProgress").finish_non_exhaustive()
    }
}
