//! The state machine without I/O: handshake interleavings, ids, order, limits.

use std::collections::HashSet;

use proptest::prelude::*;
use qmp::frame::{Framer, Limits};
use qmp::session::{Config, Discarded, Failure, HandshakeFailure, Notice, Request, Session};
use qmp::{Event, Matcher, matcher};
use serde_json::{Map, Value, json};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#;

fn receive(session: &mut Session, text: &str) {
    session.receive(text.as_bytes(), |_| {});
}

fn notices(session: &mut Session) -> Vec<Notice> {
    std::iter::from_fn(|| session.notice()).collect()
}

fn sent(session: &mut Session) -> Option<Value> {
    session
        .transmit()
        .map(|line| serde_json::from_slice(&line.bytes).expect("one line of JSON"))
}

/// A session that is ready, with or without oob.
fn ready(config: Config, oob: bool) -> Session {
    let mut session = Session::new(config);
    let greeting = if oob {
        GREETING.into()
    } else {
        GREETING.replace("\"oob\"", "")
    };
    receive(&mut session, &greeting);
    let negotiation = sent(&mut session).expect("a negotiation");
    receive(
        &mut session,
        &format!("{{\"return\": {{}}, \"id\": {}}}", negotiation["id"]),
    );
    assert!(session.is_ready());
    notices(&mut session);
    session
}

fn submit(session: &mut Session, name: &str) -> qmp::session::CallId {
    session.submit(Request::new(name, None)).expect("a short command")
}

/// What may arrive where it does not belong.
#[derive(Clone, Debug)]
enum Noise {
    Event(u8),
    StaleReturn(String),
    StaleError(String),
    ErrorWithoutId,
    ReturnWithoutId,
    NumberId(u32),
}

impl Noise {
    fn text(&self) -> String {
        match self {
            Self::Event(n) => format!(
                "{{\"timestamp\": {{\"seconds\": -1, \"microseconds\": -1}}, \"event\": \"E{n}\"}}"
            ),
            Self::StaleReturn(id) => format!("{{\"return\": {{}}, \"id\": \"{id}\"}}"),
            Self::StaleError(id) => format!(
                "{{\"id\": \"{id}\", \"error\": {{\"class\": \"GenericError\", \"desc\": \"x\"}}}}"
            ),
            Self::ErrorWithoutId => {
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"parse error\"}}".into()
            }
            Self::ReturnWithoutId => "{\"return\": {}}".into(),
            Self::NumberId(id) => format!("{{\"return\": {{}}, \"id\": {id}}}"),
        }
    }
}

