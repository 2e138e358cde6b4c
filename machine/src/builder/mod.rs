//! Builders: what a process is to be started with.
//!
//! A builder is a plain value. It can be cloned, launched any number of times, also at the
//! same time, and added to between launches. What goes wrong while building (a descriptor
//! that cannot be made, a text that cannot be an argument) is kept and reported by the launch.

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
