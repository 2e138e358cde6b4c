//! A client that sends whatever bytes a case gives it.

use iotests_core::prelude::*;
use nbd::proto::{
    ChunkFlags, CommandFlags, CommandType, Greeting, HeaderStyle, InfoRequest, Mode, OptionCode,
    OptionHeader, OptionReplyCode, OptionReplyHeader, OptionRequest, ReplyHeader, Request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The connection of such a client.
pub(super) struct Wire {
    stream: UnixStream,
    /// What it has agreed to.
    mode: Mode,
}

/// What a client has to say for itself: fixed newstyle, without zeroes.
const FLAGS: u32 = 3;

impl Wire {
    /// Connects, and takes the greeting.
    pub(super) async fn connect(socket: &std::path::Path) -> CaseResult<Wire> {
        let mut wire = Wire::call(socket).await?;
        wire.take_greeting().await?;
        Ok(wire)
    }

    /// Connects, which needs nobody who answers.
    pub(super) async fn call(socket: &std::path::Path) -> CaseResult<Wire> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Wire {
            stream,
            mode: Mode::Simple,
        })
    }

    /// Takes the greeting.
    pub(super) async fn take_greeting(&mut self) -> CaseResult {
        let mut greeting = [0; Greeting::NEWSTYLE_LEN];
        self.stream.read_exact(&mut greeting).await?;
        Greeting::decode(&greeting)?;
        Ok(())
    }

    /// The server says nothing to it, nor hangs up, until this has been done.
    pub(super) async fn hears_nothing_during(
        &mut self,
        other: impl Future<Output = CaseResult>,
    ) -> CaseResult {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                readable = self.stream.readable() => {
                    readable?;
                    // It may have been ready for what was read before.
                    match self.stream.try_read(&mut [0]) {
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        _ => return Err(Failure::new("the server turned to a client that waits")),
                    }
                }
                done = &mut other => return done,
            }
        }
    }

    /// Sends these bytes. That the server has gone is for who reads.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends these bytes over and over, and reads nothing, until the server takes no more; for that long another client is served.
    pub(super) async fn clog(&mut self, bytes: &[u8], other: &nbd::Client) -> CaseResult {
        let mut at = 0;
        loop {
            let mut sent = false;
            let served = other.read(0, 512);
            tokio::pin!(served);
            loop {
                tokio::select! {
                    biased;
                    written = self.stream.write(&bytes[at..]) => {
                        at = (at + written?) % bytes.len();
                        sent = true;
                    }
                    served = &mut served => {
                        served?;
                        break;
                    }
                };
            }
            if !sent {
                return Ok(());
            }
        }
    }

    /// Says that nothing more will come.
    pub(super) async fn say_no_more(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Goes on to the options, and agrees on a mode there.
    pub(super) async fn agree(&mut self, mode: Mode) -> CaseResult {
        self.send(&FLAGS.to_be_bytes()).await;
        let code = match mode {
            Mode::Structured => OptionCode::STRUCTURED_REPLY,
            Mode::Extended => OptionCode::EXTENDED_HEADERS,
            _ => return Ok(()),
        };
        self.send(&option(code, &[])).await;
        check!(self.answer().await? == Some(OptionReplyCode::ACK));
        self.mode = mode;
        Ok(())
    }

    /// Goes on to the transmission, on the export of this name.
    pub(super) async fn go(&mut self, export: &str) -> CaseResult {
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
            if self.stream.read_exact(&mut header).await.is_err() {
                return Ok(None);
            }
            let header = OptionReplyHeader::decode(&header)?;
            let mut data = vec![0; usize::try_from(header.len)?];
            self.stream.read_exact(&mut data).await?;
            if header.reply == OptionReplyCode::ACK || header.reply.is_error() {
                return Ok(Some(header.reply));
            }
        }
    }

    /// The error of the reply to a request, 0 for none; `None` where the server hangs up. A simple reply must have no data.
    pub(super) async fn errno(&mut self) -> CaseResult<Option<u32>> {
        let mut errno = 0;
        loop {
            let mut header = vec![0; ReplyHeader::MIN_LEN];
            if self.stream.read_exact(&mut header).await.is_err() {
                return Ok(None);
            }
            let whole = ReplyHeader::len_from_magic(&header)?;
            header.resize(whole, 0);
            let rest = &mut header[ReplyHeader::MIN_LEN..];
            self.stream.read_exact(rest).await?;
            let (flags, kind, len) = match ReplyHeader::decode(&header)? {
                ReplyHeader::Simple { error, .. } => {
                    check!(self.mode < Mode::Extended, "a simple reply");
                    return Ok(Some(error.0));
                }
                ReplyHeader::Structured {
                    flags, kind, len, ..
                } => {
                    check!(self.mode == Mode::Structured, "a structured reply");
                    (flags, kind, u64::from(len))
                }
                ReplyHeader::Extended {
                    flags, kind, len, ..
                } => {
                    check!(self.mode == Mode::Extended, "an extended reply");
                    (flags, kind, len)
                }
            };
            let mut data = vec![0; usize::try_from(len)?];
            self.stream.read_exact(&mut data).await?;
            if let (true, Some(bytes)) = (kind.is_error(), data.first_chunk()) {
                errno = u32::from_be_bytes(*bytes);
            }
            if flags.contains(ChunkFlags::DONE) {
                return Ok(Some(errno));
            }
        }
    }

    /// A request in good order is served.
    pub(super) async fn assert_served(&mut self) -> CaseResult {
        let flush = match self.mode {
            Mode::Extended => extended(CommandType::FLUSH.0, 0, 0, 0),
            _ => request(CommandType::FLUSH.0, 0, 0, 0),
        };
        self.send(&flush).await;
        check!(self.errno().await? == Some(0), "no flush after it");
        Ok(())
    }

    /// Waits until the server has hung up, whatever it says before: which is returned.
    pub(super) async fn ended(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
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
    counted(&vec![b'x'; len])
}

/// A text with its length.
pub(super) fn counted(text: &[u8]) -> Vec<u8> {
    with((text.len() as u32).to_be_bytes().to_vec(), text)
}

/// These bytes and more of them.
pub(super) fn with(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend(more);
    bytes
}

/// The header of a request.
pub(super) fn request(command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    header(HeaderStyle::Compact, command, flags, offset, len)
}

/// The extended header of a request.
pub(super) fn extended(command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    header(HeaderStyle::Extended, command, flags, offset, len)
}

fn header(style: HeaderStyle, command: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let request = Request {
        flags: CommandFlags::from_bits_retain(flags),
        command: CommandType(command),
        cookie: 1,
        offset,
        len,
    };
    request.encode(style)
}
