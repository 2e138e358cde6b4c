//! Our own client detects all of these violations.

use std::task::Poll;

use nbd::client::{ConnectError, ConnectionError, HandshakeError, Pattern, RequestError};
use nbd::proto::{Checks, CommandType as C, Errno, Mode, OptionCode, Violation};
use nbd::server::backend::{MemoryBackend, PatternBackend};
use nbd::server::plan::{Action, Edit, FaultPlan, Field, Malformed, On, ReplyKind, Rule};
use nbd::server::{Clock, Export, Server};
use nbd::{Client, client::ClientBuilder};

use crate::support::{at_once, block_on};

fn server(mode: Mode, rule: Rule) -> Server {
    let backend = PatternBackend::new(1 << 20, Pattern::Offset(3));
    Server::builder()
        .export(Export::new(backend))
        .mode(mode)
        .plan(FaultPlan::new().rule(rule))
        .detached()
        .unwrap()
}

async fn connect(server: &Server, builder: ClientBuilder) -> Result<Client, ConnectError> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    builder.context("base:allocation").connect_stream(ours).await
}

async fn violation(mode: Mode, command: C, action: Action) -> Violation {
    let server = server(mode, Rule::new(On::reply(command), action.clone()));
    let client = connect(&server, Client::builder()).await.unwrap();
    let error = match command {
        C::READ => client.read(4096, 8192).await.map(drop).unwrap_err(),
        C::FLUSH => client.flush().await.unwrap_err(),
        _ => client.block_status(0, 65536).await.map(drop).unwrap_err(),
    };
    server.finish().await.unwrap();
    let found = error.violation().cloned();
    found.unwrap_or_else(|| panic!("{mode} {action:?}: {error}"))
}

#[test]
fn every_lie_about_a_read_is_found_out_by_its_name() {
    use Violation as V;
    block_on(async {
        for mode in [Mode::Structured, Mode::Extended] {
            let found = async |lie| violation(mode, C::READ, Action::Malform(lie)).await;
            assert!(matches!(
                found(Malformed::Empty).await,
                V::Gap {
                    start: 4096,
                    end: 12288
                }
            ));
            assert!(matches!(
                found(Malformed::Half).await,
                V::Gap {
                    start: 8192,
                    end: 12288
                }
            ));
            assert!(matches!(
                found(Malformed::Gap).await,
                V::Gap {
                    start: 8191,
                    end: 8193
                }
            ));
            assert!(matches!(
                found(Malformed::Overlap).await,
                V::Overlap { start: 4096, .. }
            ));
            assert!(matches!(
                found(Malformed::OutOfRange).await,
                V::OutOfRange { start: 3584, .. }
            ));
            assert!(matches!(
                found(Malformed::Oversize).await,
                V::ChunkLength { .. }
            ));
            assert!(matches!(
                found(Malformed::EmptyHole).await,
                V::OutOfRange { .. }
            ));
            assert!(matches!(
                found(Malformed::UnknownChunk).await,
                V::UnexpectedChunk { .. }
            ));
            assert!(matches!(
                found(Malformed::ForeignChunk).await,
                V::UnexpectedChunk { .. }
            ));
            assert!(matches!(found(Malformed::ErrorZero).await, V::ErrorZero));
            assert!(matches!(
                found(Malformed::ErrorElsewhere).await,
                V::OutOfRange { .. }
            ));
            assert!(matches!(found(Malformed::TextTooLong).await, V::Decode(_)));
            assert!(matches!(
                found(Malformed::NoneWithPayload).await,
                V::ChunkLength { .. }
            ));
            let huge = Action::set(Field::Length, 0x7fff_ffff);
            assert!(matches!(
                violation(mode, C::READ, huge).await,
                V::ChunkLength { .. }
            ));
        }
    });
}

