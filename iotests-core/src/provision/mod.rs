//! A distribution's QEMU in a private prefix, so that cases which need an emulator can run on a
//! machine that has none, without touching an installed package.
//!
//! On Debian and its relatives the packages are downloaded with the system's own package manager
//! (its sources, keys and proxies apply; no root is needed) and unpacked, never installed. QEMU
//! finds its modules and firmware relative to its executable; shared libraries that the machine
//! lacks are unpacked beside it and found through the library path, which the small programs in
//! `PREFIX/bin` set. Elsewhere the error holds the command a person would type.
//!
//! A prefix is complete or it is not there: it is made under another name and renamed when every
//! check has passed.

mod apt;
mod distribution;
mod error;
mod prefix;

pub use distribution::install_command;
pub use error::ProvisionError;
pub use prefix::{Prefix, ensure, installed};
