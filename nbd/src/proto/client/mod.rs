//! The client's side of a conversation, without I/O.
//!
//! [`Handshake`] negotiates until an export is chosen, [`Transmission`] carries requests and
//! replies after that. Both take bytes (`space` and `filled`, or `receive`), give bytes, and report
//! what happened; neither knows of sockets, tasks or a clock. A driver moves the bytes: this crate
//! has one on tokio (`client`).
//!
//! | state of [`Handshake`] | what it waits for | what ends it |
//! |---|---|---|
//! | greeting | the server's first bytes | newstyle: options; oldstyle: ready |
//! | option | all replies to the option it sent | the next option, or ready |
//! | upgrade | the driver: TLS now, then [`Handshake::tls_started`] | the next option |
//! | ready | the caller: [`Handshake::option`] or [`Handshake::go`] | an option |
//! | export reply | the reply to `EXPORT_NAME` | chosen |
//! | chosen | [`Handshake::into_transmission`] | |
//! | failed | nothing; the first reason stays | |
//!
//! | state of [`Transmission`] | requests | what ends it |
//! |---|---|---|
//! | open | are taken | `ESHUTDOWN`, [`Transmission::disconnect`], death |
//! | shutting down (the server sent `ESHUTDOWN`) | are refused; those under way are answered | the last answer: `DISC` is sent |
//! | goodbye (`DISC` is sent) | are refused, and nothing is sent any more | the end of the stream |
//! | dead | are refused with the first reason, which all that were under way got too | |

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