fn noise() -> impl Strategy<Value = Vec<Noise>> {
    let one = prop_oneof![
        any::<u8>().prop_map(Noise::Event),
        "[0-9a-zA-Z]{1,6}".prop_map(Noise::StaleReturn),
        "[0-9a-zA-Z]{1,6}".prop_map(Noise::StaleError),
        Just(Noise::ErrorWithoutId),
        Just(Noise::ReturnWithoutId),
        any::<u32>().prop_map(Noise::NumberId),
    ];
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn events_and_stale_replies_around_the_handshake_are_never_mistaken(
        before_greeting in noise(),
        before_reply in noise(),
        step in 1usize..80,
    ) {
        let mut session = Session::new(Config::default());
        let mut events = Vec::new();
        let mut stages = Vec::new();
        let mut stale = 0;
        let mut feed = |session: &mut Session, text: &str| {
            for piece in text.as_bytes().chunks(step) {
                session.receive(piece, |_| {});
            }
            while let Some(notice) = session.notice() {
                match notice {
                    Notice::Event(event) => events.push(event.name),
                    Notice::Greeting(_) => stages.push("greeting"),
                    Notice::Ready { oob: true } => stages.push("ready"),
                    Notice::Discarded(Discarded::Stale { .. }) => stale += 1,
                    other => panic!("unexpected {other:?}"),
                }
            }
        };
        for noise in &before_greeting {
            feed(&mut session, &noise.text());
        }
        prop_assert!(session.transmit().is_none(), "nothing is sent before the greeting");
        feed(&mut session, GREETING);
        let negotiation = sent(&mut session).expect("the negotiation is sent");
        prop_assert_eq!(&negotiation["arguments"], &json!({"enable": ["oob"]}));
        let early = session.submit(Request::new("query-name", None)).unwrap();
        for noise in &before_reply {
            feed(&mut session, &noise.text());
            prop_assert!(session.transmit().is_none(), "nothing is sent before the reply");
        }
        feed(&mut session, &format!("{{\"return\": {{}}, \"id\": {}}}\r\n", negotiation["id"]));

        let all: Vec<_> = before_greeting.iter().chain(&before_reply).collect();
        let want: Vec<_> = all
            .iter()
            .filter_map(|noise| match noise { Noise::Event(n) => Some(format!("E{n}")), _ => None })
            .collect();
        prop_assert_eq!(stale, all.len() - want.len());
        prop_assert_eq!(events, want);
        prop_assert_eq!(stages, ["greeting", "ready"]);
        let line = session.transmit().expect("the waiting command is sent now");
        prop_assert_eq!(line.call, Some(early));
    }

    #[test]
    fn replaying_another_connections_replies_resolves_nothing(count in 1usize..200) {
        let mut first = ready(Config::default(), true);
        let mut second = ready(Config::default(), true);
        for _ in 0..count {
            submit(&mut first, "a");
            submit(&mut second, "a");
            let (Some(theirs), Some(ours)) = (sent(&mut first), sent(&mut second)) else {
                panic!("both may send");
            };
            // What ids begin with is short: once in 17576 times two sessions have the same.
            prop_assume!(theirs["id"] != ours["id"]);
            receive(&mut second, &json!({"return": 1, "id": theirs["id"]}).to_string());
            let only = notices(&mut second);
            let discarded = matches!(only[..], [Notice::Discarded(Discarded::Stale { .. })]);
            prop_assert!(discarded, "{:?}", only);
            for (session, id) in [(&mut first, &theirs["id"]), (&mut second, &ours["id"])] {
                receive(session, &json!({"return": 1, "id": id}).to_string());
                let only = notices(session);
                prop_assert!(matches!(only[..], [Notice::Reply { .. }]), "{:?}", only);
            }
        }
    }

    #[test]
    fn any_split_of_the_stream_gives_the_same_messages(
        values in proptest::collection::vec(json_object(), 1..6),
        styles in proptest::collection::vec(0usize..5, 6),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut stream = String::new();
        for (value, style) in values.iter().zip(&styles) {
            match style {
                0 => stream += &format!("{value}\r\n"),
                1 => stream += &format!("{value}\n"),
                2 => stream += &value.to_string(),
                3 => stream += &format!("{value:#}").replace('\n', "\r\n"),
                _ => stream += &format!("  {value:#}\r\n\r\n"),
            }
        }
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut framer = Framer::default();
        let mut found: Vec<Value> = Vec::new();
        for piece in cuts.windows(2) {
            framer.push(&bytes[piece[0]..piece[1]]);
            while let Some(frame) = framer.next_frame() {
                let frame = frame.expect("no error");
                prop_assert!(frame.depth >= 1);
                found.push(serde_json::from_slice(frame.bytes).unwrap());
            }
        }
        prop_assert_eq!(framer.finish(), None);
        prop_assert_eq!(found, values);
    }

    #[test]
    fn a_value_contains_itself_and_every_part_of_itself(value in json_object(), keep in any::<u64>()) {
        prop_assert!(matcher::contains(&value, &value));
        let part = thin_out(&value, &mut keep.clone());
        prop_assert!(matcher::contains(&value, &part), "{} in {}", part, value);
    }

    #[test]
    fn containment_is_transitive_and_a_changed_leaf_ends_it(
        value in json_object(), a in any::<u64>(), b in any::<u64>(),
    ) {
        let part = thin_out(&value, &mut a.clone());
        let smaller = thin_out(&part, &mut b.clone());
        prop_assert!(matcher::contains(&value, &smaller));
        let mut other = value.clone();
        if change_leaf(&mut other) {
            prop_assert!(!matcher::contains(&value, &other));
        }
    }

    #[test]
    fn what_a_matcher_is_given_decides_alone(name in "[A-Z]{1,3}", other in "[A-Z]{1,3}") {
        let event = Event::new(name.clone());
        prop_assert!(Matcher::any().matches(&event));
        prop_assert_eq!(Matcher::event(other.clone()).matches(&event), other == name);
        prop_assert_eq!(Matcher::one_of([other.clone(), name]).matches(&event), true);
        prop_assert!(!Matcher::any().when(|_| false).matches(&event));
        prop_assert!(!Matcher::one_of([""; 0]).matches(&event));
    }
}

