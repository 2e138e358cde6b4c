//! Clients that do not keep to the protocol, and servers that live on.

use iotests_core::author::{MachineBuilder, MachineNbd};
use iotests_core::prelude::*;
use nbd::proto::{CommandType, OptionCode, OptionReplyCode};

use super::wire::{Wire, name, option, option_header, request};

defaults! { formats = [RAW], groups = [AUTO, QUICK, EXPORT], host = Any }

const SIZE: u64 = MIB;
/// The greatest length of a string.
const LONGEST: usize = 4096;

/// When it is sent.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Instead of the client's flags.
    Greeting,
    Options,
    Transmission,
}
use Stage::{Greeting, Options, Transmission};

/// What has to come of it.
#[derive(Clone, Copy)]
enum Follows {
    /// The option is refused with this, or accepted.
    Reply(OptionReplyCode),
    /// The request is refused as invalid, and the next one served.
    Invalid,
    /// The server hangs up, perhaps with an error before.
    HangUp,
    /// The server waits for more, which does not come: the client leaves.
    Nothing,
}
use Follows::{HangUp, Invalid, Nothing, Reply};

struct Attack {
    stage: Stage,
    sent: fn() -> Vec<u8>,
    follows: Follows,
}

const UNKNOWN: Follows = Reply(OptionReplyCode::ERR_UNKNOWN);
const REFUSED: Follows = Reply(OptionReplyCode::ERR_INVALID);
const FINE: Follows = Reply(OptionReplyCode::ACK);
const INVALID: u32 = 22;

fn with(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend(more);
    bytes
}

/// A query of meta contexts for the export: the number of queries, and them.
fn contexts(number: u32, queries: &[Vec<u8>]) -> Vec<u8> {
    let export = with(4_u32.to_be_bytes().to_vec(), b"disk");
    with(with(export, &number.to_be_bytes()), &queries.concat())
}

rows! {
    ATTACKS: Attack { stage, sent, follows };
    "flags-that-nobody-knows" => Greeting, || vec![0xff; 4], HangUp;
    "half-of-the-flags" => Greeting, || vec![0, 0], Nothing;
    "no-magic" => Options, || vec![0; 16], HangUp;
    "half-a-header" => Options, || vec![0x49, 0x48, 0x41, 0x56], Nothing;
    "half-the-data" => Options, || with(option_header(OptionCode::GO, 100), &[0; 10]), Nothing;
    "unknown-option" => Options, || option(OptionCode(99), &[1; 3]),
        Reply(OptionReplyCode::ERR_UNSUP);
    "unknown-option-without-end" => Options, || option_header(OptionCode(99), u32::MAX), HangUp;
    "go-without-end" => Options, || option_header(OptionCode::GO, 0x7fff_ffff), HangUp;
    "go-without-a-name" => Options, || option(OptionCode::GO, &[]), REFUSED;
    "go-with-a-part-of-its-name" => Options, || option(OptionCode::GO, &[0, 0, 4, 0, b'd', b'i', 0,
        0]), REFUSED;
    "go-without-its-requests" => Options, || option(OptionCode::GO, &with(contexts(0,
        &[])[..8].to_vec(), &[0, 5])), REFUSED;
    "go-to-an-unknown-export" => Options, || option(OptionCode::GO, &with(name(7), &[0, 0])),
        UNKNOWN;
    "go-to-the-longest-name" => Options, || option(OptionCode::GO, &with(name(LONGEST), &[0, 0])),
        UNKNOWN;
    "go-to-a-name-too-long" => Options, || option(OptionCode::GO, &with(name(LONGEST + 1), &[0,
        0])), REFUSED;
    "info-on-the-longest-name" => Options, || option(OptionCode::INFO, &with(name(LONGEST), &[0,
        0])), UNKNOWN;
    "export-name-that-is-the-longest" => Options, || option(OptionCode::EXPORT_NAME,
        &[b'x'; LONGEST]), HangUp;
    "export-name-that-is-too-long" => Options, || option(OptionCode::EXPORT_NAME,
        &[b'x'; LONGEST + 1]), HangUp;
    "list-with-data" => Options, || option(OptionCode::LIST, &[0; 5]), REFUSED;
    "tls-that-there-is-not" => Options, || option(OptionCode::STARTTLS, &[]),
        Reply(OptionReplyCode::ERR_POLICY);
    "structured-replies-with-data" => Options, || option(OptionCode::STRUCTURED_REPLY, &[0; 5]),
        REFUSED;
    "contexts-without-structured-replies" => Options,
        || option(OptionCode::SET_META_CONTEXT, &contexts(0, &[])), REFUSED;
    "contexts-of-the-longest-name" => Options,
        || option(OptionCode::LIST_META_CONTEXT, &with(name(LONGEST), &[0; 4])), UNKNOWN;
    "contexts-of-a-name-too-long" => Options,
        || option(OptionCode::LIST_META_CONTEXT, &with(name(LONGEST + 1), &[0; 4])), REFUSED;
    "the-longest-context" => Options,
        || option(OptionCode::LIST_META_CONTEXT, &contexts(1, &[name(LONGEST)])), FINE;
    "a-context-too-long" => Options,
        || option(OptionCode::LIST_META_CONTEXT, &contexts(1, &[name(LONGEST + 1)])), FINE;
    "more-contexts-than-there-are" => Options,
        || option(OptionCode::LIST_META_CONTEXT, &contexts(u32::MAX, &[])), REFUSED;
    "request-without-magic" => Transmission, || vec![0; 28], HangUp;
    "half-a-request" => Transmission, || request(CommandType::READ.0, 0, 0, 512)[..10].to_vec(),
        Nothing;
    "half-the-data-of-a-write" => Transmission,
        || with(request(CommandType::WRITE.0, 0, 0, 4096), &[0; 512]), Nothing;
    "a-write-without-end" => Transmission, || request(CommandType::WRITE.0, 0, 0, 0xffff_fe00),
        HangUp;
    "a-read-without-end" => Transmission, || request(CommandType::READ.0, 0, 0, 0xffff_fe00),
        Invalid;
    "a-read-beyond-the-end" => Transmission, || request(CommandType::READ.0, 0, SIZE - 512, 1024),
        Invalid;
    "a-read-around-the-end-of-numbers" => Transmission,
        || request(CommandType::READ.0, 0, u64::MAX - 511, 1024), Invalid;
    "a-read-with-unknown-flags" => Transmission, || request(CommandType::READ.0, 0x8000, 0, 512),
        Invalid;
    "an-unknown-command" => Transmission, || request(77, 0, 0, 512), Invalid;
    "block-status-without-a-context" => Transmission,
        || request(CommandType::BLOCK_STATUS.0, 0, 0, 512), Invalid;
}

