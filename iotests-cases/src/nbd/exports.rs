//! `block-export-add` and `block-export-del`: what they refuse, and what waits for a client's request.

use imgtools::img::BitmapAction;
use iotests_core::prelude::*;

use crate::json::{items, with};
use crate::served::Served;

defaults! { formats = [QCOW2], groups = [EXPORT], host = Any }

/// The greatest length of a string in the protocol.
const LONGEST: usize = 4096;

/// An export that cannot be, beside `exp` with the name `taken`.
struct Refusal {
    add: fn() -> Value,
    error: &'static str,
}

fn nbd(more: Value) -> Value {
    let add = json!({"type": "nbd", "id": "new", "node-name": "disk", "writable": true});
    with(&add, more)
}

rows! {
    REFUSALS: Refusal { add, error };
    "of-an-unknown-node" => || nbd(json!({"node-name": "nowhere"})),
        "Cannot find device='' nor node-name='nowhere'";
    "of-an-unknown-type" => || nbd(json!({"type": "nonsense"})),
        "Parameter 'type' does not accept value 'nonsense'";
    "with-an-id-that-is-none" => || nbd(json!({"id": "1"})), "Invalid block export id";
    "with-an-id-that-is-taken" => || nbd(json!({"id": "exp"})),
        "Block export id 'exp' is already in use";
    "with-a-name-that-is-taken" => || nbd(json!({"name": "taken"})),
        "NBD server already has export named 'taken'";
    "with-a-name-that-is-too-long" => || nbd(json!({"name": "n".repeat(LONGEST + 1)})),
        "' too long";
    "with-a-description-that-is-too-long" => || nbd(json!({
        "description": "n".repeat(LONGEST + 1)})), "' too long";
    "writable-over-a-read-only-node" => || nbd(json!({"node-name": "fixed"})),
        "Cannot export read-only node as writable";
    "in-an-unknown-iothread" => || nbd(json!({"iothread": "nowhere"})),
        "iothread \"nowhere\" not found";
    "with-an-unknown-bitmap" => || nbd(json!({"bitmaps": ["nowhere"]})),
        "Bitmap 'nowhere' is not found";
    "with-a-bitmap-and-an-unknown-one" => || nbd(json!({"bitmaps": ["still", "nowhere"]})),
        "Bitmap 'nowhere' is not found";
    "with-an-unknown-bitmap-of-a-node" => || nbd(json!({"bitmaps": ["still", {"node": "disk",
        "name": "nowhere"}]})), "Dirty bitmap 'nowhere' not found";
    "with-a-bitmap-of-an-unknown-node" => || nbd(json!({"bitmaps": ["still", {"node": "nowhere",
        "name": "still"}]})), "'nowhere'";
    "with-an-inconsistent-bitmap" => || nbd(json!({"bitmaps": ["still", "torn"]})),
        "Bitmap 'torn' is inconsistent and cannot be used";
    "with-a-bitmap-that-is-in-use" => || nbd(json!({"bitmaps": ["still", "used"]})),
        "Bitmap 'used' is currently in use by another operation and cannot be used";
    "read-only-with-a-bitmap-that-records" => || nbd(json!({"writable": false,
        "bitmaps": ["still", "records"]})),
        "Enabled bitmap 'records' incompatible with readonly export";
    // The one that is there does not let anybody resize the node.
    "over-fuse-beside-one-over-nbd" => || json!({"type": "fuse", "id": "new", "node-name": "disk",
        "writable": true, "mountpoint": "/nowhere"}),
        "Permission conflict on node 'disk': permissions 'resize'", needs = [Fuse];
    "inactive-over-vhost-user" => || json!({"type": "vhost-user-blk", "id": "new",
        "node-name": "disk", "allow-inactive": true, "addr": {"type": "unix", "path": "/nowhere"}}),
        "Export type does not support inactive exports",
        needs = [Schema("block-export-add/arg-type/allow-inactive")];
}