fn json_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[ -~\\n\\r\\t\u{0}\u{7f}é🦀\\\\\"{}\\[\\]]{0,20}".prop_map(Value::from),
    ]
}

fn json_value() -> impl Strategy<Value = Value> {
    json_leaf().prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map("[a-z{}\"\\\\]{0,4}", inner, 0..5)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

fn json_object() -> impl Strategy<Value = Value> {
    proptest::collection::hash_map("[a-z]{1,4}", json_value(), 0..5)
        .prop_map(|map| Value::Object(Map::from_iter(map)))
}

/// The value without some of its members; `bits` decides which.
fn thin_out(value: &Value, bits: &mut u64) -> Value {
    let mut next = || {
        *bits = bits.rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        *bits & 4 != 0
    };
    match value {
        Value::Object(members) => {
            let kept: Vec<_> = members.iter().filter(|_| next()).collect();
            kept.into_iter().map(|(name, inner)| (name.clone(), thin_out(inner, bits))).collect()
        }
        Value::Array(items) => items.iter().map(|inner| thin_out(inner, bits)).collect(),
        leaf => leaf.clone(),
    }
}

/// Changes the first leaf; false if there is none.
fn change_leaf(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => members.values_mut().any(change_leaf),
        Value::Array(items) => items.iter_mut().any(change_leaf),
        Value::Null => false,
        Value::Bool(flag) => {
            *flag = !*flag;
            true
        }
        Value::Number(number) => {
            *value = json!(format!("{number}"));
            true
        }
        Value::String(text) => {
            text.push('!');
            true
        }
    }
}

#[test]
fn at_most_seven_in_band_commands_are_in_flight_and_oob_overtakes_the_rest() {
    let mut session = ready(Config::default(), true);
    for _ in 0..1000 {
        submit(&mut session, "slow");
    }
    let lines: Vec<Value> = std::iter::from_fn(|| sent(&mut session)).collect();
    assert_eq!(lines.len(), 7);
    let oob = session
        .submit(Request {
            oob: true,
            ..Request::new("yank", None)
        })
        .unwrap();
    let line = session.transmit().expect("an out-of-band command is not held back");
    assert_eq!(line.call, Some(oob));
    assert!(line.bytes.starts_with(b"{\"exec-oob\":"));
    assert!(session.transmit().is_none());
    // Its reply overtakes, and each in-band reply makes room for one more.
    receive(
        &mut session,
        &json!({"return": [], "id": lines[0]["id"]}).to_string(),
    );
    assert!(sent(&mut session).is_some());
    assert!(sent(&mut session).is_none());
    assert_eq!((session.in_flight(), session.queued()), (8, 992));
}

#[test]
fn oob_is_enabled_only_if_offered_and_wanted() {
    for (offered, wanted) in [(true, true), (true, false), (false, true)] {
        let mut config = Config::default();
        config.oob = wanted;
        assert_eq!(ready(config, offered).oob_enabled(), offered && wanted);
    }
}

#[test]
fn an_error_without_id_belongs_to_the_oldest_in_band_command() {
    let mut session = ready(Config::default(), true);
    let oob = Request {
        oob: true,
        ..Request::new("yank", None)
    };
    session.submit(oob).unwrap();
    let first = submit(&mut session, "a");
    submit(&mut session, "b");
    while session.transmit().is_some() {}
    receive(
        &mut session,
        r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
    );
    let only = notices(&mut session);
    let [
        Notice::Reply {
            call,
            result: Err(Failure::Error { error, .. }),
            ..
        },
    ] = &only[..]
    else {
        panic!("{only:?}");
    };
    assert_eq!((*call, error.desc.as_str()), (first, "JSON parse error"));
}

