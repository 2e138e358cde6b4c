//! qemu-storage-daemon.

use super::common::{Builder, Common, Kind, Specific};
use crate::args::{Export, NbdServer};
use crate::program::Program;
use imgtools::tools::Tool;
use std::ffi::OsString;

/// A storage daemon. It processes its options strictly in order, so objects and nodes must precede
/// their users.
///
/// ```no_run
/// # async fn example(tool: imgtools::tools::Tool) -> Result<(), Box<dyn std::error::Error>> {
/// use machine::StorageDaemon;
/// use machine::args::Blockdev;
/// let daemon = StorageDaemon::builder(tool)
///     .blockdev(&Blockdev::new("null-co").node("n"))
///     .launch()
///     .await?;
/// daemon.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StorageDaemon {}

impl StorageDaemon {
    /// Begins a builder for this binary.
    #[must_use]
    pub fn builder(tool: Tool) -> Builder<StorageDaemon> {
        Builder::new(tool, StorageDaemon::default())
    }
}

impl Builder<StorageDaemon> {
    /// Starts the NBD server; there can be one.
    #[must_use]
    pub fn nbd_server(self, server: &NbdServer) -> Self {
        self.option("nbd-server", server.as_os_str())
    }

    /// Adds an export.
    #[must_use]
    pub fn export(self, export: &Export) -> Self {
        self.option("export", export.to_string())
    }
}

impl Kind for StorageDaemon {}

impl Specific for StorageDaemon {
    const PROGRAM: Program = Program::StorageDaemon;
    const DASH: &'static str = "--";
    const MONITOR_OPTION: &'static str = "monitor";

    fn base_args(&self, _common: &mut Common) -> Result<Vec<OsString>, crate::LaunchError> {
        Ok(Vec::new())
    }

    fn sockets(&self) -> (bool, bool) {
        (false, false)
    }
}