#[test]
fn every_lie_about_block_status_is_found_out_by_its_name() {
    use Violation as V;
    block_on(async {
        for mode in [Mode::Structured, Mode::Extended] {
            let found = async |action| violation(mode, C::BLOCK_STATUS, action).await;
            let lie = async |lie| found(Action::Malform(lie)).await;
            assert!(matches!(
                lie(Malformed::ZeroExtent).await,
                V::Extents { .. }
            ));
            assert!(matches!(
                lie(Malformed::HugeExtents).await,
                V::Extents { .. }
            ));
            assert!(matches!(lie(Malformed::NoExtents).await, V::Decode(_)));
            assert!(matches!(
                lie(Malformed::RepeatedContext).await,
                V::DuplicateContext { context: 0 }
            ));
            assert!(matches!(
                lie(Malformed::MissingContext).await,
                V::MissingContext { context: 0 }
            ));
            assert!(matches!(
                lie(Malformed::ForeignChunk).await,
                V::UnexpectedChunk { .. }
            ));
            let other = Action::set(Field::ContextId, 9);
            assert!(matches!(
                found(other).await,
                V::UnknownContext { context: 9 }
            ));
        }
        let length = Action::set(Field::Count, 7);
        assert!(matches!(
            violation(Mode::Extended, C::BLOCK_STATUS, length).await,
            V::Decode(_)
        ));
    });
}

#[test]
fn cookies_kinds_and_magics_are_compared_in_every_mode() {
    use Violation as V;
    block_on(async {
        for mode in Mode::ALL {
            let magic = violation(mode, C::READ, Action::set(Field::Magic, 5)).await;
            assert!(matches!(magic, V::Decode(_)), "{magic}");
            let cookie = Action::Set(Field::Cookie, Edit::Add(1 << 33));
            assert!(matches!(
                violation(mode, C::READ, cookie).await,
                V::UnknownCookie { .. }
            ));
            let stray = violation(mode, C::READ, Action::Unsolicited(77)).await;
            assert!(matches!(stray, V::UnknownCookie { cookie: 77 }));
            for kind in [
                ReplyKind::Simple,
                ReplyKind::Structured,
                ReplyKind::Extended,
            ] {
                let own = match kind {
                    ReplyKind::Simple => mode < Mode::Structured,
                    ReplyKind::Structured => mode == Mode::Structured,
                    ReplyKind::Extended => mode == Mode::Extended,
                };
                if !own {
                    let wrong = violation(mode, C::READ, Action::WrongKind(kind)).await;
                    assert!(matches!(wrong, V::WrongKind { .. }), "{wrong}");
                }
            }
        }
        let echo = Action::Set(Field::EchoedOffset, Edit::Add(512));
        let echo = violation(Mode::Extended, C::READ, echo).await;
        assert!(matches!(
            echo,
            V::EchoedOffset {
                expected: 4096,
                got: 4608
            }
        ));
        let none = violation(
            Mode::Structured,
            C::FLUSH,
            Action::Malform(Malformed::MissingDone),
        )
        .await;
        assert!(matches!(none, V::MissingDone));
    });
}

