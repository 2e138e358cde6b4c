//! Migration of a guest from one machine to another.

use serde_json::{Value, json};

use super::{Machine, monitor::event_json};
use crate::author::action::Action;
use crate::author::failure::Failure;

impl Machine {
    /// Turns migration capabilities on. `events` is always among them: [`Machine::wait_migration`]
    /// waits for those.
    #[track_caller]
    pub fn migration_capabilities<'a>(&'a self, names: &[&str]) -> Action<'a, ()> {
        let on = |name: &&str| json!({"capability": name, "state": true});
        let mut all: Vec<Value> = names.iter().map(on).collect();
        if !names.contains(&"events") {
            all.push(on(&"events"));
        }
        let call = self.cmd("migrate-set-capabilities", json!({"capabilities": all}));
        Action::new("the migration capabilities", async move {
            call.await?;
            Ok(())
        })
    }

    /// Waits for the end of the migration, and on success for the run state that the case expects;
    /// `None` if it expects none. Returns whether it succeeded: a migration that fails or is
    /// cancelled is told, not waited for. Needs the capability `events`, which [`Machine::migration_capabilities`] sets.
    #[track_caller]
    pub fn wait_migration<'a>(&'a self, run_state: impl Into<Option<&'a str>>) -> Action<'a, bool> {
        let run_state = run_state.into();
        Action::new(format!("the migration of {}", self.name()), async move {
            let monitor = &self.monitor;
            let events = monitor.client.events();
            let completed = loop {
                let events = events.with_deadline(monitor.shared.patience());
                let event = events.wait(qmp::Matcher::event("MIGRATION")).await?;
                monitor.narrate_event(&event);
                match event.text("status") {
                    Some("completed") => break true,
                    Some("failed" | "cancelled") => break false,
                    Some(_) => {}
                    None => {
                        let event = event_json(&event);
                        return Err(Failure::new(format!(
                            "a migration event without status: {event}"
                        )));
                    }
                }
            };
            if let (true, Some(run_state)) = (completed, run_state) {
                self.wait_run_state(run_state).await?;
            }
            Ok(completed)
        })
    }

    /// Waits until the guest is in this run state: `running`, `postmigrate`, `paused` …
    #[track_caller]
    pub fn wait_run_state(&self, run_state: &str) -> Action<'static, ()> {
        let expected = run_state.to_owned();
        let what = format!("{} in run state {expected}", self.name());
        // Most run states begin or end with one of these; of `postmigrate` none tells.
        let told_by = ["STOP", "RESUME", "SUSPEND", "WAKEUP", "MIGRATION"];
        let told_by = qmp::Matcher::one_of(told_by);
        self.monitor
            .until(what, "query-status", told_by, move |status| {
                Ok((status["status"] == expected.as_str()).then_some(()))
            })
    }
}
