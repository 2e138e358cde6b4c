//! Rate limits for events, as in `monitor_qapi_event_queue_no_reenter` of `monitor/monitor.c`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Event;

/// Lets one event of each throttled name through per period; the last of the others follows when
/// the period ends.
#[derive(Debug)]
pub(super) struct Throttle {
    periods: HashMap<String, Duration>,
    running: HashMap<String, Period>,
}

#[derive(Debug)]
struct Period {
    ends: Instant,
    held: Option<Event>,
}

impl Throttle {
    pub(super) fn new(periods: HashMap<String, Duration>) -> Self {
        Self {
            periods,
            running: HashMap::new(),
        }
    }

    /// Returns the event if it may be sent now.
    pub(super) fn pass(&mut self, event: Event) -> Option<Event> {
        let Some(&period) = self.periods.get(&event.name) else {
            return Some(event);
        };
        if let Some(running) = self.running.get_mut(&event.name) {
            running.held = Some(event);
            return None;
        }
        let ends = Instant::now() + period;
        self.running.insert(event.name.clone(), Period { ends, held: None });
        Some(event)
    }

    /// When the next period ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.running.values().map(|period| period.ends).min()
    }

    /// Ends expired periods; the events held in them begin new ones.
    pub(super) fn release(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let over: Vec<String> = self
            .running
            .iter()
            .filter(|(_, period)| period.ends <= now)
            .map(|(name, _)| name.clone())
            .collect();
        over.into_iter()
            .filter_map(|name| {
                let held = self.running.remove(&name)?.held?;
                self.pass(held)
            })
            .collect()
    }
}
