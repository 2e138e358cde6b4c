//! Finding QEMU's programs.
//!
//! ```no_run
//! use imgtools::tools::{Finder, ToolKind};
//!
//! let qemu_img = Finder::new().build_dir("build").find(ToolKind::Img)?;
//! println!("{} is {:?}", qemu_img.path.display(), qemu_img.version);
//! let output = qemu_img.command().args(["info", "disk.qcow2"]).run_blocking()?.check()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod find;
mod tool;
mod version;

pub use find::{FindError, Finder, Looked, Place, Problem};
pub use tool::{Tool, ToolKind};
pub use version::Version;
