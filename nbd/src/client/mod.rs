//! An async NBD client that checks everything a server sends.
//!
//! [`Builder`] says what to negotiate, [`Negotiation`] is the option phase (for listing, or for
//! tests of the negotiation itself), [`Client`] is a connection in the transmission phase.
//!
//! The checks are those of [`crate::proto::client`]; the first violation ends the connection with a
//! [`ConnectionError`] that says what was wrong. Cookies are never used twice
//! within a connection. Each phase has a deadline.
//!
//! [`Handle`] is for moving data: several connections as one disk, requests of any length, reconnection,
//! copies from and to files. [`blocking`] is for programs without async.

pub mod blocking;
mod builder;
mod connection;
mod copy;
mod driver;
mod error;
mod extents;
mod handle;
mod list;
mod negotiation;
mod status;
mod transport;
mod verify;

pub use crate::proto::client::{
    BlockSizes, Command, ConnectionError, Context, ExportInfo, Feature, HandshakeError, Origin,
    Phase, Policy, Reply, RequestError, StrictMode,
};
pub use builder::{Builder, Deadlines};
pub use connection::{Client, Stats};
pub use error::{ConnectError, HandleError};
pub use extents::Extents;
pub use handle::{Handle, HandleBuilder, Reconnect};
pub use list::{ListedExport, Listing, list};
pub use negotiation::Negotiation;
pub use status::{ContextExtents, MapEntry};
pub use verify::{CompareError, Difference, Pattern};
