//! What is wrong with a request, or with all that comes instead of one.

use iotests_core::prelude::*;
use nbd::proto::{CommandType, Mode, OptionCode, OptionReplyCode as Code, StatusFilter};

use super::super::wire::{counted, extended, option, request, with};
use super::Stage::{Options, Transmission};
use super::{
    Attack, EXTENDED_HEADERS, Errors, Follows, HangUp, INVALID, MOST, Nothing, SERVERS, SIZE,
    Serving, Victim, Writes,
};

const SIMPLE: super::Stage = Transmission(Mode::Simple);
const STRUCTURED: super::Stage = Transmission(Mode::Structured);
const EXTENDED: super::Stage = Transmission(Mode::Extended);

const READ: u16 = CommandType::READ.0;
const WRITE: u16 = CommandType::WRITE.0;
const DISC: u16 = CommandType::DISC.0;
const FLUSH: u16 = CommandType::FLUSH.0;
const TRIM: u16 = CommandType::TRIM.0;
const CACHE: u16 = CommandType::CACHE.0;
const ZEROES: u16 = CommandType::WRITE_ZEROES.0;
const STATUS: u16 = CommandType::BLOCK_STATUS.0;

const DF: u16 = 1 << 2;
const PAYLOAD_LEN: u16 = 1 << 5;

const FINE: Follows = Errors(&[0]);
const REFUSED: Follows = Errors(&[INVALID]);
/// More than a server works on at a time.
const FEW: usize = 40;

/// A write of the byte that no other wrote.
fn write(flags: u16, offset: u64, len: u64) -> Vec<u8> {
    with(
        request(WRITE, flags, offset, len),
        &vec![0x22; len as usize],
    )
}

/// A request with a payload that says so.
fn loaded(command: u16, offset: u64, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    with(extended(command, PAYLOAD_LEN, offset, len), payload)
}

