//! What the faults of all connections of a server share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Gate;
use super::clock::Clock;
use super::journal::{Event, Journal};
use super::plan::{Engine, Firing, Point, Stage};
use super::shadow::WriteShadow;
use super::trigger::Triggers;

#[derive(Debug)]
pub(in crate::server) struct FaultState {
    engine: Mutex<Engine>,
    /// Without rules the engine, and its lock, are not used.
    armed: bool,
    pub(in crate::server) journal: Arc<Journal>,
    pub(in crate::server) triggers: Triggers,
    pub(in crate::server) clock: Clock,
    pub(super) shadow: Option<WriteShadow>,
    /// Rules that fired where their action does not apply, independent of the journal's limit.
    inapplicable: Mutex<Vec<String>>,
}

impl FaultState {
    pub(in crate::server) fn new(
        engine: Engine,
        journal: Journal,
        clock: Clock,
        shadow: Option<WriteShadow>,
    ) -> FaultState {
        FaultState {
            armed: !engine.is_empty(),
            engine: Mutex::new(engine),
            journal: Arc::new(journal),
            triggers: Triggers::default(),
            clock,
            shadow,
            inapplicable: Mutex::default(),
        }
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    pub(super) fn consult(&self, connection: u64, point: &Point, stage: Stage) -> Vec<Firing> {
        if !self.armed {
            return Vec::new();
        }
        let mut engine = lock(&self.engine);
        let firings = engine.consult(connection, point, stage, &self.triggers);
        drop(engine);
        for firing in &firings {
            let (rule, action) = (firing.rule.clone(), firing.action.to_string());
            self.note(connection, Event::Fault { rule, action });
        }
        firings
    }

    /// A rule fired at a point where its action does not apply.
    pub(super) fn inapplicable(&self, connection: u64, firing: &Firing) {
        let (rule, action) = (firing.rule.clone(), firing.action.to_string());
        self.note(connection, Event::Inapplicable { rule, action });
    }

    /// The time of a virtual clock; real time is not recorded.
    pub(in crate::server) fn now(&self) -> Option<Duration> {
        self.clock.is_virtual().then(|| self.clock.now())
    }

    pub(in crate::server) fn note(&self, connection: u64, event: Event) {
        self.note_at(connection, self.now(), event);
    }

    pub(in crate::server) fn note_at(&self, connection: u64, at: Option<Duration>, event: Event) {
        if let Event::Inapplicable { rule, action } = &event {
            lock(&self.inapplicable).push(format!("{rule}: {action}"));
        }
        self.journal.add(connection, at, event);
    }

    /// Whether a gate is open; a delay begins when it is first tested.
    pub(super) fn is_open(&self, gate: &mut Gate) -> bool {
        if let Gate::Delay(delay) = gate {
            *gate = Gate::Until(self.clock.after(*delay));
        }
        match gate {
            Gate::Trigger(trigger) => trigger.is_set(),
            Gate::Until(at) => self.clock.now() >= *at,
            Gate::Never | Gate::Delay(_) => false,
        }
    }

    pub(in crate::server) fn inapplicable_rules(&self) -> Vec<String> {
        lock(&self.inapplicable).clone()
    }

    pub(in crate::server) fn unfired(&self) -> Vec<String> {
        lock(&self.engine).unfired()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
