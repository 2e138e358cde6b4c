//! Both sides of the protocol without sockets and without tasks: bytes are moved by hand.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nbd::proto::client::{
    Command, Config, ConnectionError, Event as ClientEvent, Handshake, Notice, RequestError,
    Transmission,
};
use nbd::proto::server::{
    Answer, Closed, Config as ServerConfig, Description, Event, Incoming, Piece, Server,
};
use nbd::proto::{
    Checks, ChunkFlags, ChunkType, CommandType, Errno, Mode, ReplyHeader, TransmissionFlags,
    Violation,
};

type Bytes = Vec<u8>;

/// A server whose disk is a vector, and whose requests are answered on demand.
struct Side {
    machine: Server<Bytes>,
    disk: Vec<u8>,
    /// Requests that are not answered yet.
    requests: VecDeque<Incoming>,
    closed: Option<Closed>,
}

struct Pair {
    client: Transmission<Bytes>,
    server: Side,
    /// Answers each request as soon as it arrives.
    prompt: bool,
}

impl Side {
    fn new(config: ServerConfig) -> Side {
        Side {
            machine: Server::new(config),
            disk: (0..1 << 16).map(|n| (n / 251) as u8).collect(),
            requests: VecDeque::new(),
            closed: None,
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.machine.event() {
            match event {
                Event::List => self.machine.list([("disk".to_owned(), String::new())]),
                Event::Describe { export, .. } => {
                    let description = Description {
                        name: export,
                        size: self.disk.len() as u64,
                        flags: TransmissionFlags::SEND_FLUSH,
                        contexts: vec!["base:allocation".into()],
                        ..Description::default()
                    };
                    self.machine.describe(Some(description));
                }
                Event::Request(incoming) => self.requests.push_back(incoming),
                Event::Closed(why) => self.closed = Some(why),
                Event::Transmission { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Carries a request out.
    fn answer(&mut self, incoming: &Incoming) {
        let at = incoming.request.offset as usize;
        let answer = match incoming.command() {
            CommandType::READ => {
                let data = self.disk[at..at + incoming.effect_len as usize].to_vec();
                Answer::Data(vec![Piece::Data(data)])
            }
            CommandType::WRITE => {
                self.disk[at..at + incoming.payload.len()].copy_from_slice(&incoming.payload);
                Answer::Done
            }
            _ => Answer::Done,
        };
        self.machine.reply(incoming.id, answer);
    }

    /// Accepts bytes as far as they are wanted; the rest stays with the client.
    fn receive(&mut self, bytes: &mut Vec<u8>) {
        let taken = self.machine.receive(bytes);
        bytes.drain(..taken);
    }
}

/// Negotiates with a server that has one byte in transit at a time.
fn connect(mode: Mode) -> Pair {
    connect_with(mode, Config::default())
}

fn connect_with(mode: Mode, config: Config) -> Pair {
    let server = ServerConfig {
        mode,
        ..ServerConfig::default()
    };
    connect_to(server, config)
}

fn connect_to(server: ServerConfig, mut config: Config) -> Pair {
    config.set_mode(server.mode);
    config.contexts = vec!["base:allocation".into()];
    let mut client = Handshake::new(config);
    let mut server = Side::new(server);
    let mut chosen = false;
    while !chosen {
        server.events();
        for byte in server.machine.transmit() {
            client.receive(&[byte]);
        }
        match client.event().unwrap() {
            Some(ClientEvent::Ready) => client.go("disk").unwrap(),
            Some(ClientEvent::Chosen) => chosen = true,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        for byte in client.transmit() {
            server.receive(&mut vec![byte]);
            server.events();
        }
    }
    Pair {
        client: client.into_transmission().unwrap(),
        server,
        prompt: true,
    }
}

impl Pair {
    /// Moves bytes until there is no more progress.
    fn run(&mut self) {
        let mut stuck = Vec::new();
        loop {
            stuck.extend(self.client.transmit());
            let before = stuck.len();
            self.server.receive(&mut stuck);
            self.server.events();
            while self.prompt
                && let Some(incoming) = self.server.requests.pop_front()
            {
                self.server.answer(&incoming);
            }
            let bytes = self.server.machine.transmit();
            self.client.receive(&bytes);
            if bytes.is_empty() && stuck.len() == before && !self.client.wants_to_send() {
                return;
            }
        }
    }

    fn submit(&mut self, command: Command<Bytes>) -> u64 {
        self.client.submit(command, None).unwrap()
    }

    fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        let cookie = self.submit(Command::read(offset, len));
        self.run();
        let notice = self.client.notice().unwrap();
        assert_eq!(notice.cookie, cookie);
        notice.result.unwrap().data
    }
}

#[test]
fn every_mode_reads_what_was_written_and_nothing_for_nothing() {
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        assert_eq!(pair.client.export().mode, mode);
        pair.submit(Command::write(1000, vec![7; 3000]));
        pair.run();
        assert!(pair.client.notice().unwrap().result.is_ok());
        assert_eq!(pair.read(1000, 3000), vec![7; 3000], "{mode}");
        assert_eq!(pair.read(0, 1000), pair.server.disk[..1000]);
    }
}

#[test]
fn replies_find_their_requests_in_any_order() {
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        pair.prompt = false;
        let cookies: Vec<u64> = (0..8).map(|n| pair.submit(Command::read(n * 512, 512))).collect();
        pair.run();
        assert_eq!(pair.server.requests.len(), 8, "all are under way at once");
        while let Some(incoming) = pair.server.requests.pop_back() {
            pair.server.answer(&incoming);
        }
        pair.run();
        let mut answered = Vec::new();
        while let Some(notice) = pair.client.notice() {
            let n = notice.cookie as usize - 1;
            assert_eq!(
                notice.result.unwrap().data,
                pair.server.disk[n * 512..][..512]
            );
            answered.push(notice.cookie);
        }
        answered.reverse();
        assert_eq!(answered, cookies);
    }
}

/// Fault 4: by proto.md, a client that receives `ESHUTDOWN` starts a soft disconnect.
#[test]
fn what_follows_a_body_can_be_read_with_it_wherever_the_stream_is_cut() {
    // Bodies that are long enough for the buffer behind them to be short, and others.
    let reads = [(0, 40_000), (40_000, 512), (512, 20_000), (1000, 1)];
    for (mode, step) in
        Mode::ALL.into_iter().flat_map(|m| [1, 7, 39, 4096, 1 << 20].map(|s| (m, s)))
    {
        let mut pair = connect(mode);
        for (at, len) in reads {
            pair.submit(Command::read(at, len));
        }
        let mut requests = pair.client.transmit();
        pair.server.receive(&mut requests);
        pair.server.events();
        while let Some(incoming) = pair.server.requests.pop_front() {
            pair.server.answer(&incoming);
        }
        let bytes = pair.server.machine.transmit();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (first, second) = rest.split_at(rest.len().min(step));
            rest = second;
            let mut part = first;
            while !part.is_empty() {
                let mut taken = 0;
                for space in pair.client.spaces() {
                    let n = space.len().min(part.len());
                    space[..n].copy_from_slice(&part[..n]);
                    part = &part[n..];
                    taken += n;
                }
                pair.client.filled(taken);
            }
        }
        for (at, len) in reads {
            let data = pair.client.notice().unwrap().result.unwrap().data;
            let expected = &pair.server.disk[at as usize..][..len as usize];
            assert!(
                data == expected,
                "{mode}, {step} bytes at once: read at {at}"
            );
        }
    }
}

/// The one that was given last is the one that the processor's cache still holds.
#[test]
fn of_the_buffers_that_reads_give_the_last_one_is_used_first() {
    let mut pair = connect(Mode::Structured);
    let mut expected = Vec::new();
    for n in 0..3 {
        let buffer = vec![0xff; 512];
        expected.insert(0, buffer.as_ptr());
        pair.submit(Command::read(n * 512, 512).into_buffer(buffer));
    }
    // It gives none, and takes none.
    pair.submit(Command::read(3 * 512, 512));
    // One that is too small is of no use.
    pair.submit(Command::read(4 * 512, 512).into_buffer(vec![0xff; 100]));
    pair.run();
    for n in 0..5 {
        let data = pair.client.notice().unwrap().result.unwrap().data;
        assert_eq!(data, pair.server.disk[n * 512..][..512]);
        let place = expected.get(n).copied();
        assert!(place.is_none_or(|place| data.as_ptr() == place), "{n}");
    }
    // And none is kept that no reply will take.
    let mut kept = vec![0xff; 512];
    for _ in 0..1000 {
        let at = kept.as_ptr();
        pair.submit(Command::read(0, 512).into_buffer(kept));
        pair.run();
        kept = pair.client.notice().unwrap().result.unwrap().data;
        assert_eq!(kept.as_ptr(), at);
    }
}

/// Neither where the server says that there is a hole, nor where it says nothing and may.
#[test]
fn what_a_buffer_held_before_is_in_no_reply() {
    let given = || Command::read(0, 4096).into_buffer(vec![0xff; 8192]);
    for mode in [Mode::Structured, Mode::Extended] {
        let mut pair = connect(mode);
        pair.prompt = false;
        pair.submit(given());
        pair.run();
        let incoming = pair.server.requests.pop_front().unwrap();
        let pieces = vec![
            Piece::Hole(1000),
            Piece::Data(vec![1; 96]),
            Piece::Hole(3000),
        ];
        pair.server.machine.reply(incoming.id, Answer::Data(pieces));
        pair.run();
        let data = pair.client.notice().unwrap().result.unwrap().data;
        let expected = [vec![0; 1000], vec![1; 96], vec![0; 3000]].concat();
        assert_eq!(data, expected, "{mode}");
    }
    let config = Config {
        checks: Checks::all() - Checks::GAP,
        ..Config::default()
    };
    let mut client = connect_with(Mode::Structured, config).client;
    let cookie = client.submit(given(), None).unwrap();
    let (offset, data) = (1000u64, [1; 96]);
    let header = ReplyHeader::Structured {
        flags: ChunkFlags::DONE,
        kind: ChunkType::OFFSET_DATA,
        cookie,
        len: 8 + 96,
    };
    client.receive(&[&header.encode()[..], &offset.to_be_bytes(), &data].concat());
    let data = client.notice().unwrap().result.unwrap().data;
    let expected = [vec![0; 1000], vec![1; 96], vec![0; 3000]].concat();
    assert_eq!(data, expected);
}

#[test]
fn after_eshutdown_what_is_under_way_is_answered_and_then_goodbye_is_said() {
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        pair.prompt = false;
        for n in 0..3 {
            pair.submit(Command::read(n * 512, 512));
        }
        pair.run();
        let first = pair.server.requests.pop_front().unwrap();
        let gone = Answer::fail(Errno::ESHUTDOWN, "going");
        pair.server.machine.reply(first.id, gone);
        pair.run();
        let refused = pair.client.submit(Command::flush(), None).unwrap_err();
        let why = refused.connection();
        assert!(matches!(why, Some(ConnectionError::Shutdown)), "{why:?}");
        assert_eq!(pair.server.closed, None, "two requests are under way");
        pair.prompt = true;
        pair.run();
        let results: Vec<bool> = std::iter::from_fn(|| pair.client.notice())
            .map(|notice| notice.result.is_ok())
            .collect();
        assert_eq!(results, [false, true, true], "{mode}");
        assert_eq!(pair.server.closed, Some(Closed::Goodbye));
        pair.client.end_of_stream();
        assert!(matches!(
            pair.client.error().as_deref(),
            Some(ConnectionError::Shutdown)
        ));
    }
}

#[test]
fn a_client_knows_that_the_rest_of_a_message_is_on_its_way() {
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        pair.prompt = false;
        pair.submit(Command::read(0, 512));
        pair.run();
        assert!(!pair.client.is_receiving(), "nothing has come: {mode}");
        let incoming = pair.server.requests.pop_front().unwrap();
        pair.server.answer(&incoming);
        let bytes = pair.server.machine.transmit();
        let comes = |byte: &u8| {
            pair.client.receive(&[*byte]);
            pair.client.is_receiving()
        };
        let expected: Vec<bool> = bytes.iter().map(comes).collect();
        let ends = expected.iter().filter(|expected| !**expected).count();
        let messages = if mode == Mode::Simple { 1..=1 } else { 1..=2 };
        assert!(messages.contains(&ends), "{mode}: {expected:?}");
        assert_eq!(expected.last(), Some(&false), "{mode}");
    }
}

