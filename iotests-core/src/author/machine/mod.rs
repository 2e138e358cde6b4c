//! Machines, and everything that a machine has.
//!
//! [`Test::host`](super::Test::host) builds an emulator or a storage daemon, depending on the
//! instance; [`Test::vm`](super::Test::vm) and [`Test::qsd`](super::Test::qsd) choose one. A case
//! that needs no guest device uses `host` and runs on both.
//!
//! One noun per module: a [`Disk`] is what a guest sees, a [`Node`] the options of a block node, an
//! [`Export`] what clients open, a [`Job`] runs in the background, a [`Bitmap`] records writes.

mod bitmap;
mod builder;
mod command;
mod disk;
mod export;
mod graph;
mod guest;
mod io;
mod job;
mod migration;
mod monitor;
mod node;
mod rest;
mod running;
mod snapshot;

pub use bitmap::{Bitmap, BitmapInfo, NewBitmap, dirty_ranges};
pub use builder::{Drive, MachineBuilder};
pub use command::Cmd;
pub use disk::{Disk, DiskBuilder};
pub use export::{Export, ExportBuilder, MachineNbd, NbdSetup};
pub use graph::assert_json_filename;
pub use io::{Access, BlockNode, Held, Target};
pub use job::{Ended, Ending, Job, JobBuilder, Outcome, Run, Transaction};
pub use migration::{Channel, Destination, Migrated, Migrating, Migration};
pub(crate) use monitor::Monitor;
pub use node::{Change, Child, Node};
pub use running::Machine;
pub use snapshot::{Freeze, Frozen, Keeper};
