//! The monitor of a machine, shared by all its users.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::command::Cmd;
use crate::author::action::Action;
use crate::author::failure::CaseResult;
use crate::author::log::Entry;
use crate::author::shared::Shared;
use crate::case::{Backend, Requirement};

/// How long to wait for an event before querying QEMU again. Long enough that constant queries take
/// little of the machine's time, and too short for anyone to notice.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A shared handle to a machine's monitor.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    pub(crate) backend: Backend,
    pub(crate) client: qmp::Client,
    /// The events that have arrived and not been taken yet.
    pub(crate) events: qmp::EventCache,
    /// Set once the machine was ended or has ended by itself: everything that ran on it is gone.
    pub(crate) ended: Arc<AtomicBool>,
}

impl Monitor {
    #[track_caller]
    pub(crate) fn cmd(&self, name: &str, arguments: impl serde::Serialize) -> Cmd {
        Cmd::new(self, name, arguments)
    }

    /// Sends a typed command that implements a request of the case, narrated as the case's own.
    #[track_caller]
    pub(crate) fn send<C: qmp::Command>(&self, command: C) -> Cmd {
        Cmd::new(self, C::NAME, command)
    }

    /// Sends a typed query on behalf of the harness, which is never logged.
    pub(crate) async fn query<C: qmp::Command>(&self, command: C) -> CaseResult<C::Return> {
        let limit = self.shared.wait_limit();
        Ok(self.client.call(command).deadline(limit).await?)
    }

    /// Sends a query on behalf of the harness whose result the case sees, or whose arguments come
    /// from the case.
    pub(crate) async fn ask(&self, name: &str, arguments: Value) -> CaseResult<Value> {
        let limit = self.shared.wait_limit();
        Ok(self.client.execute(name, arguments).deadline(limit).await?)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.client.closed_cause().is_some()
    }

    /// Logs an event, if narration is on.
    pub(crate) fn narrate_event(&self, event: &qmp::Event) {
        self.shared.narrate(|| Entry::from(event_json(event)));
    }

    /// Explains a command that failed because the case uses something that it did not declare.
    pub(crate) fn undeclared(&self, arguments: &Value) -> Option<String> {
        let facts = self.shared.capabilities().ok()?.host(self.backend)?;
        if facts.drivers.is_empty() {
            return None;
        }
        let declared = declared_drivers(&self.shared);
        let missing = drivers(arguments)
            .into_iter()
            .find(|driver| !facts.has_driver(driver) && !declared.contains(driver))?;
        Some(format!(
            "{} has no block driver `{missing}`, and the case does not declare that it needs it: \
             add `Driver(\"{missing}\")` to its needs",
            self.name
        ))
    }

    /// Repeats a query until the answer satisfies: at once, after each of these events, and
    /// periodically, because QEMU does not report every change.
    #[track_caller]
    pub(crate) fn until<T: 'static>(
        &self,
        what: String,
        command: &'static str,
        shown_by: qmp::Matcher,
        mut look: impl FnMut(&Value) -> CaseResult<Option<T>> + 'static,
    ) -> Action<'static, T> {
        let monitor = self.clone();
        let place = Location::caller();
        Action::at(place, what.clone(), async move {
            // Before the first query, so that no change after its answer is missed.
            let mut events = monitor.client.subscribe(shown_by);
            loop {
                let answer = monitor.ask(command, Value::Null).await?;
                if let Some(found) = look(&answer)? {
                    return Ok(found);
                }
                // Whatever the result, the next query shows it: the effect of a lost event, or an
                // error if the session has ended.
                let _ = tokio::time::timeout(ASK_AGAIN, events.recv()).await;
            }
        })
    }
}

pub(crate) fn event_json(event: &qmp::Event) -> Value {
    serde_json::to_value(event).unwrap_or_else(|_| json!({"event": event.name}))
}

fn declared_drivers(shared: &Shared) -> BTreeSet<&'static str> {
    let mut out = BTreeSet::new();
    for need in shared.entry().iter().flat_map(|entry| &entry.meta.needs) {
        need.walk(&mut |part| {
            if let Requirement::Driver(name) | Requirement::ReadOnlyDriver(name) = *part {
                out.insert(name);
            }
        });
    }
    out
}

/// All values of `driver` keys in the arguments.
fn drivers(arguments: &Value) -> Vec<&str> {
    let mut left = vec![arguments];
    let mut out = Vec::new();
    while let Some(value) = left.pop() {
        match value {
            Value::Object(object) => {
                out.extend(object.get("driver").and_then(Value::as_str));
                left.extend(object.values());
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::mocked;
    use qmp::mock::{Answer, Monitor as Mock};
    use std::sync::atomic::AtomicUsize;
    use tokio::time::Instant;

    /// A QEMU that answers `query-status` with the number of queries so far.
    fn counting() -> Mock {
        let asked = AtomicUsize::new(0);
        Mock::new().on("query-status", move |_| {
            Answer::value(json!(asked.fetch_add(1, Ordering::Relaxed)))
        })
    }

    fn reaches(count: u64) -> impl FnMut(&Value) -> CaseResult<Option<()>> {
        move |asked| Ok((asked.as_u64() >= Some(count)).then_some(()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_no_event_tells_of_is_asked_for_in_paces() {
        let (monitor, _qemu) = mocked::monitor(counting()).await;
        let start = Instant::now();
        let never = qmp::Matcher::event("NEVER");
        let what = || "the count".to_owned();
        let wait = monitor.until(what(), "query-status", never.clone(), reaches(100));
        wait.await.unwrap();
        assert_eq!(start.elapsed(), ASK_AGAIN * 100);
        // A condition that already holds takes no time.
        let wait = monitor.until(what(), "query-status", never, reaches(100));
        wait.await.unwrap();
        assert_eq!(start.elapsed(), ASK_AGAIN * 100);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_followed_by_a_question_at_once() {
        let stops = |asked: usize| match asked {
            100.. => Answer::value(json!(asked)),
            // Each answer is followed by an event that triggers the next query.
            _ => Answer::value(json!(asked)).event(qmp::Event::new("STOP")),
        };
        let asked = AtomicUsize::new(0);
        let qemu = Mock::new().on("query-status", move |_| {
            stops(asked.fetch_add(1, Ordering::Relaxed))
        });
        let (monitor, _qemu) = mocked::monitor(qemu).await;
        let start = Instant::now();
        let what = "the count".to_owned();
        let stop = qmp::Matcher::event("STOP");
        let wait = monitor.until(what, "query-status", stop, reaches(100));
        wait.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_ends_the_wait() {
        let qemu = Mock::new().on("query-status", |_| Answer::value(json!(1)).close());
        let (monitor, _qemu) = mocked::monitor(qemu).await;
        let what = "the count".to_owned();
        let wait = monitor.until(what, "query-status", qmp::Matcher::any(), reaches(2));
        let error = wait.await.unwrap_err();
        assert!(!error.message().contains("in time"), "{error}");
    }
}