/// Fault 4: after `DISC` nothing is sent, whichever side sent it.
#[test]
fn nothing_follows_a_goodbye() {
    let mut pair = connect(Mode::Structured);
    pair.submit(Command::read(0, 512));
    pair.client.disconnect();
    let sent = pair.client.transmit();
    assert_eq!(sent.len(), 2 * 28, "the request, then DISC");
    let refused = pair.client.submit(Command::read(0, 512), None).unwrap_err();
    assert!(matches!(
        refused.connection(),
        Some(ConnectionError::Disconnected)
    ));
    assert!(pair.client.transmit().is_empty());
}

#[test]
fn a_reply_to_what_was_not_sent_yet_is_one_to_nothing() {
    let config = Config {
        in_flight: 1,
        ..Config::default()
    };
    let mut pair = connect_with(Mode::Simple, config);
    pair.submit(Command::flush());
    let cookie = pair.submit(Command::flush());
    assert_eq!(pair.client.transmit().len(), 28, "the first alone");
    let error = Errno::OK;
    let reply = ReplyHeader::Simple { error, cookie }.encode();
    pair.client.receive(&reply);
    let why = pair.client.error();
    let unknown = Violation::UnknownCookie { cookie };
    assert!(
        matches!(why.as_deref(), Some(ConnectionError::Violation(why)) if *why == unknown),
        "{why:?}"
    );
}

