//! An async NBD client that checks everything a server sends.
//!
//! [`ClientBuilder`] says what to negotiate, [`Negotiation`] is the option phase (for listing, or for
//! tests of the negotiation itself), [`Client`] is a connection in the transmission phase.
//!
//! The checks are those of [`crate::proto::client`]; the first violation ends the connection with a
//! [`ConnectionError`] that names it. Cookies are never reused within a connection. Each phase has
//! a deadline.
//!
//! [`Handle`] is for moving data: several connections as one disk, requests of any length, reconnection,
//! copies from and to files. [`blocking`] is for programs without async, and has both.
//!
//! | to | take |
//! |---|---|
//! | read and write a disk, in any lengths | [`Client::builder`], [`ClientBuilder::handle`], [`HandleBuilder::connect_uri`] |
//! | send single requests, with their flags, and see what the server answers | [`Client::builder`], [`ClientBuilder::connect_uri`] |
//! | do either without async | `connect_uri_blocking` of the same builder |
//! | see which exports there are | [`list`] |
//! | compare an export with a file or a pattern | [`Client::compare`], [`Client::verify`] |
//!
//! An error names the request, the export and the server; its [`source`](std::error::Error::source)
//! says why. To distinguish them: [`RequestError::errno`] for what the server refused,
//! [`RequestError::connection`] for the end of the connection, [`ConnectError::handshake`] for the
//! negotiation.

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
pub use builder::{ClientBuilder, Deadlines};
pub use connection::{Client, Stats};
pub use error::{ConnectError, HandleError};
pub use extents::Extents;
pub use handle::{Handle, HandleBuilder, Reconnect};
pub use list::{ListedExport, Listing, list};
pub use negotiation::Negotiation;
pub use status::{ContextExtents, MapEntry};
pub use verify::{CompareError, Difference, Pattern};
