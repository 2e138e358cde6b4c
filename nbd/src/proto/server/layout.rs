//! Kinds of messages of a server, and where their fields are.

#[cfg(feature = "faults")]
pub(crate) use fields::edit;
#[cfg(feature = "faults")]
pub use fields::{Edit, Field};

use crate::proto::{ChunkType, InfoType, OptionReplyCode};

/// A kind of message that a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "faults"),
    expect(dead_code, reason = "only faults look at it")
)]
pub(crate) enum Layout {
    Oldstyle,
    Newstyle,
    ExportReply,
    OptionReply(OptionReplyCode, Option<InfoType>),
    Simple,
    Structured(ChunkType),
    Extended(ChunkType),
}

#[cfg(feature = "faults")]
mod fields;
