//! What a [`super::Server`] and its owner exchange.

use crate::proto::client::BlockSizes;
use crate::proto::{
    CommandFlags, CommandType, Errno, Mode, OptionCode, Request, TransmissionFlags, limits,
};

/// Whether clients may or must use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// It is refused.
    #[default]
    Off,
    /// Clients may request it (subject to downgrade: proto.md, "SELECTIVETLS").
    Offered,
    /// Nothing else is answered until it is started.
    Required,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The most capable mode that it offers.
    pub mode: Mode,
    /// Whether it offers to leave out the zeroes after `EXPORT_NAME`.
    pub no_zeroes: bool,
    /// Whether clients may or must use TLS.
    pub tls: TlsPolicy,
    /// Largest payload in bytes, and the memory limit per connection.
    pub max_payload: u64,
    /// Most requests of a connection carried out at once.
    pub in_flight: usize,
    /// Reads no byte beyond the current message: what a client sent after it stays in the kernel.
    pub exact: bool,
    /// Reports each option and each request as soon as its header has arrived, and waits for
    /// [`super::Server::proceed`].
    pub intercept: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::Extended,
            no_zeroes: true,
            tls: TlsPolicy::Off,
            max_payload: limits::MAX_PAYLOAD,
            in_flight: 16,
            exact: false,
            intercept: false,
        }
    }
}

/// An export as its server's owner describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name, which may differ from the requested one.
    pub name: String,
    /// Human-readable text; may be empty.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// What it can do. `HAS_FLAGS`, and what depends on the mode (`SEND_DF`,
    /// `BLOCK_STATUS_PAYLOAD`), are added.
    pub flags: TransmissionFlags,
    /// Advertises exactly `flags`.
    pub exact_flags: bool,
    /// Size constraints, if there are any.
    pub block_sizes: Option<BlockSizes>,
    /// Metadata contexts.
    pub contexts: Vec<String>,
}

/// What is advertised of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Size constraints.
    pub block_sizes: Option<BlockSizes>,
}

/// A request to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Names it for [`super::Server::reply`]; the first of a connection is 1.
    pub id: u64,
    /// Its header.
    pub request: Request,
    /// Length of the affected range, which differs from the length field when that counts a
    /// payload.
    pub effect_len: u64,
    /// Data of a write.
    pub payload: Vec<u8>,
    /// For a block status, which of the selected contexts are requested.
    pub contexts: Vec<u32>,
}

impl Incoming {
    /// Whether it carries this flag.
    pub fn has(&self, flag: CommandFlags) -> bool {
        self.request.flags.contains(flag)
    }

    /// Its command.
    pub fn command(&self) -> CommandType {
        self.request.command
    }
}

/// A command that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errno}: {message}")]
pub struct Failure {
    /// The error number that is sent.
    pub errno: Errno,
    /// Human-readable text, sent in structured and extended replies.
    pub message: String,
}

impl Failure {
    /// An error with a text.
    pub fn new(errno: Errno, message: impl Into<String>) -> Failure {
        Failure {
            errno,
            message: message.into(),
        }
    }
}

/// What a server needs from its owner, or reports to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An option has arrived ([`Config::intercept`]): call [`super::Server::proceed`] or
    /// [`super::Server::answer`].
    Option {
        /// Which.
        option: OptionCode,
        /// Bytes of its data.
        len: u32,
    },
    /// The exports are requested: call [`super::Server::list`].
    List,
    /// The description of this export is requested: call [`super::Server::describe`].
    Describe {
        /// Its name.
        export: String,
        /// Whether size and flags will be sent, not only contexts.
        advertise: bool,
    },
    /// Start TLS on the stream once everything is sent; then call [`super::Server::tls_started`].
    StartTls,
    /// An export was chosen.
    Transmission {
        /// As it was described.
        export: Description,
        /// What was negotiated.
        mode: Mode,
        /// What was advertised.
        advertised: Advertised,
        /// Selected contexts; the id is the position.
        contexts: Vec<String>,
    },
    /// A request header has arrived ([`Config::intercept`]): call [`super::Server::proceed`].
    Received {
        /// Names it for [`super::Server::reply`].
        id: u64,
        /// The header.
        request: Request,
    },
    /// Carry out this request, then call [`super::Server::reply`].
    Request(Incoming),
    /// The client's side has ended; requests in flight may still be answered.
    Closed(Closed),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Closed {
    /// A rule of a fault plan closed it.
    Fault,
    /// The client closed it, or it broke.
    Peer,
    /// The client disconnected cleanly (`DISC` or `ABORT`).
    Goodbye,
    /// The client broke the protocol, or requested an export that does not exist.
    Refused(String),
    /// The server was shut down.
    Shutdown,
}
