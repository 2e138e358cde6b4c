//! qemu-img: every subcommand, its exit codes and its output, typed.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use imgtools::img::QemuImg;
//! use imgtools::tools::{Finder, ToolKind};
//!
//! let img = QemuImg::new(Finder::new().find(ToolKind::Img)?);
//! img.create("base.qcow2").format("qcow2").size(1 << 20).run().await?;
//! img.create("top.qcow2").format("qcow2").backing("base.qcow2", "qcow2").run().await?;
//! assert_eq!(img.backing_chain("top.qcow2").run().await?.len(), 2);
//! assert!(img.compare("base.qcow2", "top.qcow2").run().await?.is_same());
//! # Ok(())
//! # }
//! ```
//!
//! Each subcommand is a [`Call`], a builder that ends with a run method. `run` returns the typed
//! answer, or an error for every failure status; `output` returns the status and the text, whatever
//! the status (but a signal is always an error). Use [`Call::arg`] for arguments without a builder
//! method, and [`QemuImg::raw`] for a whole command line.

mod bench;
mod bitmap;
mod call;
mod change;
mod check;
mod compare;
mod convert;
mod create;
mod error;
mod extents;
mod inspect;
mod json;
mod qemu_img;
mod running;

pub use bench::{Bench, BenchResult};
pub use bitmap::{Bitmap, BitmapAction};
pub use call::{Arguments, Call, Operation, Progress, ReportsProgress};
pub use change::{Amend, Commit, Raw, Rebase, Resize, Size, Snapshot};
pub use check::{Check, CheckOutcome, CheckVerdict, Repair};
pub use compare::{Compare, Comparison, Difference};
pub use convert::{Convert, Dd};
pub use create::Create;
pub use error::{ComparePhase, ImgError};
pub use extents::Extents;
pub use inspect::{BackingChain, Info, Map, Measure, SnapshotList};
pub use json::{
    BitmapInfo, CheckReport, ChildInfo, EncryptInfo, FileInfo, FormatSpecific, ImageInfo, LuksInfo,
    LuksSlot, MapExtent, MeasureReport, Other, Qcow2Info, RbdInfo, SnapshotInfo, VmdkExtent,
    VmdkInfo,
};
pub use qemu_img::QemuImg;
pub use running::Running;
