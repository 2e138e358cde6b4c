//! How a test observes and controls its server.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::journal::{Entry, Event, Journal};
use super::trigger::Trigger;
use crate::proto::CommandType;
use crate::server::error::ServerError;
use crate::server::handle::Server;

impl Server {
    /// The events so far.
    pub fn journal(&self) -> Arc<Journal> {
        match &self.shared.faults {
            Some(faults) => faults.journal.clone(),
            None => Arc::new(Journal::new(0)),
        }
    }

    /// A switch that rules refer to.
    pub fn trigger(&self, name: &str) -> Trigger {
        match &self.shared.faults {
            Some(faults) => faults.triggers.get(name),
            // No rule refers to it.
            None => super::Triggers::default().get(name),
        }
    }

    /// The clock of its delays.
    pub fn clock(&self) -> Clock {
        match &self.shared.faults {
            Some(faults) => faults.clock.clone(),
            None => Clock::real(),
        }
    }

    /// Rules that should have fired and have not yet.
    pub fn unfired(&self) -> Vec<String> {
        let faults = self.shared.faults.as_ref();
        faults.map(|faults| faults.unfired()).unwrap_or_default()
    }

    /// Waits until `n` connections have reached the transmission phase.
    pub async fn expect_connections(&self, n: usize, within: Duration) -> Result<(), ServerError> {
        let begun = |e: &Entry| matches!(e.event, Event::Transmission { .. });
        self.expect(&format!("connection {n}"), within, n, begun).await
    }

    /// Waits until a client has reconnected: the connections that have reached the transmission
    /// phase exceed by one those that have ended after reaching it.
    pub async fn expect_reconnect(&self, within: Duration) -> Result<(), ServerError> {
        self.expect("the end of a connection", within, 1, losses()).await?;
        let ended = self.journal().count(losses());
        let begun = |e: &Entry| matches!(e.event, Event::Transmission { .. });
        self.expect("a reconnection", within, ended + 1, begun).await
    }

    /// Waits until `n` requests of a kind have arrived.
    pub async fn expect_requests(
        &self,
        command: CommandType,
        n: usize,
        within: Duration,
    ) -> Result<(), ServerError> {
        let wanted =
            |e: &Entry| matches!(&e.event, Event::Request { command: c, .. } if *c == command);
        self.expect(&format!("{n} requests to {command}"), within, n, wanted).await
    }

    async fn expect(
        &self,
        what: &str,
        within: Duration,
        n: usize,
        matches: impl FnMut(&Entry) -> bool,
    ) -> Result<(), ServerError> {
        let journal = self.journal();
        match tokio::time::timeout(within, journal.wait_for(n, matches)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ServerError::Missing {
                what: what.to_owned(),
                after: within,
            }),
        }
    }
}

/// The end of a connection that had reached the transmission phase. For one pass over a journal.
fn losses() -> impl FnMut(&Entry) -> bool {
    let mut begun = HashSet::new();
    move |entry| match entry.event {
        Event::Transmission { .. } => {
            begun.insert(entry.connection);
            false
        }
        Event::Closed(_) => begun.contains(&entry.connection),
        _ => false,
    }
}
