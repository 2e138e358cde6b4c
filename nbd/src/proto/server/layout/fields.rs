//! Where the fields of a message are, and how a fault changes them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Layout;
use crate::proto::{ChunkType, InfoType, OptionReplyCode};

/// A field of a message that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// The magic at its start.
    Magic,
    /// The second magic of a greeting.
    OptionMagic,
    /// Flags of the greeting, the export or a chunk.
    Flags,
    /// Size of the export.
    Size,
    /// The option that a reply answers.
    Option,
    /// Type of an option reply or a chunk.
    Type,
    /// Length of what follows.
    Length,
    /// Error number.
    Errno,
    /// Length of the text of an error chunk.
    TextLength,
    /// Cookie.
    Cookie,
    /// The request's offset in an extended header.
    EchoedOffset,
    /// Offset in the payload of a chunk of data, of a hole, or of an error at an offset.
    Offset,
    /// Length in the payload of a hole chunk.
    HoleLength,
    /// Context id of a block status chunk or of a context reply.
    ContextId,
    /// Number of extents in an extended block status chunk.
    Count,
    /// Length of the first extent.
    ExtentLength,
    /// Status of the first extent.
    ExtentStatus,
    /// Length of the export's name in a list.
    NameLength,
    /// Type of an `INFO` reply.
    InfoType,
}

/// How a field is changed. Fields are unsigned and wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edit {
    /// To this value.
    To(u64),
    /// By this much.
    Add(i64),
    /// These bits are flipped.
    Xor(u64),
}

/// The location of a field in this message, or `None` if it lacks the field.
fn locate(bytes: &[u8], layout: Layout, field: Field) -> Option<Range<usize>> {
    use Field as F;
    let at = |start: usize, len: usize| Some(start..start + len);
    match (layout, field) {
        (Layout::Oldstyle | Layout::Newstyle, F::Magic) => at(0, 8),
        (Layout::Oldstyle | Layout::Newstyle, F::OptionMagic) => at(8, 8),
        (Layout::Oldstyle, F::Size) => at(16, 8),
        (Layout::Oldstyle, F::Flags) => at(24, 4),
        (Layout::Newstyle, F::Flags) => at(16, 2),
        (Layout::ExportReply, F::Size) => at(0, 8),
        (Layout::ExportReply, F::Flags) => at(8, 2),
        (Layout::OptionReply(..), F::Magic) => at(0, 8),
        (Layout::OptionReply(..), F::Option) => at(8, 4),
        (Layout::OptionReply(..), F::Type) => at(12, 4),
        (Layout::OptionReply(..), F::Length) => at(16, 4),
        (Layout::OptionReply(_, Some(_)), F::InfoType) => at(20, 2),
        (Layout::OptionReply(_, Some(InfoType::EXPORT)), F::Size) => at(22, 8),
        (Layout::OptionReply(_, Some(InfoType::EXPORT)), F::Flags) => at(30, 2),
        (Layout::OptionReply(OptionReplyCode::META_CONTEXT, _), F::ContextId) => at(20, 4),
        (Layout::OptionReply(OptionReplyCode::SERVER, _), F::NameLength) => at(20, 4),
        (Layout::Simple, F::Magic) => at(0, 4),
        (Layout::Simple, F::Errno) => at(4, 4),
        (Layout::Simple, F::Cookie) => at(8, 8),
        (Layout::Structured(_) | Layout::Extended(_), F::Magic) => at(0, 4),
        (Layout::Structured(_) | Layout::Extended(_), F::Flags) => at(4, 2),
        (Layout::Structured(_) | Layout::Extended(_), F::Type) => at(6, 2),
        (Layout::Structured(_) | Layout::Extended(_), F::Cookie) => at(8, 8),
        (Layout::Structured(_), F::Length) => at(16, 4),
        (Layout::Extended(_), F::EchoedOffset) => at(16, 8),
        (Layout::Extended(_), F::Length) => at(24, 8),
        (Layout::Structured(kind), field) => in_chunk(bytes, kind, field, 20),
        (Layout::Extended(kind), field) => in_chunk(bytes, kind, field, 32),
        _ => None,
    }
}

fn in_chunk(bytes: &[u8], kind: ChunkType, field: Field, head: usize) -> Option<Range<usize>> {
    let (start, len) = match (kind, field) {
        (ChunkType::OFFSET_DATA | ChunkType::OFFSET_HOLE, Field::Offset) => (0, 8),
        (ChunkType::OFFSET_HOLE, Field::HoleLength) => (8, 4),
        (ChunkType::ERROR | ChunkType::ERROR_OFFSET, Field::Errno) => (0, 4),
        (ChunkType::ERROR | ChunkType::ERROR_OFFSET, Field::TextLength) => (4, 2),
        (ChunkType::ERROR_OFFSET, Field::Offset) => {
            let text = bytes.get(head + 4..head + 6)?;
            (6 + usize::from(text[0]) * 256 + usize::from(text[1]), 8)
        }
        (ChunkType::BLOCK_STATUS | ChunkType::BLOCK_STATUS_EXT, Field::ContextId) => (0, 4),
        (ChunkType::BLOCK_STATUS, Field::ExtentLength) => (4, 4),
        (ChunkType::BLOCK_STATUS, Field::ExtentStatus) => (8, 4),
        (ChunkType::BLOCK_STATUS_EXT, Field::Count) => (4, 4),
        (ChunkType::BLOCK_STATUS_EXT, Field::ExtentLength) => (8, 8),
        (ChunkType::BLOCK_STATUS_EXT, Field::ExtentStatus) => (16, 8),
        _ => return None,
    };
    Some(head + start..head + start + len)
}

