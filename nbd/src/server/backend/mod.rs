//! The content of an export.

mod file;
mod memory;
mod proxy;
mod synthetic;

use std::future::Future;
use std::pin::Pin;

pub use bytes::Bytes;

use crate::proto::chunk::Extent;
use crate::proto::client::BlockSizes;
pub use crate::proto::server::Failure as BackendError;
use crate::proto::{BaseAllocation, CommandFlags, Errno, TransmissionFlags};

pub use file::FileBackend;
pub use memory::MemoryBackend;
pub use proxy::ProxyBackend;
pub use synthetic::{PatternBackend, ZeroBackend};

/// Part of a read: bytes, or zeroes that need not be sent.
pub type Piece = crate::proto::server::Piece<Bytes>;

impl From<std::io::Error> for BackendError {
    fn from(error: std::io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(number) => Errno(number as u32),
            None => Errno::EIO,
        };
        // Only some numbers may be sent (proto.md, "Error values").
        let errno = match Errno::NAMED.contains(&errno) {
            true => errno,
            false => Errno::EIO,
        };
        BackendError::new(errno, error.to_string())
    }
}

/// The content of an export. The server has checked that ranges are within [`Backend::size`].
///
/// Several requests are carried out concurrently, from one or several connections; each completes
/// on its own.
///
/// ```
/// use nbd::proto::{CommandFlags, Errno};
/// use nbd::server::backend::{Backend, BackendError, Bytes, Piece};
///
/// /// Four KiB of zeroes that cannot be changed.
/// struct Stone;
///
/// impl Backend for Stone {
///     fn size(&self) -> u64 {
///         4096
///     }
///     async fn read(&self, _offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
///         Ok(vec![Piece::Hole(len)])
///     }
///     async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), BackendError> {
///         Err(BackendError::new(Errno::EPERM, "a stone"))
///     }
/// }
/// let server = nbd::server::Server::builder().export(nbd::server::Export::new(Stone));
/// # let _ = server;
/// ```
pub trait Backend: Send + Sync + 'static {
    /// Bytes. May change while it is served: requests are checked against the current size; a
    /// client sees the change when it reconnects.
    fn size(&self) -> u64;

    /// What it can do; The server adds `HAS_FLAGS` and `SEND_DF`.
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

    /// Metadata contexts that [`Backend::status`] knows: `base:allocation`, or any of its own.
    fn contexts(&self) -> Vec<String> {
        vec!["base:allocation".into()]
    }

    /// Reads; the pieces make up exactly `len` bytes.
    fn read(
        &self,
        offset: u64,
        len: u64,
    ) -> impl Future<Output = Result<Vec<Piece>, BackendError>> + Send;

    /// Writes. With `fua` the data must be stable afterwards.
    fn write(
        &self,
        offset: u64,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Writes zeroes. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    fn zero(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> impl Future<Output = Result<(), BackendError>> + Send {
        async move {
            if flags.contains(CommandFlags::FAST_ZERO) {
                // As proto.md requires where zeroing is not faster than writing.
                return Err(BackendError::new(Errno::ENOTSUP, "zeroes are written"));
            }
            let fua = flags.contains(CommandFlags::FUA);
            let (mut at, end) = (offset, offset + len);
            while at < end {
                let n = (end - at).min(ZEROES.len() as u64);
                let last = at + n == end;
                self.write(at, Bytes::from_static(&ZEROES[..n as usize]), fua && last).await?;
                at += n;
            }
            Ok(())
        }
    }

    /// Discards, or does nothing. The server flushes afterwards if requested.
    fn trim(
        &self,
        _offset: u64,
        _len: u64,
    ) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Prefetches, or does nothing.
    fn cache(
        &self,
        _offset: u64,
        _len: u64,
    ) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Makes all completed writes stable.
    fn flush(&self) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Extents starting at `offset` that cover at least one byte, but not necessarily all of `len`.
    /// With `one`, the first is enough.
    fn status(
        &self,
        _context: &str,
        _offset: u64,
        len: u64,
        _one: bool,
    ) -> impl Future<Output = Result<Vec<Extent>, BackendError>> + Send {
        async move { Ok(vec![Extent { len, status: 0 }]) }
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

/// Any backend behind a pointer.
pub(super) trait DynBackend: Send + Sync {
    fn size(&self) -> u64;
    fn flags(&self) -> TransmissionFlags;
    fn block_sizes(&self) -> Option<BlockSizes>;
    fn contexts(&self) -> Vec<String>;
    fn read(&self, offset: u64, len: u64) -> Boxed<'_, Vec<Piece>>;
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Boxed<'_, ()>;
    fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Boxed<'_, ()>;
    fn trim(&self, offset: u64, len: u64) -> Boxed<'_, ()>;
    fn cache(&self, offset: u64, len: u64) -> Boxed<'_, ()>;
    fn flush(&self) -> Boxed<'_, ()>;
    fn status<'a>(
        &'a self,
        context: &'a str,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Boxed<'a, Vec<Extent>>;
}

impl<B: Backend> DynBackend for B {
    fn size(&self) -> u64 {
        Backend::size(self)
    }
    fn flags(&self) -> TransmissionFlags {
        Backend::flags(self)
    }
    fn block_sizes(&self) -> Option<BlockSizes> {
        Backend::block_sizes(self)
    }
    fn contexts(&self) -> Vec<String> {
        Backend::contexts(self)
    }
    fn read(&self, offset: u64, len: u64) -> Boxed<'_, Vec<Piece>> {
        Box::pin(Backend::read(self, offset, len))
    }
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Boxed<'_, ()> {
        Box::pin(Backend::write(self, offset, data, fua))
    }
    fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Boxed<'_, ()> {
        Box::pin(Backend::zero(self, offset, len, flags))
    }
    fn trim(&self, offset: u64, len: u64) -> Boxed<'_, ()> {
        Box::pin(Backend::trim(self, offset, len))
    }
    fn cache(&self, offset: u64, len: u64) -> Boxed<'_, ()> {
        Box::pin(Backend::cache(self, offset, len))
    }
    fn flush(&self) -> Boxed<'_, ()> {
        Box::pin(Backend::flush(self))
    }
    fn status<'a>(
        &'a self,
        context: &'a str,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Boxed<'a, Vec<Extent>> {
        Box::pin(Backend::status(self, context, offset, len, one))
    }
}