#[test]
fn a_second_reply_ends_the_connection_before_the_next_request_is_fooled() {
    block_on(async {
        for mode in Mode::ALL {
            let server = server(mode, Rule::new(On::reply(C::READ), Action::Duplicate));
            let client = connect(&server, Client::builder()).await.unwrap();
            client.read(0, 512).await.unwrap();
            let why = client.closed().await;
            let ConnectionError::Violation(Violation::DuplicateReply { cookie: 1 }) = &*why else {
                panic!("{mode}: {why}");
            };
            let error = client.read(512, 512).await.unwrap_err();
            assert!(error.violation().is_some(), "{error}");
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_reply_that_ends_with_the_connection_is_told_from_one_that_never_came() {
    block_on(async {
        let rule = Rule::new(On::reply(C::READ), Action::Malform(Malformed::MissingDone));
        let server = server(Mode::Structured, rule);
        let client = connect(&server, Client::builder()).await.unwrap();
        let reading = tokio::spawn({
            let client = client.clone();
            async move { client.read(0, 512).await }
        });
        let replied = |e: &nbd::server::Entry| matches!(e.event, nbd::server::Event::Reply { .. });
        server.journal().wait_for(1, replied).await.unwrap();
        // The reply is in the pipe; the status request after it shows that it was read.
        client.block_status(0, 512).await.unwrap();
        server.finish().await.unwrap();
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(
            error.violation(),
            Some(&Violation::Unfinished { cookie: 1 })
        );
    });
}

#[test]
fn what_is_tolerated_is_tolerated_and_zeroes_fill_the_gap() {
    block_on(async {
        let lie = |lie| Rule::new(On::reply(C::READ), Action::Malform(lie));
        let gap = server(Mode::Structured, lie(Malformed::Half));
        let client = connect(&gap, Client::builder().tolerate(Checks::GAP)).await.unwrap();
        let data = client.read(0, 1024).await.unwrap();
        assert_eq!(data.len(), 1024);
        assert!(data[..512].iter().any(|b| *b != 0) && data[512..].iter().all(|b| *b == 0));
        let twice = server(Mode::Extended, lie(Malformed::Overlap));
        let client = connect(&twice, Client::builder().tolerate(Checks::OVERLAP)).await.unwrap();
        let mut expected = vec![0; 1024];
        Pattern::Offset(3).fill(0, &mut expected);
        assert_eq!(client.read(0, 1024).await.unwrap(), expected);
    });
}

#[test]
fn out_of_order_replies_find_their_requests() {
    block_on(async {
        for (mode, action) in Mode::ALL
            .into_iter()
            .flat_map(|m| [(m, Action::Reorder), (m, Action::HoldReply("go".into()))])
        {
            let server = server(mode, Rule::new(On::reply(C::READ), action).nth(1));
            let client = connect(&server, Client::builder()).await.unwrap();
            let reads = (0..8u64).map(|n| {
                let client = client.clone();
                tokio::spawn(async move { (n, client.read(n * 4096, 4096).await.unwrap()) })
            });
            let reads: Vec<_> = reads.collect();
            let trigger = server.trigger("go");
            let replied =
                |e: &nbd::server::Entry| matches!(e.event, nbd::server::Event::Reply { .. });
            server.journal().wait_for(8, replied).await.unwrap();
            trigger.set();
            for read in reads {
                let (n, data) = read.await.unwrap();
                let mut expected = vec![0; 4096];
                Pattern::Offset(3).fill(n * 4096, &mut expected);
                assert_eq!(data, expected, "{mode} {n}");
            }
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_held_reply_comes_after_its_trigger_and_not_before() {
    block_on(async {
        for mode in Mode::ALL {
            let hold = Action::HoldReply("go".into());
            let server = server(mode, Rule::new(On::reply(C::READ), hold));
            let client = connect(&server, Client::builder()).await.unwrap();
            let mut held = std::pin::pin!(client.read(0, 512));
            let journal = server.journal();
            let due = journal.wait_for(1, |e| matches!(e.event, nbd::server::Event::Reply { .. }));
            tokio::select! {
                biased;
                data = &mut held => panic!("{mode}: {data:?}"),
                done = due => done.unwrap(),
            }
            // Its reply is read after that of the held one, had that been sent.
            client.read(512, 512).await.unwrap();
            let still = std::future::poll_fn(|cx| Poll::Ready(held.as_mut().poll(cx))).await;
            assert!(still.is_pending(), "{mode}");
            server.trigger("go").set();
            assert_eq!(held.await.unwrap().len(), 512);
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn swapped_cookies_swap_the_data() {
    block_on(async {
        let server = server(
            Mode::Simple,
            Rule::new(On::reply(C::READ), Action::SwapCookies).times(2),
        );
        let client = connect(&server, Client::builder()).await.unwrap();
        let (a, b) = tokio::join!(client.read(0, 512), client.read(8192, 512));
        let mut other = vec![0; 512];
        Pattern::Offset(3).fill(8192, &mut other);
        assert_eq!(
            a.unwrap(),
            other,
            "what the server swapped cannot be seen by any client"
        );
        assert_ne!(b.unwrap(), other);
        server.finish().await.unwrap();
    });
}

#[test]
fn errors_come_with_text_and_offset_where_the_mode_has_them() {
    block_on(async {
        for mode in Mode::ALL {
            let action = Action::Error {
                errno: Errno::EIO,
                text: "disk on fire".into(),
                offset: Some(4608),
            };
            let server = server(mode, Rule::new(On::request(C::READ), action));
            let client = connect(&server, Client::builder()).await.unwrap();
            let error = client.read(4096, 4096).await.unwrap_err();
            let RequestError::Refused {
                errno, message, at, ..
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(*errno, Errno::EIO);
            let expected = if mode.has_chunks() {
                ("disk on fire", Some(4608))
            } else {
                ("", None)
            };
            assert_eq!((message.as_str(), *at), expected);
            client.read(4096, 4096).await.unwrap();
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_list_bomb_is_defused() {
    block_on(async {
        for option in [OptionCode::LIST, OptionCode::LIST_META_CONTEXT] {
            let server = server(
                Mode::Structured,
                Rule::new(On::option(option), Action::Flood(u64::MAX)),
            );
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            server.serve(theirs);
            let mut negotiation = Client::builder().negotiate_stream(ours).await.unwrap();
            let error = match option {
                OptionCode::LIST => negotiation.list().await.map(drop).unwrap_err(),
                _ => negotiation.list_contexts("", &[]).await.map(drop).unwrap_err(),
            };
            let HandshakeError::Endless { replies, bytes, .. } = error else {
                panic!("{error}")
            };
            assert!(replies > 100 && bytes > 1 << 18, "{replies}, {bytes}");
        }
    });
}

#[test]
fn a_stall_in_any_phase_meets_a_deadline() {
    use std::time::Duration;
    at_once(async {
        for on in [On::Greeting, On::option(OptionCode::GO), On::reply(C::READ)] {
            let server = server(Mode::Extended, Rule::new(on.clone(), Action::Stall));
            match connect(&server, Client::builder()).await {
                Err(ConnectError::Handshake { source, .. }) => {
                    assert!(
                        matches!(source, HandshakeError::Deadline { .. }),
                        "{source}"
                    );
                }
                Err(error) => panic!("{error}"),
                Ok(client) => {
                    let error = client.read(0, 512).await.unwrap_err();
                    assert!(matches!(error, RequestError::Deadline { .. }), "{error}");
                }
            }
        }
        // Ten seconds on a virtual clock are none.
        let plan = FaultPlan::new().rule(Rule::new(On::reply(C::READ), Action::Delay(10_000)));
        let clock = Clock::instant();
        let backend = Export::new(MemoryBackend::new(4096));
        let server =
            Server::builder().export(backend).plan(plan).clock(clock.clone()).detached().unwrap();
        let client = connect(&server, Client::builder()).await.unwrap();
        client.read(0, 512).await.unwrap();
        assert_eq!(clock.now(), Duration::from_secs(10));
    });
}

#[test]
fn a_manual_clock_holds_a_delay_until_the_test_moves_it() {
    block_on(async {
        let plan = FaultPlan::new().rule(Rule::new(On::reply(C::READ), Action::Delay(5_000)));
        let backend = Export::new(MemoryBackend::new(4096));
        let server =
            Server::builder().export(backend).plan(plan).clock(Clock::manual()).detached().unwrap();
        let client = connect(&server, Client::builder()).await.unwrap();
        let mut reading = Box::pin(client.read(0, 512));
        let fired = |e: &nbd::server::Entry| matches!(e.event, nbd::server::Event::Fault { .. });
        let journal = server.journal();
        tokio::select! {
            _ = &mut reading => panic!("the delay was not kept"),
            done = journal.wait_for(1, fired) => done.unwrap(),
        }
        // The delay is counted from when it began, which the journal's entry may precede.
        let advance = async {
            loop {
                server.clock().advance(std::time::Duration::from_millis(5_000));
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            read = &mut reading => drop(read.unwrap()),
            () = advance => {}
        }
        server.finish().await.unwrap();
    });
}
