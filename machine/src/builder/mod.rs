//! Builders: the configuration of a process.
//!
//! A builder is a plain value. It can be cloned, launched any number of times, even concurrently,
//! and extended between launches. Errors while building (a descriptor that cannot be created, a
//! text that cannot be an argument) are kept and reported by the launch.

mod common;
mod emulator;
mod monitor;
mod storage_daemon;

pub use common::{Builder, Kind};
pub use emulator::Qemu;
pub use monitor::Monitor;
pub use storage_daemon::StorageDaemon;

pub(crate) use common::{Common, DropHook};
pub(crate) use monitor::{MONITOR_ID, option as monitor_option};
