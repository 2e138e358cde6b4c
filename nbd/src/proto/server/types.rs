//! What goes between a [`super::Server`] and its owner.

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
    /// Clients may ask for it (subject to downgrade: proto.md, "SELECTIVETLS").
    Offered,
    /// Nothing else is answered before it is started.
    Required,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The richest mode that it speaks.
    pub mode: Mode,
    /// Whether it offers to leave out the zeroes after `EXPORT_NAME`.
    pub no_zeroes: bool,
    /// Whether clients may or must use TLS.
    pub tls: TlsPolicy,
    /// Largest payload in bytes, and the most that is kept for one connection.
    pub max_payload: u64,
    /// Most requests of a connection that are carried out at once.
    pub in_flight: usize,
    /// Takes no byte beyond the message at hand: what a client sent after it stays in the kernel.
    pub exact: bool,
    /// Reports each option and each request as soon as its header is there, and waits for
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
    /// Its name, which may differ from the one that was asked for.
    pub name: String,
    /// Text for people; may be empty.
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

/// A request that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Names it for [`super::Server::reply`]; the first of a connection is 1.
    pub id: u64,
    /// Its header.
    pub request: Request,
    /// Bytes that it is about, which is not its length when that counts a payload.
    pub effect_len: u64,
    /// Data of a write.
    pub payload: Vec<u8>,
    /// For a block status, which of the selected contexts are asked for.
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
    /// Text for people, sent in structured and extended replies.
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
    /// The header and data of an option are there ([`Config::intercept`]):
    /// [`super::Server::proceed`], or [`super::Server::answer`].
    Option {
        /// Which.
        option: OptionCode,
        /// Bytes of its data.
        len: u32,
    },
    /// Which exports there are: [`super::Server::list`].
    List,
    /// What is to be said of this export: [`super::Server::describe`].
    Describe {
        /// Its name.
        export: String,
        /// Whether size and flags will be sent, and not only contexts.
        advertise: bool,
    },
    /// TLS is to be started on the stream once all is sent; then [`super::Server::tls_started`].
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
    /// The header of a request is there ([`Config::intercept`]): [`super::Server::proceed`].
    Received {
        /// Names it for [`super::Server::reply`].
        id: u64,
        /// The header.
        request: Request,
    },
    /// A request is to be carried out: [`super::Server::reply`].
    Request(Incoming),
    /// The client's part is over; what is under way may still be answered.
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
    /// The client said goodbye (`DISC` or `ABORT`).
    Goodbye,
    /// The client broke the protocol, or asked for an export that does not exist.
    Refused(String),
    /// The server was shut down.
    Shutdown,
}