rows! {
    ATTACKS: Attack { stage, sent, follows };
    "without-magic" => SIMPLE, || vec![0; 28], HangUp;
    "an-option" => SIMPLE, || option(OptionCode::LIST, &[0; 12]), HangUp;
    "an-extended-header" => SIMPLE, || extended(FLUSH, 0, 0, 0), HangUp;
    "a-compact-header" => EXTENDED, || with(request(FLUSH, 0, 0, 0), &[0; 4]), HangUp,
        needs = [EXTENDED_HEADERS];
    "half-a-header" => SIMPLE, || request(READ, 0, 0, 512)[..10].to_vec(), Nothing;
    "half-an-extended-header" => EXTENDED, || extended(READ, 0, 0, 512)[..30].to_vec(), Nothing,
        needs = [EXTENDED_HEADERS];
    "an-unknown-command" => SIMPLE, || request(77, 0, 0, 512), REFUSED;
    "an-unknown-structured-command" => STRUCTURED,
        || request(0xffff, 0xffff, u64::MAX, 0xffff_ffff),
        REFUSED;
    "an-unknown-command-with-a-payload" => EXTENDED, || loaded(77, 0, &[0; 512]), REFUSED,
        needs = [EXTENDED_HEADERS];
    "resize" => SIMPLE, || request(CommandType::RESIZE.0, 0, 0, 512), REFUSED;
    "read-beyond-the-end" => SIMPLE, || request(READ, 0, SIZE - 512, 1024), REFUSED;
    "read-around-the-end-of-numbers" => SIMPLE, || request(READ, 0, u64::MAX - 511, 1024), REFUSED;
    "read-without-end" => SIMPLE, || request(READ, 0, 0, 0xffff_fe00), REFUSED;
    "read-without-end-extended" => EXTENDED, || extended(READ, 0, 0, u64::MAX), REFUSED,
        needs = [EXTENDED_HEADERS];
    "read-of-nothing" => SIMPLE, || request(READ, 0, 0, 0), FINE;
    "read-of-nothing-structured" => STRUCTURED, || request(READ, 0, 512, 0), FINE;
    "read-of-nothing-at-the-end" => STRUCTURED, || request(READ, 0, SIZE, 0), FINE;
    "read-of-nothing-behind-the-end" => STRUCTURED, || request(READ, 0, SIZE + 1, 0), REFUSED;
    "read-of-a-byte" => STRUCTURED, || request(READ, DF, 511, 1), FINE;
    "read-with-unknown-flags" => SIMPLE, || request(READ, 0x8000, 0, 512), REFUSED;
    "read-in-one-piece-without-pieces" => SIMPLE, || request(READ, DF, 0, 512), REFUSED;
    "read-with-a-payload" => EXTENDED, || loaded(READ, 0, &[0; 512]), REFUSED,
        needs = [EXTENDED_HEADERS];
    "read-of-a-payload-that-cannot-be" => STRUCTURED, || request(READ, PAYLOAD_LEN, 0, 512),
        REFUSED;
    "write-beyond-the-end" => SIMPLE, || write(0, SIZE - 512, 1024), REFUSED;
    "write-around-the-end-of-numbers" => SIMPLE, || write(0, u64::MAX - 511, 1024), REFUSED;
    "write-without-end" => SIMPLE, || request(WRITE, 0, 0, 0xffff_fe00), HangUp;
    "write-without-end-extended" => EXTENDED, || extended(WRITE, PAYLOAD_LEN, 0, u64::MAX), HangUp,
        needs = [EXTENDED_HEADERS];
    "write-of-all-that-is-taken-and-more-than-there-is" => SIMPLE, || write(0, 0, MOST.into()),
        REFUSED;
    "write-of-one-more" => SIMPLE, || request(WRITE, 0, 0, u64::from(MOST) + 1), HangUp;
    "write-of-nothing" => SIMPLE, || write(0, 512, 0), FINE;
    "write-with-unknown-flags" => SIMPLE, || write(0x8000, 0, 512), REFUSED;
    "write-with-a-flag-of-extended-headers" => SIMPLE, || write(PAYLOAD_LEN, 0, 512), REFUSED;
    "write-with-half-its-data" => SIMPLE,
        || with(request(WRITE, 0, 0, 4096), &[0x22; 512]), Nothing;
    "write-that-is-not-aligned" => SIMPLE, || write(0, 511, 3), Writes(511..514);
    "write-that-does-not-say-its-payload" => EXTENDED,
        || with(extended(WRITE, 0, 512, 512), &[0x22; 512]), Writes(512..1024),
        needs = [EXTENDED_HEADERS];
    "flush-with-a-place" => SIMPLE, || request(FLUSH, 0, SIZE, 1), REFUSED;
    "flush-with-a-payload" => EXTENDED, || loaded(FLUSH, 0, &[0; 512]), REFUSED,
        needs = [EXTENDED_HEADERS];
    "flush-with-too-much-payload" => EXTENDED,
        || extended(FLUSH, PAYLOAD_LEN, 0, u64::from(MOST) + 1), HangUp, needs = [EXTENDED_HEADERS];
    "trim-beyond-the-end" => SIMPLE, || request(TRIM, 0, SIZE - 512, 0xffff_fe00), REFUSED;
    "trim-of-nothing" => SIMPLE, || request(TRIM, 0, 0, 0), FINE;
    "trim-with-flags-of-zeroes" => SIMPLE, || request(TRIM, 2, 0, 512), REFUSED;
    "trim-without-end-extended" => EXTENDED, || extended(TRIM, 0, 512, u64::MAX - 511), REFUSED,
        needs = [EXTENDED_HEADERS];
    "zeroes-beyond-the-end" => SIMPLE, || request(ZEROES, 0, SIZE - 512, 1024), REFUSED;
    "zeroes-of-nothing" => SIMPLE, || request(ZEROES, 0, SIZE, 0), FINE;
    "zeroes-without-end" => SIMPLE, || request(ZEROES, 0, 0, 0xffff_fe00), REFUSED;
    "zeroes-without-end-extended" => EXTENDED, || extended(ZEROES, 0, 0, u64::MAX), REFUSED,
        needs = [EXTENDED_HEADERS];
    "cache-beyond-the-end" => SIMPLE, || request(CACHE, 0, SIZE, 512), REFUSED;
    "cache-of-nothing" => SIMPLE, || request(CACHE, 0, 0, 0), FINE;
    "cache-without-end" => SIMPLE, || request(CACHE, 0, 0, 0xffff_fe00), REFUSED;
    "status-without-a-context" => SIMPLE, || request(STATUS, 0, 0, 512), REFUSED;
    "status-with-too-much-payload" => EXTENDED,
        || extended(STATUS, PAYLOAD_LEN, 0, u64::from(MOST) + 1), HangUp,
        needs = [EXTENDED_HEADERS];
    "many-at-once" => STRUCTURED, || request(READ, 0, 0, 4096).repeat(FEW), Errors(&[0; FEW]);
    "goodbye-with-nonsense" => SIMPLE, || request(DISC, 0xffff, u64::MAX, 0xffff_ffff), HangUp;
    "goodbye-with-a-payload" => EXTENDED, || extended(DISC, PAYLOAD_LEN, 0, u64::MAX), HangUp,
        needs = [EXTENDED_HEADERS];
    "goodbye-behind-many" => SIMPLE,
        || with(request(READ, 0, 0, 4096).repeat(FEW), &request(DISC, 0, 0, 0)), HangUp;
}

