//! QEMUs of a distribution in private prefixes, so that cases can run on several versions, and
//! cases that need an emulator can run on a machine without one; installed packages are not
//! touched.
//!
//! On Debian and its derivatives, packages are downloaded with the system's own package manager
//! (its sources, keys and proxies apply; no root is needed) and unpacked, never installed: by
//! default from the machine's own sources, on request from any suite of Debian's archive. On other
//! systems the error contains the install command to type.
//!
//! A prefix contains all libraries that its programs use, down to the C library and its loader, and
//! the programs are bound to them (see `libraries`). So a prefix works whatever packages and C
//! library the machine has.
//!
//! A prefix is complete or does not exist: it is created under another name and renamed after every
//! check has passed.

mod apt;
mod distribution;
mod elf;
mod error;
mod files;
mod libraries;
mod offer;
mod prefix;
mod request;
mod run;
mod source;
#[cfg(test)]
mod tests;

pub use distribution::install_command;
pub use elf::ElfError;
pub use error::ProvisionError;
pub use prefix::{Prefix, installed};
pub use request::{Request, RequestError, Wanted};
pub use run::{overview, provision};
pub(crate) use source::MIRROR_VARIABLE;
