//! QEMUs of a distribution in private prefixes, so that cases run on several versions, and that
//! those which need an emulator can run on a machine that has none, without touching an installed
//! package.
//!
//! On Debian and its relatives the packages are downloaded with the system's own package manager
//! (its sources, keys and proxies apply; no root is needed) and unpacked, never installed: by default
//! those of the machine's own sources, else those of any suite of Debian's archive. Elsewhere the
//! error holds the command a person would type.
//!
//! A prefix has all the libraries that its programs use, down to the C library and its loader, and
//! the programs are bound to those (see `libraries`). So a prefix works whatever is installed, and
//! whatever C library the machine has.
//!
//! A prefix is complete or it is not there: it is made under another name and renamed when every
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