#[test]
fn who_gave_up_hears_of_neither_a_late_reply_nor_a_death() {
    for dies in [false, true] {
        let mut pair = connect(Mode::Structured);
        pair.prompt = false;
        let after = Duration::from_secs(1);
        let at = Instant::now() + after;
        let read = pair.client.submit(Command::read(0, 512), Some((at, after)));
        pair.run();
        pair.client.timeout(at);
        let notice = pair.client.notice().unwrap();
        assert_eq!(notice.cookie, read.unwrap());
        assert!(matches!(notice.result, Err(RequestError::Deadline { .. })));
        if dies {
            pair.client.end_of_stream();
        } else {
            let late = pair.server.requests.pop_front().unwrap();
            pair.server.answer(&late);
            pair.run();
            assert!(pair.client.error().is_none(), "it was awaited all the same");
        }
        assert!(pair.client.notice().is_none(), "dies: {dies}");
    }
}

/// Fault 2: a request whose reply is half read dies with the connection like all others.
#[test]
fn death_reaches_every_request_at_once_also_one_whose_reply_is_half_read() {
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        pair.prompt = false;
        let (a, b) = (
            pair.submit(Command::read(0, 4096)),
            pair.submit(Command::read(4096, 4096)),
        );
        pair.run();
        let first = pair.server.requests.pop_front().unwrap();
        pair.server.answer(&first);
        let bytes = pair.server.machine.transmit();
        pair.client.receive(&bytes[..bytes.len() - 1000]);
        pair.client.end_of_stream();
        let ended: Vec<Notice> = std::iter::from_fn(|| pair.client.notice()).collect();
        let cookies: Vec<u64> = ended.iter().map(|notice| notice.cookie).collect();
        assert_eq!(cookies, [a, b], "{mode}");
        for notice in ended {
            assert!(matches!(
                notice.result,
                Err(RequestError::Connection { .. })
            ));
        }
    }
}

