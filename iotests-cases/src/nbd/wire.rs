//! A client that sends whatever bytes a case gives it.

use iotests_core::prelude::*;
use nbd::proto::{
    CommandFlags, CommandType, Greeting, HeaderStyle, InfoRequest, OptionCode, OptionHeader,
    OptionReplyCode, OptionReplyHeader, OptionRequest, ReplyHeader, Request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The connection of such a client.
pub(super) struct Wire(UnixStream);

/// What a client has to say for itself: fixed newstyle, without zeroes.
const FLAGS: u32 = 3;

impl Wire {
    /// Connects, and takes the greeting.
    pub(super) async fn connect(socket: &std::path::Path) -> CaseResult<Wire> {
        let mut wire = Wire(UnixStream::connect(socket).await?);
        let mut greeting = [0; Greeting::NEWSTYLE_LEN];
        wire.0.read_exact(&mut greeting).await?;
        Greeting::decode(&greeting)?;
        Ok(wire)
    }

    /// Sends these bytes. That the server has gone is for who reads.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// Goes on to the options.
    pub(super) async fn agree(&mut self) {
        self.send(&FLAGS.to_be_bytes()).await;
    }

    /// Goes on to the transmission, on the export of this name.
    pub(super) async fn go(&mut self, export: &str) -> CaseResult {
        self.agree().await;
        let go = OptionRequest::Go(InfoRequest {
            export: export.to_owned(),
            requests: Vec::new(),
        });
        self.send(&go.encode()).await;
        check!(self.answer().await? == Some(OptionReplyCode::ACK));
        Ok(())
    }

    /// The last reply to an option, `None` where the server hangs up.
    pub(super) async fn answer(&mut self) -> CaseResult<Option<OptionReplyCode>> {
        loop {
            let mut header = [0; OptionReplyHeader::LEN];
            if self.0.read_exact(&mut header).await.is_err() {
                return Ok(None);
            }
            let header = OptionReplyHeader::decode(&header)?;
            let mut data = vec![0; usize::try_from(header.len)?];
            self.0.read_exact(&mut data).await?;
            if header.reply == OptionReplyCode::ACK || header.reply.is_error() {
                return Ok(Some(header.reply));
            }
        }
    }

    /// The error of the reply to a request, 0 for none; `None` where the server hangs up. A client that agreed to nothing else gets simple
    /// replies.
    pub(super) async fn errno(&mut self) -> CaseResult<Option<u32>> {
        let mut reply = [0; 16];
        if self.0.read_exact(&mut reply).await.is_err() {
            return Ok(None);
        }
        match ReplyHeader::decode(&reply)? {
            ReplyHeader::Simple { error, .. } => Ok(Some(error.0)),
            _ => Err(Failure::new("a structured reply that nobody asked for")),
        }
    }

    /// Waits until the server has hung up, whatever it says before.
    pub(super) async fn ended(mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.0.read_to_end(&mut rest).await;
    }
}

/// The bytes of an option.
pub(super) fn option(code: OptionCode, data: &[u8]) -> Vec<u8> {
    OptionRequest::Other {
        code,
        data: data.to_vec(),
    }
    .encode()
}

/// The header of an option that says how much follows, and nothing of that.
pub(super) fn option_header(code: OptionCode, len: u32) -> Vec<u8> {
    OptionHeader { code, len }.encode()
}

/// A name with its length, as `INFO`, `GO` and the meta contexts begin.
pub(super) fn name(len: usize) -> Vec<u8> {
    let mut bytes = (len as u32).to_be_bytes().to_vec();
    bytes.resize(4 + len, b'x');
    bytes
}

/// The header of a request.
pub(super) fn request(command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let request = Request {
        flags: CommandFlags::from_bits_retain(flags),
        command: CommandType(command),
        cookie: 1,
        offset,
        len,
    };
    request.encode(HeaderStyle::Compact)
}
