//! Inactive nodes: whoever has one may read its image, which belongs to somebody else (`blockdev-set-active`).

use imgtools::img::BitmapAction;
use iotests_core::prelude::*;
use nbd::client::RequestError;
use nbd::proto::{CommandFlags, Errno};

use super::{Refusal, assert_refused};
use crate::json::with;

defaults! {
    formats = [QCOW2], protocols = [FILE], host = Any,
    needs = [Command("blockdev-set-active")],
    unsupported_imgopts = ["data_file", "compat", "preallocation"],
}

/// The node of an image, without what is below it. It begins inactive, and so does its file. An emulator may
/// activate what is there when it is launched.
fn inactive(image: &Image) -> Node {
    image.node().no_backing().set("active", false).set("file.active", false)
}

async fn set_active(vm: &Machine, node: &str, active: bool) -> CaseResult {
    vm.cmd(
        "blockdev-set-active",
        json!({"node-name": node, "active": active}),
    )
    .await?;
    Ok(())
}

async fn assert_active(vm: &Machine, nodes: &[(&str, bool)]) -> CaseResult {
    for (node, active) in nodes {
        vm.node(*node).await?.assert("active", *active).context(*node)?;
    }
    Ok(())
}

fn add(driver: &str, more: Value) -> Value {
    with(&json!({"driver": driver, "node-name": "new"}), more)
}

fn copy(device: &str, target: &str) -> Value {
    json!({"job-id": "job", "device": device, "target": target, "sync": "full"})
}

fn bitmap() -> Value {
    json!({"node": "rest", "name": "stored"})
}

const ADD: &str = "blockdev-add";
const FILE_OF_NEW: &str = "Inactive 'rest' can't be a file child of active 'new'";
const FILE_OF_A_JOB: &str = "Inactive 'rest' can't be a file child of active '#block";
const BACKING_OF_A_JOB: &str = "Inactive 'rest' can't be a backing child of active '#block";
const NO_BITMAP: &str = "Dirty bitmap 'stored' not found";

const PARENTS: [Refusal; 9] = [
    (
        ADD,
        || add("qcow2", json!({"file": "new-file", "backing": "rest"})),
        "Inactive 'rest' can't be a backing child of active 'new'",
    ),
    (ADD, || add("raw", json!({"file": "rest"})), FILE_OF_NEW),
    (
        ADD,
        || add("copy-on-read", json!({"file": "rest"})),
        FILE_OF_NEW,
    ),
    (
        ADD,
        || {
            add(
                "copy-before-write",
                json!({"file": "rest", "target": "spare"}),
            )
        },
        FILE_OF_NEW,
    ),
    (
        ADD,
        || {
            add(
                "copy-before-write",
                json!({"file": "one", "target": "rest"}),
            )
        },
        "Inactive 'rest' can't be a target child of active 'new'",
    ),
    (
        ADD,
        || add("blkdebug", json!({"image": "rest"})),
        "Inactive 'rest' can't be a image child of active 'new'",
    ),
    (
        ADD,
        || {
            add(
                "quorum",
                json!({"vote-threshold": 1, "children": ["spare", "rest"]}),
            )
        },
        "Inactive 'rest' can't be a children.1 child of active 'new'",
    ),
    (
        "blockdev-reopen",
        || {
            json!({"options": [{"driver": "qcow2", "node-name": "over", "file": "over-file",
            "backing": "rest"}]})
        },
        "Inactive 'rest' can't be a backing child of active 'over'",
    ),
    (
        "x-blockdev-change",
        || json!({"parent": "two", "node": "rest"}),
        "Inactive 'rest' can't be a children.2 child of active 'two'",
    ),
];

