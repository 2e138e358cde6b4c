//! The NBD protocol without I/O: the wire format, and both sides of the conversation as state
//! machines. Bytes in, typed values out, and back.
//!
//! Nothing here reads from a socket, waits or depends on an async runtime. Each message has a
//! fixed-size header that is decoded first; it gives the number of bytes that follow, which is
//! checked against a limit before the caller can allocate anything.
//!
//! `decode` is the exact inverse of `encode` and consumes all bytes of a message; bytes that do not
//! conform to the protocol are a [`DecodeError`]. What is well-formed but forbidden in a reply is a
//! [`Violation`]. Unknown numbers and flags are kept. Offsets and lengths are in bytes.
//!
//! The names are those of `doc/proto.md` of the NBD project (sections are cited where a rule
//! comes from one); extended headers are specified on its `extension-ext-header` branch.
//!
//! | phase | messages |
//! |---|---|
//! | handshake | [`Greeting`], [`ClientFlags`], [`ExportReply`] |
//! | option haggling | [`OptionHeader`], [`OptionRequest`], [`OptionReplyHeader`], [`OptionReply`] |
//! | transmission | [`Request`], [`ReplyHeader`], [`chunk`], [`StatusFilter`] |
//! | what a reply must look like | [`ReplyCheck`] |
//! | the whole conversation | [`client`], [`server`] |
//!
//! Both state machines, and the bytes that a socket would carry between them:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use nbd::proto::client::{Command, Config, Event, Handshake, Transmission};
//! use nbd::proto::server::{self, Answer, Description, Piece, Server};
//!
//! let mut server: Server<Vec<u8>> = Server::new(server::Config::default());
//! let mut handshake = Handshake::new(Config::default());
//! let mut client: Transmission<Vec<u8>> = loop {
//!     handshake.receive(&server.transmit());
//!     match handshake.event()? {
//!         Some(Event::Ready) => handshake.go("disk")?,
//!         Some(Event::Chosen) => break handshake.into_transmission()?,
//!         _ => {}
//!     }
//!     server.receive(&handshake.transmit());
//!     while let Some(event) = server.event() {
//!         if let server::Event::Describe { export: name, .. } = event {
//!             let size = 1 << 20;
//!             server.describe(Some(Description { name, size, ..Description::default() }));
//!         }
//!     }
//! };
//! assert_eq!(client.export().size, 1 << 20);
//!
//! let cookie = client.submit(Command::read(4096, 5), None)?;
//! server.receive(&client.transmit());
//! while let Some(event) = server.event() {
//!     if let server::Event::Request(incoming) = event {
//!         assert_eq!(incoming.request.offset, 4096);
//!         server.reply(incoming.id, Answer::Data(vec![Piece::Data(b"hello".to_vec())]));
//!     }
//! }
//! client.receive(&server.transmit());
//! let notice = client.notice().ok_or("no reply")?;
//! assert_eq!((notice.cookie, notice.result?.data), (cookie, b"hello".to_vec()));
//! # Ok(()) }
//! ```

mod bits;
mod check;
pub mod chunk;
pub mod client;
mod codes;
mod error;
mod flags;
mod handshake;
mod intake;
pub mod limits;
mod option;
mod option_reply;
mod reply;
mod request;
mod send_queue;
pub mod server;
mod spans;
mod violation;
mod wire;

pub use check::{Body, Checks, Outcome, ReplyCheck};
pub use codes::{ChunkType, CommandType, Errno, InfoType, OptionCode, OptionReplyCode, magic};
pub use error::DecodeError;
pub use flags::{
    BaseAllocation, ChunkFlags, ClientFlags, CommandFlags, HandshakeFlags, TransmissionFlags,
};
pub use handshake::{ExportReply, Greeting, GreetingKind};
pub use option::{InfoRequest, MetaContextRequest, OptionHeader, OptionRequest};
pub use option_reply::{Info, OptionReply, OptionReplyHeader};
pub use reply::ReplyHeader;
pub use request::{HeaderStyle, Request, StatusFilter};
pub use send_queue::SendQueue;
pub use violation::Violation;

/// What client and server agreed on; each mode includes the capabilities of the previous one.
///
/// The order is that of QEMU's `NBDMode` (`include/block/nbd.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Mode {
    /// The server sends size and flags at once; there is no negotiation.
    Oldstyle,
    /// Newstyle, where only `NBD_OPT_EXPORT_NAME` may be used.
    ExportName,
    /// Fixed newstyle with simple replies.
    Simple,
    /// Fixed newstyle with structured replies.
    Structured,
    /// Fixed newstyle with extended headers in both directions.
    Extended,
}

impl Mode {
    /// All modes, from least to most capable.
    pub const ALL: [Mode; 5] = [
        Mode::Oldstyle,
        Mode::ExportName,
        Mode::Simple,
        Mode::Structured,
        Mode::Extended,
    ];

    /// Which request header this mode uses.
    pub fn header_style(self) -> HeaderStyle {
        if self == Mode::Extended {
            HeaderStyle::Extended
        } else {
            HeaderStyle::Compact
        }
    }

    /// Whether replies are sent as chunks (structured or extended).
    pub fn has_chunks(self) -> bool {
        self >= Mode::Structured
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Oldstyle => "oldstyle",
            Mode::ExportName => "export-name",
            Mode::Simple => "simple",
            Mode::Structured => "structured",
            Mode::Extended => "extended",
        })
    }
}
