//! A hostile peer can make us allocate at most the payload limit plus 1 MiB.
//!
//! A binary of its own: the allocator counts for the whole process, so one test at a time.

use nbd::Client;
use nbd::client::{RequestError, StrictMode};
use nbd::proto::chunk::{Extent, Status};
use nbd::proto::*;
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::{Export, Server};
use peak_alloc::PeakAlloc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[global_allocator]
static COUNTER: PeakAlloc = PeakAlloc;

const BOUND: usize = (limits::MAX_PAYLOAD + (1 << 20)) as usize;

/// Runs one attack and returns its peak memory use.
fn cost(attack: impl AsyncFnOnce(DuplexStream, DuplexStream)) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let before = COUNTER.current_usage();
    COUNTER.reset_peak_usage();
    runtime.block_on(attack(ours, theirs));
    COUNTER.peak_usage().saturating_sub(before)
}

async fn says(mut peer: DuplexStream, parts: Vec<Vec<u8>>, endless: Option<Vec<u8>>) {
    // Everything we send is read and dropped, so that nothing blocks on the pipe.
    let speaking = async {
        let (mut rx, mut tx) = tokio::io::split(&mut peer);
        let listening = async {
            let mut sink = [0; 4096];
            while matches!(rx.read(&mut sink).await, Ok(n) if n > 0) {}
        };
        let talking = async {
            for part in &parts {
                if tx.write_all(part).await.is_err() {
                    return;
                }
            }
            while let Some(again) = &endless {
                if tx.write_all(again).await.is_err() {
                    return;
                }
            }
            let _ = tx.shutdown().await;
        };
        tokio::join!(listening, talking);
    };
    speaking.await;
}

/// What a server with extended headers sends until transmission.
fn handshake() -> Vec<u8> {
    let fixed = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let mut out = Greeting::Newstyle { flags: fixed }.encode();
    out.extend(OptionReply::Ack.encode(OptionCode::EXTENDED_HEADERS));
    let context = OptionReply::MetaContext {
        id: 1,
        name: "base:allocation".into(),
    };
    out.extend(context.encode(OptionCode::SET_META_CONTEXT));
    out.extend(OptionReply::Ack.encode(OptionCode::SET_META_CONTEXT));
    let (size, flags) = (1 << 40, TransmissionFlags::all());
    out.extend(OptionReply::Info(Info::Export { size, flags }).encode(OptionCode::GO));
    out.extend(OptionReply::Ack.encode(OptionCode::GO));
    out
}

fn chunk(kind: ChunkType, len: u64) -> Vec<u8> {
    let flags = ChunkFlags::empty();
    ReplyHeader::Extended {
        flags,
        kind,
        cookie: 1,
        offset: 0,
        len,
    }
    .encode()
}

/// Sends the second part after it has received a request: an unrequested reply ends a connection
/// before anything is kept.
async fn answers(mut peer: DuplexStream, replies: Vec<Vec<u8>>) {
    peer.write_all(&handshake()).await.unwrap();
    let mut heard = Vec::new();
    let request = magic::EXTENDED_REQUEST.to_be_bytes();
    while !heard.windows(4).any(|word| word == request) {
        assert!(peer.read_buf(&mut heard).await.unwrap() > 0);
    }
    says(peer, replies, None).await;
}

/// Whether it is the reply that was refused, and not that it came when nothing was asked.
fn refused(error: &RequestError) -> bool {
    let violation = error.violation();
    violation.is_some_and(|why| !matches!(why, Violation::UnknownCookie { .. }))
}

async fn reads(ours: DuplexStream, theirs: DuplexStream, reply: Vec<Vec<u8>>, len: u64) {
    let talking = tokio::spawn(answers(theirs, reply));
    let builder = Client::builder().mode(Mode::Extended).context("base:allocation");
    let client = builder.connect_stream(ours).await.unwrap();
    let error = client.read(0, len).await.unwrap_err();
    assert!(refused(&error), "{:?}", error.connection());
    drop(client);
    talking.await.unwrap();
}