const WRITERS: [Refusal; 13] = [
    ("blockdev-backup", || copy("rest", "spare"), FILE_OF_A_JOB),
    (
        "blockdev-backup",
        || copy("spare", "rest"),
        "Inactive 'rest' can't be a target child of active '#block",
    ),
    (
        "blockdev-mirror",
        || copy("rest", "spare"),
        BACKING_OF_A_JOB,
    ),
    (
        "blockdev-mirror",
        || copy("spare", "rest"),
        "Permission 'write' unavailable on inactive node",
    ),
    (
        "block-stream",
        || json!({"job-id": "job", "device": "rest"}),
        FILE_OF_A_JOB,
    ),
    (
        "block-commit",
        || json!({"job-id": "job", "device": "rest"}),
        BACKING_OF_A_JOB,
    ),
    (
        "block_resize",
        || json!({"node-name": "rest", "size": 2 * MIB}),
        "Permission 'resize' unavailable on inactive node",
    ),
    (
        "blockdev-snapshot-internal-sync",
        || json!({"device": "rest", "name": "then"}),
        "does not support internal snapshots",
    ),
    // What is stored in the image is not there until the node is active.
    ("block-dirty-bitmap-clear", bitmap, NO_BITMAP),
    ("block-dirty-bitmap-disable", bitmap, NO_BITMAP),
    ("block-dirty-bitmap-remove", bitmap, NO_BITMAP),
    (
        "block-dirty-bitmap-merge",
        || json!({"node": "rest", "target": "stored", "bitmaps": [{"node": "one", "name": "b"}]}),
        NO_BITMAP,
    ),
    (
        "blockdev-set-active",
        || json!({"node-name": "below", "active": false}),
        "Node has active parent node",
    ),
];

rows! {
    REFUSALS: &[Refusal];
    "an-active-parent" => &PARENTS;
    "what-would-write-to-it" => &WRITERS;
}

/// An inactive node is refused as a child of an active one, whoever would make it that, and so is what would write
/// to it or make a node inactive below an active one. Nothing has changed then, neither here nor in the image.
#[case(
    rows = REFUSALS, groups = [QUICK],
    needs = [
        Driver("quorum"), Driver("copy-on-read"), Driver("copy-before-write"), Driver("blkdebug"),
        Command("x-blockdev-change"),
    ]
)]
async fn is_refused_to(t: &mut Test, refusals: &&[Refusal]) -> CaseResult {
    let image = |name: &str| t.image(name).size(MIB).create();
    let low = t.image("low").size(MIB).fill(0x11).create().await?;
    let rest = t.image("rest").backing(&low).write(0x22, 0..CLUSTER).create().await?;
    rest.bitmap("stored").with(|call| call.action(BitmapAction::Add)).await?;
    let (one, other, spare) = (
        image("one").await?,
        image("other").await?,
        image("spare").await?,
    );
    let (over, new) = (image("over").await?, image("new").await?);
    let below = image("below").await?;
    let above = t.image("above").backing(&below).create().await?;
    let file = rest.file_bytes()?;
    let host = t
        .host()
        .blockdev(&spare)
        .blockdev(&above)
        .blockdev(new.protocol_node().node_name("new-file"));
    let host = host.blockdev(over.protocol_node().node_name("over-file"));
    let host = host.blockdev(Node::new("qcow2").node_name("over").file("over-file").no_backing());
    let two = Node::quorum(1, ["one", "other"]).node_name("two");
    let host = host.blockdev(&one).blockdev(&other).blockdev(two);
    let vm = host.launch().await?;
    vm.add_node(inactive(&low)).await?;
    vm.add_node(inactive(&rest).backing("low")).await?;
    vm.bitmap("one", "b").add().await?;
    let before = vm.state().await?;

    assert_refused(t, &vm, refusals).await?;

    vm.assert_same_graph_as(&before).await?;
    assert_active(
        &vm,
        &[
            ("rest", false),
            ("low", false),
            ("spare", true),
            ("below", true),
        ],
    )
    .await?;
    file.assert_unchanged()?;
    set_active(&vm, "rest", true).await?;
    assert_active(&vm, &[("rest", true), ("low", true)]).await?;
    vm.node("rest").write(0x33, CLUSTER..2 * CLUSTER).await?;
    vm.bitmap("rest", "stored").assert(json!({"count": CLUSTER})).await?;
    vm.shutdown().await?;
    rest.assert_layer(&[(0x22, 0..CLUSTER), (0x33, CLUSTER..2 * CLUSTER)]).await?;
    for empty in [&one, &other, &spare, &over, &new, &below] {
        empty.assert_layer(&[]).await?;
    }
    low.assert_fill(0x11).await
}

