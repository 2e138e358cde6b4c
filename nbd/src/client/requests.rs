//! The commands: what they check before they send.

use bytes::Bytes;

use super::builder::RequestChecks;
use super::connection::Client;
use super::error::{ConnectionError, RequestError};
use super::reader::Reply;
use crate::proto::{CommandFlags, CommandType, Mode, Request, TransmissionFlags};

impl Client {
    /// Reads `len` bytes at `offset`.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, RequestError> {
        self.read_into(offset, len, Vec::new()).await
    }

    /// Reads into a buffer that is used again; its old content is lost, also on errors.
    pub async fn read_into(
        &self,
        offset: u64,
        len: u64,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        self.read_with(offset, len, CommandFlags::empty(), buffer)
            .await
    }

    /// Reads with flags ([`CommandFlags::DF`]).
    pub async fn read_with(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let request = request(CommandType::READ, flags, offset, len);
        self.permit(&request, len, len)?;
        let mut reply = self
            .submit(request, len, Bytes::new(), Vec::new(), buffer)
            .await?;
        // Short only where gaps are tolerated.
        reply.data.resize(len as usize, 0);
        Ok(reply.data)
    }

    /// Writes data at `offset`.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), RequestError> {
        self.write_with(offset, data, CommandFlags::empty()).await
    }

    /// Writes with flags ([`CommandFlags::FUA`]).
    pub async fn write_with(
        &self,
        offset: u64,
        data: impl Into<Bytes>,
        mut flags: CommandFlags,
    ) -> Result<(), RequestError> {
        let data = data.into();
        let len = data.len() as u64;
        if self.export().mode == Mode::Extended {
            flags |= CommandFlags::PAYLOAD_LEN;
        }
        let request = request(CommandType::WRITE, flags, offset, len);
        self.permit(&request, len, len)?;
        self.submit(request, len, data, Vec::new(), Vec::new())
            .await
            .map(drop)
    }

    /// Writes zeroes. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        self.plain(CommandType::WRITE_ZEROES, flags, offset, len)
            .await
    }

    /// Discards.
    pub async fn trim(&self, offset: u64, len: u64) -> Result<(), RequestError> {
        self.trim_with(offset, len, CommandFlags::empty()).await
    }

    /// Discards with flags ([`CommandFlags::FUA`]).
    pub async fn trim_with(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        self.plain(CommandType::TRIM, flags, offset, len).await
    }

    /// Asks the server to prefetch.
    pub async fn cache(&self, offset: u64, len: u64) -> Result<(), RequestError> {
        self.plain(CommandType::CACHE, CommandFlags::empty(), offset, len)
            .await
    }

    /// Waits until what was written is on stable storage.
    pub async fn flush(&self) -> Result<(), RequestError> {
        self.plain(CommandType::FLUSH, CommandFlags::empty(), 0, 0)
            .await
    }

    async fn plain(
        &self,
        command: CommandType,
        flags: CommandFlags,
        offset: u64,
        len: u64,
    ) -> Result<(), RequestError> {
        let request = request(command, flags, offset, len);
        self.permit(&request, len, 0)?;
        self.submit(request, len, Bytes::new(), Vec::new(), Vec::new())
            .await
            .map(drop)
    }

    /// Sends any request, checked by nobody; the reply is checked as ever. The cookie is set here.
    ///
    /// For a read the data is returned; a server that sends more than [`Builder::max_payload`]
    /// breaks the protocol. A `DISC` has no reply, so it ends with the connection or the deadline.
    ///
    /// [`Builder::max_payload`]: super::Builder::max_payload
    pub async fn raw(
        &self,
        request: Request,
        payload: impl Into<Bytes>,
    ) -> Result<Vec<u8>, RequestError> {
        let contexts = self.export().contexts.iter().map(|c| c.id).collect();
        let len = request.len;
        let reply: Reply = self
            .submit(request, len, payload.into(), contexts, Vec::new())
            .await?;
        Ok(reply.data)
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub async fn disconnect(self) -> Result<(), std::sync::Arc<ConnectionError>> {
        self.notify(request(CommandType::DISC, CommandFlags::empty(), 0, 0));
        let after = self.inner.builder.deadlines.request;
        match tokio::time::timeout(after, self.closed()).await {
            Ok(error) if matches!(*error, ConnectionError::Closed) => Ok(()),
            Ok(error) => Err(error),
            Err(_) => {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(std::sync::Arc::new(ConnectionError::Io(error)))
            }
        }
    }

    /// Refuses what the export does not allow, unless the test asked for just that.
    ///
    /// `payload` is what crosses the wire in either direction.
    pub(super) fn permit(
        &self,
        request: &Request,
        len: u64,
        payload: u64,
    ) -> Result<(), RequestError> {
        match self.objection(request, len, payload) {
            None => Ok(()),
            Some(reason) => Err(RequestError::Unsendable {
                command: request.command,
                offset: request.offset,
                len,
                reason,
            }),
        }
    }

    fn objection(&self, request: &Request, len: u64, payload: u64) -> Option<String> {
        let export = self.export();
        let sizes = export.block_sizes.unwrap_or_default();
        let ours = self.inner.builder.max_payload;
        // These two are about our own memory and about what the header can hold.
        if payload > ours {
            return Some(format!("payload above our own limit of {ours}"));
        }
        if export.mode != Mode::Extended && len > u64::from(u32::MAX) {
            return Some("length above 32 bits needs extended headers".into());
        }
        if self.is_checked(RequestChecks::COMMANDS) {
            let (needs, writes) = needed(request.command);
            if !export.flags.contains(needs) {
                return Some(format!("the export does not advertise {needs:?}"));
            }
            if writes && export.is_read_only() {
                return Some("the export is read-only".into());
            }
        }
        if self.is_checked(RequestChecks::FLAGS) {
            let missing = request.flags - allowed_flags(request.command, export.flags, export.mode);
            if !missing.is_empty() {
                return Some(format!("flags {missing:?} are not available"));
            }
        }
        if request.command == CommandType::FLUSH {
            return None;
        }
        if self.is_checked(RequestChecks::ZERO_SIZE) && len == 0 {
            return Some("zero bytes".into());
        }
        let end = request.offset.checked_add(len);
        if self.is_checked(RequestChecks::BOUNDS) && end.is_none_or(|end| end > export.size) {
            return Some(format!(
                "beyond the end of the export ({} bytes)",
                export.size
            ));
        }
        let minimum = u64::from(sizes.minimum);
        if self.is_checked(RequestChecks::ALIGN)
            && !(request.offset.is_multiple_of(minimum) && len.is_multiple_of(minimum))
        {
            return Some(format!(
                "not a multiple of the minimum block size {minimum}"
            ));
        }
        if self.is_checked(RequestChecks::PAYLOAD) && payload > u64::from(sizes.maximum) {
            return Some(format!(
                "payload above the server's limit of {}",
                sizes.maximum
            ));
        }
        None
    }
}

