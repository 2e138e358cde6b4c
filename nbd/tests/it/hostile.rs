//! Hostile peers: the bodies of the fuzz targets over their corpus, and under proptest with inputs
//! close to the real thing.

use nbd::proto::chunk::{Error, Extent, Hole, Status};
use nbd::proto::*;
use proptest::prelude::*;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

/// Bytes with real messages strewn in.
fn messages(real: impl Strategy<Value = Vec<u8>> + 'static) -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..24);
    let piece = prop_oneof![6 => real, 1 => noise];
    (
        prop::collection::vec(piece, 0..8),
        any::<prop::sample::Index>(),
        0u8..=255,
        any::<bool>(),
    )
        .prop_map(|(pieces, at, bits, flip)| {
            let mut all = pieces.concat();
            if flip && !all.is_empty() {
                let at = at.index(all.len());
                all[at] ^= bits;
            }
            all
        })
}

fn server_says() -> impl Strategy<Value = Vec<u8>> {
    let codes = prop::sample::select(OptionCode::NAMED.to_vec());
    let reply = prop_oneof![
        Just(OptionReply::Ack),
        (0u32..12).prop_map(|n| OptionReply::Error {
            code: OptionReplyCode(0x8000_0000 | n),
            message: "no".into()
        }),
        any::<u64>().prop_map(|size| OptionReply::Info(Info::Export {
            size,
            flags: TransmissionFlags::all()
        })),
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(minimum, preferred, maximum)| {
            OptionReply::Info(Info::BlockSize {
                minimum,
                preferred,
                maximum,
            })
        }),
        (0u32..3).prop_map(|id| OptionReply::MetaContext {
            id,
            name: "base:allocation".into()
        }),
    ];
    prop_oneof![
        1 => any::<u16>().prop_map(|f| Greeting::Newstyle { flags: HandshakeFlags::from_bits_retain(f) }.encode()),
        1 => any::<u64>().prop_map(|size| Greeting::Oldstyle { size, flags: TransmissionFlags::all() }.encode()),
        4 => (codes, reply).prop_map(|(code, reply)| reply.encode(code)),
    ]
}

fn reply_chunk() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        Just((ChunkType::NONE, vec![])),
        (0u64..9000, 0usize..600).prop_map(|(at, len)| {
            (
                ChunkType::OFFSET_DATA,
                [at.to_be_bytes().to_vec(), vec![7; len]].concat(),
            )
        }),
        (0u64..9000, 0u32..9000)
            .prop_map(|(offset, len)| (ChunkType::OFFSET_HOLE, Hole { offset, len }.encode())),
        (0u32..3, any::<u64>(), any::<bool>()).prop_map(|(context, len, wide)| {
            let status = Status {
                context,
                extents: vec![Extent { len, status: 1 }; 2],
            };
            let kind = if wide {
                ChunkType::BLOCK_STATUS_EXT
            } else {
                ChunkType::BLOCK_STATUS
            };
            (kind, status.encode(wide))
        }),
        any::<Option<u64>>().prop_map(|offset| {
            let kind = if offset.is_some() {
                ChunkType::ERROR_OFFSET
            } else {
                ChunkType::ERROR
            };
            (
                kind,
                Error {
                    errno: Errno::EIO,
                    message: "m".into(),
                    offset,
                }
                .encode(),
            )
        }),
    ];
    (body, 0u64..7, any::<bool>(), 0u8..3).prop_map(|((kind, body), cookie, done, style)| {
        let flags = if done {
            ChunkFlags::DONE
        } else {
            ChunkFlags::empty()
        };
        let (len, offset) = (body.len() as u64, 0);
        let header = match style {
            0 => ReplyHeader::Simple {
                error: Errno(kind.0.into()),
                cookie,
            },
            1 => ReplyHeader::Structured {
                flags,
                kind,
                cookie,
                len: len as u32,
            },
            _ => ReplyHeader::Extended {
                flags,
                kind,
                cookie,
                offset,
                len,
            },
        };
        [header.encode(), body].concat()
    })
}

fn client_says() -> impl Strategy<Value = Vec<u8>> {
    let info = InfoRequest {
        export: "x".into(),
        requests: InfoType::NAMED.to_vec(),
    };
    let meta = |q: &str| MetaContextRequest {
        export: "x".into(),
        queries: vec![q.into()],
    };
    let option = prop::sample::select(vec![
        OptionRequest::List,
        OptionRequest::StartTls,
        OptionRequest::StructuredReply,
        OptionRequest::ExtendedHeaders,
        OptionRequest::Info(info.clone()),
        OptionRequest::SetMetaContext(meta("base:allocation")),
        OptionRequest::ListMetaContext(meta("base:")),
        OptionRequest::Go(info),
        OptionRequest::ExportName("x".into()),
        OptionRequest::Other {
            code: OptionCode(99),
            data: vec![1; 9],
        },
    ]);
    option.prop_map(|option| option.encode())
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0u64..(1 << 20), any::<u64>()];
    let len = prop_oneof![0u64..70, 0u64..(1 << 21), any::<u64>()];
    (any::<bool>(), 0u16..10, 0u16..64, offset, len).prop_map(
        |(wide, command, flags, offset, len)| {
            let style = if wide {
                HeaderStyle::Extended
            } else {
                HeaderStyle::Compact
            };
            let flags = CommandFlags::from_bits_retain(flags);
            let request = Request {
                flags,
                command: CommandType(command),
                cookie: 1,
                offset,
                len,
            };
            let mut out = request.encode(style);
            out.extend(vec![0; request.payload_len(style).min(64) as usize]);
            out
        },
    )
}