/// An export that cannot be is refused: nodes, bitmaps and the export that is there are as before, the next one
/// is taken, and recordings go on.
#[case(rows = REFUSALS)]
async fn are_refused(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let fixed = t.image("fixed").size(MIB).create().await?;
    disk.bitmap("torn").with(|call| call.action(BitmapAction::Add)).await?;
    // Who is killed has not stored it again.
    t.host().blockdev(&disk).launch().await?.kill().await?;
    let vm = t.host().blockdev(&disk).blockdev(fixed.node().read_only(true));
    let vm = vm.launch().await?;
    for name in ["still", "used", "records"] {
        let add = json!({"node": "disk", "name": name, "disabled": name != "records"});
        vm.cmd("block-dirty-bitmap-add", add).await?;
    }
    let export = vm.export("disk").id("exp").name("taken").writable().bitmap("used").await?;
    let before = vm.state().await?;

    vm.cmd("block-export-add", (refusal.add)()).refused(refusal.error).await?;

    vm.assert_same_graph_as(&before).await?;
    for (name, busy) in [("still", false), ("records", false), ("used", true)] {
        vm.bitmap("disk", name).assert(json!({"busy": busy, "count": 0})).await?;
    }
    export.write_all(&[(0x22, 0..CLUSTER)]).await?;
    vm.bitmap("disk", "records").assert(json!({"count": CLUSTER})).await?;
    let name = "n".repeat(LONGEST);
    let next = vm.export("disk").id("new").name(&name).bitmap("still").await?;
    next.assert_reads(&[(0x22, 0..CLUSTER), (0x11, CLUSTER..MIB)]).await?;
    next.remove().await?;
    vm.assert_same_graph_as(&before).await?;
    export.remove().await?;
    vm.bitmap("disk", "used").assert(json!({"busy": false, "count": 0})).await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x22, 0..CLUSTER), (0x11, CLUSTER..MIB)]).await
}

rows! {
    /// Who else uses the node.
    USERS: bool;
    "an-export" => false;
    "a-device" => true, host = System;
}

/// What is to stay in an iothread is not exported in another one, if the export is to stay there; where it
/// stays is left to others.
#[case(rows = USERS, groups = [QUICK])]
async fn do_not_move_to_another_iothread(t: &mut Test, device: &bool) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.host().iothread("one").iothread("two");
    let vm = match device {
        true => vm.disk(Disk::of(&disk).scsi().iothread("one").property("share-rw", true)),
        false => vm.blockdev(&disk),
    };
    let vm = vm.launch().await?;
    vm.nbd_server().start().await?;
    if !device {
        let export = vm.export("disk").id("exp").name("exp").writable();
        export.iothread("one").set("fixed-iothread", true).await?;
    }
    let before = vm.state().await?;
    let there = json!({"iothread": "two", "fixed-iothread": true});
    let add = vm.cmd("block-export-add", nbd(there));
    add.refused("Cannot change iothread of active block backend").await?;
    vm.assert_same_graph_as(&before).await?;
    let anywhere = json!({"iothread": "two"});
    vm.cmd("block-export-add", nbd(anywhere)).await?;
    vm.remove_export("new").await?;
    vm.assert_same_graph_as(&before).await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// Without a server there is no export over NBD; with one, there is.
#[case(formats = [RAW], groups = [QUICK])]
async fn need_a_server(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let before = vm.state().await?;
    vm.cmd("block-export-add", nbd(json!({}))).refused("NBD server not running").await?;
    vm.assert_same_graph_as(&before).await?;
    vm.nbd_server().start().await?;
    vm.cmd("block-export-add", nbd(json!({}))).await?;
    vm.shutdown().await?;
    Ok(())
}

/// How a removal is asked for: the argument `mode`, if there is one.
type Mode = Option<&'static str>;

rows! {
    SAFE: Mode;
    "by-default" => None;
    "safely" => Some("safe");
}

/// An export that has a client is not removed, nor is one that is not there; when the client has left, it is.
#[case(formats = [RAW], rows = SAFE, groups = [QUICK])]
async fn in_use_are_not_removed(t: &mut Test, mode: &Mode) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let export = vm.export("disk").id("exp").writable().await?;
    let client = export.client().await?;
    let del = |id: &str| {
        let del = json!({"id": id});
        match mode {
            None => vm.cmd("block-export-del", del),
            Some(mode) => vm.cmd("block-export-del", with(&del, json!({"mode": mode}))),
        }
    };
    del("nowhere").refused("Export 'nowhere' is not found").await?;
    del("exp").refused("export 'exp' still in use").await?;
    vm.assert_no_event("BLOCK_EXPORT_DELETED").await?;
    client.write(0, vec![0x22; 512]).await?;
    client.disconnect().await?;
    // Its answer means that the server has noticed who left before.
    export.client().await?.disconnect().await?;
    let other = vm.export("disk").id("other").name("other").await?;
    other.client().await?.disconnect().await?;
    del("exp").await?;
    vm.event(Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": "exp"}))).await?;
    del("exp").refused("Export 'exp' is not found").await?;
    other.remove().await?;
    vm.remove_node("disk").await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x22, 0..512), (0x11, 512..MIB)]).await
}

