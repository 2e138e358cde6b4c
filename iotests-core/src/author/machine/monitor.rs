//! The monitor of a machine, shared by everything that talks to it.

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

/// How long an event is waited for before QEMU is asked again. Long enough for a machine that is
/// asked all the time to have nearly all of its own, and too short for anyone to wait for.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A machine's monitor, for as long as anybody holds it.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    pub(crate) backend: Backend,
    pub(crate) client: qmp::Client,
    /// What has happened and no case or wait has taken yet.
    pub(crate) events: qmp::EventCache,
    /// Set when the machine was ended, or has ended by itself: what ran on it is gone.
    pub(crate) ended: Arc<AtomicBool>,
}

impl Monitor {
    #[track_caller]
    pub(crate) fn cmd(&self, name: &str, arguments: impl serde::Serialize) -> Cmd {
        Cmd::new(self, name, arguments)
    }

    /// A typed command that the case has ordered in other words, narrated as one of its own.
    #[track_caller]
    pub(crate) fn send<C: qmp::Command>(&self, command: C) -> Cmd {
        Cmd::new(self, C::NAME, command)
    }

    /// Asks something typed on behalf of the harness, which never enters the log.
    pub(crate) async fn query<C: qmp::Command>(&self, command: C) -> CaseResult<C::Return> {
        let limit = self.shared.wait_limit();
        Ok(self.client.call(command).deadline(limit).await?)
    }

    /// Asks on behalf of the harness for what a case is shown, or with what a case has said.
    pub(crate) async fn ask(&self, name: &str, arguments: Value) -> CaseResult<Value> {
        let limit = self.shared.wait_limit();
        Ok(self.client.execute(name, arguments).deadline(limit).await?)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.client.closed_cause().is_some()
    }

    /// Logs an event, if the case has its doings narrated.
    pub(crate) fn narrate_event(&self, event: &qmp::Event) {
        self.shared.narrate(|| Entry::from(event_json(event)));
    }

    /// What is wrong with a command that failed because the case uses what it did not declare.
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

    /// Asks until the answer satisfies: at once, after each of these events, and now and then without
    /// one, as QEMU does not report everything.
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
            // Before the first question, so that nothing happens unseen after its answer.
            let mut events = monitor.client.subscribe(shown_by);
            loop {
                let answer = monitor.ask(command, Value::Null).await?;
                if let Some(found) = look(&answer)? {
                    return Ok(found);
                }
                // Whatever comes of it, the next answer shows it: an event that was lost among others
                // is in it, and the end of the session is its error.
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

    /// A QEMU that answers `query-status` with how often it was asked.
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
        // What holds already takes no time.
        let wait = monitor.until(what(), "query-status", never, reaches(100));
        wait.await.unwrap();
        assert_eq!(start.elapsed(), ASK_AGAIN * 100);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_followed_by_a_question_at_once() {
        let stops = |asked: usize| match asked {
            100.. => Answer::value(json!(asked)),
            // Each answer is followed by the event that makes another one worth while.
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
