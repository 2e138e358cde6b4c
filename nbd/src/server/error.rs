//! What a server reports to its test.

use std::io;
use std::time::Duration;

/// A server did not do what the test wanted.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket could not be made.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket could not be closed or opened again.
    #[error("{address}: failed to {what}")]
    Failed {
        /// Where.
        address: String,
        /// What, and why not.
        what: String,
    },
    /// Rules never fired: the test did not test what it was to test.
    #[error("failed to fire: {}", .0.join(", "))]
    Unfired(Vec<String>),
    /// Rules fired where their action means nothing.
    #[error("failed to apply: {}", .0.join(", "))]
    Misfit(Vec<String>),
    /// What was waited for did not happen in time.
    #[error("failed to see {what} within {after:?}")]
    Missing {
        /// What.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
}
