//! Checked steps of a case: futures that know their line in the case.
//!
//! Every asynchronous operation of the author's API is an [`Action`]. It does nothing until it is
//! awaited. While it waits, the watchdog can report which line of the case waits and for what; when
//! it fails, the failure carries that line. (An `async fn` could do neither, because it cannot see
//! its caller.)

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::failure::CaseResult;
use crate::wire::Place;

/// A checked operation, started by awaiting it.
#[must_use = "an action does nothing until it is awaited"]
pub struct Action<'a, T> {
    what: String,
    place: &'static Location<'static>,
    future: Pin<Box<dyn Future<Output = CaseResult<T>> + 'a>>,
    waiting: Option<Waiting>,
}

impl<'a, T> Action<'a, T> {
    /// An action that runs `operation`; `what` completes "waiting for …".
    #[track_caller]
    pub fn new(what: impl Into<String>, future: impl Future<Output = CaseResult<T>> + 'a) -> Self {
        Self::at(Location::caller(), what, future)
    }

    /// The same for a builder, which recorded its line before it was awaited.
    pub fn at(
        place: &'static Location<'static>,
        what: impl Into<String>,
        future: impl Future<Output = CaseResult<T>> + 'a,
    ) -> Self {
        Action {
            what: what.into(),
            place,
            future: Box::pin(future),
            waiting: None,
        }
    }
}

impl<T> Future for Action<'_, T> {
    type Output = CaseResult<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.waiting.is_none() {
            this.waiting = Some(Waiting::begin(&this.what, this.place));
        }
        let polled = this.future.as_mut().poll(cx);
        if polled.is_ready() {
            this.waiting = None;
        }
        // An inner action has already set its own line, but the line in the case is the outer one.
        polled.map(|result| result.map_err(|failure| failure.at(this.place)))
    }
}

impl<T> fmt::Debug for Action<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Action({} at {})", self.what, self.place)
    }
}

/// Something that the case is waiting for at this moment.
#[derive(Clone, Debug)]
pub struct Wait {
    /// What is awaited, as a phrase that follows "waiting for".
    pub what: String,
    /// The line that waits.
    pub place: Place,
    /// How long it has waited so far.
    pub elapsed: Duration,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wait {
            what,
            place,
            elapsed,
        } = self;
        write!(
            f,
            "{place} has been waiting for {what} for {:.1} s",
            elapsed.as_secs_f64()
        )
    }
}

struct Entry {
    what: String,
    place: &'static Location<'static>,
    since: Instant,
}

/// The current waits, in the order in which they began. A static, because the watchdog reads it
/// from its own thread, and because one process runs one case.
static WAITS: Mutex<(u64, BTreeMap<u64, Entry>)> = Mutex::new((0, BTreeMap::new()));

fn waits() -> MutexGuard<'static, (u64, BTreeMap<u64, Entry>)> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Waiting(u64);

impl Waiting {
    fn begin(what: &str, place: &'static Location<'static>) -> Self {
        let mut waits = waits();
        waits.0 += 1;
        let id = waits.0;
        waits.1.insert(
            id,
            Entry {
                what: what.to_owned(),
                place,
                since: Instant::now(),
            },
        );
        Waiting(id)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        waits().1.remove(&self.0);
    }
}

/// All current waits, outermost first.
#[must_use]
pub fn current_waits() -> Vec<Wait> {
    let wait = |entry: &Entry| Wait {
        what: entry.what.clone(),
        place: entry.place.into(),
        elapsed: entry.since.elapsed(),
    };
    waits().1.values().map(wait).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::failure::Failure;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[track_caller]
    fn refuse() -> Action<'static, ()> {
        Action::new("a refusal", async { Err(Failure::new("refused")) })
    }

    #[test]
    fn a_failure_is_placed_at_the_line_that_called_the_operation() {
        let (failure, line) = (block_on(async { refuse().await.unwrap_err() }), line!());
        assert_eq!((failure.place().line, failure.message()), (line, "refused"));
        assert!(failure.place().file.ends_with("action.rs"));
    }

    #[test]
    fn an_operation_within_an_operation_leaves_the_outer_line() {
        let outer = Action::new("outside", async {
            refuse().await?;
            Ok(())
        });
        let line = line!() - 4;
        assert_eq!(block_on(outer).unwrap_err().place().line, line);
    }

    #[test]
    fn what_is_awaited_can_be_seen_while_it_is_awaited_and_not_after() {
        let seen = block_on(Action::new("the unit test's own wait", async {
            Ok(current_waits().iter().any(|wait| wait.what == "the unit test's own wait"))
        }));
        assert!(seen.unwrap());
        assert!(!current_waits().iter().any(|wait| wait.what == "the unit test's own wait"));
    }
}