#[test]
fn of_several_replies_that_are_not_finished_the_first_is_named() {
    let mut client = connect(Mode::Structured).client;
    let submitted: Vec<u64> =
        (0..16).map(|n| client.submit(Command::read(n * 512, 512), None).unwrap()).collect();
    for cookie in submitted.iter().rev() {
        let header = ReplyHeader::Structured {
            flags: ChunkFlags::empty(),
            kind: ChunkType::OFFSET_DATA,
            cookie: *cookie,
            len: 8 + 1,
        };
        let offset = (cookie - submitted[0]) * 512;
        client.receive(&[&header.encode()[..], &offset.to_be_bytes(), &[1]].concat());
    }
    client.end_of_stream();
    let why = client.error().unwrap();
    let first = Violation::Unfinished {
        cookie: submitted[0],
    };
    assert!(
        matches!(&*why, ConnectionError::Violation(v) if *v == first),
        "{why:?}"
    );
}

#[test]
fn the_first_reason_of_a_death_stays() {
    let mut pair = connect(Mode::Structured);
    pair.client.receive(&[0; 4]);
    let violated = |pair: &Pair| {
        let why = pair.client.error();
        matches!(
            why.as_deref(),
            Some(ConnectionError::Violation(Violation::Decode(_)))
        )
    };
    assert!(violated(&pair));
    pair.client.end_of_stream();
    pair.client.io_failed(std::io::ErrorKind::BrokenPipe.into());
    assert!(violated(&pair));
}