#[test]
fn an_error_with_a_strange_id_belongs_to_no_command() {
    let mut session = ready(Config::default(), true);
    submit(&mut session, "a");
    sent(&mut session).unwrap();
    for id in ["5", "null", "{}", "\"zz\""] {
        let error = format!("{{\"error\": {{\"class\": \"C\", \"desc\": \"d\"}}, \"id\": {id}}}");
        receive(&mut session, &error);
        let only = notices(&mut session);
        let stale = matches!(only[..], [Notice::Discarded(Discarded::Stale { .. })]);
        assert!(stale, "{id}: {only:?}");
    }
    assert_eq!(session.in_flight(), 1);
}

/// As from a proxy that has reconnected to QEMU.
#[test]
fn a_greeting_in_the_middle_of_a_session_changes_nothing() {
    let mut session = ready(Config::default(), true);
    receive(&mut session, GREETING);
    let only = notices(&mut session);
    assert!(
        matches!(only[..], [Notice::Discarded(Discarded::Greeting)]),
        "{only:?}"
    );
    assert!(session.is_ready() && session.transmit().is_none());
}

#[test]
fn any_amount_of_nonsense_is_skipped_once_the_peer_has_greeted() {
    let mut session = Session::new(Config::default());
    receive(&mut session, "a bell rings\n");
    receive(&mut session, GREETING);
    assert_eq!(session.noise(), None, "it is QEMU all the same");
    let mut session = ready(Config::default(), true);
    for _ in 0..200 {
        receive(&mut session, "{}\nnonsense\n");
    }
    let all = notices(&mut session);
    assert_eq!(all.len(), 400);
    let skipped = |notice: &Notice| matches!(notice, Notice::Discarded(_));
    assert!(all.iter().all(skipped), "{all:?}");
    submit(&mut session, "a");
    assert!(session.is_ready() && sent(&mut session).is_some());
}

#[test]
fn a_second_file_descriptor_waits_until_the_first_is_picked_up() {
    let mut session = ready(Config::default(), true);
    let null = || Some(std::fs::File::open("/dev/null").unwrap().into());
    for name in ["first", "second"] {
        session
            .submit(Request {
                fd: null(),
                ..Request::new(name, None)
            })
            .unwrap();
    }
    submit(&mut session, "third");
    let first = session.transmit().unwrap();
    assert!(first.fd.is_some());
    assert!(
        session.transmit().is_none(),
        "order is kept, so the third waits as well"
    );
    let id = serde_json::from_slice::<Value>(&first.bytes).unwrap()["id"].clone();
    receive(&mut session, &json!({"return": {}, "id": id}).to_string());
    assert!(session.transmit().unwrap().fd.is_some());
    assert!(session.transmit().unwrap().fd.is_none());
}

#[test]
fn an_abandoned_command_is_never_sent_or_its_reply_is_dropped() {
    let mut config = Config::default();
    config.in_band = 1;
    let mut session = ready(config, true);
    let (first, second) = (submit(&mut session, "a"), submit(&mut session, "b"));
    let line = sent(&mut session).unwrap();
    session.abandon(first);
    session.abandon(second);
    assert_eq!((session.in_flight(), session.queued()), (1, 0));
    receive(
        &mut session,
        &json!({"return": {}, "id": line["id"]}).to_string(),
    );
    let only = notices(&mut session);
    let [Notice::Discarded(Discarded::Late { command, .. })] = &only[..] else {
        panic!("{only:?}")
    };
    assert_eq!(command, "a");
    assert_eq!(session.in_flight(), 0);
    submit(&mut session, "c");
    assert!(sent(&mut session).is_some(), "there is room again");
}

#[test]
fn no_id_is_used_twice_and_each_session_has_its_own() {
    let mut session = ready(Config::default(), true);
    let late = submit(&mut session, "late");
    let mut seen = HashSet::from([sent(&mut session).unwrap()["id"].to_string()]);
    session.abandon(late);
    for _ in 0..500 {
        let queued = submit(&mut session, "a");
        let id = sent(&mut session).expect("room")["id"].clone();
        assert!(seen.insert(id.to_string()), "{id}");
        assert!(
            id.as_str().unwrap().len() <= 7,
            "QEMU reads it byte by byte"
        );
        let never_sent = submit(&mut session, "b");
        session.abandon(never_sent);
        receive(&mut session, &json!({"return": 1, "id": id}).to_string());
        let only = notices(&mut session);
        let [Notice::Reply { call, .. }] = &only[..] else {
            panic!("{only:?}")
        };
        assert_eq!(*call, queued);
    }
    let first = |_| {
        let mut session = ready(Config::default(), true);
        submit(&mut session, "a");
        sent(&mut session).unwrap()["id"].to_string()
    };
    let others: HashSet<String> = (0..20).map(first).collect();
    assert!(others.len() > 15, "{others:?}");
}

