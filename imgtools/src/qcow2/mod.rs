//! Creating plain qcow2 images, reading metadata and data, checking them, and damaging them on
//! purpose.
//!
//! This is for verifying what QEMU has written, and for tests of corruption; it is not a block
//! driver. Fields and bits are those of QEMU's `docs/interop/qcow2`. Everything is read directly
//! from the file: the image must not be in use. All values from an image are checked against the
//! size of the file and QEMU's limits, so a damaged image is an error and never causes a crash or
//! excessive memory use.
//!
//! ```no_run
//! use imgtools::qcow2::{Image, Mapping, field, poke};
//!
//! let image = Image::open("disk.qcow2")?;
//! if let Mapping::Data { host, .. } = image.lookup(0)? {
//!     println!("the first cluster is at {host:#x}, used {} times", image.refcount(host)?);
//! }
//! poke("disk.qcow2", field::INCOMPATIBLE_FEATURES, &2u64.to_be_bytes())?; // corrupt
//! # Ok::<(), imgtools::qcow2::Qcow2Error>(())
//! ```

mod bitmap;
mod builder;
mod check;
mod contents;
mod entry;
mod file;
mod header;
mod image;
mod snapshot;

pub use bitmap::{Bitmap, BitmapTableEntry};
pub use builder::Builder;
pub use check::Problem;
pub use contents::Contents;
pub use entry::{L1Entry, L2Entry, Mapping};
pub use file::{Qcow2Error, peek, poke};
pub use header::{Extension, Header, field};
pub use image::Image;
pub use snapshot::Snapshot;
