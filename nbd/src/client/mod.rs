//! An async NBD client that believes nothing.
//!
//! [`Builder`] says what to negotiate, [`Negotiation`] is the option phase (for listing, or for
//! tests of the negotiation itself), [`Client`] is a connection in the transmission phase.
//!
//! Everything a server sends is checked by [`crate::proto::client`]; the first violation ends the
//! connection with a [`ConnectionError`] that says what was wrong. Cookies are never used twice
//! within a connection. Each phase has a deadline.
//!
//! [`Handle`] is for work: several connections as one disk, any length, connections that are lost are
//! made again, copies from and to files.

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