/// A shared backend is a backend.
impl<B: Backend> Backend for std::sync::Arc<B> {
    fn size(&self) -> u64 {
        Backend::size(&**self)
    }
    fn flags(&self) -> TransmissionFlags {
        Backend::flags(&**self)
    }
    fn block_sizes(&self) -> Option<BlockSizes> {
        Backend::block_sizes(&**self)
    }
    fn contexts(&self) -> Vec<String> {
        Backend::contexts(&**self)
    }
    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        Backend::read(&**self, offset, len).await
    }
    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), BackendError> {
        Backend::write(&**self, offset, data, fua).await
    }
    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError> {
        Backend::zero(&**self, offset, len, flags).await
    }
    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        Backend::trim(&**self, offset, len).await
    }
    async fn cache(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        Backend::cache(&**self, offset, len).await
    }
    async fn flush(&self) -> Result<(), BackendError> {
        Backend::flush(&**self).await
    }
    async fn status(
        &self,
        context: &str,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        Backend::status(&**self, context, offset, len, one).await
    }
}

static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// The status of a hole that reads as zeroes.
const HOLE: u64 = (BaseAllocation::HOLE.bits() | BaseAllocation::ZERO.bits()) as u64;

/// Merges an extent with the previous one if they have the same status.
fn push(extents: &mut Vec<Extent>, len: u64, status: u64) {
    match extents.last_mut() {
        Some(last) if last.status == status => last.len += len,
        _ => extents.push(Extent { len, status }),
    }
}
