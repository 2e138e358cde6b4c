//! The kinds of program.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which kind of program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// qemu-system-*.
    Emulator,
    /// qemu-storage-daemon.
    StorageDaemon,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Emulator => "emulator",
            Program::StorageDaemon => "storage daemon",
        })
    }
}
