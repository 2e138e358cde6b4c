//! A connection never came to the transmission phase.

use std::io;
use std::time::Duration;

use crate::proto::client::HandshakeError;
use crate::uri::Address;

/// A connection never came to the transmission phase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The socket could not be opened.
    #[error("failed to connect to {address}")]
    Socket {
        /// Where to.
        address: Address,
        /// Why not.
        source: io::Error,
    },
    /// The socket did not open in time.
    #[error("failed to connect to {address} within {after:?}")]
    Deadline {
        /// Where to.
        address: Address,
        /// The deadline.
        after: Duration,
    },
    /// The negotiation failed.
    #[error("failed to negotiate export {export:?} with {peer}")]
    Handshake {
        /// With whom.
        peer: String,
        /// For which export.
        export: String,
        /// Why.
        source: HandshakeError,
    },
    /// The credentials for TLS cannot be used.
    #[error("failed to prepare TLS for {peer}")]
    Tls {
        /// For whom.
        peer: String,
        /// Why.
        source: io::Error,
    },
}

impl ConnectError {
    /// Why the negotiation failed, if it did.
    pub fn handshake(&self) -> Option<&HandshakeError> {
        match self {
            ConnectError::Handshake { source, .. } => Some(source),
            _ => None,
        }
    }
}
