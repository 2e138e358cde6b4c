//! From a builder to a running machine.
//!
//! Ready means: the greeting was received and the capabilities negotiated. The end of the
//! stream and the end of the process are watched meanwhile; nothing is polled.

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
    /// Dropping the future kills what was started.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(&self) -> Result<Machine, LaunchError> {
        run::launch(self).await
    }

    /// Starts the process so that it outlives this program (`-daemonize`), with its monitor at
    /// this path, and waits until it is ready. The path is removed by QEMU at its end, if that is
    /// an orderly one; it has to fit a socket address, for later clients.
    ///
    /// What the builder says of wrappers, consoles, qtest and drops does not hold for such a
    /// process; what it prints after its start is lost.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch_detached(&self, monitor: &Path) -> Result<Detached, LaunchError> {
        detached::launch_detached(self, monitor).await
    }
}
