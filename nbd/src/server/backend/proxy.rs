//! Another server: faults between any client and any real server.

use bytes::Bytes;

use super::{Backend, BackendError, Piece};
use crate::client::{BlockSizes, Client, RequestError};
use crate::proto::chunk::Extent;
use crate::proto::{CommandFlags, Errno, Mode, TransmissionFlags, limits};

/// Passes every command on.
///
/// The contexts are those selected on the connection to the real server.
#[derive(Clone, Debug)]
pub struct ProxyBackend {
    client: Client,
}

impl ProxyBackend {
    /// A proxy for the export that this client is connected to.
    pub fn new(client: Client) -> ProxyBackend {
        ProxyBackend { client }
    }

    /// Largest range of one request.
    fn most(&self) -> u64 {
        match self.client.export().mode {
            Mode::Extended => u64::MAX,
            _ => limits::MAX_COMPACT_LEN,
        }
    }

    /// Splits a range into parts of at most one request.
    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (most, end) = (self.most(), offset + len);
        let mut at = offset;
        std::iter::from_fn(move || {
            let len = (end - at).min(most);
            at += len;
            (len > 0).then_some((at - len, len))
        })
    }
}

impl From<RequestError> for BackendError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused { errno, message, .. } => BackendError { errno, message },
            RequestError::Misuse { .. } => BackendError::new(Errno::EINVAL, error.to_string()),
            other => BackendError::new(Errno::EIO, other.to_string()),
        }
    }
}

impl Backend for ProxyBackend {
    fn size(&self) -> u64 {
        self.client.export().size
    }

    fn flags(&self) -> TransmissionFlags {
        // These two depend on what our own client negotiates with us.
        let own = TransmissionFlags::SEND_DF | TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        self.client.export().flags - own
    }

    fn block_sizes(&self) -> Option<BlockSizes> {
        self.client.export().block_sizes
    }

    fn contexts(&self) -> Vec<String> {
        self.client.export().contexts.iter().map(|c| c.name.clone()).collect()
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        Ok(vec![Piece::Data(
            self.client.read(offset, len).await?.into(),
        )])
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), BackendError> {
        let flags = CommandFlags::FUA.only_if(fua);
        Ok(self.client.write_with(offset, data, flags).await?)
    }

    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError> {
        for (at, len) in self.parts(offset, len) {
            self.client.write_zeroes(at, len, flags).await?;
        }
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        for (at, len) in self.parts(offset, len) {
            self.client.trim(at, len).await?;
        }
        Ok(())
    }

    async fn cache(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        for (at, len) in self.parts(offset, len) {
            self.client.cache(at, len).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), BackendError> {
        Ok(self.client.flush().await?)
    }

    async fn status(
        &self,
        context: &str,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        // The answer may be short.
        let len = len.min(self.most());
        let flags = CommandFlags::REQ_ONE.only_if(one);
        let replies = self.client.block_status_with(offset, len, flags).await?;
        let found = replies.into_iter().find(|reply| reply.context == context);
        found.map(|reply| reply.extents).ok_or_else(|| {
            BackendError::new(Errno::EINVAL, format!("context {context} is not selected"))
        })
    }
}