/// Whatever a client asks for, it alone bears the consequences: the server answers as the protocol has it or hangs up, serves who was there
/// and who comes next, and on the disk is what was rightly written.
#[case(rows = (SERVERS, ATTACKS))]
async fn harms_nobody_else(t: &mut Test, serving: &Serving, attack: &Attack) -> CaseResult {
    let victim = Victim::create(t, serving).await?;
    victim.bears(attack).await
}

/// Which contexts a client has chosen before it asks for the status of the disk, and the error that it gets.
struct Asked {
    mode: Mode,
    chosen: fn() -> Vec<u8>,
    replies: &'static [Code],
    request: fn() -> Vec<u8>,
    errno: u32,
}

const CHUNKS: Mode = Mode::Structured;
const WIDE: Mode = Mode::Extended;
const ONE: &[Code] = &[Code::ACK];
const TWO: &[Code] = &[Code::ACK; 2];

/// Chooses `base:allocation` this often for this export.
fn choose(export: &str, times: u32) -> Vec<u8> {
    let query = counted(b"base:allocation").repeat(times as usize);
    let export = with(counted(export.as_bytes()), &times.to_be_bytes());
    option(OptionCode::SET_META_CONTEXT, &with(export, &query))
}

/// Asks for the status in these contexts.
fn filtered(effect_len: u64, contexts: &[u32]) -> Vec<u8> {
    let contexts = contexts.to_vec();
    let filter = StatusFilter {
        effect_len,
        contexts,
    };
    loaded(STATUS, 0, &filter.encode())
}

const UNCHOSEN: KnownBug = known(
    "a client that filters contexts without having negotiated any aborts the server",
    "died of SIGABRT",
    since(8, 2),
);

