//! The life of one QEMU process: build, launch, control, shut down, diagnose.
//!
//! - [`Qemu`] and [`StorageDaemon`] begin a [`Builder`], whose [`Builder::launch`] returns a
//!   [`Machine`] that is ready for QMP, or an error with all output of the process.
//! - A [`Machine`] cannot leak: an explicit shutdown is checked; when dropped, it is killed and
//!   reaped. It never outlives the process that launched it, unless [launched
//!   detached](Builder::launch_detached); then any program can [attach](Attached) to it.
//! - Devices are [plugged](Machine::plug) and [unplugged](Machine::unplug), the guest
//!   [migrated](Machine::migrate), [saved](Machine::save_snapshot) and
//!   [powered down](Machine::powerdown); everything else is QMP on [`Machine::qmp`].
//! - [`probe`](probe::probe) determines a binary's capabilities, [`accel::Mode`] turns them into a
//!   way to start a machine whose guest does nothing.
//! - [`Machine::diagnose`] explains why a machine hangs.
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
//! Tools and processes come from [`imgtools`], the monitor is a client of [`qmp`]; both crates are
//! re-exported, so that you use matching versions.
//!
//! Nothing here knows that tests exist. The crate prints nothing and emits only `tracing` events.
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
