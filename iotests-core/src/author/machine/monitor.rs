//! The monitor of a machine, shared by everything that talks to it.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::command::Cmd;
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Failure};
use crate::author::log::Entry;
use crate::author::shared::Shared;
use crate::case::{Backend, Requirement};

/// A machine's monitor, for as long as anybody holds it.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    pub(crate) backend: Backend,
    pub(crate) client: qmp::Client,
    /// Set when the machine was ended, or has ended by itself: what ran on it is gone.
    pub(crate) ended: Arc<AtomicBool>,
}

impl Monitor {
    #[track_caller]
    pub(crate) fn cmd(&self, name: &str, arguments: impl serde::Serialize) -> Cmd {
        Cmd::new(self, name, arguments)
    }

    /// Asks something on behalf of the harness, which never enters the log.
    pub(crate) async fn ask(&self, name: &str, arguments: Value) -> CaseResult<Value> {
        let patience = self.shared.patience();
        Ok(self
            .client
            .execute(name, arguments)
            .deadline(patience)
            .await?)
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

    /// Asks again and again until the answer satisfies; each answer is awaited, so this is as slow
    /// as the machine, and it ends with the patience of the case.
    #[track_caller]
    pub(crate) fn until<T: 'static>(
        &self,
        what: String,
        command: &'static str,
        arguments: Value,
        mut look: impl FnMut(&Value) -> CaseResult<Option<T>> + 'static,
    ) -> Action<'static, T> {
        let monitor = self.clone();
        let place = Location::caller();
        Action::at(place, what.clone(), async move {
            let deadline = std::time::Instant::now() + monitor.shared.patience();
            let mut last = Value::Null;
            loop {
                let answer = match monitor.ask(command, arguments.clone()).await {
                    Ok(answer) => answer,
                    // The question itself had only what was left of the time.
                    Err(_) if std::time::Instant::now() >= deadline && !last.is_null() => last,
                    Err(error) => return Err(error),
                };
                if let Some(found) = look(&answer)? {
                    return Ok(found);
                }
                if std::time::Instant::now() >= deadline {
                    return Err(Failure::new(format!(
                        "failed to see {what} in time; the last answer to {command} was {answer}"
                    )));
                }
                last = answer;
                // Lets the reader of the monitor, and whoever else waits, run.
                tokio::task::yield_now().await;
            }
        })
    }
}

pub(crate) fn event_json(event: &qmp::Event) -> Value {
    serde_json::to_value(event).unwrap_or_else(|_| json!({"event": event.name}))
}

fn declared_drivers(shared: &Shared) -> BTreeSet<&'static str> {
    fn collect(requirements: &[Requirement], out: &mut BTreeSet<&'static str>) {
        for requirement in requirements {
            match *requirement {
                Requirement::Driver(name) => {
                    out.insert(name);
                }
                Requirement::AllOf(all) | Requirement::AnyOf(all) => collect(all, out),
                _ => {}
            }
        }
    }
    let mut out = BTreeSet::new();
    if let Some(case) = shared.case() {
        collect(case.meta.needs, &mut out);
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
