//! The codec: what is encoded decodes to itself, and no input makes it panic or allocate wildly.

use nbd::proto::chunk::{Error, Extent, Hole, Status};
use nbd::proto::*;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,40}"
}

fn info_request() -> impl Strategy<Value = InfoRequest> {
    (
        text(),
        prop::collection::vec(any::<u16>().prop_map(InfoType), 0..6),
    )
        .prop_map(|(export, requests)| InfoRequest { export, requests })
}

fn meta_request() -> impl Strategy<Value = MetaContextRequest> {
    (text(), prop::collection::vec(text(), 0..6))
        .prop_map(|(export, queries)| MetaContextRequest { export, queries })
}

fn option_request() -> impl Strategy<Value = OptionRequest> {
    prop_oneof![
        text().prop_map(OptionRequest::ExportName),
        Just(OptionRequest::Abort),
        Just(OptionRequest::List),
        Just(OptionRequest::StartTls),
        info_request().prop_map(OptionRequest::Info),
        info_request().prop_map(OptionRequest::Go),
        Just(OptionRequest::StructuredReply),
        meta_request().prop_map(OptionRequest::ListMetaContext),
        meta_request().prop_map(OptionRequest::SetMetaContext),
        Just(OptionRequest::ExtendedHeaders),
        (12u32.., prop::collection::vec(any::<u8>(), 0..50)).prop_map(|(code, data)| {
            OptionRequest::Other {
                code: OptionCode(code),
                data,
            }
        }),
    ]
}

fn option_reply() -> impl Strategy<Value = OptionReply> {
    prop_oneof![
        Just(OptionReply::Ack),
        (text(), text()).prop_map(|(name, description)| OptionReply::Server { name, description }),
        (any::<u64>(), any::<u16>()).prop_map(|(size, flags)| OptionReply::Info(Info::Export {
            size,
            flags: TransmissionFlags::from_bits_retain(flags)
        })),
        text().prop_map(|t| OptionReply::Info(Info::Name(t))),
        text().prop_map(|t| OptionReply::Info(Info::Description(t))),
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(minimum, preferred, maximum)| {
            OptionReply::Info(Info::BlockSize {
                minimum,
                preferred,
                maximum,
            })
        }),
        (any::<u32>(), text()).prop_map(|(id, name)| OptionReply::MetaContext { id, name }),
        (0x8000_0000u32.., text()).prop_map(|(code, message)| OptionReply::Error {
            code: OptionReplyCode(code),
            message
        }),
    ]
}

proptest! {
    #[test]
    fn options_survive_the_wire(option in option_request()) {
        let bytes = option.encode();
        let header = OptionHeader::decode(&bytes[..OptionHeader::LEN]).unwrap();
        prop_assert_eq!(header.len as usize, bytes.len() - OptionHeader::LEN);
        let back = OptionRequest::decode(header.code, &bytes[OptionHeader::LEN..]).unwrap();
        prop_assert_eq!(back, option);
    }

    #[test]
    fn option_replies_survive_the_wire(reply in option_reply(), option in any::<u32>()) {
        let bytes = reply.encode(OptionCode(option));
        let header = OptionReplyHeader::decode(&bytes[..OptionReplyHeader::LEN]).unwrap();
        prop_assert_eq!(header.option, OptionCode(option));
        let back = OptionReply::decode(header.reply, &bytes[OptionReplyHeader::LEN..]).unwrap();
        prop_assert_eq!(back, reply);
    }

    #[test]
    fn greetings_survive_the_wire(size in any::<u64>(), flags in any::<u16>(), old in any::<bool>()) {
        let greeting = match old {
            true => Greeting::Oldstyle { size, flags: TransmissionFlags::from_bits_retain(flags) },
            false => Greeting::Newstyle { flags: HandshakeFlags::from_bits_retain(flags) },
        };
        let bytes = greeting.encode();
        prop_assert_eq!(Greeting::len_of(Greeting::kind(&bytes).unwrap()), bytes.len());
        prop_assert_eq!(Greeting::decode(&bytes).unwrap(), greeting);
    }

    #[test]
    fn requests_survive_the_wire(
        flags in any::<u16>(), command in any::<u16>(), cookie in any::<u64>(),
        offset in any::<u64>(), len in any::<u64>(), extended in any::<bool>(),
    ) {
        let style = if extended { HeaderStyle::Extended } else { HeaderStyle::Compact };
        let len = if extended { len } else { len & 0xffff_ffff };
        let flags = CommandFlags::from_bits_retain(flags);
        let request = Request { flags, command: CommandType(command), cookie, offset, len };
        let bytes = request.encode(style);
        prop_assert_eq!(bytes.len(), style.request_len());
        prop_assert_eq!(Request::decode(style, &bytes).unwrap(), request);
    }

    #[test]
    fn reply_headers_survive_the_wire(
        kind in 0..3, a in any::<u32>(), b in any::<u16>(), c in any::<u16>(),
        cookie in any::<u64>(), offset in any::<u64>(), len in any::<u64>(),
    ) {
        let flags = ChunkFlags::from_bits_retain(b);
        let header = match kind {
            0 => ReplyHeader::Simple { error: Errno(a), cookie },
            1 => ReplyHeader::Structured { flags, kind: ChunkType(c), cookie, len: a },
            _ => ReplyHeader::Extended { flags, kind: ChunkType(c), cookie, offset, len },
        };
        let bytes = header.encode();
        prop_assert_eq!(ReplyHeader::len_from_magic(&bytes).unwrap(), bytes.len());
        prop_assert_eq!(ReplyHeader::decode(&bytes).unwrap(), header);
    }

    #[test]
    fn chunks_survive_the_wire(
        offset in any::<u64>(), len in any::<u32>(), context in any::<u32>(),
        extents in prop::collection::vec((any::<u32>(), any::<u32>()), 1..20),
        errno in any::<u32>(), message in text(), at in any::<Option<u64>>(), wide in any::<bool>(),
    ) {
        let hole = Hole { offset, len };
        prop_assert_eq!(Hole::decode(&hole.encode()).unwrap(), hole);
        let extents = extents.into_iter()
            .map(|(len, status)| Extent { len: len.into(), status: status.into() }).collect();
        let status = Status { context, extents };
        prop_assert_eq!(&Status::decode(&status.encode(wide), wide).unwrap(), &status);
        let error = Error { errno: Errno(errno), message, offset: at };
        prop_assert_eq!(&Error::decode(&error.encode(), at.is_some(), true).unwrap(), &error);
        let filter = StatusFilter { effect_len: offset, contexts: vec![context, len] };
        prop_assert_eq!(&StatusFilter::decode(&filter.encode()).unwrap(), &filter);
    }

    #[test]
    fn no_input_makes_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), code in 0u32..14) {
        let _ = Greeting::decode(&bytes);
        let _ = ExportReply::decode(&bytes);
        let _ = OptionHeader::decode(&bytes);
        let _ = OptionReplyHeader::decode(&bytes);
        let _ = OptionRequest::decode(OptionCode(code), &bytes);
        let _ = OptionReply::decode(OptionReplyCode(code), &bytes);
        let _ = OptionReply::decode(OptionReplyCode(code | 0x8000_0000), &bytes);
        let _ = Request::decode(HeaderStyle::Compact, &bytes);
        let _ = Request::decode(HeaderStyle::Extended, &bytes);
        let _ = ReplyHeader::decode(&bytes);
        let _ = StatusFilter::decode(&bytes);
        let _ = Hole::decode(&bytes);
        for flag in [false, true] {
            let _ = Status::decode(&bytes, flag);
            let _ = Error::decode(&bytes, flag, !flag);
        }
    }
}