/// Fault 7: REQ_ONE returns one extent within the request, whatever the backend returns.
#[test]
fn req_one_is_answered_within_the_request() {
    use nbd::proto::CommandFlags;
    use nbd::proto::chunk::{Extent, Status};
    for mode in [Mode::Structured, Mode::Extended] {
        let mut pair = connect(mode);
        pair.prompt = false;
        let one = Command::block_status(0, 512).flags(CommandFlags::REQ_ONE);
        pair.submit(one);
        pair.run();
        let incoming = pair.server.requests.pop_front().unwrap();
        let extent = |len| Extent { len, status: 0 };
        let extents = vec![extent(4096), extent(4096)];
        let status = Status {
            context: 0,
            extents,
        };
        let answer = Answer::Status(vec![status]);
        pair.server.machine.reply(incoming.id, answer);
        pair.run();
        let reply = pair.client.notice().unwrap().result.unwrap();
        assert_eq!(reply.statuses[0].extents, [extent(512)], "{mode}");
    }
}

/// A backend's mistake fails its request, and gives the client no reason to drop the connection.
#[test]
fn an_answer_that_does_not_fit_its_request_becomes_an_error() {
    use nbd::proto::chunk::{Extent, Status};
    let data = |len: usize| Answer::Data(vec![Piece::Data(vec![1; len])]);
    let (hole, endless) = (Piece::Hole(512), Piece::Hole(u64::MAX));
    let status = |lens: &[u64]| {
        let extent = |len: &u64| Extent {
            len: *len,
            status: 1,
        };
        let extents = lens.iter().map(extent).collect();
        Answer::Status(vec![Status {
            context: 0,
            extents,
        }])
    };
    // Context 1 was not negotiated.
    let of = |contexts: &[u32]| {
        let status = |context: &u32| Status {
            context: *context,
            extents: vec![Extent {
                len: 512,
                status: 0,
            }],
        };
        Answer::Status(contexts.iter().map(status).collect())
    };
    let (read, map) = (Command::read(512, 512), Command::block_status(512, 512));
    for (command, answer) in [
        (read.clone(), data(511)),
        (read.clone(), Answer::Data(vec![hole, endless])),
        (read.clone(), Answer::Done),
        (read, status(&[512])),
        (Command::write(512, vec![7; 512]), data(512)),
        (Command::flush(), status(&[512])),
        (map.clone(), data(512)),
        (map.clone(), Answer::Done),
        (map.clone(), Answer::Status(Vec::new())),
        (map.clone(), status(&[0])),
        (map.clone(), of(&[1])),
        (map.clone(), of(&[0, 1])),
        (map.clone(), of(&[0, 0])),
    ] {
        let mut pair = connect(Mode::Extended);
        pair.prompt = false;
        pair.submit(command);
        pair.run();
        let incoming = pair.server.requests.pop_front().unwrap();
        let name = format!("{answer:?} to {}", incoming.command());
        pair.server.machine.reply(incoming.id, answer);
        pair.run();
        let error = pair.client.notice().unwrap().result.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EIO), "{name}: {error}");
        assert!(pair.client.error().is_none(), "{name}");
    }
    // Extents end where the export does.
    let mut pair = connect(Mode::Extended);
    pair.prompt = false;
    pair.submit(map);
    pair.run();
    let incoming = pair.server.requests.pop_front().unwrap();
    let answer = status(&[100, u64::MAX, 7]);
    pair.server.machine.reply(incoming.id, answer);
    pair.run();
    let reply = pair.client.notice().unwrap().result.unwrap();
    let lens: Vec<u64> = reply.statuses[0].extents.iter().map(|e| e.len).collect();
    assert_eq!(lens, [100, (1 << 16) - 512 - 100]);
}

