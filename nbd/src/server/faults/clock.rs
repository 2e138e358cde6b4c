//! Time for delays: real, or virtual.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The clock for delays of a fault plan.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Real(Instant),
    Instant(Arc<watch::Sender<Duration>>),
    Manual(Arc<watch::Sender<Duration>>),
}

impl Clock {
    /// Delays take as long as they say.
    pub fn real() -> Clock {
        Clock(Kind::Real(Instant::now()))
    }

    /// Delays pass at once, and advance the clock.
    pub fn instant() -> Clock {
        Clock(Kind::Instant(Arc::new(watch::Sender::new(Duration::ZERO))))
    }

    /// Delays pass when [`Clock::advance`] is called.
    pub fn manual() -> Clock {
        Clock(Kind::Manual(Arc::new(watch::Sender::new(Duration::ZERO))))
    }

    /// Time since the clock was created.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Kind::Real(start) => start.elapsed(),
            Kind::Instant(now) | Kind::Manual(now) => *now.borrow(),
        }
    }

    /// Whether the time is the same in each run.
    pub(crate) fn is_virtual(&self) -> bool {
        !matches!(self.0, Kind::Real(_))
    }

    /// Advances a virtual clock; a real one advances by itself.
    pub fn advance(&self, by: Duration) {
        if let Kind::Instant(now) | Kind::Manual(now) = &self.0 {
            now.send_modify(|now| *now += by);
        }
    }

    /// When a delay that begins now ends. On an instant clock, it ends at once.
    pub(crate) fn after(&self, delay: Duration) -> Duration {
        if let Kind::Instant(_) = &self.0 {
            self.advance(delay);
            return self.now();
        }
        self.now() + delay
    }

    /// Waits until the clock reaches this time.
    pub(crate) async fn reach(&self, at: Duration) {
        match &self.0 {
            Kind::Real(start) => tokio::time::sleep_until(*start + at).await,
            Kind::Instant(now) | Kind::Manual(now) => {
                // The sender is ours, so this ends only when the time is reached.
                let _ = now.subscribe().wait_for(|now| *now >= at).await;
            }
        }
    }
}