/// Repeats a message until the server accepts no more, without reading, and returns the number of
/// repetitions.
fn unread(first: &[u8], again: &[u8]) -> usize {
    use nbd::proto::server::{Answer, Config, Description, Event, Piece, Server};
    let mut server: Server<Vec<u8>> = Server::new(Config::default());
    // What its driver wants to write, and cannot.
    let mut queue = SendQueue::default();
    let mut said = 0;
    let mut bytes = first;
    loop {
        if server.receive(bytes) < bytes.len() {
            return said;
        }
        (bytes, said) = (again, said + 1);
        assert!(said < 10_000_000, "it goes on for ever");
        while let Some(event) = server.event() {
            match event {
                Event::List => server.list([("name".repeat(100), "text".repeat(500))]),
                Event::Describe { .. } => server.describe(Some(Description {
                    size: 1 << 40,
                    flags: TransmissionFlags::SEND_FLUSH,
                    contexts: vec!["base:allocation".into()],
                    ..Description::default()
                })),
                Event::Request(request) => {
                    let answer = match request.command() {
                        CommandType::READ => {
                            Answer::Data(vec![Piece::Data(vec![1; request.effect_len as usize])])
                        }
                        CommandType::BLOCK_STATUS => {
                            let extent = |n: u64| Extent {
                                len: 512,
                                status: n & 1,
                            };
                            Answer::Status(vec![Status {
                                context: 0,
                                extents: (0..1 << 16).map(extent).collect(),
                            }])
                        }
                        _ => Answer::Done,
                    };
                    server.reply(request.id, answer);
                }
                Event::Closed(why) => panic!("{why:?}"),
                Event::Transmission { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(outgoing) = server.outgoing() {
            outgoing.enqueue(&mut queue);
        }
    }
}

#[test]
fn no_attack_costs_more_than_the_payload_limit_plus_1_mib() {
    let mut costs = Vec::new();
    let mut note = |name: &str, cost: usize| costs.push((name.to_owned(), cost));

    for (name, kind) in [
        ("data", ChunkType::OFFSET_DATA),
        ("error", ChunkType::ERROR),
    ] {
        for len in [u64::MAX, 1 << 40, u64::from(u32::MAX)] {
            let header = vec![chunk(kind, len)];
            let attack = async |a, b| reads(a, b, header, 1 << 20).await;
            note(&format!("{name} chunk of {len} bytes"), cost(attack));
        }
    }

    // Pieces of one byte that never touch: the bookkeeping would outgrow the data.
    let mut pieces = Vec::new();
    for n in (0..limits::MAX_PAYLOAD).step_by(512) {
        let mut piece = chunk(ChunkType::OFFSET_DATA, 9);
        piece.extend((limits::MAX_PAYLOAD - 1 - n).to_be_bytes());
        piece.push(1);
        pieces.push(piece);
    }
    let attack = async |a, b| reads(a, b, pieces, limits::MAX_PAYLOAD).await;
    note("fragments", cost(attack));

    // The greatest status reply that is allowed, and then another one.
    let extents = vec![Extent { len: 1, status: 0 }; limits::MAX_EXTENTS];
    let body = Status {
        context: 1,
        extents,
    }
    .encode(true);
    let mut status = chunk(ChunkType::BLOCK_STATUS_EXT, body.len() as u64);
    status.extend(body);
    let replies = vec![status.clone(), status];
    note(
        "block status",
        cost(async |a, b| {
            let talking = tokio::spawn(answers(b, replies));
            let builder = Client::builder().mode(Mode::Extended).context("base:allocation");
            let client = builder.connect_stream(a).await.unwrap();
            let error = client.block_status(0, 1 << 30).await.unwrap_err();
            assert!(refused(&error), "{:?}", error.connection());
            drop(client);
            talking.await.unwrap();
        }),
    );

    for (name, reply) in [
        (
            "names",
            OptionReply::Server {
                name: "x".repeat(4096),
                description: "y".repeat(4096),
            },
        ),
        (
            "empty names",
            OptionReply::Server {
                name: String::new(),
                description: String::new(),
            },
        ),
    ] {
        let fixed = HandshakeFlags::FIXED_NEWSTYLE;
        let greeting = Greeting::Newstyle { flags: fixed }.encode();
        let bomb = reply.encode(OptionCode::LIST);
        note(
            &format!("list bomb of {name}"),
            cost(async |a, b| {
                let talking = tokio::spawn(says(b, vec![greeting], Some(bomb)));
                use nbd::client::Feature::{ExtendedHeaders, StructuredReplies};
                let builder = Client::builder().forbid(ExtendedHeaders).forbid(StructuredReplies);
                let mut options = builder.negotiate_stream(a).await.unwrap();
                assert!(options.list().await.is_err());
                drop(options);
                talking.await.unwrap();
            }),
        );
    }
    let huge = OptionReplyHeader {
        option: OptionCode::GO,
        reply: OptionReplyCode::INFO,
        len: u32::MAX,
    };
    let greeting = Greeting::Newstyle {
        flags: HandshakeFlags::FIXED_NEWSTYLE,
    }
    .encode();
    note(
        "option reply of 4 GiB",
        cost(async |a, b| {
            let talking = tokio::spawn(says(b, vec![greeting, huge.encode()], None));
            assert!(Client::builder().connect_stream(a).await.is_err());
            talking.await.unwrap();
        }),
    );

    // Against the server.
    let flags = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    let extended = OptionRequest::ExtendedHeaders.encode();
    let go = OptionRequest::Go(InfoRequest::default()).encode();
    let request = |command, flags, len| {
        let request = Request {
            flags,
            command,
            cookie: 1,
            offset: 0,
            len,
        };
        request.encode(HeaderStyle::Extended)
    };
    let option = OptionHeader {
        code: OptionCode::GO,
        len: u32::MAX,
    }
    .encode();
    let payload = CommandFlags::PAYLOAD_LEN;
    let many = OptionRequest::SetMetaContext(MetaContextRequest {
        export: String::new(),
        queries: vec![String::new(); limits::MAX_OPTION_DATA / 4 - 2],
    });
    for (name, last) in [
        ("option of 4 GiB", [flags.clone(), option].concat()),
        (
            "write of 2^60",
            [
                flags.clone(),
                extended.clone(),
                go.clone(),
                request(CommandType::WRITE, payload, 1 << 60),
            ]
            .concat(),
        ),
        (
            "status with 2^40 of payload",
            [
                flags.clone(),
                extended.clone(),
                go.clone(),
                request(CommandType::BLOCK_STATUS, payload, 1 << 40),
            ]
            .concat(),
        ),
        (
            "read of 2^60",
            [
                flags.clone(),
                extended.clone(),
                go.clone(),
                request(CommandType::READ, CommandFlags::empty(), 1 << 60),
            ]
            .concat(),
        ),
        (
            "largest write",
            [
                flags.clone(),
                extended.clone(),
                go.clone(),
                request(CommandType::WRITE, payload, limits::MAX_PAYLOAD),
            ]
            .concat(),
        ),
        (
            "many queries",
            [flags.clone(), extended.clone(), many.encode()].concat(),
        ),
    ] {
        let filler = (name == "largest write").then(|| vec![0; 1 << 16]);
        note(
            name,
            cost(async |a, b| {
                let server = Server::builder()
                    .export(Export::new(ZeroBackend::new(1 << 62)))
                    .detached()
                    .unwrap();
                let served = server.serve(b);
                tokio::select! {
                    () = says(a, vec![last], filler) => {}
                    _ = served => {}
                }
            }),
        );
    }

    // No payload comes with these zeroes, and the server has to keep them.
    for len in [1 << 34, 1 << 40] {
        let zeroes = request(CommandType::WRITE_ZEROES, CommandFlags::NO_HOLE, len);
        let last = [flags.clone(), extended.clone(), go.clone(), zeroes].concat();
        note(
            &format!("{len} allocated zeroes"),
            cost(async |a, b| {
                let server = Server::builder()
                    .export(Export::new(MemoryBackend::new(1 << 40)))
                    .detached()
                    .unwrap();
                let served = server.serve(b);
                tokio::select! {
                    () = says(a, vec![last], None) => {}
                    _ = served => {}
                }
            }),
        );
    }

    // Data and holes in turns: no piece is to take the room of all of them.
    let striped = std::sync::Arc::new(MemoryBackend::new(1 << 25));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        use nbd::server::Backend;
        for n in (0..1 << 25).step_by(1 << 17) {
            striped.write(n, vec![1; 1 << 16].into(), false).await.unwrap();
        }
    });
    let whole = request(CommandType::READ, CommandFlags::empty(), 1 << 25);
    let last = [flags.clone(), extended.clone(), go.clone(), whole].concat();
    note(
        "read of stripes",
        cost(async |a, b| {
            let export = Export::shared(striped);
            let server = Server::builder().export(export).detached().unwrap();
            let served = server.serve(b);
            tokio::select! {
                () = says(a, vec![last], None) => {}
                _ = served => {}
            }
        }),
    );

    // A client that reads no replies. Its requests are accepted until that costs too much.
    let list = OptionRequest::List.encode();
    let info = OptionRequest::Info(InfoRequest::default()).encode();
    let known = OptionRequest::SetMetaContext(MetaContextRequest {
        export: String::new(),
        queries: vec!["base:allocation".into()],
    });
    let chosen = [flags.clone(), extended.clone(), known.encode(), go.clone()].concat();
    let none = CommandFlags::empty();
    for (name, first, again) in [
        ("lists", flags.clone(), list),
        ("informations", flags.clone(), info),
        (
            "flushes",
            chosen.clone(),
            request(CommandType::FLUSH, none, 0),
        ),
        ("errors", chosen.clone(), request(CommandType(99), none, 0)),
        (
            "block status",
            chosen.clone(),
            request(CommandType::BLOCK_STATUS, none, 1 << 30),
        ),
        (
            "reads",
            chosen.clone(),
            request(CommandType::READ, none, 1 << 16),
        ),
    ] {
        let before = COUNTER.current_usage();
        COUNTER.reset_peak_usage();
        let taken = unread(&first, &again);
        let cost = COUNTER.peak_usage().saturating_sub(before);
        assert!(taken > 10, "{name}: the server stops after {taken}");
        note(&format!("{taken} unread {name}"), cost);
    }

    // A rule that is switched off must cost no memory either.
    note(
        "provoking client",
        cost(async |a, b| {
            let server = Server::builder()
                .export(Export::new(ZeroBackend::new(1 << 20)))
                .detached()
                .unwrap();
            server.serve(b);
            let client =
                Client::builder().not_strict(StrictMode::all()).connect_stream(a).await.unwrap();
            assert!(client.read(0, 1 << 50).await.is_err());
        }),
    );

    // What one request can carry is not kept twice.
    let once = cost(async |_, _| {
        let export = Export::new(ZeroBackend::new(1 << 25));
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let handle = Client::builder().handle();
        let disk = handle.connect_uri(&server.uri().unwrap()).await.unwrap();
        assert_eq!(disk.read(0, 1 << 24).await.unwrap().len(), 1 << 24);
    });
    assert!(once < 3 << 23, "a read of 16 MiB takes {once} bytes");

    for (name, cost) in &costs {
        println!("{name}: {} KiB", cost / 1024);
    }
    let over: Vec<_> = costs.iter().filter(|(_, cost)| *cost > BOUND).collect();
    assert!(over.is_empty(), "{over:?}");
}
