//! Plans as data: rules, phases, triggers, budgets, determinism, and what a failed plan says.

use std::time::Duration;

use nbd::proto::{ChunkType, CommandType as C, Errno, Mode};
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::journal::Closed;
use nbd::server::plan::{Action, Closing, FaultPlan, Field, Malformed, On, Range, Rule, Side};
use nbd::server::{Clock, Event, Export, Server, ServerError};
use nbd::uri::Address;
use nbd::{Client, Uri};
use proptest::prelude::*;

use crate::support::{all_tools, at_once, block_on, short_dir};

const TIMEOUT: Duration = Duration::from_secs(60);

async fn client(uri: &Uri) -> Client {
    Client::builder().context("base:allocation").connect_uri(uri).await.unwrap()
}

#[test]
fn a_rule_that_never_fired_fails_the_test() {
    block_on(async {
        let plan = FaultPlan::new()
            .rule(Rule::new(On::reply(C::TRIM), Action::Drop).name("trim"))
            .rule(Rule::new(On::Greeting, Action::Dribble));
        let server = Server::builder().export(Export::new(ZeroBackend::new(512))).plan(plan);
        let server = server.detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        Client::builder().connect_stream(ours).await.unwrap();
        assert_eq!(server.unfired(), ["trim"]);
        let Err(ServerError::Unfired(rules)) = server.finish().await else {
            panic!()
        };
        assert_eq!(rules, ["trim"]);
    });
}

#[test]
fn a_rule_whose_action_means_nothing_there_fails_the_test() {
    block_on(async {
        // Simple replies have no chunks to lie about, and a greeting has no cookie.
        for rule in [
            Rule::new(On::reply(C::READ), Action::Malform(Malformed::Gap)),
            Rule::new(On::Greeting, Action::set(Field::Cookie, 1)),
            Rule::new(On::request(C::READ), Action::LoseWrite),
            Rule::new(On::Idle, Action::Duplicate),
        ] {
            let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
            let server =
                server.mode(Mode::Simple).plan(FaultPlan::new().rule(rule)).detached().unwrap();
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            server.serve(theirs);
            let client = Client::builder().connect_stream(ours).await.unwrap();
            client.read(0, 512).await.unwrap();
            client.disconnect().await.unwrap();
            assert!(matches!(
                server.finish().await,
                Err(ServerError::Inapplicable(_))
            ));
        }
    });
}