/// A client of an inactive export reads, and is told that it may do nothing else; once the node is active it may.
#[case(groups = [QUICK, EXPORT])]
async fn is_only_read_by_clients(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let file = disk.file_bytes()?;
    let vm = t.host().launch().await?;
    vm.add_node(inactive(&disk)).await?;
    let export = vm.export("disk").writable().set("allow-inactive", true).await?;
    let client = export.client().await?;
    for again in [false, true] {
        assert_active(&vm, &[("disk", false)]).await?;
        let refused = [
            client.write(0, vec![0x22; CLUSTER as usize]).await,
            client.write_zeroes(0, CLUSTER, CommandFlags::empty()).await,
            client.trim(0, CLUSTER).await,
            client.flush().await,
            client.cache(0, CLUSTER).await,
        ];
        for answer in refused {
            let errno = answer.map_err(|error: RequestError| error.errno());
            check!(errno == Err(Some(Errno::EPERM)));
        }
        let read = client.read(0, MIB).await?;
        let byte = if again { 0x22 } else { 0x11 };
        check!(read[..CLUSTER as usize].iter().all(|it| *it == byte));
        check!(read[CLUSTER as usize..].iter().all(|it| *it == 0x11));
        if !again {
            file.assert_unchanged()?;
            set_active(&vm, "disk", true).await?;
            client.write(0, vec![0x22; CLUSTER as usize]).await?;
            set_active(&vm, "disk", false).await?;
        }
    }
    client.disconnect().await?;
    // Nobody has the lock.
    disk.write(0x33, CLUSTER..2 * CLUSTER).await?;
    vm.shutdown().await?;
    let now = [
        (0x11, 0..MIB),
        (0x22, 0..CLUSTER),
        (0x33, CLUSTER..2 * CLUSTER),
    ];
    disk.assert_reads(&now).await
}

rows! {
    /// Whether the command makes the overlay.
    SNAPSHOTS: bool;
    "that-is-there" => false;
    "that-it-makes" => true;
}

/// An overlay may be put on an inactive node: it is inactive as well, and is written to when it has been activated.
#[case(rows = SNAPSHOTS, groups = [QUICK, SNAPSHOT])]
async fn takes_an_overlay(t: &mut Test, made: &bool) -> CaseResult {
    let rest = t.image("rest").size(MIB).fill(0x11).create().await?;
    let over = t.image("over").size(MIB);
    let over = match made {
        true => over.reserve().await?,
        false => over.create().await?,
    };
    let file = rest.file_bytes()?;
    let vm = t.host().tolerate("Formatting").launch().await?;
    vm.add_node(inactive(&rest)).await?;
    if !made {
        vm.add_node(over.node()).await?;
    }
    let export = vm.export("rest").writable().set("allow-inactive", true).await?;

    match made {
        true => vm.snapshot_sync("rest", over.file(), over.format().name(), "over").await?,
        false => vm.snapshot("rest", "over").await?,
    };
    vm.assert_chain("over -> rest").await?;
    assert_active(&vm, &[("over", false), ("rest", false)]).await?;
    export.assert_reads(&[(0x11, 0..MIB)]).await?;
    file.assert_unchanged()?;

    set_active(&vm, "over", true).await?;
    assert_active(&vm, &[("over", true), ("rest", true)]).await?;
    export.write_all(&[(0x22, 0..CLUSTER)]).await?;
    vm.shutdown().await?;
    over.assert_layer(&[(0x22, 0..CLUSTER)]).await?;
    rest.assert_fill(0x11).await
}

const LOCKED: &str = "Failed to get \"write\" lock";

/// What is asked for with `block-export-add`, beside the node. It gets a path of its own.
type Add = fn(&str) -> Value;

