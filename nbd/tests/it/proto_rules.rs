//! One test per rule that a reply has to keep.

use nbd::proto::chunk::{Error, Extent, Hole, Status};
use nbd::proto::*;

fn check(command: CommandType, mode: Mode) -> ReplyCheck {
    with_flags(command, mode, CommandFlags::empty())
}

fn with_flags(command: CommandType, mode: Mode, flags: CommandFlags) -> ReplyCheck {
    let request = Request {
        flags,
        command,
        cookie: 1,
        offset: 1000,
        len: 100,
    };
    ReplyCheck::new(request, 100, mode, vec![4, 5])
}

fn chunk(kind: ChunkType, len: u32, done: bool) -> ReplyHeader {
    let flags = if done {
        ChunkFlags::DONE
    } else {
        ChunkFlags::empty()
    };
    ReplyHeader::Structured {
        flags,
        kind,
        cookie: 1,
        len,
    }
}

fn extended(kind: ChunkType, len: u64, offset: u64) -> ReplyHeader {
    ReplyHeader::Extended {
        flags: ChunkFlags::DONE,
        kind,
        cookie: 1,
        offset,
        len,
    }
}

const OK: ReplyHeader = ReplyHeader::Simple {
    error: Errno::OK,
    cookie: 1,
};

#[test]
fn a_whole_read_in_any_order_is_accepted() {
    let mut c = check(CommandType::READ, Mode::Structured);
    let data = chunk(ChunkType::OFFSET_DATA, 8 + 40, false);
    assert_eq!(c.header(&data), Ok(Body::Data { len: 40 }));
    assert_eq!(c.content(1060, 40), Ok(60));
    assert_eq!(c.finish(), Ok(None));
    assert_eq!(
        c.header(&chunk(ChunkType::OFFSET_HOLE, 12, true)),
        Ok(Body::Hole)
    );
    assert_eq!(
        c.hole(Hole {
            offset: 1000,
            len: 60
        }),
        Ok(0)
    );
    assert_eq!(c.finish(), Ok(Some(Outcome::Done)));
}

#[test]
fn a_gap_is_found_at_the_end() {
    let mut c = check(CommandType::READ, Mode::Structured);
    c.header(&chunk(ChunkType::OFFSET_DATA, 8 + 40, true)).unwrap();
    c.content(1010, 40).unwrap();
    assert_eq!(
        c.finish(),
        Err(Violation::Gap {
            start: 1000,
            end: 1010
        })
    );
}

#[test]
fn a_gap_is_in_order_after_an_error() {
    let mut c = check(CommandType::READ, Mode::Structured);
    let header = chunk(ChunkType::ERROR, 6, true);
    assert_eq!(
        c.header(&header),
        Ok(Body::Error {
            with_offset: false,
            known: true,
            len: 6
        })
    );
    let error = Error {
        errno: Errno::EIO,
        message: "no".into(),
        offset: None,
    };
    c.error(error.clone()).unwrap();
    assert_eq!(c.finish(), Ok(Some(Outcome::Failed(error))));
}

#[test]
fn an_overlap_is_found_at_once() {
    let mut c = check(CommandType::READ, Mode::Structured);
    c.content(1000, 60).unwrap();
    assert_eq!(
        c.content(1059, 10),
        Err(Violation::Overlap {
            start: 1059,
            end: 1069
        })
    );
    let mut c = check(CommandType::READ, Mode::Structured)
        .with_checks(Checks::all() - Checks::OVERLAP - Checks::GAP);
    c.content(1000, 60).unwrap();
    assert_eq!(c.content(1059, 10), Ok(59));
}

#[test]
fn data_outside_the_request_is_refused_even_by_the_tolerant() {
    for (offset, len) in [(999, 2), (1099, 2), (u64::MAX, 2), (1000, 0)] {
        let mut c = check(CommandType::READ, Mode::Structured).with_checks(Checks::empty());
        assert!(
            matches!(c.content(offset, len), Err(Violation::OutOfRange { .. })),
            "{offset}"
        );
    }
}

#[test]
fn an_oversized_chunk_is_refused_before_it_is_read() {
    let mut c = check(CommandType::READ, Mode::Structured);
    let header = chunk(ChunkType::OFFSET_DATA, 8 + 101, false);
    assert!(matches!(
        c.header(&header),
        Err(Violation::ChunkLength { .. })
    ));
    for (kind, len) in [
        (ChunkType::OFFSET_DATA, 8),
        (ChunkType::OFFSET_HOLE, 11),
        (ChunkType::NONE, 1),
    ] {
        let got = c.header(&chunk(kind, len, true));
        assert!(matches!(got, Err(Violation::ChunkLength { .. })), "{kind}");
    }
}

#[test]
fn none_without_done_is_refused() {
    let mut c = check(CommandType::TRIM, Mode::Structured);
    assert_eq!(
        c.header(&chunk(ChunkType::NONE, 0, false)),
        Err(Violation::MissingDone)
    );
}