#[test]
fn nth_times_ranges_connections_and_triggers_choose_the_passages() {
    block_on(async {
        let eio = || Action::error(Errno::EIO);
        let touching = On::Request {
            command: None,
            touching: Some(Range {
                start: 4096,
                end: 4608,
            }),
        };
        let plan = FaultPlan::new()
            .rule(Rule::new(On::request(C::READ), eio()).nth(2).times(2).connection(1))
            .rule(Rule::new(touching, Action::error(Errno::ENOSPC)).connection(2))
            .rule(
                Rule::new(On::request(C::FLUSH), eio()).when("armed").from_connection(2).forever(),
            );
        let dir = short_dir();
        let server = Server::builder().export(Export::new(MemoryBackend::new(8192))).plan(plan);
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let uri = server.uri().unwrap();
        let first = client(&uri).await;
        let mut results = Vec::new();
        for _ in 0..5 {
            results.push(first.read(0, 512).await.is_ok());
        }
        assert_eq!(results, [true, false, false, true, true]);
        first.read(4096, 512).await.unwrap();
        let second = client(&uri).await;
        second.read(3584, 512).await.unwrap();
        second.write(4608, vec![1; 512]).await.unwrap();
        assert_eq!(
            second.read(4000, 512).await.unwrap_err().errno(),
            Some(Errno::ENOSPC)
        );
        second.read(4000, 512).await.unwrap();
        second.flush().await.unwrap();
        server.trigger("armed").set();
        first.flush().await.unwrap();
        assert!(second.flush().await.is_err() && second.flush().await.is_err());
        server.trigger("armed").clear();
        second.flush().await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn an_option_has_one_answer_and_a_second_rule_for_it_is_misplaced() {
    use nbd::proto::{OptionCode, OptionReplyCode};
    block_on(async {
        let go = || On::option(OptionCode::GO);
        let refuse = Action::Refuse(OptionReplyCode::ERR_POLICY);
        let plan = FaultPlan::new()
            .rule(Rule::new(go(), refuse))
            .rule(Rule::new(go(), Action::Ignore).name("second"));
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let refused = Client::builder().connect_stream(ours).await.unwrap_err();
        let refused = crate::support::chain(&refused);
        assert!(refused.contains("err-policy"), "{refused}");
        let Err(ServerError::Inapplicable(rules)) = server.finish().await else {
            panic!("it was taken for done")
        };
        assert_eq!(rules, ["second: ignore"]);
    });
}

#[test]
fn a_flush_touches_no_range() {
    block_on(async {
        let touching = Some(Range { start: 0, end: 512 });
        let command = None;
        let on = On::Request { command, touching };
        let plan = FaultPlan::new().rule(Rule::new(on, Action::error(Errno::EIO)));
        let server = Server::builder().export(Export::new(MemoryBackend::new(512)));
        let server = server.plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        client.flush().await.unwrap();
        assert!(client.read(0, 512).await.is_err());
        server.finish().await.unwrap();
    });
}

#[test]
fn a_connection_is_idle_when_a_reply_that_was_held_back_has_gone() {
    block_on(async {
        let hold = Action::HoldReply("go".into());
        let plan = FaultPlan::new()
            .rule(Rule::new(On::reply(C::READ), hold))
            .rule(Rule::new(On::Idle, Action::CLOSE));
        let server = Server::builder().export(Export::new(MemoryBackend::new(512)));
        let server = server.plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        let read = tokio::spawn({
            let client = client.clone();
            async move { client.read(0, 512).await }
        });
        let replied = |e: &nbd::server::Entry| matches!(e.event, Event::Reply { .. });
        server.journal().wait_for(1, replied).await.unwrap();
        assert_eq!(server.unfired(), ["rule 1"]);
        server.trigger("go").set();
        read.await.unwrap().unwrap();
        let closed = tokio::time::timeout(TIMEOUT, client.closed()).await;
        closed.expect("nobody took it for idle");
        server.finish().await.unwrap();
    });
}

#[test]
fn each_reply_is_in_the_journal_also_one_that_waits_for_its_cookie() {
    block_on(async {
        let plan =
            FaultPlan::new().rule(Rule::new(On::reply(C::READ), Action::SwapCookies).times(2));
        let server = Server::builder().export(Export::new(MemoryBackend::new(1024)));
        let server = server.mode(Mode::Simple).plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        let (a, b) = tokio::join!(client.read(0, 512), client.read(512, 512));
        assert_eq!(a.unwrap().len() + b.unwrap().len(), 1024);
        let replies = server.journal().entries().into_iter().filter_map(|e| match e.event {
            Event::Reply { n, bytes, .. } => Some((n, bytes)),
            _ => None,
        });
        assert_eq!(replies.collect::<Vec<_>>(), [(1, 528), (2, 528)]);
        server.finish().await.unwrap();
    });
}

#[test]
fn phases_tell_a_whole_story() {
    // "Connection 1 dies within its third write; the server is unreachable until the test says so;
    // then everything works, but the first read fails."
    block_on(async {
        let plan = FaultPlan::new()
            .rule(
                Rule::new(On::payload(), Action::RestartOn("back".into()))
                    .at_byte(100)
                    .nth(3)
                    .then("dead"),
            )
            .rule(
                Rule::new(On::request(C::READ), Action::error(Errno::EIO))
                    .phase("dead")
                    .then("well"),
            );
        let dir = short_dir();
        let path = dir.path().join("s");
        let server = Server::builder().export(Export::new(MemoryBackend::new(8192))).plan(plan);
        let server = server.listen_unix(&path).unwrap();
        let uri = server.uri().unwrap();
        let first = client(&uri).await;
        first.read(0, 512).await.unwrap();
        first.write(0, vec![1; 512]).await.unwrap();
        first.write(512, vec![2; 512]).await.unwrap();
        assert!(first.write(1024, vec![3; 512]).await.is_err());
        server.journal().wait_for(1, |e| e.event == Event::StoppedListening).await.unwrap();
        assert!(Client::builder().connect_uri(&uri).await.is_err());
        server.trigger("back").set();
        server.journal().wait_for(2, |e| e.event == Event::Listening).await.unwrap();
        let second = client(&uri).await;
        server.expect_reconnect(TIMEOUT).await.unwrap();
        server.expect_connections(2, TIMEOUT).await.unwrap();
        assert!(second.read(0, 512).await.is_err());
        server.expect_requests(C::READ, 2, TIMEOUT).await.unwrap();
        let missing = server.expect_requests(C::TRIM, 1, Duration::ZERO).await;
        assert_eq!(
            missing.unwrap_err().to_string(),
            "1 requests to trim did not come within 0ns"
        );
        assert_eq!(
            second.read(1024, 512).await.unwrap(),
            [0; 512],
            "a torn payload is not written"
        );
        second.disconnect().await.unwrap();
        server.finish().await.unwrap();
    });
}

/// Nothing but time ends such a delay: no further byte is taken until then.
#[test]
fn a_delay_within_a_message_of_the_client_ends_by_itself() {
    at_once(async {
        let points = [On::any_option(), On::any_request(), On::payload()];
        let delays = points.map(|on| Rule::new(on, Action::Delay(5)).at_byte(10));
        let plan = delays.into_iter().fold(FaultPlan::new(), FaultPlan::rule);
        let export = Export::new(MemoryBackend::new(4096));
        let server = Server::builder().export(export).plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        client.write(0, vec![1; 512]).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), [1; 512]);
        server.finish().await.unwrap();
    });
}

#[test]
fn a_server_can_stop_listening_and_come_back_without_losing_its_connections() {
    block_on(async {
        let dir = short_dir();
        for tcp in [false, true] {
            let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
            let server = if tcp {
                server.listen_tcp()
            } else {
                server.listen_unix(dir.path().join("s"))
            };
            let server = server.unwrap();
            let uri = server.uri().unwrap();
            let old = client(&uri).await;
            server.stop_listening().await.unwrap();
            assert!(Client::builder().connect_uri(&uri).await.is_err());
            old.read(0, 512).await.unwrap();
            server.listen_again().await.unwrap();
            client(&uri).await.read(0, 512).await.unwrap();
            old.read(0, 512).await.unwrap();
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_reset_is_none_of_the_other_ends_of_a_connection() {
    use std::io::Read;
    block_on(async {
        for how in [Closing::Plain, Closing::Fin, Closing::Rst] {
            let rule = Rule::new(On::Greeting, Action::Close(how)).after();
            let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
            let server = server.plan(FaultPlan::new().rule(rule)).listen_tcp();
            let server = server.unwrap();
            let Some(Address::Tcp { host, port }) = server.uri().map(|uri| uri.address) else {
                panic!("no port")
            };
            let read = tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect((host, port)).unwrap();
                stream.read_to_end(&mut Vec::new()).map_err(|e| e.kind())
            });
            let read = read.await.unwrap();
            match how {
                Closing::Rst => assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset)),
                _ => assert_eq!(read, Ok(18), "{how:?}"),
            }
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_server_that_stopped_receiving_keeps_the_connection() {
    use std::io::{ErrorKind, Read, Write};
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let rule = Rule::new(On::Greeting, Action::HalfClose(Side::Rx)).after();
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.plan(FaultPlan::new().rule(rule)).listen_unix(&path);
        let server = server.unwrap();
        let talk = tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.read_exact(&mut [0; 18]).unwrap();
            // The greeting comes a moment before the fault.
            let error = loop {
                if let Err(error) = stream.write(&[0]) {
                    break error;
                }
            };
            stream.set_nonblocking(true).unwrap();
            let read = stream.read(&mut [0]).map_err(|e| e.kind());
            (stream, error.kind(), read)
        });
        let (stream, wrote, read) = talk.await.unwrap();
        assert_eq!(
            (wrote, read),
            (ErrorKind::BrokenPipe, Err(ErrorKind::WouldBlock))
        );
        let journal = server.finish().await.unwrap();
        let shut_down = |e: &nbd::server::Entry| e.event == Event::Closed(Closed::Shutdown);
        assert_eq!(journal.count(shut_down), 1, "{}", journal.to_json_lines());
        drop(stream);
    });
}

/// A busy plan full of chance.
fn random_plan(seed: u64) -> FaultPlan {
    FaultPlan::new()
        .seed(seed)
        .rule(Rule::new(On::request(C::READ), Action::error(Errno::EIO)).probability(0.3).forever())
        .rule(Rule::new(On::data(), Action::FlipBits(3)).probability(0.3).forever())
        .rule(Rule::new(On::reply(C::WRITE), Action::Delay(250)).probability(0.5).forever())
        .rule(Rule::new(On::chunk(ChunkType::NONE), Action::Dribble).probability(0.2).forever())
        .rule(
            Rule::new(On::payload(), Action::CLOSE)
                .at_byte(99)
                .probability(0.05)
                .forever()
                .optional(),
        )
}

/// Every journal and all data of a story with up to six connections.
async fn story(seed: u64) -> String {
    let server = Server::builder()
        .export(Export::new(MemoryBackend::new(1 << 20)))
        .plan(random_plan(seed))
        .clock(Clock::instant())
        .detached()
        .unwrap();
    let mut seen = String::new();
    for connection in 0..6u64 {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let serving = server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        for n in 0..20u8 {
            let at = (u64::from(n) * 37 + connection) * 512;
            let write = client.write(at, vec![n; 512]).await.is_ok();
            let read = client.read(at, 512).await.map_err(|e| e.to_string());
            let flipped = |data: Vec<u8>| {
                let wrong = data.into_iter().enumerate().filter(|(_, byte)| *byte != n);
                wrong.collect::<Vec<_>>()
            };
            seen += &format!("{connection} {n} {write} {:?}\n", read.map(flipped));
        }
        drop(client.disconnect().await);
        // A client that finds its connection closed can be here before the journal says so.
        serving.await.unwrap();
    }
    let journal = server.journal();
    drop(server.finish().await.unwrap());
    journal.to_json_lines() + &seen
}

#[test]
fn the_same_seed_gives_the_same_journal_one_hundred_times() {
    block_on(async {
        let first = story(1).await;
        for _ in 0..99 {
            let again = story(1).await;
            let mut lines = first.lines().zip(again.lines());
            assert_eq!(lines.find(|(a, b)| a != b), None);
            assert_eq!(again.len(), first.len());
        }
        assert_ne!(story(2).await, first);
        assert!(first.contains("fault") && first.contains("secs"), "{first}");
    });
}

#[test]
fn the_same_seed_gives_qemus_client_the_same_journal() {
    for tools in all_tools() {
        block_on(async {
            let mut journals = std::collections::BTreeSet::new();
            for _ in 0..10 {
                let dir = short_dir();
                let path = dir.path().join("s");
                let plan = FaultPlan::new().seed(5).rule(
                    Rule::new(On::request(C::READ), Action::error(Errno::EIO))
                        .probability(0.4)
                        .forever(),
                );
                let server = Server::builder().export(Export::new(ZeroBackend::new(1 << 20)));
                let server = server.plan(plan).listen_unix(&path).unwrap();
                let commands: Vec<String> =
                    (0..20).map(|n| format!("read {}k 4k", n * 4)).collect();
                let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
                crate::support::io(&tools, &server.uri().unwrap().to_string(), &commands).await;
                // Its goodbye is part of the story, and may still be on its way.
                let closed = |e: &nbd::server::Entry| matches!(e.event, Event::Closed(_));
                server.journal().wait_for(1, closed).await.unwrap();
                journals.insert(server.finish().await.unwrap().to_json_lines());
            }
            assert_eq!(journals.len(), 1);
        });
    }
}

proptest! {
    #[test]
    fn every_plan_of_the_matrix_survives_json(n in 0usize..200) {
        let kinds = crate::fault_kinds::all();
        let plan = &kinds[n % kinds.len()].plan;
        let text = serde_json::to_string(plan).unwrap();
        prop_assert_eq!(&serde_json::from_str::<FaultPlan>(&text).unwrap(), plan);
    }

    #[test]
    fn no_text_makes_the_ini_parser_panic(text in "(\\[inject-error[a-z\" ]{0,4}\\]?\n)?([a-z]{0,6}[=: ]{0,2}[-a-z0-9]{0,8}\n| ?[#;\\[\\]=:\\PC]{0,6}\n){0,6}") {
        let _ = FaultPlan::from_ini(&text);
    }
}

#[test]
fn a_plan_reads_well_as_json() {
    let text = r#"{"seed": 1, "rules": [
        {"on": {"reply": {"command": "write"}}, "action": {"close": "rst"}, "at": {"byte": 8}, "nth": 3},
        {"on": "greeting", "action": {"set": ["magic", {"to": 5}]}, "connections": {"from": 2}, "times": "forever"}
    ]}"#;
    let plan: FaultPlan = serde_json::from_str(text).unwrap();
    assert_eq!(plan.rules[0].on, On::reply(C::WRITE));
    assert_eq!(plan.rules[1].action, Action::set(Field::Magic, 5));
    let typo = r#"{"rules": [{"on": "greeting", "action": "die", "tims": 3}]}"#;
    assert!(serde_json::from_str::<FaultPlan>(typo).unwrap_err().to_string().contains("tims"));
}
