//! Content that is computed, of any size without storage.

use bytes::Bytes;

use super::{Backend, BackendError, HOLE, Piece, ZEROES};
use crate::client::Pattern;
use crate::proto::chunk::Extent;
use crate::proto::{CommandFlags, Errno, TransmissionFlags};

/// Reads as zeroes; writes are dropped.
#[derive(Clone, Copy, Debug)]
pub struct ZeroBackend {
    size: u64,
    sparse: bool,
}

impl ZeroBackend {
    /// Zeroes that are sent as data, and reported as such.
    pub fn new(size: u64) -> ZeroBackend {
        ZeroBackend {
            size,
            sparse: false,
        }
    }

    /// Zeroes that are sent and reported as one hole.
    pub fn sparse(size: u64) -> ZeroBackend {
        ZeroBackend { size, sparse: true }
    }
}

impl Backend for ZeroBackend {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, _offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        if self.sparse {
            return Ok(vec![Piece::Hole(len)]);
        }
        let most = ZEROES.len() as u64;
        let piece = |n: u64| &ZEROES[..(len - n * most).min(most) as usize];
        let pieces = (0..len.div_ceil(most)).map(|n| Piece::Data(Bytes::from_static(piece(n))));
        Ok(pieces.collect())
    }

    async fn write(&self, _offset: u64, _data: Bytes, _fua: bool) -> Result<(), BackendError> {
        Ok(())
    }

    async fn zero(&self, _: u64, _: u64, _: CommandFlags) -> Result<(), BackendError> {
        Ok(())
    }

    async fn trim(&self, _offset: u64, _len: u64) -> Result<(), BackendError> {
        Ok(())
    }

    async fn status(
        &self,
        _: &str,
        _: u64,
        len: u64,
        _one: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        Ok(vec![Extent {
            len,
            status: if self.sparse { HOLE } else { 0 },
        }])
    }
}

/// Reads as a [`Pattern`]; cannot be written.
#[derive(Clone, Copy, Debug)]
pub struct PatternBackend {
    size: u64,
    pattern: Pattern,
}

impl PatternBackend {
    /// A pattern over `size` bytes.
    pub fn new(size: u64, pattern: Pattern) -> PatternBackend {
        PatternBackend { size, pattern }
    }
}

fn read_only() -> BackendError {
    BackendError::new(Errno::EPERM, "a pattern cannot be changed")
}

impl Backend for PatternBackend {
    fn size(&self) -> u64 {
        self.size
    }

    fn flags(&self) -> TransmissionFlags {
        TransmissionFlags::READ_ONLY
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let mut data = vec![0; len as usize];
        self.pattern.fill(offset, &mut data);
        Ok(vec![Piece::Data(data.into())])
    }

    async fn write(&self, _offset: u64, _data: Bytes, _fua: bool) -> Result<(), BackendError> {
        Err(read_only())
    }

    async fn zero(&self, _: u64, _: u64, _: CommandFlags) -> Result<(), BackendError> {
        Err(read_only())
    }

    async fn trim(&self, _offset: u64, _len: u64) -> Result<(), BackendError> {
        Err(read_only())
    }
}
