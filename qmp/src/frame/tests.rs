//! Unit tests of the framer.

use super::brackets::{NEAR, find_special};
use super::*;

/// All frames and error kinds of a stream that arrives in pieces of `step` bytes.
fn frames(stream: &[u8], step: usize, limits: Limits) -> Vec<Result<String, FrameErrorKind>> {
    let mut framer = Framer::new(limits);
    let mut found = Vec::new();
    for piece in stream.chunks(step) {
        framer.push(piece);
        while let Some(item) = framer.next_frame() {
            found.push(match item {
                Ok(frame) => Ok(String::from_utf8_lossy(frame.bytes).into_owned()),
                Err(error) => Err(error.kind),
            });
        }
    }
    found.extend(framer.finish().map(|error| Err(error.kind)));
    found
}

/// Asserts the same result for every piece size.
fn expect(stream: &[u8], want: &[Result<&str, FrameErrorKind>]) {
    let want: Vec<_> = want.iter().map(|item| item.map(str::to_owned)).collect();
    for step in 1..=stream.len() {
        assert_eq!(
            frames(stream, step, Limits::QEMU),
            want,
            "in pieces of {step}"
        );
    }
}

#[test]
fn lines_end_in_crlf_or_lf_or_not_at_all() {
    expect(
        b"{\"a\":1}\r\n{\"b\":2}\n{\"c\":3}{}",
        &[Ok("{\"a\":1}"), Ok("{\"b\":2}"), Ok("{\"c\":3}"), Ok("{}")],
    );
}

#[test]
fn a_pretty_message_is_one_frame() {
    let text = "{\r\n    \"return\": [\r\n        {\r\n            \"a\": {\r\n            }\r\n        }\r\n    ]\r\n}";
    expect(
        format!("{text}\r\n{text}\r\n").as_bytes(),
        &[Ok(text), Ok(text)],
    );
}

#[test]
fn brackets_and_quotes_inside_strings_do_not_count() {
    let text = r#"{"a": "}{][\"}\\", "b\\": ["\u007d"]}"#;
    expect(text.as_bytes(), &[Ok(text)]);
}

#[test]
fn text_before_a_message_is_skipped_to_the_line_end_or_a_brace() {
    expect(
        b"VNC server running\r\n{\"a\":1}\r\nuh {\"b\":2}\n",
        &[
            Err(FrameErrorKind::Garbage),
            Ok("{\"a\":1}"),
            Err(FrameErrorKind::Garbage),
            Ok("{\"b\":2}"),
        ],
    );
}

#[test]
fn a_brace_that_opens_no_object_is_garbage() {
    expect(
        b"{not json}\n{\"a\":1}",
        &[Err(FrameErrorKind::Broken), Ok("{\"a\":1}")],
    );
}

#[test]
fn a_message_that_breaks_off_does_not_swallow_the_next_line() {
    for cut in [
        "{\"return\": {\"a\": 1",
        "{\"return\": {\"a\": \"x",
        "{\"return\": ]}",
    ] {
        expect(
            format!("{cut}\r\n{{\"b\":2}}\r\n").as_bytes(),
            &[Err(FrameErrorKind::Broken), Ok("{\"b\":2}")],
        );
    }
}

#[test]
fn the_guest_agents_reset_mark_is_not_part_of_a_message() {
    expect(
        b"{\"ret\xFF{\"return\": 5}\n",
        &[Err(FrameErrorKind::Broken), Ok("{\"return\": 5}")],
    );
    expect(b"\xFF{\"return\": 5}\n", &[Ok("{\"return\": 5}")]);
}

#[test]
fn a_stream_that_ends_inside_a_message_says_so() {
    expect(
        b"{\"a\":1}\r\n{\"b\":",
        &[Ok("{\"a\":1}"), Err(FrameErrorKind::Cut)],
    );
}

#[test]
fn a_message_over_the_size_limit_is_skipped_whole() {
    let limits = Limits::QEMU.with_message(64);
    let kind = FrameErrorKind::TooLarge { limit: 64 };
    let large = format!("{{\"a\":\"{}}}\"}}\n{{\"b\":2}}\n", "x".repeat(100));
    let exact = format!("{{\"a\":\"{}\"}}", "x".repeat(64 - 8));
    for step in 1..200 {
        assert_eq!(
            frames(large.as_bytes(), step, limits),
            [Err(kind), Ok("{\"b\":2}".into())],
            "in pieces of {step}"
        );
        assert_eq!(frames(exact.as_bytes(), step, limits), [Ok(exact.clone())]);
    }
}