#[test]
fn the_id_of_a_command_that_may_still_fail_is_not_used_again() {
    let mut session = ready(Config::default(), true);
    let unanswered = Request {
        answers: false,
        ..Request::new("guest-shutdown", None)
    };
    let call = session.submit(unanswered).unwrap();
    let id = sent(&mut session).unwrap()["id"].clone();
    session.abandon(call);
    assert_eq!(session.in_flight(), 0);
    for _ in 0..200 {
        submit(&mut session, "a");
        let other = sent(&mut session).expect("room")["id"].clone();
        assert_ne!(other, id);
        receive(&mut session, &json!({"return": 1, "id": other}).to_string());
    }
}

#[test]
fn an_undecodable_reply_fails_its_own_command_and_the_session_lives() {
    let mut session = ready(Config::default(), true);
    for (bad, good) in [
        (&b"{\"return\": {\"rate\": inf}, \"id\": \"ID\"}"[..], true),
        (b"{\"return\": \"\xC3\x28\", \"id\": \"ID\"}", true),
        (b"{\"id\": \"ID\", \"error\": {\"desc\": 5}}", true),
        (b"{\"return\": nan, \"id\": \"other\"}", false),
    ] {
        let call = submit(&mut session, "a");
        let id = sent(&mut session).unwrap()["id"].as_str().unwrap().to_owned();
        let at = bad.windows(2).position(|two| two == b"ID");
        let bytes = match at {
            Some(at) => [&bad[..at], id.as_bytes(), &bad[at + 2..]].concat(),
            None => bad.to_vec(),
        };
        session.receive(&bytes, |_| {});
        let only = notices(&mut session);
        if good {
            let [
                Notice::Reply {
                    call: failed,
                    result: Err(Failure::Undecodable { .. }),
                    ..
                },
            ] = &only[..]
            else {
                panic!("{only:?}")
            };
            assert_eq!(*failed, call);
        } else {
            let skipped = matches!(only[..], [Notice::Discarded(Discarded::Undecodable(_))]);
            assert!(skipped, "{only:?}");
            receive(
                &mut session,
                &format!("{{\"return\": 1, \"id\": \"{id}\"}}"),
            );
            assert!(matches!(
                notices(&mut session)[..],
                [Notice::Reply { result: Ok(_), .. }]
            ));
        }
    }
}

#[test]
fn a_reply_that_cannot_be_read_makes_room_and_concerns_nobody_who_has_given_up() {
    let mut config = Config::default();
    config.in_band = 1;
    let mut session = ready(config, true);
    for gives_up in [true, false] {
        let call = submit(&mut session, "a");
        let id = sent(&mut session).expect("room")["id"].clone();
        if gives_up {
            session.abandon(call);
        }
        receive(&mut session, &format!("{{\"return\": nan, \"id\": {id}}}"));
        let only = notices(&mut session);
        match &only[..] {
            [Notice::Discarded(Discarded::Undecodable(_))] => assert!(gives_up),
            [Notice::Reply { .. }] => assert!(!gives_up),
            other => panic!("{other:?}"),
        }
    }
    submit(&mut session, "b");
    assert!(sent(&mut session).is_some());
}

#[test]
fn one_command_may_be_in_flight_at_least() {
    let mut config = Config::default();
    config.in_band = 0;
    let mut session = ready(config, true);
    submit(&mut session, "a");
    submit(&mut session, "b");
    assert!(sent(&mut session).is_some());
    assert!(sent(&mut session).is_none());
}

