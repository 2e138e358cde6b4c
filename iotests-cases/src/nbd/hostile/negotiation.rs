//! What is wrong with an option, or with all that comes instead of one.

use iotests_core::prelude::*;
use nbd::proto::{CommandType, Mode, OptionCode, OptionReplyCode as Code};

use super::super::wire::{counted, name, option, option_header, request, with};
use super::Stage::{Greeting, Options};
use super::{
    Attack, EXTENDED_HEADERS, Follows, HangUp, HangUpAtOnce, LONGEST, MOST, Nothing, Replies,
    SERVERS, Serving, Victim,
};

/// A client that has agreed to nothing but fixed newstyle.
const PLAIN: super::Stage = Options(Mode::Simple);
const STRUCTURED: super::Stage = Options(Mode::Structured);
const EXTENDED: super::Stage = Options(Mode::Extended);

const FINE: Follows = Replies(&[Code::ACK]);
const REFUSED: Follows = Replies(&[Code::ERR_INVALID]);
const UNKNOWN: Follows = Replies(&[Code::ERR_UNKNOWN]);
const UNSUPPORTED: Follows = Replies(&[Code::ERR_UNSUP]);

/// A query of meta contexts for the export: the number of queries, and them.
fn contexts(number: u32, queries: &[Vec<u8>]) -> Vec<u8> {
    let export = with(counted(b"disk"), &number.to_be_bytes());
    with(export, &queries.concat())
}

fn go(name: &[u8], requests: &[u8]) -> Vec<u8> {
    option(OptionCode::GO, &with(name.to_vec(), requests))
}

fn list_contexts(data: &[u8]) -> Vec<u8> {
    option(OptionCode::LIST_META_CONTEXT, data)
}

fn set_contexts(data: &[u8]) -> Vec<u8> {
    option(OptionCode::SET_META_CONTEXT, data)
}

const BASE: &[u8] = b"base:allocation";
/// More than any buffer on the way.
const MANY: usize = 20_000;

const LEFT: KnownBug = known(
    "the rest of a query of contexts is parsed as the next option",
    "died of SIGABRT",
    ALWAYS,
);