rows! {
    EXPORTS: Add;
    "over-nbd" => |_| json!({"type": "nbd", "name": "new"});
    "over-nbd-and-written-to" => |_| json!({"type": "nbd", "name": "new", "writable": true});
    "over-vhost-user" => |path| json!({"type": "vhost-user-blk",
        "addr": {"type": "unix", "path": path}}),
        needs = [Schema("block-export-add/arg-type/+vhost-user-blk")];
    "over-fuse" => |path| json!({"type": "fuse", "mountpoint": path}), needs = [Fuse],
        unconfined = true;
}

/// A node that somebody else writes to cannot be activated, and so it is not exported to clients that would need
/// that; it stays inactive, and there is no export. When the other one has gone, it is exported, and active then.
#[case(rows = EXPORTS, groups = [QUICK, EXPORT])]
async fn is_not_exported_while_it_cannot_be_activated(t: &mut Test, add: &Add) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let owner = t.host().name("owner").blockdev(&disk).launch().await?;
    let owned = owner.export("disk").writable().await?;
    let vm = t.host().name("waiting").launch().await?;
    vm.add_node(inactive(&disk)).await?;
    vm.nbd_server().start().await?;
    let (socket, file) = (t.socket("export")?, t.file("export")?);
    std::fs::write(&file, "")?;
    let path = if add("")["type"] == "fuse" {
        &file
    } else {
        &socket
    };
    let add = with(
        &add(path.as_str()),
        json!({"id": "new", "node-name": "disk"}),
    );
    let before = vm.state().await?;

    // What is below it is active then: see docs/qemu-findings.md.
    vm.cmd("block-export-add", &add).expect_error(LOCKED).await?;

    vm.assert_same_graph_as(&before).await?;
    check!(vm.exports().await?.is_empty());
    assert_active(&vm, &[("disk", false)]).await?;
    owned.write_all(&[(0x22, 0..CLUSTER)]).await?;
    owner.shutdown().await?;
    vm.cmd("block-export-add", &add).await?;
    assert_active(&vm, &[("disk", true)]).await?;
    vm.remove_export("new").await?;
    let export = vm.export("disk").writable().await?;
    export.assert_reads(&[(0x11, 0..MIB), (0x22, 0..CLUSTER)]).await?;
    export.write_all(&[(0x33, 0..CLUSTER)]).await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x33, 0..CLUSTER)]).await
}

rows! {
    /// Where copy-on-read ends.
    BOTTOMS: Option<&str>;
    "of-all" => None;
    "above-the-base" => Some("mid");
}

/// Copy-on-read copies nothing while its node is inactive, but what it reads is there; when it is active again, it
/// copies what is read then.
#[case(rows = BOTTOMS, groups = [QUICK, EXPORT], needs = [Driver("copy-on-read")])]
async fn is_read_without_a_copy(t: &mut Test, bottom: &Option<&str>) -> CaseResult {
    let base = t.image("base").size(MIB).write(0x44, 8 * CLUSTER..MIB).create().await?;
    let mid = t.image("mid").backing(&base).write(0x11, 0..8 * CLUSTER).create().await?;
    let top = t.image("top").backing(&mid).write(0x22, 0..CLUSTER).create().await?;
    let shown = [
        (0x22, 0..CLUSTER),
        (0x11, CLUSTER..8 * CLUSTER),
        (0x44, 8 * CLUSTER..MIB),
    ];
    let mut filter = Node::new("copy-on-read").node_name("filter").file(top.node());
    if let Some(bottom) = bottom {
        filter = filter.set("bottom", *bottom);
    }
    let vm = t.host().blockdev(filter).launch().await?;
    let export = vm.export("filter").writable().set("allow-inactive", true).await?;
    set_active(&vm, "filter", false).await?;
    assert_active(&vm, &[("filter", false), ("top", false), ("mid", false)]).await?;
    let file = top.file_bytes()?;

    export.assert_reads(&shown).await?;

    file.assert_unchanged()?;
    set_active(&vm, "filter", true).await?;
    vm.node("filter").assert_pattern(0x11, 4 * CLUSTER..5 * CLUSTER).await?;
    vm.node("filter").assert_pattern(0x44, 9 * CLUSTER..10 * CLUSTER).await?;
    vm.shutdown().await?;
    let mut copied = Content::nothing().written(0x22, 0..CLUSTER);
    copied = copied.written(0x11, 4 * CLUSTER..5 * CLUSTER);
    if bottom.is_none() {
        copied = copied.written(0x44, 9 * CLUSTER..10 * CLUSTER);
    }
    top.assert_layer(copied).await?;
    top.assert_reads(&shown).await
}