rows! {
    CONTEXTS: Asked { mode, chosen, replies, request, errno };
    "of-the-export" => CHUNKS, || choose("disk", 1), ONE, || request(STATUS, 0, 0, 512), 0;
    "of-another-export" => CHUNKS, || choose("other", 1), ONE,
        || request(STATUS, 0, 0, 512), INVALID;
    "that-were-given-back" => CHUNKS, || with(choose("disk", 1), &choose("disk", 0)), TWO,
        || request(STATUS, 0, 0, 512), INVALID;
    "that-were-lost-to-a-wrong-option" => CHUNKS,
        || with(choose("disk", 1), &option(OptionCode::SET_META_CONTEXT, &[0; 2])),
        &[Code::ACK, Code::ERR_INVALID], || request(STATUS, 0, 0, 512), INVALID;
    "for-nothing" => CHUNKS, || choose("disk", 1), ONE, || request(STATUS, 0, 0, 0), INVALID;
    "beyond-the-end" => CHUNKS, || choose("disk", 1), ONE,
        || request(STATUS, 0, SIZE, 512), INVALID;
    "that-are-filtered" => WIDE, || choose("disk", 1), ONE, || filtered(512, &[0]), 0,
        needs = [EXTENDED_HEADERS];
    "that-are-filtered-for-nothing" => WIDE, || choose("disk", 1), ONE,
        || filtered(0, &[0]), INVALID,
        needs = [EXTENDED_HEADERS];
    "that-are-filtered-beyond-the-end" => WIDE, || choose("disk", 1), ONE,
        || filtered(u64::MAX, &[0]), INVALID, needs = [EXTENDED_HEADERS];
    "that-are-filtered-to-none" => WIDE, || choose("disk", 1), ONE, || filtered(512, &[]), INVALID,
        needs = [EXTENDED_HEADERS];
    "that-are-filtered-to-an-unknown-one" => WIDE, || choose("disk", 1), ONE,
        || filtered(512, &[u32::MAX]), INVALID, needs = [EXTENDED_HEADERS];
    "that-are-filtered-to-more-than-chosen" => WIDE, || choose("disk", 1), ONE,
        || filtered(512, &[0, 0]), INVALID, needs = [EXTENDED_HEADERS];
    "that-are-filtered-by-half-a-number" => WIDE, || choose("disk", 1), ONE,
        || loaded(STATUS, 0, &[0; 10]), INVALID, needs = [EXTENDED_HEADERS];
    "that-nobody-chose-filtered" => WIDE, Vec::new, &[], || filtered(512, &[0]), INVALID,
        needs = [EXTENDED_HEADERS], known_bugs = [UNCHOSEN];
    "of-another-export-filtered" => WIDE, || choose("other", 1), ONE,
        || filtered(512, &[0]), INVALID,
        needs = [EXTENDED_HEADERS], known_bugs = [UNCHOSEN];
}

/// The status of a disk is answered in contexts that were chosen for it, and only in those; any other request for it is refused, and the
/// next one served.
#[case(host = Any, rows = CONTEXTS, groups = [QUICK], needs = [Driver("throttle")])]
async fn asks_for_contexts(t: &mut Test, asked: &Asked) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let vm = victim.server.vm()?;
    let other = vm.export("disk").id("other").name("other").await?;
    let mut wire = victim.reach(Options(asked.mode)).await?;
    wire.send(&(asked.chosen)()).await;
    for code in asked.replies {
        check!(wire.answer().await? == Some(*code));
    }
    wire.go("disk").await?;
    wire.send(&(asked.request)()).await;
    check!(wire.errno().await? == Some(asked.errno));
    wire.assert_served().await?;
    other.remove().await?;
    victim.lives(&(0..0)).await?;
    victim.ends(&(0..0)).await
}

const TORN: KnownBug = known(
    "a partly received header is dropped when the node is drained",
    "a request in two pieces was not answered",
    ALWAYS,
);

/// A request that comes in two pieces is answered, also when the disk is drained between them.
#[case(host = Any, groups = [QUICK], needs = [Driver("throttle")], known_bugs = [TORN])]
async fn comes_in_two_pieces(t: &mut Test) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let vm = victim.server.vm()?;
    let mut wire = victim.reach(SIMPLE).await?;
    let flush = request(FLUSH, 0, 0, 0);
    wire.send(&flush[..10]).await;
    // When others have been served the first piece is read.
    victim.lives(&(0..0)).await?;
    vm.reopen("disk", |node| node).await?;
    wire.send(&flush[10..]).await;
    wire.say_no_more().await;
    let errno = wire.errno().await?;
    check!(errno == Some(0), "a request in two pieces was not answered");
    victim.lives(&(0..0)).await?;
    victim.ends(&(0..0)).await
}
