//! The NBD protocol without I/O: the wire format, and both sides of the conversation as state
//! machines. Bytes in, typed values out, and back.
//!
//! Nothing here reads from a socket, waits or depends on an async runtime. Each message has a
//! fixed-size header that is decoded first; the header says how many bytes follow, and that
//! number has been compared with a limit before the caller gets to allocate anything.
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

/// What client and server agreed on; each mode can do all that the one before it can.
///
/// The order is the one of QEMU's `NBDMode` (`include/block/nbd.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Mode {
    /// The server names size and flags at once; there is no negotiation.
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
    /// All modes, the poorest first.
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

    /// Whether replies come as chunks (structured or extended).
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
