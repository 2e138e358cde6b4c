//! What clients of an export over vhost-user are told, and what is left when they keep to no protocol.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::json::with;

defaults! {
    formats = [RAW], groups = [EXPORT],
    needs = [Schema("block-export-add/arg-type/+vhost-user-blk")],
}

const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_BACKEND_CHANNEL: u32 = 21;
const GET_CONFIG: u32 = 24;
/// What an export says of itself, if it has a channel for that.
const CONFIG_CHANGED: u32 = 2;
/// Features of a block device, by their bits.
const READ_ONLY: u64 = 1 << 5;
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Features of the protocol, by their bits: a channel of the export's own, and messages about the configuration.
const BACKEND_CHANNEL: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;
/// The version of messages, and that a message is an answer.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;

/// The header of a message that claims to have so much more.
fn header(request: u32, size: u32) -> Vec<u8> {
    [request, VERSION, size].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn message(request: u32, more: &[u8]) -> Vec<u8> {
    let mut message = header(request, more.len() as u32);
    message.extend(more);
    message
}

/// Asks for so much of the configuration.
fn config(size: u32) -> Vec<u8> {
    let mut asked: Vec<u8> =
        [0, size, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    asked.resize(asked.len() + size as usize, 0);
    message(GET_CONFIG, &asked)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Sends this, and returns what is said beside the header of the answer.
async fn ask(client: &mut UnixStream, sent: &[u8]) -> CaseResult<Vec<u8>> {
    client.write_all(sent).await?;
    let mut head = [0; 12];
    client.read_exact(&mut head).await?;
    check!(
        number(&head[..4]) == number(&sent[..4]),
        "an answer to something else"
    );
    check!(number(&head[4..8]) == u64::from(VERSION | REPLY));
    let mut more = vec![0; number(&head[8..]) as usize];
    client.read_exact(&mut more).await?;
    Ok(more)
}

/// A client, which is told what it asks for.
async fn served(socket: &Path, writable: bool, block: u64) -> CaseResult<UnixStream> {
    let mut client = UnixStream::connect(socket).await?;
    let features = number(&ask(&mut client, &message(GET_FEATURES, &[])).await?);
    check!(features & PROTOCOL_FEATURES != 0);
    check!((features & READ_ONLY == 0) == writable);
    let told = ask(&mut client, &config(24)).await?;
    check!(number(&told[12..20]) == SIZE / 512, "the number of sectors");
    check!(number(&told[32..36]) == block, "the size of a block");
    Ok(client)
}

/// Gives the export a channel of its own, on which the client hears what it says.
async fn listen(client: &mut UnixStream) -> CaseResult<UnixStream> {
    let offered = number(&ask(client, &message(GET_PROTOCOL_FEATURES, &[])).await?);
    let features = BACKEND_CHANNEL | CONFIG;
    check!(offered & features == features);
    client.write_all(&message(SET_PROTOCOL_FEATURES, &features.to_le_bytes())).await?;
    let (channel, other) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let ends = [other.as_fd()];
    check!(control.push(SendAncillaryMessage::ScmRights(&ends)));
    let sent = header(SET_BACKEND_CHANNEL, 0);
    let flags = SendFlags::NOSIGNAL;
    check!(sendmsg(client.as_fd(), &[IoSlice::new(&sent)], &mut control, flags)? == sent.len());
    // It has no answer: the next message is read after it.
    ask(client, &message(GET_QUEUE_NUM, &[])).await?;
    Ok(channel)
}

/// A client of an export that is resized.
struct Resized {
    listens: bool,
    threaded: bool,
}

/// See docs/qemu-findings.md.
const CUT_OFF: KnownBug = known(
    "a client without a channel for it is cut off when the disk is resized",
    "vu_panic: Error while writing: Bad file descriptor",
    since(8, 1),
);

/// See docs/qemu-findings.md.
const NOT_TOLD: KnownBug = known(
    "a client is never told that the disk has been resized (ca858a5fe9)",
    "the number of sectors is 2048",
    before(8, 1),
);

rows! {
    RESIZED: Resized { listens, threaded };
    "that-listens" => true, false;
    "that-listens-to-an-iothread" => true, true, needs = [REMOVED];
    "that-does-not-listen" => false, false, known_bugs = [CUT_OFF];
}

/// When the disk gets larger or smaller a client that asks is told the new size, and one that listens hears that
/// there is something to ask for.
#[case(rows = RESIZED, known_bugs = [NOT_TOLD])]
async fn is_told_of_another_size(t: &mut Test, resized: &Resized) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().iothread("one").blockdev(&disk).launch().await?;
    let socket = t.socket("vhost")?;
    let mut export = vm.export("disk").writable().vhost_user_blk(&socket);
    if resized.threaded {
        export = export.iothread("one");
    }
    let export = export.await?;
    let mut client = served(socket.as_ref(), true, 512).await?;
    let mut channel = match resized.listens {
        true => Some(listen(&mut client).await?),
        false => None,
    };
    for size in [2 * SIZE, SIZE / 2, SIZE + 3 * 512] {
        vm.cmd("block_resize", json!({"node-name": "disk", "size": size})).await?;
        let told = ask(&mut client, &config(24)).await?;
        let sectors = number(&told[12..20]);
        check!(sectors == size / 512, "the number of sectors is {sectors}");
        if let Some(channel) = &mut channel {
            let mut heard = [0; 12];
            channel.read_exact(&mut heard).await?;
            check!(heard.to_vec() == header(CONFIG_CHANGED, 0));
        }
    }
    drop(client);
    drop(channel);
    export.remove().await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..SIZE / 2), (0, SIZE / 2..SIZE + 3 * 512)]).await
}

