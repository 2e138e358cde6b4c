//! Machines: emulators and storage daemons through one interface.
//!
//! [`Test::host`](super::Test::host) builds whichever of the two the instance is for; [`Test::vm`](super::Test::vm) and [`Test::qsd`](super::Test::qsd)
//! name one. A case that needs no guest device uses `host` and runs on both.

mod builder;
mod command;
mod io;
pub(super) mod monitor;
mod running;

pub use builder::{Drive, MachineBuilder};
pub use command::Cmd;
pub use io::{Held, Target};
pub(crate) use monitor::Monitor;
pub use running::Machine;
