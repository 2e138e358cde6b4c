//! The client's side of a conversation, without I/O.
//!
//! [`Handshake`] negotiates until an export is chosen, [`Transmission`] carries requests and
//! replies after that. Both consume bytes (`space` and `filled`, or `receive`), produce bytes, and
//! report events; neither knows about sockets, tasks or a clock. A driver moves the bytes: this
//! crate has one on tokio (`client`) and one that blocks (`client::blocking`). The simplest one:
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! use nbd::proto::client::{Command, Config, Event, Handshake, Transmission};
//!
//! /// The first 512 bytes of a disk.
//! fn first_sector(mut stream: impl Read + Write) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let mut handshake = Handshake::new(Config::default());
//!     let mut client: Transmission<Vec<u8>> = loop {
//!         stream.write_all(&handshake.transmit())?;
//!         match handshake.event()? {
//!             Some(Event::Ready) => handshake.go("disk")?,
//!             Some(Event::Chosen) => break handshake.into_transmission()?,
//!             Some(_) => {}
//!             None => match stream.read(handshake.space())? {
//!                 0 => handshake.end_of_stream(),
//!                 n => handshake.filled(n),
//!             },
//!         }
//!     };
//!     client.submit(Command::read(0, 512), None)?;
//!     loop {
//!         stream.write_all(&client.transmit())?;
//!         if let Some(notice) = client.notice() {
//!             return Ok(notice.result?.data);
//!         }
//!         match stream.read(client.space())? {
//!             0 => client.end_of_stream(),
//!             n => client.filled(n),
//!         }
//!     }
//! }
//! ```
//!
//! What arrives is checked ([`Config::checks`]) and bounded ([`Config::max_payload`],
//! [`crate::proto::limits`]); the first violation ends the conversation, and each submitted request
//! finishes exactly once, whatever happens. Deadlines are up to the driver: it reports when one has
//! passed ([`Transmission::deadline`], [`Transmission::timeout`]).
//!
//! | state of [`Handshake`] | what it waits for | what ends it |
//! |---|---|---|
//! | greeting | the server's first bytes | newstyle: options; oldstyle: ready |
//! | option | all replies to the option it sent | the next option, or ready |
//! | upgrade | the driver: TLS now, then [`Handshake::tls_started`] | the next option |
//! | ready | the caller: [`Handshake::option`] or [`Handshake::go`] | an option |
//! | export reply | the reply to `EXPORT_NAME` | chosen |
//! | chosen | [`Handshake::into_transmission`] | |
//! | failed | nothing; the first reason is kept | |
//!
//! | state of [`Transmission`] | requests | what ends it |
//! |---|---|---|
//! | open | are taken | `ESHUTDOWN`, [`Transmission::disconnect`], death |
//! | shutting down (the server sent `ESHUTDOWN`) | are refused; those in flight are answered | the last answer: `DISC` is sent |
//! | goodbye (`DISC` is sent) | are refused, and nothing more is sent | the end of the stream |
//! | dead | are refused with the first reason, with which all in flight failed | |

mod command;
mod config;
mod error;
mod export;
mod handshake;
mod options;
mod transmission;

pub use command::Command;
pub use config::{Config, Feature, Policy, StrictMode};
pub use error::{ConnectionError, HandshakeError, Origin, Phase, RequestError};
pub use export::{BlockSizes, Context, ExportInfo};
pub use handshake::{Event, Handshake};
pub use transmission::{Notice, Reply, Transmission};