/// Whatever a client sends, it alone bears the consequences: the server answers as the protocol has it or hangs up, serves the next one, and
/// the disk is as it was.
#[case(rows = ATTACKS)]
async fn clients_harm_nobody_else(t: &mut Test, attack: &Attack) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = tolerant(t, &disk).launch().await?;
    let socket = t.socket("nbd")?;
    let server = vm.nbd_server().unix(socket).start().await?;
    let add = json!({"device": "disk", "writable": true});
    vm.cmd("nbd-server-add", add).await?;
    let before = vm.state().await?;

    let mut wire = reach(&server, attack.stage).await?;
    wire.send(&(attack.sent)()).await;
    match attack.follows {
        Reply(code) => {
            check!(wire.answer().await? == Some(code));
            // It goes on where it was.
            wire.send(&option(OptionCode::ABORT, &[])).await;
            wire.ended().await;
        }
        Invalid => {
            check!(wire.errno().await? == Some(INVALID));
            wire.send(&request(CommandType::FLUSH.0, 0, 0, 0)).await;
            check!(wire.errno().await? == Some(0));
        }
        HangUp => wire.ended().await,
        Nothing => {}
    }

    let read = ["-f", "raw", "-c", "read -P 0x11 0 1M", &server.uri("disk")];
    t.qemu_io(read).await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// A machine that may say what it thinks of such clients.
fn tolerant(t: &Test, disk: &Image) -> MachineBuilder {
    let host = t.host().blockdev(disk);
    host.tolerate("option negotiation failed")
        .tolerate("Disconnect client, due to")
}

async fn reach(server: &MachineNbd, stage: Stage) -> CaseResult<Wire> {
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    let mut wire = Wire::connect(socket).await?;
    match stage {
        Greeting => {}
        Options => wire.agree().await,
        Transmission => wire.go("disk").await?,
    }
    Ok(wire)
}

/// How far a client is, and what it has sent since.
struct Silent {
    stage: Stage,
    sent: fn() -> Vec<u8>,
}

// Up to 8.1 a server that is stopped waits for clients in negotiation forever (docs/qemu-findings.md).
rows! {
    SILENTS: Silent { stage, sent };
    "has-said-nothing" => Greeting, Vec::new, needs = [since(8, 2)];
    "has-sent-half-of-its-flags" => Greeting, || vec![0, 0], needs = [since(8, 2)];
    "is-in-negotiation" => Options, Vec::new, needs = [since(8, 2)];
    "is-in-the-middle-of-an-option" => Options, || with(option_header(OptionCode::GO, 100),
        &[0; 10]), needs = [since(8, 2)];
    "is-at-rest" => Transmission, Vec::new;
    "is-in-the-middle-of-a-request" => Transmission, || request(CommandType::READ.0, 0, 0,
        512)[..10].to_vec();
    "is-in-the-middle-of-a-write" => Transmission,
        || with(request(CommandType::WRITE.0, 0, 0, 4096), &[0; 512]);
}

/// When the server is stopped, a client is let go in whatever state it is; when it leaves, nothing happens, and the server can be started
/// again.
#[case(rows = SILENTS)]
async fn the_server_stops_while_a_client(t: &mut Test, silent: &Silent) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = tolerant(t, &disk).launch().await?;
    let before = vm.state().await?;
    for _ in 0..2 {
        let server = vm.nbd_server().unix(t.socket("nbd")?).start().await?;
        let add = json!({"device": "disk", "writable": true});
        vm.cmd("nbd-server-add", add).await?;
        let mut wire = reach(&server, silent.stage).await?;
        wire.send(&(silent.sent)()).await;
        server.stop().await?;
        wire.ended().await;
        vm.assert_unchanged_since(&before).await?;
    }
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// Names and descriptions up to the greatest length are served; what is longer is refused, and nothing has changed.
#[case]
async fn names_have_a_greatest_length(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let server = vm.nbd_server().start().await?;
    let longest = "n".repeat(LONGEST);
    let add = |name: &str, description: &str| {
        let export = json!({
            "type": "nbd", "id": "export", "node-name": "disk", "name": name,
        "description": description,
        });
        vm.cmd("block-export-add", export)
    };
    let (name, description) = (format!("{longest}n"), format!("{longest}d"));
    add(&name, "").refused("too long").await?;
    add("disk", &description).refused("too long").await?;
    add(&longest, &longest).await?;

    let client = nbd::Client::builder().context("base:allocation");
    let client = client.export(longest.clone());
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    let client = client.connect_unix(&**socket).await?;
    check!(client.export().description.as_ref() == Some(&longest));
    check!(client.read(0, SIZE).await?.iter().all(|byte| *byte == 0x11));
    client.disconnect().await?;
    vm.remove_export("export").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}
