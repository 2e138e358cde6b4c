//! Both sides of the protocol without sockets and without tasks: bytes are moved by hand.

use std::collections::VecDeque;

use nbd::proto::client::{
    Command, Config, ConnectionError, Event as ClientEvent, Handshake, Notice, RequestError,
    Transmission,
};
use nbd::proto::server::{
    Answer, Closed, Config as ServerConfig, Description, Event, Incoming, Piece, Server,
};
use nbd::proto::{CommandType, Errno, Mode, TransmissionFlags, Violation};

type Bytes = Vec<u8>;

/// A server whose disk is a vector, and whose requests are answered when the test says so.
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
    /// Answers each request as soon as it comes.
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

    /// Takes bytes as far as they are wanted; the rest stays with the client.
    fn receive(&mut self, bytes: &mut Vec<u8>) {
        let taken = self.machine.receive(bytes);
        bytes.drain(..taken);
    }
}

/// Negotiates with a server that has one byte in transit at a time.
fn connect(mode: Mode) -> Pair {
    let mut config = Config::default();
    config.set_mode(mode);
    config.contexts = vec!["base:allocation".into()];
    let mut client = Handshake::new(config);
    let mut server = Side::new(ServerConfig {
        mode,
        ..ServerConfig::default()
    });
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
    /// Moves bytes until nothing moves any more.
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
        let cookies: Vec<u64> = (0..8)
            .map(|n| pair.submit(Command::read(n * 512, 512)))
            .collect();
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