/// Fault 7: PAYLOAD_LEN belongs to extended headers.
#[test]
fn payload_len_without_extended_headers_is_refused() {
    use nbd::proto::{CommandFlags, Request};
    for mode in Mode::ALL {
        let mut pair = connect(mode);
        let request = Request {
            flags: CommandFlags::PAYLOAD_LEN,
            command: CommandType::WRITE,
            cookie: 0,
            offset: 0,
            len: 512,
        };
        pair.submit(Command::raw(request, vec![1; 512]));
        pair.run();
        let result = pair.client.notice().unwrap().result;
        let errno = result.err().and_then(|error| error.errno());
        match mode {
            Mode::Extended => assert_eq!(errno, None),
            _ => assert_eq!(errno, Some(Errno::EINVAL), "{mode}"),
        }
    }
}

#[test]
fn no_more_requests_are_under_way_than_the_server_allows() {
    let mut pair = connect(Mode::Structured);
    pair.prompt = false;
    for _ in 0..20 {
        pair.submit(Command::read(0, 1 << 16));
    }
    pair.run();
    assert_eq!(pair.server.requests.len(), 16);
}

#[test]
fn a_client_that_reads_nothing_cannot_make_a_server_keep_more_than_its_limit() {
    let server = ServerConfig {
        mode: Mode::Structured,
        max_payload: 1 << 18,
        ..ServerConfig::default()
    };
    let mut pair = connect_to(server, Config::default());
    pair.prompt = false;
    for _ in 0..20 {
        pair.submit(Command::read(0, 1 << 16));
    }
    let mut bytes = pair.client.transmit();
    let mut receive = |server: &mut Side| {
        server.receive(&mut bytes);
        server.events();
        server.requests.len()
    };
    // Each counts for a little more than its data.
    assert_eq!(receive(&mut pair.server), 3, "four do not fit");
    while let Some(incoming) = pair.server.requests.pop_front() {
        pair.server.answer(&incoming);
    }
    assert_eq!(receive(&mut pair.server), 0, "the answers are not sent");
    assert!(pair.server.machine.transmit().len() > 3 << 16);
    assert_eq!(receive(&mut pair.server), 3);
}

