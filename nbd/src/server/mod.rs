//! An NBD server: any [`Backend`] on any listener, in any of the five modes.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use nbd::server::backend::FileBackend;
//! use nbd::server::{Export, Server};
//! let server = Server::builder()
//!     .export(Export::new(FileBackend::open("disk.raw", false)?).name("disk"))
//!     .listen_unix("/run/nbd.sock")?;
//! // Serves until dropped; this shuts it down and waits for requests in flight.
//! server.finish().await?;
//! # Ok(()) }
//! ```
//!
//! A connection is a reader, an executor, a queue and a writer: requests are carried out as they
//! arrive, many at once, and replies are sent in the order in which they are ready. The protocol
//! itself is [`crate::proto::server`]; this module adds only sockets and tasks.
//!
//! With the feature `faults` a server misbehaves as a test needs: a [`FaultPlan`] describes, as
//! data, where; a fault is an operation on the send queue, or a gate for received messages.
//! Everything that happens is in the [`Journal`]; [`Server::finish`] fails if a rule never fired.
//!
//! | module | owns |
//! |---|---|
//! | [`backend`] | the content of exports: zeroes, a pattern, memory, a file, another server, your own |
//! | `plan` | fault plans: rules, the old INI grammar, which rule fires when |
//! | `journal` | the events of a server |
//! | `shadow` | the fate of each write |
//! | `clock` | delays that can be virtual |

pub mod backend;
mod builder;
mod connection;
mod conversation;
mod error;
mod execute;
mod export;
#[cfg(feature = "faults")]
mod faults;
mod handle;
mod listener;
#[cfg(not(feature = "faults"))]
mod no_faults;
mod state;
mod tls;

pub use backend::Backend;
pub use builder::ServerBuilder;
pub use error::ServerError;
pub use export::Export;
pub use handle::{Report, Server};
pub use listener::ListeningSocket;

#[cfg(feature = "faults")]
pub use faults::{
    Trigger,
    clock::{self, Clock},
    journal::{self, Entry, Event, Journal},
    plan::{self, Action, FaultPlan, On, Rule},
    shadow::{self, WriteShadow},
};

#[cfg(feature = "faults")]
use faults::{Effect, FaultState, Faults};
#[cfg(not(feature = "faults"))]
use no_faults::{Effect, FaultState, Faults};