rows! {
    ATTACKS: Attack { stage, sent, follows };
    "flags-that-nobody-knows" => Greeting, || vec![0xff; 4], HangUp;
    "half-of-the-flags" => Greeting, || vec![0, 0], Nothing;
    "an-option-instead-of-flags" => Greeting, || option(OptionCode::LIST, &[]), HangUp;
    "no-magic" => PLAIN, || vec![0; 16], HangUp;
    "a-request" => PLAIN, || request(CommandType::READ.0, 0, 0, 512), HangUp;
    "half-a-header" => PLAIN, || vec![0x49, 0x48, 0x41, 0x56], Nothing;
    "half-the-data" => PLAIN, || with(option_header(OptionCode::GO, 100), &[0; 10]), Nothing;
    "unknown-option" => PLAIN, || option(OptionCode(99), &[1; 3]), UNSUPPORTED;
    "option-zero" => PLAIN, || option(OptionCode(0), &[]), UNSUPPORTED;
    "the-last-option" => PLAIN, || option(OptionCode(u32::MAX), &[]), UNSUPPORTED;
    "unknown-option-of-all-that-is-taken" => PLAIN,
        || option(OptionCode(99), &vec![0; MOST as usize]), UNSUPPORTED;
    "unknown-option-of-one-more" => PLAIN, || option_header(OptionCode(99), MOST + 1), HangUp;
    "unknown-option-of-one-more-that-comes" => PLAIN,
        || option(OptionCode(99), &vec![0; MOST as usize + 1]), HangUpAtOnce;
    "unknown-option-without-end" => PLAIN, || option_header(OptionCode(99), u32::MAX), HangUp;
    "many-unknown-options" => PLAIN, || option(OptionCode(99), &[1; 3]).repeat(500),
        Replies(&[Code::ERR_UNSUP; 500]);
    "abort-with-data" => PLAIN, || option(OptionCode::ABORT, &[0; 5]), HangUp;
    "go-without-end" => PLAIN, || option_header(OptionCode::GO, 0x7fff_ffff), HangUp;
    "go-without-a-name" => PLAIN, || go(&[], &[]), REFUSED;
    "go-with-a-part-of-its-name" => PLAIN, || go(&[0, 0, 4, 0, b'd', b'i'], &[0, 0]), REFUSED;
    "go-with-a-nul-in-its-name" => PLAIN, || go(&counted(b"disk\0x"), &[0, 0]), REFUSED;
    "go-without-its-requests" => PLAIN, || go(&counted(b"disk"), &[0, 5]), REFUSED;
    "go-with-too-much" => PLAIN, || go(&counted(b"disk"), &[0, 0, 0]), REFUSED;
    "go-to-an-unknown-export" => PLAIN, || go(&name(7), &[0, 0]), UNKNOWN;
    "go-to-the-longest-name" => PLAIN, || go(&name(LONGEST), &[0, 0]), UNKNOWN;
    "go-to-a-name-too-long" => PLAIN, || go(&name(LONGEST + 1), &[0, 0]), REFUSED;
    "go-to-the-longest-name-that-a-header-can-say" => PLAIN, || go(&[0xff; 4], &[0; 64]), REFUSED;
    "info-on-the-longest-name" => PLAIN,
        || option(OptionCode::INFO, &with(name(LONGEST), &[0, 0])), UNKNOWN;
    "info-with-all-requests-that-there-can-be" => PLAIN,
        || option(OptionCode::INFO, &with(with(counted(b"disk"), &[0xff; 2]),
        &[0, 3].repeat(65535))),
        FINE;
    "export-name-that-is-the-longest" => PLAIN,
        || option(OptionCode::EXPORT_NAME, &[b'x'; LONGEST]), HangUp;
    "export-name-that-is-too-long" => PLAIN,
        || option(OptionCode::EXPORT_NAME, &[b'x'; LONGEST + 1]), HangUp;
    "list-with-data" => PLAIN, || option(OptionCode::LIST, &[0; 5]), REFUSED;
    "tls-that-there-is-not" => PLAIN, || option(OptionCode::STARTTLS, &[]),
        Replies(&[Code::ERR_POLICY]);
    "tls-with-data" => PLAIN, || option(OptionCode::STARTTLS, &[0; 5]), REFUSED;
    "structured-replies-with-data" => PLAIN, || option(OptionCode::STRUCTURED_REPLY, &[0; 5]),
        REFUSED;
    "structured-replies-again" => STRUCTURED, || option(OptionCode::STRUCTURED_REPLY, &[]), REFUSED;
    "extended-headers-with-data" => PLAIN, || option(OptionCode::EXTENDED_HEADERS, &[0; 5]),
        REFUSED, needs = [EXTENDED_HEADERS];
    "extended-headers-again" => EXTENDED, || option(OptionCode::EXTENDED_HEADERS, &[]), REFUSED,
        needs = [EXTENDED_HEADERS];
    "structured-replies-after-extended-headers" => EXTENDED,
        || option(OptionCode::STRUCTURED_REPLY, &[]), Replies(&[Code::ERR_EXT_HEADER_REQD]),
        needs = [EXTENDED_HEADERS];
    "export-name-after-extended-headers" => EXTENDED,
        || option(OptionCode::EXPORT_NAME, b"disk"), HangUp, needs = [EXTENDED_HEADERS];
    "contexts-without-structured-replies" => PLAIN, || set_contexts(&contexts(0, &[])), REFUSED;
    "contexts-of-the-longest-name" => PLAIN, || list_contexts(&with(name(LONGEST), &[0; 4])),
        UNKNOWN;
    "contexts-of-a-name-too-long" => PLAIN, || list_contexts(&with(name(LONGEST + 1), &[0; 4])),
        REFUSED;
    "contexts-of-an-unknown-export" => STRUCTURED, || set_contexts(&with(name(7), &[0; 4])),
        UNKNOWN;
    "contexts-without-a-number" => STRUCTURED, || set_contexts(&counted(b"disk")), REFUSED;
    "the-longest-context" => PLAIN, || list_contexts(&contexts(1, &[name(LONGEST)])), FINE;
    "a-context-too-long" => PLAIN, || list_contexts(&contexts(1, &[name(LONGEST + 1)])), FINE;
    "a-context-longer-than-its-option" => STRUCTURED,
        || set_contexts(&contexts(1, &[vec![0xff; 4]])), REFUSED;
    "a-context-with-a-nul" => STRUCTURED,
        || set_contexts(&contexts(1, &[counted(b"base:\0allocation")])), REFUSED;
    "contexts-of-nobody" => STRUCTURED, || set_contexts(&contexts(4, &[counted(b""), counted(b":"),
        counted(b"qemu:dirty-bitmap:"), counted(b"base:\xff")])), FINE;
    "more-contexts-than-there-are" => PLAIN, || list_contexts(&contexts(u32::MAX, &[])), REFUSED;
    "a-context-many-times" => STRUCTURED,
        || set_contexts(&contexts(MANY as u32, &vec![counted(BASE); MANY])), FINE;
    "contexts-many-times" => STRUCTURED,
        || set_contexts(&contexts(1, &[counted(BASE)])).repeat(500),
        Replies(&[Code::ACK; 500]);
    "more-than-its-contexts" => STRUCTURED,
        || set_contexts(&with(contexts(1, &[counted(BASE)]), &[0; 16])), HangUp;
    "an-option-behind-its-contexts" => STRUCTURED,
        || set_contexts(&with(contexts(1, &[counted(BASE)]), &option(OptionCode::LIST, &[]))),
        REFUSED, known_bugs = [LEFT];
}

