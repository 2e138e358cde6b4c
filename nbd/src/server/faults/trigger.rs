//! Switches controlled by a test.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// A switch that rules can require ([`super::plan::Rule::when`]) and wait for
/// ([`super::plan::Action::Hold`]). Initially off.
#[derive(Clone, Debug)]
pub struct Trigger {
    on: Arc<AtomicBool>,
    changes: watch::Sender<u64>,
}

impl Trigger {
    /// Turns it on: rules that require it can fire, and what waits for it continues.
    pub fn set(&self) {
        self.turn(true);
    }

    /// Turns it off.
    pub fn clear(&self) {
        self.turn(false);
    }

    /// Whether it is on.
    pub fn is_set(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    fn turn(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Waits until it is on.
    pub(in crate::server) async fn wait(&self) {
        let mut changes = self.changes.subscribe();
        while !self.is_set() {
            // We hold the sender ourselves, so this cannot fail.
            let _ = changes.changed().await;
        }
    }
}

/// All switches of a server, by name, with change notification.
#[derive(Debug)]
pub(in crate::server) struct Triggers {
    all: Mutex<HashMap<String, Trigger>>,
    changes: watch::Sender<u64>,
}

impl Default for Triggers {
    fn default() -> Self {
        Triggers {
            all: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Triggers {
    pub(in crate::server) fn get(&self, name: &str) -> Trigger {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Trigger {
            on: Arc::default(),
            changes: self.changes.clone(),
        };
        all.entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// Subscribes to changes of all switches.
    pub(in crate::server) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