/// Changes a field; `false` if the message lacks it.
pub(crate) fn edit(bytes: &mut [u8], layout: Layout, field: Field, edit: Edit) -> bool {
    let Some(slot) = locate(bytes, layout, field).and_then(|range| bytes.get_mut(range)) else {
        return false;
    };
    let old = slot.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let new = match edit {
        Edit::To(value) => value,
        Edit::Add(by) => old.wrapping_add_signed(by),
        Edit::Xor(bits) => old ^ bits,
    };
    let n = slot.len();
    slot.copy_from_slice(&new.to_be_bytes()[8 - n..]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::chunk::{Error, Extent, Status};
    use crate::proto::{
        ChunkFlags, Errno, OptionCode, OptionReply, OptionReplyHeader, ReplyHeader,
    };

    #[test]
    fn a_field_is_changed_where_the_decoder_finds_it() {
        let header = |len, cookie| ReplyHeader::Structured {
            flags: ChunkFlags::DONE,
            kind: ChunkType::ERROR,
            cookie,
            len,
        };
        let mut bytes = header(7, 1).encode();
        let layout = Layout::Structured(ChunkType::ERROR);
        assert!(edit(&mut bytes, layout, Field::Length, Edit::To(9)));
        assert!(edit(&mut bytes, layout, Field::Cookie, Edit::Add(-2)));
        assert_eq!(ReplyHeader::decode(&bytes).unwrap(), header(9, u64::MAX));
        assert!(
            !edit(&mut bytes, layout, Field::Errno, Edit::To(1)),
            "no payload, no field"
        );
        let mut bytes = ReplyHeader::Simple {
            error: Errno::OK,
            cookie: 3,
        }
        .encode();
        assert!(edit(&mut bytes, Layout::Simple, Field::Errno, Edit::Xor(5)));
        let expected = ReplyHeader::Simple {
            error: Errno::EIO,
            cookie: 3,
        };
        assert_eq!(ReplyHeader::decode(&bytes).unwrap(), expected);
        assert!(!edit(
            &mut bytes,
            Layout::Simple,
            Field::Length,
            Edit::To(1)
        ));
    }

    #[test]
    fn fields_of_payloads_are_where_the_decoders_find_them() {
        let extents = vec![Extent { len: 1, status: 2 }, Extent { len: 3, status: 4 }];
        for (wide, head, layout) in [
            (false, 20, Layout::Structured(ChunkType::BLOCK_STATUS)),
            (true, 32, Layout::Extended(ChunkType::BLOCK_STATUS_EXT)),
        ] {
            let (context, extents) = (0, extents.clone());
            let mut status = Status { context, extents };
            let mut bytes = [vec![0; head], status.encode(wide)].concat();
            for (field, value) in [
                (Field::ContextId, 5),
                (Field::ExtentLength, 6),
                (Field::ExtentStatus, 7),
            ] {
                assert!(edit(&mut bytes, layout, field, Edit::To(value)));
            }
            status.context = 5;
            status.extents[0] = Extent { len: 6, status: 7 };
            assert_eq!(Status::decode(&bytes[head..], wide).unwrap(), status);

            let layout = match wide {
                true => Layout::Extended(ChunkType::ERROR_OFFSET),
                false => Layout::Structured(ChunkType::ERROR_OFFSET),
            };
            let mut error = Error {
                errno: Errno::EIO,
                message: "x".repeat(300),
                offset: Some(1),
            };
            let mut bytes = [vec![0; head], error.encode()].concat();
            assert!(edit(&mut bytes, layout, Field::Offset, Edit::To(9)));
            error.offset = Some(9);
            assert_eq!(Error::decode(&bytes[head..], true, true).unwrap(), error);
            bytes.truncate(head + 5);
            assert!(!edit(&mut bytes, layout, Field::Offset, Edit::To(9)));
        }
        let (name, description) = ("name".to_owned(), "text".to_owned());
        let mut bytes = OptionReply::Server { name, description }.encode(OptionCode::LIST);
        let layout = Layout::OptionReply(OptionReplyCode::SERVER, None);
        assert!(edit(&mut bytes, layout, Field::NameLength, Edit::Add(2)));
        let data = &bytes[OptionReplyHeader::LEN..];
        let (name, description) = ("namete".to_owned(), "xt".to_owned());
        let expected = OptionReply::Server { name, description };
        assert_eq!(
            OptionReply::decode(OptionReplyCode::SERVER, data),
            Ok(expected)
        );
    }
}