#[test]
fn skipped_text_is_sampled_at_both_ends_and_not_kept() {
    let mut framer = Framer::new(Limits::QEMU.with_message(1000));
    framer.push(b"{\"id\": \"first\", \"a\": \"");
    for _ in 0..10_000 {
        framer.push(&[b'x'; 1000]);
        assert!(framer.next_frame().is_none());
        assert!(
            framer.pending() <= 2000,
            "{} bytes are held",
            framer.pending()
        );
    }
    framer.push(b"\", \"z\": \"last\"}");
    let error = framer.next_frame().unwrap().unwrap_err();
    let sample = String::from_utf8(error.sample).unwrap();
    assert!(sample.starts_with("{\"id\": \"first\""), "{sample}");
    assert!(sample.ends_with("\"last\"}"), "{sample}");
    assert!(sample.len() < 2 * SAMPLE + 10);
    assert_eq!(error.skipped, 10_000_000 + 22 + 15);
}

#[test]
fn nesting_is_accepted_to_the_limit_and_skipped_beyond() {
    let nest = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    let stream = format!("{}\n{}\n{{}}\n", nest(1024), nest(1025));
    for step in [1, 7, 100, 5000] {
        assert_eq!(
            frames(stream.as_bytes(), step, Limits::QEMU),
            [
                Ok(nest(1024)),
                Err(FrameErrorKind::TooDeep { limit: 1024 }),
                Ok("{}".into()),
            ]
        );
    }
}

#[test]
fn of_two_limits_the_first_one_counts_in_whatever_pieces_the_bytes_come() {
    let limits = Limits::QEMU.with_message(64).with_depth(8);
    let (large, deep) = (
        FrameErrorKind::TooLarge { limit: 64 },
        FrameErrorKind::TooDeep { limit: 8 },
    );
    let nest = format!("{}1{}", "[".repeat(10), "]".repeat(10));
    for (before, after, kind) in [(100, 0, large), (0, 100, deep)] {
        let pad = |length: usize| "x".repeat(length);
        let text = format!("{{\"a\":[\"{}\",{nest},\"{}\"]}}", pad(before), pad(after));
        for step in 1..=text.len() {
            let found = frames(text.as_bytes(), step, limits);
            assert_eq!(found, [Err(kind)], "in pieces of {step}");
        }
    }
}

#[test]
fn the_depth_of_a_frame_is_its_deepest_nesting() {
    let mut framer = Framer::default();
    framer.push(br#"{"a": [[{}]], "b": {}} {}"#);
    assert_eq!(framer.next_frame().unwrap().unwrap().depth, 4);
    assert_eq!(framer.next_frame().unwrap().unwrap().depth, 1);
}

#[test]
fn a_control_character_in_a_string_is_left_to_the_decoder_wherever_it_stands() {
    for before in [0, 5, 50, 500] {
        let text = format!("{{\"a\": \"{}\x0E\"}}", "x".repeat(before));
        for step in [1, 7, 1000] {
            assert_eq!(
                frames(text.as_bytes(), step, Limits::QEMU),
                [Ok(text.clone())]
            );
        }
    }
}

#[test]
fn the_first_special_byte_of_a_string_is_found_wherever_it_stands() {
    for at in 0..2 * NEAR + 3 {
        for byte in 0..=u8::MAX {
            // Its neighbours differ from it in the lowest bit, or are special themselves.
            for after in [byte ^ 1, b'"', b'x', 0x80] {
                let mut text = vec![b'x'; at];
                text.extend([byte, after]);
                text.resize(at + 20, b'x');
                let special = |&b: &u8| matches!(b, b'"' | b'\\' | b'\n' | 0xFF);
                assert_eq!(
                    find_special(&text),
                    text.iter().position(special),
                    "{byte:#x} {after:#x} at {at}"
                );
            }
        }
    }
}