#[test]
fn each_mode_takes_its_own_kind_of_reply_only() {
    let structured = chunk(ChunkType::NONE, 0, true);
    let extended = extended(ChunkType::NONE, 0, 1000);
    let ok = |command, mode, header: &ReplyHeader| check(command, mode).header(header).is_ok();
    for mode in Mode::ALL {
        assert_eq!(
            ok(CommandType::READ, mode, &OK),
            mode < Mode::Structured,
            "{mode}"
        );
        assert_eq!(
            ok(CommandType::TRIM, mode, &OK),
            mode < Mode::Extended,
            "{mode}"
        );
        assert_eq!(
            ok(CommandType::TRIM, mode, &structured),
            mode == Mode::Structured,
            "{mode}"
        );
        assert_eq!(
            ok(CommandType::TRIM, mode, &extended),
            mode == Mode::Extended,
            "{mode}"
        );
    }
    // Success without the status that was asked for is none.
    assert!(!ok(CommandType::BLOCK_STATUS, Mode::Structured, &OK));
}

#[test]
fn content_must_fit_the_command() {
    let mut c = check(CommandType::WRITE, Mode::Structured);
    let header = chunk(ChunkType::OFFSET_DATA, 20, true);
    assert!(matches!(
        c.header(&header),
        Err(Violation::UnexpectedChunk { .. })
    ));
    let mut c = check(CommandType::READ, Mode::Structured);
    let header = chunk(ChunkType::BLOCK_STATUS, 12, true);
    assert!(matches!(
        c.header(&header),
        Err(Violation::UnexpectedChunk { .. })
    ));
    let header = chunk(ChunkType(0x123), 0, true);
    assert!(matches!(
        c.header(&header),
        Err(Violation::UnexpectedChunk { .. })
    ));
    let mut c = check(CommandType::BLOCK_STATUS, Mode::Extended);
    let narrow = extended(ChunkType::BLOCK_STATUS, 12, 1000);
    assert!(matches!(
        c.header(&narrow),
        Err(Violation::UnexpectedChunk { .. })
    ));
}

#[test]
fn an_unknown_error_chunk_is_an_error() {
    let mut c = check(CommandType::TRIM, Mode::Structured);
    let header = chunk(ChunkType(0x8123), 10, true);
    assert_eq!(
        c.header(&header),
        Ok(Body::Error {
            with_offset: false,
            known: false,
            len: 10
        })
    );
}

#[test]
fn an_error_must_be_one_and_lie_inside() {
    let mut c = check(CommandType::READ, Mode::Structured);
    let zero = Error {
        errno: Errno::OK,
        message: String::new(),
        offset: None,
    };
    assert_eq!(c.error(zero), Err(Violation::ErrorZero));
    let outside = Error {
        errno: Errno::EIO,
        message: String::new(),
        offset: Some(1100),
    };
    assert!(matches!(
        c.error(outside),
        Err(Violation::OutOfRange { .. })
    ));
}

#[test]
fn an_extended_reply_repeats_the_offset() {
    let mut c = check(CommandType::TRIM, Mode::Extended);
    let got = c.header(&extended(ChunkType::NONE, 0, 1001));
    assert_eq!(
        got,
        Err(Violation::EchoedOffset {
            expected: 1000,
            got: 1001
        })
    );
}

#[test]
fn an_unfragmented_read_comes_in_one_piece() {
    let mut c = with_flags(CommandType::READ, Mode::Structured, CommandFlags::DF);
    c.content(1000, 50).unwrap();
    assert_eq!(c.content(1050, 50), Err(Violation::Fragmented));
}

#[test]
fn endless_fragments_are_refused_before_they_fill_the_memory() {
    let request = Request {
        flags: CommandFlags::empty(),
        command: CommandType::READ,
        cookie: 1,
        offset: 0,
        len: 1 << 25,
    };
    let mut c = ReplyCheck::new(request, 1 << 25, Mode::Structured, vec![]);
    let error = (0..1u64 << 24).find_map(|n| c.content(n * 2, 1).err());
    assert_eq!(error, Some(Violation::TooManyFragments));
}

fn status(context: u32, lens: &[u64]) -> Status {
    let extents = lens.iter().map(|&len| Extent { len, status: 0 }).collect();
    Status { context, extents }
}

#[test]
fn each_context_is_answered_exactly_once() {
    let mut c = check(CommandType::BLOCK_STATUS, Mode::Structured);
    c.header(&chunk(ChunkType::BLOCK_STATUS, 12, true)).unwrap();
    c.status(&status(4, &[100])).unwrap();
    assert_eq!(
        c.status(&status(4, &[100])),
        Err(Violation::DuplicateContext { context: 4 })
    );
    assert_eq!(
        c.status(&status(6, &[100])),
        Err(Violation::UnknownContext { context: 6 })
    );
    assert_eq!(c.finish(), Err(Violation::MissingContext { context: 5 }));
    c.status(&status(5, &[1])).unwrap();
    assert_eq!(c.finish(), Ok(Some(Outcome::Done)));
}

#[test]
fn impossible_extents_are_refused() {
    for lens in [&[0][..], &[100, 1], &[60, u64::MAX], &[u64::MAX]] {
        let mut c = check(CommandType::BLOCK_STATUS, Mode::Extended);
        assert!(
            matches!(c.status(&status(4, lens)), Err(Violation::Extents { .. })),
            "{lens:?}"
        );
    }
    let mut c = check(CommandType::BLOCK_STATUS, Mode::Extended);
    c.status(&status(4, &[60, 1 << 40])).unwrap();
    let mut c = with_flags(
        CommandType::BLOCK_STATUS,
        Mode::Extended,
        CommandFlags::REQ_ONE,
    );
    assert!(matches!(
        c.status(&status(4, &[50, 50])),
        Err(Violation::Extents { .. })
    ));
}
