//! Making plain qcow2 images, reading metadata and data, checking them, and damaging them
//! on purpose.
//!
//! This is for checking what QEMU has written, and for the corruption cases; it is no block driver.
//! Fields and bits are those of QEMU's `docs/interop/qcow2`. Everything is read straight from the
//! file: the image must not be in use. Nothing that an image says is believed before it is checked
//! against the size of the file and the limits of QEMU, so a damaged image is an error and never a
//! crash or more memory than there is.
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
mod entry;
mod file;
mod header;
mod image;
mod layer;
mod snapshot;

pub use bitmap::{Bitmap, BitmapTableEntry};
pub use builder::Builder;
pub use check::Problem;
pub use entry::{L1Entry, L2Entry, Mapping};
pub use file::{Qcow2Error, peek, poke};
pub use header::{Extension, Header, field};
pub use image::Image;
pub use layer::Layer;
pub use snapshot::Snapshot;
