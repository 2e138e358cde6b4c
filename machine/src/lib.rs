//! The life of one QEMU process: built, launched, talked to, ended, explained.
//!
//! - [`Qemu`] and [`StorageDaemon`] begin a [`Builder`], whose [`Builder::launch`] gives a
//!   [`Machine`] that is ready to be talked to over QMP, or an error with everything the
//!   process said.
//! - A [`Machine`] cannot be lost: ended explicitly, its end is checked; dropped, it is killed
//!   and reaped. It never outlives the process that launched it, unless it was
//!   [launched to](Builder::launch_detached); then any program can [attach](Attached) to it.
//! - Devices are [plugged](Machine::plug) and [unplugged](Machine::unplug), the guest
//!   [migrated](Machine::migrate), [saved](Machine::save_snapshot) and
//!   [powered down](Machine::powerdown); everything else is QMP on [`Machine::qmp`].
//! - [`probe`](probe::probe) asks a binary what it can do, [`accel::Mode`] turns that into a
//!   way to start a machine whose guest does nothing.
//! - [`Machine::diagnose`] explains one that hangs.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use machine::args::Blockdev;
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

/// The examples of the README are compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod accel;
pub mod args;
mod attach;
mod builder;
mod cause;
mod console;
mod deadlines;
pub mod diagnose;
mod end;
mod error;
pub mod evidence;
mod guest;
pub mod host;
mod launch;
mod machine;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod order;
pub mod probe;
mod program;
pub mod qtest;
mod wrapper;

pub use qmp::socket;
pub use {imgtools, qmp};

pub use attach::{AttachError, Attached, DetachedEndError};
pub use builder::{Builder, Kind, Monitor, Qemu, StorageDaemon};
pub use console::{Console, ConsoleError, Mark};
pub use deadlines::Deadlines;
pub use end::{DropReport, EndError, Exit, Expected, Stage, StageOutcome, StageRecord};
pub use error::{BuildError, LaunchError, StartFailure};
pub use guest::{Migration, MigrationError, Progress, SnapshotAction, SnapshotError, UnplugError};
pub use launch::Detached;
pub use machine::Machine;
pub use wrapper::Wrapper;