#[test]
fn an_out_of_band_command_takes_no_descriptor_and_can_be_given_up() {
    let mut session = Session::new(Config::default());
    let oob = |fd| Request {
        oob: true,
        fd,
        ..Request::new("yank", None)
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = session.submit(oob(Some(null.into()))).unwrap_err();
    assert_eq!(error, qmp::encode::EncodeError::DescriptorOutOfBand);
    let call = session.submit(oob(None)).unwrap();
    assert_eq!(session.queued(), 1);
    session.abandon(call);
    assert_eq!(session.queued(), 0);
}

#[test]
fn the_echo_of_a_command_is_no_answer_to_it() {
    let mut session = Session::new(Config::default());
    receive(&mut session, GREETING);
    let negotiation = session.transmit().unwrap().bytes;
    // As echoed by a terminal.
    session.receive(&negotiation, |_| {});
    assert!(!session.is_ready());
    let mut session = ready(Config::default(), true);
    let call = submit(&mut session, "a");
    let line = session.transmit().unwrap().bytes;
    session.receive(&line, |_| {});
    let only = notices(&mut session);
    let ignored = matches!(only[..], [Notice::Discarded(Discarded::Unknown)]);
    assert!(ignored, "{only:?}");
    let id = serde_json::from_slice::<Value>(&line).unwrap()["id"].clone();
    receive(&mut session, &json!({"return": {}, "id": id}).to_string());
    let only = notices(&mut session);
    let answered =
        matches!(&only[..], [Notice::Reply { call: it, result: Ok(_), .. }] if *it == call);
    assert!(answered, "{only:?}");
}

#[test]
fn an_oversized_reply_fails_its_own_command_and_names_the_limit() {
    let mut config = Config::default();
    config.limits = Limits::QEMU.with_message(1000);
    let mut session = ready(config, true);
    submit(&mut session, "a");
    let id = sent(&mut session).unwrap()["id"].clone();
    receive(
        &mut session,
        &json!({"return": "x".repeat(5000), "id": id}).to_string(),
    );
    let only = notices(&mut session);
    let [
        Notice::Reply {
            result: Err(Failure::Undecodable { source, .. }),
            ..
        },
    ] = &only[..]
    else {
        panic!("{only:?}");
    };
    assert!(source.to_string().contains("1000 bytes"), "{source}");
}

#[test]
fn a_refused_negotiation_and_a_peer_that_never_greets_end_the_handshake() {
    let mut session = Session::new(Config::default());
    receive(&mut session, GREETING);
    let id = sent(&mut session).unwrap()["id"].clone();
    let error = json!({"error": {"class": "CommandNotFound", "desc": "no"}, "id": id});
    receive(&mut session, &error.to_string());
    let refused = notices(&mut session).pop();
    assert!(
        matches!(&refused, Some(Notice::Failed(HandshakeFailure::Refused { error })) if error.desc == "no"),
        "{refused:?}"
    );

    for other in ["SSH-2.0-OpenSSH\r\n", "{\"jsonrpc\": \"2.0\"}\n"] {
        let mut session = Session::new(Config::default());
        for _ in 0..64 {
            receive(&mut session, other);
        }
        let failed = notices(&mut session).pop();
        assert!(
            matches!(&failed, Some(Notice::Failed(HandshakeFailure::NotQmp { sample })) if sample.starts_with(other.trim_end())),
            "{failed:?}"
        );
    }
}

#[test]
fn a_greeting_of_an_old_or_future_version_is_understood() {
    for (greeting, offers) in [
        (
            r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 6, "major": 1}, "package": ""}, "capabilities": []}}"#,
            false,
        ),
        (
            r#"{"QMP": {"new": 1, "version": {"new": 2, "qemu": {"micro": 0, "minor": 0, "major": 99, "nano": 1}, "package": "p"}, "capabilities": ["x", {"y": 1}, "oob"]}, "more": []}"#,
            true,
        ),
    ] {
        let mut session = Session::new(Config::default());
        receive(&mut session, greeting);
        let only = notices(&mut session);
        let [Notice::Greeting(found)] = &only[..] else {
            panic!("{only:?}")
        };
        assert_eq!(found.offers_oob(), offers);
    }
}

#[test]
fn arguments_of_the_greatest_depth_are_encoded_on_a_small_stack() {
    let encode = || {
        let mut value = json!(1);
        for level in 0..1021 {
            value = if level % 2 == 0 {
                json!([value])
            } else {
                json!({"a": value})
            };
        }
        let arguments = qmp::encode::arguments(&json!({"a": value})).unwrap().unwrap();
        assert_eq!(arguments.get().matches(['[', '{']).count(), 1022);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(encode).unwrap().join().unwrap();
}
