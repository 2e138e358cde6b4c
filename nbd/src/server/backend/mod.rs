//! What an export holds.

mod file;
mod memory;
mod proxy;
mod synthetic;

use async_trait::async_trait;
use bytes::Bytes;

use crate::client::BlockSizes;
use crate::proto::chunk::Extent;
use crate::proto::{BaseAllocation, CommandFlags, Errno, TransmissionFlags};

pub use file::FileBackend;
pub use memory::MemoryBackend;
pub use proxy::ProxyBackend;
pub use synthetic::{PatternBackend, ZeroBackend};

/// Part of a read: bytes, or zeroes that need not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// This many zeroes.
    Hole(u64),
}

impl Piece {
    /// Bytes that this stands for.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Data(data) => data.len() as u64,
            Piece::Hole(len) => *len,
        }
    }

    /// Whether it stands for nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A command that a backend could not carry out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errno}: {message}")]
pub struct BackendError {
    /// What the client is told.
    pub errno: Errno,
    /// Text for people, sent in structured and extended replies.
    pub message: String,
}

impl BackendError {
    /// An error with a text.
    pub fn new(errno: Errno, message: impl Into<String>) -> BackendError {
        BackendError {
            errno,
            message: message.into(),
        }
    }
}

impl From<std::io::Error> for BackendError {
    fn from(error: std::io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(number) => Errno(number as u32),
            None => Errno::EIO,
        };
        // Only some numbers may be sent (proto.md, "Error values").
        let errno = if Errno::NAMED.contains(&errno) {
            errno
        } else {
            Errno::EIO
        };
        BackendError::new(errno, error.to_string())
    }
}

/// What an export holds. Ranges are inside [`Backend::size`]: the server has checked them.
///
/// Backends of one's own are written with the crate `async-trait`:
///
/// ```
/// use async_trait::async_trait;
/// use nbd::proto::{CommandFlags, Errno};
/// use nbd::server::backend::{Backend, BackendError, Piece};
///
/// /// Four KiB of zeroes that cannot be changed.
/// struct Stone;
///
/// #[async_trait]
/// impl Backend for Stone {
///     fn size(&self) -> u64 {
///         4096
///     }
///     async fn read(&self, _offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
///         Ok(vec![Piece::Hole(len)])
///     }
///     async fn write(&self, _: u64, _: bytes::Bytes, _: bool) -> Result<(), BackendError> {
///         Err(BackendError::new(Errno::EPERM, "a stone"))
///     }
///     async fn zero(&self, _: u64, _: u64, _: CommandFlags) -> Result<(), BackendError> {
///         Err(BackendError::new(Errno::EPERM, "a stone"))
///     }
///     async fn trim(&self, _: u64, _: u64) -> Result<(), BackendError> {
///         Ok(())
///     }
/// }
/// let server = nbd::server::Server::builder().export(nbd::server::Export::new(Stone));
/// # let _ = server;
/// ```
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Bytes.
    fn size(&self) -> u64;

    /// What it can do; `HAS_FLAGS` and `SEND_DF` are the server's business.
    fn flags(&self) -> TransmissionFlags {
        TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::SEND_FAST_ZERO
            | TransmissionFlags::CAN_MULTI_CONN
    }

    /// Size constraints, if there are any.
    fn block_sizes(&self) -> Option<BlockSizes> {
        None
    }

    /// Metadata contexts that [`Backend::status`] knows.
    fn contexts(&self) -> Vec<String> {
        vec!["base:allocation".into()]
    }

    /// Reads; the pieces make up exactly `len` bytes.
    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError>;

    /// Writes. With `fua` the data must be stable afterwards.
    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), BackendError>;

    /// Writes zeroes.
    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError>;

    /// Discards, or does nothing. The server flushes afterwards where that was asked for.
    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError>;

    /// Prefetches, or does nothing.
    async fn cache(&self, _offset: u64, _len: u64) -> Result<(), BackendError> {
        Ok(())
    }

    /// Makes all writes stable.
    async fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Extents from `offset` on that cover at least one byte and need not cover all of `len`.
    async fn status(
        &self,
        _context: &str,
        _offset: u64,
        len: u64,
    ) -> Result<Vec<Extent>, BackendError> {
        Ok(vec![Extent { len, status: 0 }])
    }
}

/// The status of a hole that reads as zeroes.
const HOLE: u64 = (BaseAllocation::HOLE.bits() | BaseAllocation::ZERO.bits()) as u64;

/// Joins an extent to the one before it if they are alike.
fn push(extents: &mut Vec<Extent>, len: u64, status: u64) {
    match extents.last_mut() {
        Some(last) if last.status == status => last.len += len,
        _ => extents.push(Extent { len, status }),
    }
}