/// Whatever a client sends instead of what the negotiation has there, it alone bears the consequences: the server answers as the protocol
/// has it or hangs up, serves who was there and who comes next, and the disk is as it was.
#[case(rows = (SERVERS, ATTACKS))]
async fn harms_nobody_else(t: &mut Test, serving: &Serving, attack: &Attack) -> CaseResult {
    let victim = Victim::create(t, serving).await?;
    victim.bears(attack).await
}

rows! {
    TLS_ATTACKS: Attack { stage, sent, follows };
    "go" => PLAIN, || go(&counted(b"disk"), &[0, 0]), Replies(&[Code::ERR_TLS_REQD]);
    "an-unknown-option" => PLAIN, || option(OptionCode(99), &[1; 3]),
        Replies(&[Code::ERR_TLS_REQD]);
    "export-name" => PLAIN, || option(OptionCode::EXPORT_NAME, b"disk"), HangUp;
    "abort" => PLAIN, || option(OptionCode::ABORT, &[]), HangUp;
    "tls-with-data" => PLAIN, || option(OptionCode::STARTTLS, &[0; 5]), HangUp;
    "what-is-no-tls" => PLAIN, || with(option(OptionCode::STARTTLS, &[]), &[0; 512]), HangUp;
    "an-option-in-the-clear" => PLAIN,
        || option(OptionCode::STARTTLS, &[]).repeat(2), HangUp;
    "nothing-after-it-has-asked-for-tls" => PLAIN, || option(OptionCode::STARTTLS, &[]), FINE;
    "half-a-hello" => PLAIN, || with(option(OptionCode::STARTTLS, &[]), &[22, 3, 1, 2, 0, 1]), FINE;
}

/// A server that requires TLS answers nothing else before it, and a client that then speaks something else harms nobody.
#[case(host = Any, rows = TLS_ATTACKS, groups = [QUICK], needs = [Driver("throttle")])]
async fn harms_no_server_with_tls(t: &mut Test, attack: &Attack) -> CaseResult {
    let tls = t.tls()?;
    let victim = Victim::machine(t, Some(&tls)).await?;
    let mut wire = victim.reach(attack.stage).await?;
    wire.send(&(attack.sent)()).await;
    match attack.follows {
        Replies(codes) => {
            for code in codes {
                check!(wire.answer().await? == Some(*code));
            }
        }
        _ => drop(wire.ended().await),
    }
    victim.lives(&(0..0)).await?;
    // The server could not be stopped while it waits for a handshake (docs/qemu-findings.md).
    drop(wire);
    victim.lives(&(0..0)).await?;
    victim.ends(&(0..0)).await
}
