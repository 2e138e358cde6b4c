//! What can go wrong outside the conversation itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::proto::client::{HandshakeError, RequestError};
use crate::uri::Address;

/// A connection did not reach the transmission phase.
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

/// An operation of a [`Handle`](super::Handle) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No connection could be established, or re-established.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The export found after reconnecting is not the one from before.
    #[error("export {export:?} of {peer} has changed while the connection was lost: {what}")]
    Changed {
        /// The export.
        export: String,
        /// Its server.
        peer: String,
        /// What is different.
        what: String,
    },
    /// A local file is larger than the export.
    #[error("{path} has {size} bytes, export {export:?} takes {room}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The export.
        export: String,
        /// Bytes that requests can reach.
        room: u64,
    },
    /// A local file could not be read or written.
    #[error("failed to use {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