/// What is asked for while an export waits for a request of its client, and why it is refused, if it is.
struct Meanwhile {
    command: &'static str,
    arguments: fn() -> Value,
    refused: Option<&'static str>,
}

const DEL: &str = "block-export-del";
const SHUTTING_DOWN: Option<&str> = Some("Export 'exp' is already shutting down");

rows! {
    MEANWHILE: Meanwhile { command, arguments, refused };
    "and-again" => DEL, || json!({"id": "exp"}), SHUTTING_DOWN;
    "and-again-safely" => DEL, || json!({"id": "exp", "mode": "safe"}), SHUTTING_DOWN;
    "and-again-hard" => DEL, || json!({"id": "exp", "mode": "hard"}), SHUTTING_DOWN;
    "and-again-as-of-the-server" => "nbd-server-remove", || json!({"name": "disk", "mode": "hard"}),
        Some("Export 'disk' is not found");
    "and-their-id-is-given-again" => "block-export-add", || nbd(json!({"id": "exp",
        "name": "other"})), Some("Block export id 'exp' is already in use");
    "and-their-name-is-given-again" => "block-export-add", || nbd(json!({})), None;
    "and-their-node-is-to-go" => "blockdev-del", || json!({"node-name": "disk"}),
        Some("Node disk is in use");
    "and-their-server-is-stopped" => "nbd-server-stop", || json!({}), None;
}

/// What is printed when the client has gone before its request is done.
const NOBODY: &str = "Disconnect client, due to: Failed to send reply";

/// Where the client writes.
const WRITTEN: std::ops::Range<u64> = 0..CLUSTER;

/// An export that is removed hard while a request of its client is in flight goes when that is done, and only
/// then. Meanwhile it is seen to go, and has its id but not its name.
#[case(formats = [RAW], rows = MEANWHILE, groups = [QUICK])]
async fn in_use_are_removed_hard(t: &mut Test, meanwhile: &Meanwhile) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let served = Served::holding(t, &disk, WRITTEN)?;
    let node = Node::new("raw").node_name("disk").file(served.node());
    let vm = t.host().blockdev(node).tolerate(NOBODY).launch().await?;
    let export = vm.export("disk").id("exp").writable().await?;
    let client = export.client().await?;
    let deleted = Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": "exp"}));
    let write = client.write(0, vec![0x22; CLUSTER as usize]);
    let removed = async {
        served.wait_write(WRITTEN).await?;
        vm.cmd(DEL, json!({"id": "exp", "mode": "hard"})).await?;
        let command = vm.cmd(meanwhile.command, (meanwhile.arguments)());
        let goes = json!({"id": "exp", "shutting-down": true});
        if let Some(error) = meanwhile.refused {
            command.refused(error).await?;
            vm.cmd("query-block-exports", ()).await?.find(&goes)?;
            vm.assert_no_event(deleted.clone()).await?;
            served.release();
        } else {
            // It may wait for the request.
            vm.while_in_flight(command, || served.release()).await?;
        }
        vm.event(deleted).await?;
        CaseResult::Ok(())
    };
    let (written, removed) = tokio::join!(write, removed);
    removed?;
    check!(
        written.is_err(),
        "a client is told that its write is done when it has been dropped"
    );

    let exports = vm.cmd("query-block-exports", ()).await?;
    if meanwhile.command == "block-export-add" && meanwhile.refused.is_none() {
        exports.find(&json!({"id": "new", "shutting-down": false}))?;
        vm.remove_export("new").await?;
    } else {
        check!(items(&exports, "")?.is_empty());
    }
    vm.remove_node("disk").await?;
    vm.shutdown().await?;
    served.finish().await?;
    disk.assert_reads(&[(0x22, WRITTEN), (0x11, CLUSTER..MIB)]).await
}
