//! The fuzz targets' bodies and invariants. Shared with the property tests.
#![allow(dead_code)]

use qmp::frame::{FrameErrorKind, Framer, Limits};
use qmp::message::Message;
use qmp::session::{Config, Notice, Request, Session};

const LIMITS: Limits = Limits::QEMU.with_message(300).with_depth(20);

type Item = Result<Vec<u8>, (FrameErrorKind, usize)>;

/// Frames `data` in pieces of the lengths in `steps`, over and over.
fn frames(data: &[u8], steps: &[u8]) -> Vec<Item> {
    let mut framer = Framer::new(LIMITS);
    let mut found = Vec::new();
    let mut rest = data;
    let mut steps = steps.iter().cycle();
    while !rest.is_empty() {
        let step = steps.next().map_or(rest.len(), |&step| usize::from(step) + 1);
        let (piece, after) = rest.split_at(step.min(rest.len()));
        rest = after;
        framer.push(piece);
        while let Some(item) = framer.next_frame() {
            found.push(match item {
                Ok(frame) => {
                    assert!(frame.bytes.starts_with(b"{") && frame.bytes.ends_with(b"}"));
                    assert!(frame.bytes.len() <= LIMITS.message);
                    assert!((1..=LIMITS.depth).contains(&frame.depth));
                    Ok(frame.bytes.to_vec())
                }
                Err(error) => {
                    assert!(error.skipped > 0 && error.sample.len() <= 4096 + 5);
                    Err((error.kind, error.skipped))
                }
            });
        }
        assert!(
            framer.pending() <= LIMITS.message + 1,
            "unbounded: {}",
            framer.pending()
        );
    }
    found.extend(framer.finish().map(|error| Err((error.kind, error.skipped))));
    found
}

/// The pieces in which bytes arrive must not matter, and nothing may be lost or invented.
pub(crate) fn framer(data: &[u8]) {
    let (steps, data) = data.split_at(data.len().min(4));
    let whole = frames(data, &[]);
    assert_eq!(whole, frames(data, steps), "the pieces matter");
    let accounted: usize = whole
        .iter()
        .map(|item| match item {
            Ok(frame) => frame.len(),
            Err((_, skipped)) => *skipped,
        })
        .sum();
    assert!(accounted <= data.len());
    for item in whole.iter().flatten() {
        // What is valid JSON must decode or be refused, and never panic.
        let _ = Message::decode(item, LIMITS.depth);
    }
}

/// Whatever was received, a session continues: the next valid message is understood.
pub(crate) fn decoder(data: &[u8]) {
    let mut config = Config::default();
    config.limits = LIMITS;
    let mut session = Session::new(config);
    let (early, late) = data.split_at(data.len() / 2);
    session.receive(early, |_| {});
    session.receive(b"\xFF\n{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 9}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\n", |_| {});
    while session.notice().is_some() {}
    if let Some(line) = session.transmit() {
        reply(&mut session, &line.bytes);
        while session.notice().is_some() {}
    }
    if !session.is_ready() {
        // Too much noise before the greeting ends a handshake.
        return;
    }
    let call = session.submit(Request::new("query-name", None)).expect("a short command");
    let line = session.transmit().expect("nothing else is in flight");
    session.receive(late, |_| {});
    session.receive(b"\xFF\n", |_| {});
    let mut answered = false;
    while let Some(notice) = session.notice() {
        // Only an error without id can be taken for this command's reply.
        answered |= matches!(notice, Notice::Reply { call: c, result: Err(_), .. } if c == call);
        assert!(
            !matches!(notice, Notice::Reply { result: Ok(_), .. }),
            "a reply to nothing"
        );
    }
    if !answered {
        reply(&mut session, &line.bytes);
        let last = std::iter::from_fn(|| session.notice()).last();
        assert!(
            matches!(last, Some(Notice::Reply { call: c, result: Ok(_), .. }) if c == call),
            "the session does not live: {last:?}"
        );
    }
    assert_eq!(session.in_flight(), 0);
}

/// Answers a command.
fn reply(session: &mut Session, line: &[u8]) {
    let command: serde_json::Value = serde_json::from_slice(line).expect("commands are JSON");
    let reply = serde_json::json!({"return": {}, "id": command["id"]}).to_string();
    session.receive(format!("{reply}\r\n").as_bytes(), |_| {});
}