/// An export, and what follows from it.
struct Export {
    options: fn() -> Value,
    writable: bool,
    queues: u64,
    block: u64,
}

/// With a client it is not removed in 7.2, which waits forever (docs/qemu-findings.md).
const REMOVED: Requirement = since(8, 1);

rows! {
    EXPORTS: Export { options, writable, queues, block };
    "read-only" => || json!({}), false, 1, 512;
    "writable" => || json!({"writable": true}), true, 1, 512;
    "with-many-queues" => || json!({"num-queues": 64}), false, 64, 512;
    "with-large-blocks" => || json!({"logical-block-size": 32 * KIB}), false, 1, 32 * KIB;
    "in-an-iothread" => || json!({"writable": true, "iothread": "one"}), true, 1, 512,
        needs = [REMOVED];
}

/// A client is told what the export is; when that is removed it is let go, and nothing is left of it.
#[case(rows = EXPORTS)]
async fn is_what_it_was_asked_to_be(t: &mut Test, exported: &Export) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().iothread("one").blockdev(&disk).launch().await?;
    let before = vm.state().await?;
    let socket = t.socket("vhost")?;
    let options = (exported.options)();
    let mut export = vm.export("disk").vhost_user_blk(&socket);
    for (name, value) in options.as_object().into_iter().flatten() {
        export = export.set(name, value.clone());
    }
    let export = export.await?;
    let mut client = served(socket.as_ref(), exported.writable, exported.block).await?;
    let queues = ask(&mut client, &message(GET_QUEUE_NUM, &[])).await?;
    check!(number(&queues) == exported.queues);
    export.remove().await?;
    check!(
        client.read(&mut [0]).await? == 0,
        "the client has not been let go"
    );
    check!(UnixStream::connect(&socket).await.is_err());
    vm.assert_same_graph_as(&before).await?;
    vm.remove_node("disk").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// What a client sends before it leaves, and what is printed.
struct Nonsense {
    sent: fn() -> Vec<u8>,
    printed: &'static str,
    /// The client is not waited for.
    hangs_up: bool,
}

rows! {
    NONSENSE: Nonsense { sent, printed, hangs_up };
    "nothing" => Vec::new, "", false;
    "half-a-header" => || header(GET_FEATURES, 0)[..5].to_vec(), "", false;
    "a-header-and-not-the-rest" => || header(GET_CONFIG, 36), "", false;
    "half-a-message" => || config(24)[..20].to_vec(), "Unexpected end-of-file", false;
    "a-size-that-is-too-large" => || header(GET_CONFIG, 1 << 16), "too big message request", true;
    "the-greatest-size" => || header(GET_FEATURES, u32::MAX), "too big message request", true;
    "an-unknown-request" => || message(99, &[]), "vu_panic: Unhandled request: 99", true;
    "no-request" => || message(0, &[]), "vu_panic: disconnect", false;
}

/// A client that sends nonsense, or goes in the middle of a message, is let go: the next one is served, and
/// nothing is left when the export is removed.
#[case(rows = NONSENSE)]
async fn survives(t: &mut Test, nonsense: &Nonsense) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let mut vm = t.host().blockdev(&disk);
    if !nonsense.printed.is_empty() {
        vm = vm.tolerate(nonsense.printed);
    }
    let vm = vm.launch().await?;
    let before = vm.state().await?;
    let socket = t.socket("vhost")?;
    let export = vm.export("disk").writable().vhost_user_blk(&socket).await?;
    let mut client = served(socket.as_ref(), true, 512).await?;
    client.write_all(&(nonsense.sent)()).await?;
    if nonsense.hangs_up {
        check!(
            client.read(&mut [0]).await? == 0,
            "the client has not been let go"
        );
    }
    drop(client);
    let client = served(socket.as_ref(), true, 512).await?;
    export.remove().await?;
    drop(client);
    vm.assert_same_graph_as(&before).await?;
    vm.remove_node("disk").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// An option that an export over vhost-user cannot have.
struct Refusal {
    options: fn() -> Value,
    error: &'static str,
}

const BLOCKS: &str = "logical-block-size";

rows! {
    REFUSALS: Refusal { options, error };
    "no-queues" => || json!({"num-queues": 0}), "num-queues must be greater than 0";
    "65536-queues" => || json!({"num-queues": 65536}), "expects uint16_t";
    "blocks-of-511-bytes" => || json!({"logical-block-size": 511}), BLOCKS;
    "blocks-of-256-bytes" => || json!({"logical-block-size": 256}), BLOCKS;
    "blocks-that-are-too-large" => || json!({"logical-block-size": 4 * MIB}), BLOCKS;
    "a-socket-in-no-folder" => || json!({"addr": {"type": "unix", "path": "/nowhere/socket"}}),
        "No such file or directory";
}

/// An export that cannot be is refused, and leaves the node as it was.
#[case(rows = REFUSALS, host = Qsd)]
async fn is_refused_with(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let before = vm.state().await?;
    let socket = t.socket("vhost")?;
    let add = json!({
        "type": "vhost-user-blk", "id": "new", "node-name": "disk", "writable": true,
        "addr": {"type": "unix", "path": socket},
    });
    let wrong = with(&add, (refusal.options)());
    vm.cmd("block-export-add", wrong).refused(refusal.error).await?;
    vm.assert_same_graph_as(&before).await?;
    vm.cmd("block-export-add", add).await?;
    drop(served(socket.as_ref(), true, 512).await?);
    vm.remove_export("new").await?;
    vm.assert_same_graph_as(&before).await?;
    vm.remove_node("disk").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}