/// The bitmaps of a chain: those of the base, which is read-only, and of the image above.
struct Chain {
    base: Image,
    top: Image,
}

impl Chain {
    async fn create(t: &Test) -> CaseResult<Chain> {
        let base = t.image("base").size(MIB).create().await?;
        for name in ["b0", "b1"] {
            base.bitmap(name).with(|call| call.action(BitmapAction::Add)).await?;
        }
        base.write(0x11, 0..2 * CLUSTER).await?;
        base.bitmap("b1").with(|call| call.action(BitmapAction::Disable)).await?;
        base.write(0x11, 2 * CLUSTER..MIB).await?;
        let top = t.image("top").backing(&base).create().await?;
        // The name is in use below as well.
        top.bitmap("b0").with(|call| call.action(BitmapAction::Add)).await?;
        Ok(Chain { base, top })
    }

    async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        let base = self.base.node().read_only(true);
        t.host().blockdev(self.top.node().backing(base)).launch().await
    }

    async fn bitmaps(vm: &Machine) -> CaseResult<Vec<(String, u64, bool, bool)>> {
        let mut all = Vec::new();
        for node in ["base", "top"] {
            for it in vm.bitmaps(node).await? {
                check!(!it.inconsistent && !it.busy);
                all.push((
                    format!("{node}/{}", it.name),
                    it.count,
                    it.recording,
                    it.persistent,
                ));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Here they are, with so many clusters written to the image above.
    async fn assert_bitmaps(vm: &Machine, written: u64) -> CaseResult {
        let found = Chain::bitmaps(vm).await?;
        let expected = [
            ("base/b0", MIB, true),
            ("base/b1", 2 * CLUSTER, false),
            ("top/b0", written * CLUSTER, true),
        ];
        let expected = expected.map(|(name, count, on)| (name.to_owned(), count, on, true));
        check!(found == expected);
        Ok(())
    }

    /// Writes another cluster.
    async fn write(vm: &Machine, turn: u64) -> CaseResult {
        vm.node("top").write(0x22, clusters(turn..turn + 1)).await?;
        Chain::assert_bitmaps(vm, turn + 1).await
    }

    /// After so many turns all is in the files, for the next one.
    async fn finish(&self, t: &Test, vm: Machine, turns: u64) -> CaseResult {
        vm.shutdown().await?;
        self.top.assert_layer(&[(0x22, 0..turns * CLUSTER)]).await?;
        self.base.assert_fill(0x11).await?;
        let vm = self.launch(t).await?;
        Chain::assert_bitmaps(&vm, turns).await?;
        vm.shutdown().await?;
        Ok(())
    }
}

/// A chain that is inactive for a while has its bitmaps again, also those of its read-only base, and they record
/// on.
#[case(groups = [QUICK, BITMAP])]
async fn has_its_bitmaps_again(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t).await?;
    let vm = chain.launch(t).await?;
    Chain::assert_bitmaps(&vm, 0).await?;
    for turn in 0..3 {
        Chain::write(&vm, turn).await?;
        set_active(&vm, "top", false).await?;
        assert_active(&vm, &[("top", false), ("base", false)]).await?;
        check!(Chain::bitmaps(&vm).await?.is_empty());
        set_active(&vm, "top", true).await?;
        assert_active(&vm, &[("top", true), ("base", true)]).await?;
        Chain::assert_bitmaps(&vm, turn + 1).await?;
    }
    chain.finish(t, vm, 3).await
}

/// See docs/qemu-findings.md.
const EJECTED: KnownBug = known(
    "another bitmap takes the name of one that is stored, which keeps the image from being activated",
    "Bitmap already exists: stored",
    since(10, 0),
);

/// A bitmap that is added meanwhile is not in the way of the one of that name that is stored.
#[case(groups = [QUICK, BITMAP], known_bugs = [EJECTED])]
async fn keeps_the_name_of_a_stored_bitmap(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    disk.bitmap("stored").with(|call| call.action(BitmapAction::Add)).await?;
    let vm = t.host().launch().await?;
    vm.add_node(inactive(&disk)).await?;
    let add = json!({"node": "disk", "name": "stored"});
    // It may be refused.
    let _ = vm.cmd("block-dirty-bitmap-add", add).outcome().await?;
    set_active(&vm, "disk", true).await?;
    vm.node("disk").write(0x22, 0..CLUSTER).await?;
    vm.bitmap("disk", "stored")
        .assert(json!({"count": CLUSTER, "persistent": true}))
        .await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, 0..CLUSTER)]).await
}

