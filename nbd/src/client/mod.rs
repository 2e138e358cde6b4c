//! An NBD client that believes nothing.
//!
//! [`Builder`] says what to negotiate, [`Negotiation`] is the option phase (for listing, or for
//! tests of the negotiation itself), [`Client`] is a connection in the transmission phase.
//!
//! Everything a server sends is checked against [`crate::proto::ReplyCheck`]; the first violation
//! ends the connection with a [`ConnectionError`] that says what was wrong. Cookies are never
//! used twice within a connection. Each phase has a deadline.

mod builder;
mod connection;
mod error;
mod export;
mod list;
mod negotiation;
mod options;
mod reader;
mod requests;
mod status;
mod transport;
mod verify;

pub use builder::{Builder, Deadlines, Feature, Policy, RequestChecks};
pub use connection::{Client, Stats};
pub use error::{ConnectError, ConnectionError, HandshakeError, Phase, RequestError};
pub use export::{BlockSizes, Context, ExportInfo};
pub use list::{ListedExport, Listing, list};
pub use negotiation::Negotiation;
pub use status::{ContextExtents, MapEntry};
pub use verify::{Difference, Pattern};
