//! How the QMP connection is made.

use std::path::PathBuf;

/// Id of the monitor's character device.
pub(crate) const MONITOR_ID: &str = "qmp";

/// The transport of the monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Monitor {
    /// One end of a socket pair is inherited: no path, no race, and the end of the process is
    /// the end of the stream.
    #[default]
    SocketPair,
    /// QEMU listens at this path. The listening socket is made here and inherited, so that
    /// connecting never comes too early and the path may be of any length. The path stays
    /// behind when the process ends, and is removed with the machine.
    Listen(PathBuf),
    /// QEMU connects to this path, where we listen. Removed with the machine.
    Connect(PathBuf),
}