pub(super) fn request(command: CommandType, flags: CommandFlags, offset: u64, len: u64) -> Request {
    Request {
        flags,
        command,
        cookie: 0,
        offset,
        len,
    }
}

/// The flag that advertises a command, and whether it changes the export.
fn needed(command: CommandType) -> (TransmissionFlags, bool) {
    use TransmissionFlags as F;
    match command {
        CommandType::WRITE => (F::empty(), true),
        CommandType::FLUSH => (F::SEND_FLUSH, false),
        CommandType::TRIM => (F::SEND_TRIM, true),
        CommandType::CACHE => (F::SEND_CACHE, false),
        CommandType::WRITE_ZEROES => (F::SEND_WRITE_ZEROES, true),
        _ => (F::empty(), false),
    }
}

/// Flags that make sense for a command on this export (proto.md, "Command flags").
fn allowed_flags(command: CommandType, export: TransmissionFlags, mode: Mode) -> CommandFlags {
    use CommandFlags as C;
    let mut allowed = C::empty();
    let fua = export.contains(TransmissionFlags::SEND_FUA);
    match command {
        CommandType::READ if export.contains(TransmissionFlags::SEND_DF) => allowed |= C::DF,
        CommandType::WRITE if mode == Mode::Extended => allowed |= C::PAYLOAD_LEN,
        CommandType::WRITE_ZEROES => {
            allowed |= C::NO_HOLE;
            if export.contains(TransmissionFlags::SEND_FAST_ZERO) {
                allowed |= C::FAST_ZERO;
            }
        }
        CommandType::BLOCK_STATUS => {
            allowed |= C::REQ_ONE;
            if export.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD) {
                allowed |= C::PAYLOAD_LEN;
            }
        }
        _ => {}
    }
    let writes = [
        CommandType::WRITE,
        CommandType::TRIM,
        CommandType::WRITE_ZEROES,
    ];
    if fua && writes.contains(&command) {
        allowed |= C::FUA;
    }
    allowed
}