/// A chain whose guest has migrated and goes on here after all has its bitmaps again, also those of its read-only
/// base.
#[case(groups = [QUICK, BITMAP, MIGRATION], host = System, guest = RunningIdle)]
async fn has_its_bitmaps_again_after_a_migration(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t).await?;
    let vm = chain.launch(t).await?;
    for turn in 0..2 {
        Chain::write(&vm, turn).await?;
        t.migrate(&vm, Destination::Nowhere).await?;
        assert_active(&vm, &[("top", false), ("base", false)]).await?;
        vm.cmd("cont", ()).await?;
        vm.wait_run_state("running").await?;
        Chain::assert_bitmaps(&vm, turn + 1).await?;
    }
    chain.finish(t, vm, 2).await
}

/// See docs/qemu-findings.md.
const STALE: KnownBug = known(
    "the file below a node that begins inactive is active, and never learns that it has grown",
    "Bitmap '' doesn't satisfy the constraints",
    since(10, 0),
)
.only(&[&["above-an-active-file"], &["after-it-was-refused"]]);

/// How an image is handed over.
#[derive(PartialEq)]
enum Way {
    /// As it should be.
    Straight,
    /// Only the node begins inactive, its file does not.
    ActiveFile,
    /// It is asked for when the other one still has it.
    TooEarly,
}

rows! {
    WAYS: Way;
    "when-it-is-free" => Way::Straight;
    "above-an-active-file" => Way::ActiveFile;
    "after-it-was-refused" => Way::TooEarly;
}

/// Two machines hand an image over, there and back: each reads what the other one has written, and goes on with its
/// bitmap.
#[case(rows = WAYS, groups = [EXPORT, BITMAP], known_bugs = [STALE])]
async fn is_handed_over(t: &mut Test, way: &Way) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).write(0x11, 0..CLUSTER).create().await?;
    disk.bitmap("b").with(|call| call.action(BitmapAction::Add)).await?;
    let node = match way {
        Way::ActiveFile => disk.node().set("active", false),
        _ => inactive(&disk),
    };
    let vms = [
        t.host().name("one").blockdev(&disk).launch().await?,
        t.host().name("other").launch().await?,
    ];
    vms[1].add_node(node).await?;
    let mut exports = Vec::new();
    for vm in &vms {
        exports.push(vm.export("disk").writable().set("allow-inactive", true).await?);
    }
    let mut shown = Content::nothing().written(0x11, 0..CLUSTER);
    for turn in 0..6 {
        let [mine, others] = [turn % 2, (turn + 1) % 2];
        t.step(format!("turn {turn}"));
        let place = clusters(2 * turn + 1..2 * turn + 3);
        let new = Content::nothing().written(0x20 + turn as u8, place);
        exports[mine as usize].write_all(&new).await?;
        shown = new.over(&shown);
        exports[mine as usize].assert_reads(&shown).await?;
        let activate = json!({"node-name": "disk", "active": true});
        let (mine, other) = (&vms[mine as usize], &vms[others as usize]);
        if *way == Way::TooEarly {
            other.cmd("blockdev-set-active", &activate).expect_error(LOCKED).await?;
            assert_active(other, &[("disk", false)]).await?;
        }
        mine.bitmap("disk", "b").assert(json!({"count": 2 * (turn + 1) * CLUSTER})).await?;
        set_active(mine, "disk", false).await?;
        other.cmd("blockdev-set-active", &activate).await?;
        exports[others as usize].assert_reads(&shown).await?;
    }
    for vm in vms {
        vm.shutdown().await?;
    }
    disk.assert_reads(&shown).await?;
    disk.assert_clean().await
}

