//! NBD: the protocol without I/O, a client and a server on top, and a real qemu-nbd held without
//! races.
//!
//! - [`proto`]: wire format and both sides of the conversation as state machines; all there is
//!   without default features.
//! - `client`: async, strict, pipelined; reaches any of the five [`proto::Mode`]s.
//! - `server`: any backend on any listener; with the feature `faults` as evil as a test needs.
//! - `qemu_nbd`: a real qemu-nbd, started by socket activation.
//! - `uri`: NBD URIs, QEMU's dialect of them, and its older `nbd:` names.
//! - `tls`: credentials, for both sides (feature `tls`).
//!
//! A server and a client of it:
//!
//! ```
//! # #[cfg(feature = "server")]
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use nbd::server::backend::MemoryBackend;
//! use nbd::server::{Export, Server};
//!
//! let export = Export::new(MemoryBackend::new(1 << 30)).name("disk");
//! let server = Server::builder().export(export).listen_unix("/run/nbd.sock")?;
//!
//! let uri: nbd::Uri = "nbd+unix:///disk?socket=/run/nbd.sock".parse()?;
//! let client = nbd::Client::builder().connect_uri(&uri).await?;
//! client.write(0, vec![7; 512]).await?;
//! client.flush().await?;
//! client.disconnect().await?;
//! server.finish().await?;
//! # Ok(()) }
//! ```
//!
//! What to implement for a disk of one's own is `server::Backend`; what to drive with sockets of one's
//! own is [`proto::client`] and [`proto::server`]. Features: `client` and `server` (default), `tls`,
//! `faults` (fault injection and the journal, for tests), `qemu-nbd`, `serde`, `uri` (URIs without a
//! client), `probe` (the program `nbd-probe`).
#![forbid(unsafe_code)]

pub mod proto;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "qemu-nbd")]
pub mod qemu_nbd;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "client")]
mod socket;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "client")]
mod unix;
#[cfg(feature = "uri")]
pub mod uri;
#[cfg(feature = "client")]
mod vsock;

#[cfg(feature = "client")]
pub use client::{Client, list};
#[cfg(feature = "qemu-nbd")]
pub use qemu_nbd::{QemuNbd, QemuNbdServer};
#[cfg(feature = "uri")]
pub use uri::Uri;

/// The examples there are compiled, and run, with the tests.
#[cfg(all(doctest, feature = "qemu-nbd", feature = "faults"))]
#[doc = include_str!("../README.md")]
struct Readme;