#[test]
fn a_length_above_the_limit_is_refused_in_the_header() {
    let option = OptionHeader {
        code: OptionCode::GO,
        len: limits::MAX_OPTION_DATA as u32 + 1,
    };
    assert!(matches!(
        OptionHeader::decode(&option.encode()),
        Err(DecodeError::TooLong { .. })
    ));
    let (option, reply) = (OptionCode::LIST, OptionReplyCode::SERVER);
    let header = OptionReplyHeader {
        option,
        reply,
        len: u32::MAX,
    };
    let decoded = OptionReplyHeader::decode(&header.encode());
    assert!(matches!(decoded, Err(DecodeError::TooLong { .. })));
    let too_many = 4 + 8 * (limits::MAX_EXTENTS as u64 + 1);
    assert!(matches!(
        Status::check_len(too_many, false),
        Err(DecodeError::TooLong { .. })
    ));
    assert!(matches!(
        Error::check_len(5000, false),
        Err(DecodeError::TooLong { .. })
    ));
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let greeting = Greeting::Newstyle {
        flags: HandshakeFlags::all() & HandshakeFlags::NO_ZEROES,
    };
    assert_eq!(greeting.encode(), b"NBDMAGICIHAVEOPT\0\x02");
    let old = Greeting::Oldstyle {
        size: 1,
        flags: TransmissionFlags::HAS_FLAGS,
    };
    assert_eq!(old.encode()[8..16], [0, 0, 0x42, 2, 0x81, 0x86, 0x12, 0x53]);
    assert_eq!(old.encode().len(), 152);
    assert_eq!(OptionRequest::List.encode(), b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    let reply = OptionReply::MetaContext {
        id: 7,
        name: "a:b".into(),
    };
    let expected = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x04\0\0\0\x07\0\0\0\x07a:b";
    assert_eq!(reply.encode(OptionCode::SET_META_CONTEXT), expected);
    let request = Request {
        flags: CommandFlags::FUA,
        command: CommandType::WRITE,
        cookie: 2,
        offset: 3,
        len: 4,
    };
    let expected = b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04";
    assert_eq!(request.encode(HeaderStyle::Compact), expected);
    assert_eq!(
        request.encode(HeaderStyle::Extended)[..4],
        [0x21, 0xe4, 0x1c, 0x71]
    );
    let simple = ReplyHeader::Simple {
        error: Errno::EIO,
        cookie: 9,
    };
    assert_eq!(
        simple.encode(),
        b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x09"
    );
}

#[test]
fn a_message_that_goes_on_behind_its_end_is_refused() {
    let failed = Error {
        errno: Errno::EIO,
        message: "broken".into(),
        offset: None,
    };
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    let sizes = Info::BlockSize {
        minimum: 1,
        preferred: 4096,
        maximum: 65536,
    };
    let info = OptionReply::Info(sizes).encode(OptionCode::GO);
    let info = info[OptionReplyHeader::LEN..].to_vec();
    let hole = Hole {
        offset: 0,
        len: 512,
    };
    let go = OptionRequest::Go(InfoRequest::default()).encode();
    let go = go[OptionHeader::LEN..].to_vec();
    let found = [
        OptionReply::decode(OptionReplyCode::INFO, &longer(info)).err(),
        OptionRequest::decode(OptionCode::GO, &longer(go)).err(),
        Hole::decode(&longer(hole.encode())).err(),
        Error::decode(&longer(failed.encode()), false, true).err(),
    ];
    for error in found {
        assert!(
            matches!(error, Some(DecodeError::Trailing { extra: 1, .. })),
            "{error:?}"
        );
    }
}