fn with_mode(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), bytes).prop_map(|(mode, bytes)| [vec![mode], bytes].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_hostile_handshake_ends_in_an_error_or_a_client(data in messages(server_says())) {
        bodies::client_handshake(&data);
    }

    #[test]
    fn hostile_replies_end_in_errors_or_data(data in with_mode(messages(reply_chunk()))) {
        bodies::client_replies(&data);
    }

    #[test]
    fn hostile_options_end_the_connection(data in messages(client_says())) {
        let greeted = [&[data.len() as u8][..], &1u32.to_be_bytes(), &data].concat();
        bodies::server_options(&greeted);
    }

    #[test]
    fn hostile_requests_are_answered_or_end_the_connection(data in with_mode(messages(request()))) {
        bodies::server_requests(&data);
    }

    #[test]
    fn two_machines_agree_wherever_bytes_are_cut(data in prop::collection::vec(any::<u8>(), 0..400)) {
        // Both are connected before the script begins.
        let connected = [&[data.len() as u8][..], &[0, 255, 4, 255].repeat(12), &data].concat();
        bodies::conversation(&connected);
    }

    #[test]
    fn hostile_text_is_refused(data in prop::collection::vec(any::<u8>(), 0..60)) {
        bodies::ini(&data);
        bodies::uri(&data);
    }

    #[test]
    fn an_almost_right_configuration_is_read_or_refused(text in almost(INI)) {
        bodies::ini(text.as_bytes());
    }

    #[test]
    fn an_almost_right_uri_is_refused_or_survives_being_printed(text in almost(URI)) {
        bodies::uri(text.as_bytes());
    }
}

proptest! {
    // Each opens sockets and starts a thread.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_a_peer_says_means_the_same_in_whatever_pieces_it_comes(data in prop::collection::vec(any::<u8>(), 5..120)) {
        bodies::pieces::pieces(&data);
    }
}

/// Text made of words that belong there, in any order.
fn almost(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        6 => prop::sample::select(words).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(word, 0..16).prop_map(|words| words.concat())
}

const INI: &[&str] = &[
    "[inject-error",
    " \"a\"]",
    "]",
    "\n",
    "\r\n",
    "event",
    "io",
    "when",
    "=",
    ": ",
    "neg-classic",
    "neg1",
    "export",
    "data",
    "readwrite",
    "read",
    "before",
    "after",
    "-1",
    "8",
    "99999999999999999999",
    "# ",
    ";",
];

const URI: &[&str] = &[
    "nbd",
    "nbds",
    "+unix",
    "+tcp",
    "+vsock",
    "://",
    ":",
    "/",
    "user@",
    "host",
    "[::1]",
    "[",
    "10809",
    "?",
    "&",
    "socket=",
    "tls-hostname",
    "=",
    "/tmp/s",
    "%20",
    "%00",
    "%2f",
    "%zz",
    "#",
    "unix:",
    "exportname=",
    "é",
];

#[test]
fn the_corpus_of_the_fuzz_targets_holds() {
    type Body = fn(&[u8]);
    let targets: [(&str, Body); 8] = [
        ("client_handshake", bodies::client_handshake),
        ("client_replies", |data| {
            bodies::client_replies(data);
        }),
        ("server_options", bodies::server_options),
        ("server_requests", bodies::server_requests),
        ("conversation", bodies::conversation),
        ("pieces", |data| {
            bodies::pieces::pieces(data);
        }),
        ("ini", bodies::ini),
        ("uri", bodies::uri),
    ];
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, body) in targets {
        let mut files = 0;
        for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
            let path = entry.unwrap().path();
            // So that a panic names the input.
            println!("{}", path.display());
            body(&std::fs::read(path).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{target}: {files}");
    }
    // Valid input is understood: otherwise surviving the rest would mean little.
    let read = |path: &str| std::fs::read(corpus.join(path)).unwrap();
    for path in [
        "simple-read-write-read-flush",
        "structured-data-hole-status",
    ] {
        let understood = bodies::client_replies(&read(&format!("client_replies/{path}")));
        assert!(understood > 1, "{path}: {understood}");
    }
    for mode in ["extended", "structured"] {
        let whole = format!("pieces/client-{mode}-whole");
        let understood = bodies::pieces::pieces(&read(&whole));
        assert_eq!(understood, 5, "{whole}");
    }
    let folders = std::fs::read_dir(&corpus).unwrap().count();
    assert_eq!(
        folders,
        targets.len(),
        "a target without a corpus, or the other way round"
    );
}
