//! The life of one QEMU process: built, launched, talked to, ended, explained.
//!
//! - [`Qemu`] and [`StorageDaemon`] begin a [`Builder`], whose [`Builder::launch`] gives a
//!   [`Machine`] that is ready to be talked to over QMP, or an error with everything the
//!   process said.
//! - A [`Machine`] cannot be lost: ended explicitly, its end is checked; dropped, it is killed
//!   and reaped. It never outlives the process that launched it.
//! - [`host::BlockHost`] is what emulator and storage daemon have in common.
//! - [`probe`](probe::probe) asks a binary what it can do, [`accel::Mode`] turns that into a
//!   way to start a machine whose guest does nothing.
//! - [`Machine::diagnose`] explains one that hangs.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use machine::args::Blockdev;
//! use machine::host::BlockHost;
//! use machine::imgtools::tools::{Finder, ToolKind};
//! use machine::StorageDaemon;
//!
//! let tool = Finder::new().find(ToolKind::StorageDaemon)?;
//! let daemon = StorageDaemon::builder(tool)
//!     .blockdev(&Blockdev::new("null-co").node("disk"))
//!     .launch()
//!     .await?;
//! println!("{}", daemon.graph().await?);
//! daemon.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Tools and processes are those of [`imgtools`], the monitor is a client of [`qmp`]; both
//! crates are re-exported, so that their types here are those of the same versions.
//!
//! Nothing here knows that tests exist. The crate is silent but for `tracing` events.
#![forbid(unsafe_code)]

pub mod accel;
pub mod args;
mod builder;
mod console;
mod deadlines;
pub mod diagnose;
mod end;
mod error;
pub mod evidence;
pub mod host;
mod launch;
mod machine;
pub mod probe;
pub mod qtest;
pub mod socket;
mod wrapper;

pub use {imgtools, qmp};

pub use builder::{Builder, Monitor, Qemu, StorageDaemon};
pub use console::{Console, ConsoleError};
pub use deadlines::Deadlines;
pub use end::{DropReport, EndError, Exit, Expected, Stage, StageOutcome, StageRecord};
pub use error::{BuildError, LaunchError, StartFailure};
pub use machine::Machine;
pub use wrapper::Wrapper;
