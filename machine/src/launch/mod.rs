//! From a builder to a running machine.
//!
//! Ready means that the greeting was received and the capabilities negotiated. Meanwhile the end of
//! the stream and the exit of the process are watched; nothing is polled.

mod detached;
mod failure;
mod monitor;
mod prepare;
mod run;

pub use detached::Detached;

use crate::builder::{Builder, Kind};
use crate::error::LaunchError;
use crate::machine::Machine;
use std::path::Path;

impl<K: Kind> Builder<K> {
    /// Starts the process and waits until its monitor has been negotiated.
    ///
    /// Dropping the future kills the process.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(&self) -> Result<Machine, LaunchError> {
        run::launch(self).await
    }

    /// Starts the process so that it outlives this program (`-daemonize`), with its monitor at this
    /// path, and waits until it is ready. QEMU removes the path on a clean exit; it has to fit a
    /// socket address, for later clients.
    ///
    /// The builder's settings for wrappers, consoles, qtest and drops do not apply to such a
    /// process; its output after the start is lost.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch_detached(&self, monitor: &Path) -> Result<Detached, LaunchError> {
        detached::launch_detached(self, monitor).await
    }
}
