//! NBD for tests: see exactly what a server says, be exactly as evil as a test needs, and hold a
//! real qemu-nbd without races.
//!
//! - [`proto`]: the wire format without I/O; all there is without default features.
//! - [`Client`]: async, strict, pipelined; reaches any of the five [`proto::Mode`]s.
//! - [`server::Server`]: any of the five modes, with faults as data.
//! - [`QemuNbd`]: a real qemu-nbd, started by socket activation.
//! - [`Uri`]: NBD URIs, QEMU's dialect of them, and its older `nbd:` names.
//!
//! Each part begins with an example: [`client::Builder`], [`server::plan`], [`qemu_nbd::QemuNbd`].
//! A backend of one's own: [`server::Backend`].
#![forbid(unsafe_code)]

#[cfg(feature = "io")]
pub mod client;
pub mod proto;
#[cfg(feature = "qemu-nbd")]
pub mod qemu_nbd;
#[cfg(feature = "io")]
pub mod server;
pub mod uri;

#[cfg(feature = "io")]
pub use client::{Client, list};
#[cfg(feature = "qemu-nbd")]
pub use qemu_nbd::{QemuNbd, QemuNbdServer};
pub use uri::Uri;

/// The examples there are compiled, and run, with the tests.
#[cfg(all(doctest, feature = "qemu-nbd"))]
#[doc = include_str!("../README.md")]
struct Readme;
