//! NBD, the network block device protocol: the protocol itself without I/O, a client and a server on top
//! of it, and a wrapper that starts and stops a real qemu-nbd.
//!
//! | module | what it is | feature |
//! |---|---|---|
//! | [`proto`] | the wire format, and both sides of the conversation as state machines | none |
//! | `uri` | NBD URIs, QEMU's dialect of them, and its older `nbd:` names | `uri` |
//! | `client` | a tokio client, a blocking one, and several connections as one disk | `client` (default) |
//! | `server` | any backend on any listener | `server` (default) |
//! | `tls` | credentials for both sides, by rustls | `tls` |
//! | `server::plan` | fault injection and a journal of events: for tests of clients | `faults` |
//! | `qemu_nbd` | a real qemu-nbd, started by socket activation | `qemu-nbd` |
//!
//! `serde` makes the protocol's values serializable; `probe` builds the program `nbd-probe`.
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
//! To serve your own disk, implement `server::Backend`; to use your own sockets, drive
//! [`proto::client`] and [`proto::server`].
//!
//! - Offsets, lengths and sizes are bytes.
//! - The async parts need a tokio runtime with I/O and time enabled; the blocking parts need
//!   nothing else. Everything but [`proto`] is for Linux.
//! - Any future may be dropped: the request stays in flight until its reply arrives, and nothing
//!   else is affected.
//! - What a peer sends is checked, and the memory that it can make us use is bounded: the largest
//!   payload (`max_payload`, default 32 MiB) plus 1 MiB, per connection of a server and per request
//!   of a client.
//! - Errors name the request and the peer; their `source` says why.
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

/// The README's examples are compiled, and run, with the tests.
#[cfg(all(doctest, feature = "qemu-nbd", feature = "faults"))]
#[doc = include_str!("../README.md")]
struct Readme;