/// A whole handshake with injected bytes: what comes in plain text after STARTTLS is no part of it.
#[test]
fn what_is_sent_in_plain_text_after_starttls_is_refused_by_both_sides() {
    use nbd::proto::client::{Feature, HandshakeError, Policy};
    use nbd::proto::server::TlsPolicy;
    use nbd::proto::{ClientFlags, OptionRequest};
    let mut config = Config::default();
    config.policies.insert(Feature::Tls, Policy::Require);
    let mut client = Handshake::new(config);
    let mut server: Server<Bytes> = Server::new(ServerConfig {
        tls: TlsPolicy::Required,
        ..ServerConfig::default()
    });
    client.receive(&server.transmit());
    server.receive(&client.transmit());
    let mut acknowledged = server.transmit();
    assert!(matches!(server.event(), Some(Event::StartTls)));
    acknowledged.extend(b"more");
    client.receive(&acknowledged);
    let error = client.event().unwrap_err();
    assert!(
        matches!(error, HandshakeError::Injected { bytes: 4 }),
        "{error}"
    );

    let mut server: Server<Bytes> = Server::new(ServerConfig {
        tls: TlsPolicy::Offered,
        ..ServerConfig::default()
    });
    let mut bytes = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    bytes.extend(OptionRequest::StartTls.encode());
    bytes.extend(OptionRequest::List.encode());
    server.receive(&bytes);
    assert!(matches!(
        server.event(),
        Some(Event::Closed(Closed::Refused(_)))
    ));
}

#[test]
fn a_server_that_requires_tls_answers_nothing_before_it_and_the_client_says_so() {
    use nbd::proto::client::HandshakeError;
    use nbd::proto::server::TlsPolicy;
    let mut client = Handshake::new(Config::default());
    let mut server: Server<Bytes> = Server::new(ServerConfig {
        tls: TlsPolicy::Required,
        ..ServerConfig::default()
    });
    client.receive(&server.transmit());
    server.receive(&client.transmit());
    client.receive(&server.transmit());
    let error = client.event().unwrap_err();
    assert!(
        matches!(error, HandshakeError::TlsRequired { .. }),
        "{error}"
    );
}

/// Neither has another way to be refused.
#[test]
fn flags_that_nobody_knows_and_an_export_name_before_tls_end_the_connection() {
    use nbd::proto::server::TlsPolicy;
    use nbd::proto::{ClientFlags, OptionRequest};
    let unknown = (1u32 << 5).to_be_bytes().to_vec();
    let mut early = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    early.extend(OptionRequest::ExportName("disk".into()).encode());
    for (bytes, tls) in [(unknown, TlsPolicy::Off), (early, TlsPolicy::Required)] {
        let mut server: Server<Bytes> = Server::new(ServerConfig {
            tls,
            ..ServerConfig::default()
        });
        let _greeting = server.transmit();
        server.receive(&bytes);
        let closed = server.event();
        assert!(
            matches!(closed, Some(Event::Closed(Closed::Refused(_)))),
            "{closed:?}"
        );
        assert!(server.transmit().is_empty(), "{tls:?}");
    }
}

/// Without negotiation there is no TLS: no client is served in plain text by mistake.
#[test]
fn an_oldstyle_server_that_requires_tls_serves_nobody() {
    use nbd::proto::server::TlsPolicy;
    let mut server: Server<Bytes> = Server::new(ServerConfig {
        mode: Mode::Oldstyle,
        tls: TlsPolicy::Required,
        ..ServerConfig::default()
    });
    let closed = server.event();
    assert!(
        matches!(closed, Some(Event::Closed(Closed::Refused(_)))),
        "{closed:?}"
    );
    assert!(server.transmit().is_empty());
}