/// See docs/qemu-findings.md.
const DIES: KnownBug = known(
    "a write that a throttle node lets go goes to a node that is to be inactive",
    "Assertion `child->perm & BLK_PERM_WRITE' failed",
    // Which release between these two mended it is not known.
    AllOf(&[since(10, 0), before(11, 1)]),
)
.intermittent();

/// Where the client writes.
const FIRST: std::ops::Range<u64> = clusters(0..4);
const SECOND: std::ops::Range<u64> = clusters(4..8);

/// A write that a throttle node keeps back is done before the node becomes inactive.
#[case(groups = [THROTTLE, EXPORT], needs = [Driver("throttle")], known_bugs = [DIES])]
async fn has_been_written_to_before(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    // What was written first is to last for long.
    let vm = t.host().throttle_group("slow", json!({"bps-write": 256}));
    let limit = Node::throttle("slow", "disk").node_name("limit");
    let vm = vm.blockdev(&disk).blockdev(limit).launch().await?;
    let export = vm.export("limit").writable().set("allow-inactive", true).await?;
    let client = export.client().await?;
    client.write(FIRST.start, vec![0x11; 4 * CLUSTER as usize]).await?;
    let is_done = std::cell::Cell::new(false);
    let second = async {
        client.write(SECOND.start, vec![0x22; 4 * CLUSTER as usize]).await?;
        is_done.set(true);
        CaseResult::Ok(())
    };
    let inactive = async {
        // It has been sent after the write, and is answered when that is kept back.
        let read = client.read(FIRST.start, 4 * CLUSTER).await?;
        check!(read.iter().all(|byte| *byte == 0x11));
        check!(!is_done.get(), "the write was not kept back");
        set_active(&vm, "limit", false).await
    };
    tokio::try_join!(second, inactive)?;

    assert_active(&vm, &[("limit", false), ("disk", false)]).await?;
    let file = disk.file_bytes()?;
    let late = client.write(SECOND.start, vec![0x33; 512]).await;
    check!(late.map_err(|error: RequestError| error.errno()) == Err(Some(Errno::EPERM)));
    file.assert_unchanged()?;
    client.disconnect().await?;
    vm.shutdown().await?;
    disk.assert_layer(&[(0x11, FIRST), (0x22, SECOND)]).await
}

/// See docs/qemu-findings.md.
const WRITES: KnownBug = known(
    "another name of a backing file is written into the header of an inactive image",
    "Assertion `!(bs->open_flags & BDRV_O_INACTIVE)' failed",
    since(10, 0),
);

/// Another name for the backing file is not written into an image that is inactive.
#[case(known_bugs = [WRITES])]
async fn does_not_get_another_name_for_its_backing_file(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let rest = t.image("rest").backing(&base).create().await?;
    let file = rest.file_bytes()?;
    let vm = t.host().launch().await?;
    vm.add_node(inactive(&base)).await?;
    vm.add_node(inactive(&rest).backing("base")).await?;
    let change = json!({"device": "rest", "image-node-name": "rest", "backing-file": "other"});
    let changed = vm.cmd("change-backing-file", change).outcome().await?;
    check!(changed.is_err());
    file.assert_unchanged()?;
    vm.shutdown().await?;
    rest.assert_fill(0x11).await
}
