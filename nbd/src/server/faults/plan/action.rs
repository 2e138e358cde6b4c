//! What a rule does.

use serde::{Deserialize, Serialize};

use crate::proto::client::BlockSizes;
use crate::proto::server::{Edit, Field, ReplyKind};
use crate::proto::{Errno, OptionReplyCode, TransmissionFlags};

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closing {
    /// Like `close(2)`: a reset if the client has sent unread data, else an end of stream.
    Plain,
    /// An end of stream in any case; further input from the client is read and dropped.
    Fin,
    /// A reset in any case (TCP; on a unix socket, which has no reset, it is plain).
    Rst,
}

/// One direction of a connection, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// What the server receives.
    Rx,
    /// What the server sends.
    Tx,
}

/// Replies that are well-formed and wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// The last chunk is not marked as the last.
    MissingDone,
    /// Success without any content.
    Empty,
    /// The first half of the content only.
    Half,
    /// The content without a piece in its middle.
    Gap,
    /// The first piece is sent twice.
    Overlap,
    /// Content before the start of the request.
    OutOfRange,
    /// More data than requested.
    Oversize,
    /// A hole of no bytes.
    EmptyHole,
    /// A hole in place of the data.
    HoleForData,
    /// A chunk of an unknown type.
    UnknownChunk,
    /// A chunk that belongs to another command.
    ForeignChunk,
    /// An error chunk with error 0.
    ErrorZero,
    /// An error at an offset outside the request.
    ErrorElsewhere,
    /// An error whose text is longer than its chunk.
    TextTooLong,
    /// A `NONE` chunk with a payload.
    NoneWithPayload,
    /// Data after an error chunk that was the last.
    AfterDone,
    /// Block status: an extent of no bytes.
    ZeroExtent,
    /// Block status: extents whose sum exceeds 2^64, or is as large as 32 bits allow.
    HugeExtents,
    /// Block status: no extent at all.
    NoExtents,
    /// Block status: the first context twice.
    RepeatedContext,
    /// Block status: without the first context.
    MissingContext,
}

/// What happens when a rule fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Closes the connection.
    Close(Closing),
    /// Closes one direction.
    HalfClose(Side),
    /// Closes the connection and stops listening, like a process that exits.
    Die,
    /// Stops listening; the connection stays open.
    StopListening,
    /// Closes the connection and does not listen until this switch is on.
    RestartOn(String),
    /// Closes the connection and does not listen for this many milliseconds.
    RestartAfter(u64),
    /// Sends and receives nothing more on this connection.
    Stall,
    /// Blocks sending or receiving until this switch is on.
    Hold(String),
    /// Waits this many milliseconds.
    Delay(u64),
    /// Sends this message byte by byte.
    Dribble,
    /// Sends only this many bytes of this message, and continues with the next one.
    Truncate(u64),
    /// Appends this many extra bytes to the message.
    Pad(u64),
    /// Flips this many bits of the message, chosen from the seed.
    FlipBits(u32),
    /// Changes a field of the message.
    Set(Field, Edit),
    /// Sends these bytes instead of the message.
    Replace(Vec<u8>),
    /// Does not send the message or reply.
    Drop,
    /// Sends the reply twice.
    Duplicate,
    /// Sends the reply once more after the next one.
    DuplicateLater,
    /// Sends the reply after the next one.
    Reorder,
    /// Swaps the cookies of this reply and the next one.
    SwapCookies,
    /// Holds the reply back until this switch is on; others are sent.
    HoldReply(String),
    /// Sends an empty reply to this cookie first.
    Unsolicited(u64),
    /// Sends another kind of reply.
    WrongKind(ReplyKind),
    /// Fails the request. On a request, it is not carried out; on a reply, it already was.
    Error {
        /// With this error.
        errno: Errno,
        /// And this text, in structured and extended replies.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
        /// At this offset, in structured and extended replies.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// Sends a reply that is well-formed and wrong.
    Malform(Malformed),
    /// Answers an option with this error.
    Refuse(OptionReplyCode),
    /// Does not answer an option.
    Ignore,
    /// Acknowledges an option without acting on it.
    AckAndForget,
    /// Answers an option with the same reply this many times.
    Flood(u64),
    /// Advertises another size.
    AdvertiseSize(u64),
    /// Advertises flags it does not have, and hides others.
    AdvertiseFlags {
        /// To be set.
        #[serde(default)]
        set: TransmissionFlags,
        /// To be hidden.
        #[serde(default)]
        clear: TransmissionFlags,
    },
    /// Advertises other size constraints.
    AdvertiseBlockSizes(BlockSizes),
    /// Reports success of a write that was not carried out.
    LoseWrite,
    /// Reports success of a write of which only this many bytes were written.
    TearWrite(u64),
}

impl Action {
    /// Closes the connection plainly.
    pub const CLOSE: Action = Action::Close(Closing::Plain);

    /// An error without text.
    pub fn error(errno: Errno) -> Action {
        Action::Error {
            errno,
            text: String::new(),
            offset: None,
        }
    }

    /// Sets a field to a value.
    pub fn set(field: Field, value: u64) -> Action {
        Action::Set(field, Edit::To(value))
    }
}

/// As written in a plan.
impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| std::fmt::Error)?;
        // A word needs no quotes.
        f.write_str(text.trim_matches('"'))
    }
}
