//! What a server reports to its owner.

use std::io;
#[cfg(feature = "faults")]
use std::time::Duration;

use crate::uri::Address;

/// An operation of a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The socket could not be created.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// Two exports have the same name, so that no client could choose the second.
    #[error("two exports are named {name:?}: give each a name of its own (`Export::name`)")]
    SameName {
        /// The name; empty is the default export.
        name: String,
    },
    /// The socket could not be closed or reopened.
    #[error("failed to {what} on {address}")]
    Socket {
        /// Where.
        address: Address,
        /// The operation.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The server could not do something while it ran, such as accept a client.
    #[error("the server failed to {}", .0.join(", to "))]
    Failed(Vec<String>),
    /// Rules never fired: the test did not exercise what it was meant to.
    #[cfg(feature = "faults")]
    #[error("rules of the fault plan never fired: {}", .0.join(", "))]
    Unfired(Vec<String>),
    /// Rules fired where their action does not apply.
    #[cfg(feature = "faults")]
    #[error("rules of the fault plan fired where their action means nothing: {}", .0.join(", "))]
    Inapplicable(Vec<String>),
    /// An awaited event did not happen in time.
    #[cfg(feature = "faults")]
    #[error("{what} did not come within {after:?}")]
    Missing {
        /// What.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
}
