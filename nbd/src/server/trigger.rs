//! Switches in the hands of a test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// A switch that rules can ask for ([`super::Rule::when`]) and wait for
/// ([`super::Action::Hold`]). It starts off.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<watch::Sender<bool>>);

impl Trigger {
    /// Turns it on: rules that ask for it can fire, what waits for it goes on.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Turns it off.
    pub fn clear(&self) {
        self.0.send_replace(false);
    }

    /// Whether it is on.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is on.
    pub(crate) async fn wait(&self) {
        // We hold the sender ourselves, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|on| *on).await;
    }
}

/// All switches of a server, by name.
#[derive(Debug, Default)]
pub(crate) struct Triggers(Mutex<HashMap<String, Trigger>>);

impl Triggers {
    pub(crate) fn get(&self, name: &str) -> Trigger {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Trigger(Arc::new(watch::Sender::new(false)));
        all.entry(name.to_owned()).or_insert_with(new).clone()
    }
}
