//! Backups that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use crate::block_jobs::refusals::refused_with;
use crate::block_jobs::{HELD, NEGATIVE_SPEED};
use crate::json::with;

/// What is asked for beside a backup of all of the disk, and why it is refused.
struct Refusal {
    more: fn() -> Value,
    error: &'static str,
}

const SIZES: &str = "Source and target image have different sizes";
const WORKERS: &str = "max-workers must be between 1 and 2147483647";

rows! {
    REFUSALS: Refusal { more, error };
    "unknown-disk" => || json!({"device": "nobody"}),
        "Cannot find device='nobody' nor node-name='nobody'";
    "unknown-target" => || json!({"target": "nobody"}),
        "Cannot find device='nobody' nor node-name='nobody'";
    "to-itself" => || json!({"target": "disk"}), "Source and target cannot be the same";
    "to-a-smaller-target" => || json!({"target": "small"}), SIZES;
    "to-a-larger-target" => || json!({"target": "large"}), SIZES;
    "to-a-read-only-target" => || json!({"target": "fixed"}), "Block node is read-only";
    "to-what-a-guest-has" => || json!({"target": "other"}), "Permission conflict on node 'other'",
        host = System;
    "bad-id" => || json!({"job-id": "1 2"}), "Invalid job ID '1 2'";
    "negative-speed" => || json!({"speed": -1}), NEGATIVE_SPEED;
    "unknown-mode" => || json!({"sync": "some"}), "Parameter 'sync' does not accept value 'some'";
    "unknown-policy" => || json!({"on-target-error": "retry"}),
        "Parameter 'on-target-error' does not accept value 'retry'";
    "bitmap-mode-without-bitmap" => || json!({"sync": "incremental"}),
        "must provide a valid bitmap name for 'incremental' sync mode";
    "bitmap-without-its-mode" => || json!({"bitmap": "recorded", "sync": "bitmap"}),
        "Bitmap sync mode must be given";
    "mode-without-bitmap" => || json!({"bitmap-mode": "always"}),
        "Cannot specify bitmap sync mode without a bitmap";
    "unknown-bitmap" => || json!({"bitmap": "nobody", "sync": "incremental"}),
        "Bitmap 'nobody' could not be found";
    "wrong-mode-of-a-bitmap" => || json!({"bitmap": "recorded", "sync": "incremental",
        "bitmap-mode": "never"}),
        "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'";
    "full-with-a-bitmap-that-is-never-used" => || json!({"bitmap": "recorded", "sync": "full",
        "bitmap-mode": "never"}),
        "no meaningful effect when combined with sync mode 'full'";
    "none-with-a-bitmap" => || json!({"bitmap": "recorded", "sync": "none",
        "bitmap-mode": "always"}),
        "sync mode 'none' does not produce meaningful bitmap outputs";
    "compressed-to-raw" => || json!({"compress": true, "target": "raw"}),
        "Compression is not supported";
    "no-workers" => || json!({"x-perf": {"max-workers": 0}}), WORKERS;
    "more-workers-than-numbers" => || json!({"x-perf": {"max-workers": 1_u64 << 31}}), WORKERS;
    "negative-chunk" => || json!({"x-perf": {"max-chunk": -1}}),
        "max-chunk must be zero (which means no limit) or positive";
    "chunk-below-a-cluster" => || json!({"x-perf": {"max-chunk": 512}}),
        "Required max-chunk (512) is less than backup cluster size (65536)";
    "chunk-below-a-cluster-with-a-bitmap" => || json!({
            "sync": "incremental", "bitmap": "recorded", "x-perf": {"max-chunk": 512},
        }),
        "Required max-chunk (512) is less than backup cluster size (65536)";
    "to-a-smaller-target-with-a-bitmap" =>
        || json!({"sync": "incremental", "bitmap": "recorded", "target": "small"}), SIZES;
    "name-of-a-filter-in-use" => || json!({"filter-node-name": "copy"}),
        "Duplicate nodes with node-name='copy'";
}

/// An invalid backup is refused; the machine, its bitmaps and all files are as they were.
#[case(rows = REFUSALS)]
async fn changes_nothing(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let image = |name: &str, size: u64| t.image(name).size(size).create();
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let raw = t.image("raw").format(RAW).size(MIB).create().await?;
    let (copy, other) = (image("copy", MIB).await?, image("other", MIB).await?);
    let (small, large) = (
        image("small", MIB - 512).await?,
        image("large", MIB + 512).await?,
    );
    let fixed = image("fixed", MIB).await?;
    let host = t.host().disk(&disk).disk(&other).blockdev(&copy).blockdev(&small);
    let host = host.blockdev(&large).blockdev(&raw).blockdev(fixed.node().read_only(true));
    let vm = host.launch().await?;
    vm.bitmap("disk", "recorded").add().await?;
    vm.disk("disk").write(0x22, 0..CLUSTER).await?;
    let recorded = vm.bitmap("disk", "recorded").sha256().await?;

    let usual = json!({"job-id": "job", "device": "disk", "target": "copy", "sync": "full"});
    vm.cmd("blockdev-backup", with(&usual, (refusal.more)())).refused(refusal.error).await?;

    check!(vm.bitmap("disk", "recorded").sha256().await? == recorded);
    let usable = json!({"busy": false, "recording": true});
    vm.bitmap("disk", "recorded").assert(usable).await?;
    vm.assert_no_jobs().await?;
    // Nothing of it is in the way of one that can be done.
    vm.backup("disk").to("copy").run().await?;
    vm.shutdown().await?;
    copy.assert_same_as(&disk).await?;
    disk.assert_patterns(&[(0x22, 0..CLUSTER), (0x11, CLUSTER..MIB)]).await
}

/// What is refused while a backup runs.
struct Attempt {
    command: &'static str,
    arguments: fn() -> Value,
    error: &'static str,
}

const RECORDED: &str = "Bitmap 'recorded' is currently in use by another operation";
const TARGET: &str = "Node 'copy' is busy: block device is in use by block job: backup";

rows! {
    ATTEMPTS: Attempt { command, arguments, error };
    "the-bitmap-is-removed" => "block-dirty-bitmap-remove", bitmap, RECORDED;
    "the-bitmap-is-cleared" => "block-dirty-bitmap-clear", bitmap, RECORDED;
    "the-bitmap-is-disabled" => "block-dirty-bitmap-disable", bitmap, RECORDED;
    "the-bitmap-is-merged-into" => "block-dirty-bitmap-merge",
        || json!({"node": "disk", "target": "recorded", "bitmaps": ["other"]}), RECORDED;
    "the-bitmap-is-merged-from" => "block-dirty-bitmap-merge",
        || json!({"node": "disk", "target": "other", "bitmaps": ["recorded"]}), RECORDED;
    "the-bitmap-is-exported" => "block-export-add", || json!({"type": "nbd", "id": "export",
        "node-name": "disk", "bitmaps": ["recorded"]}), RECORDED;
    "a-transaction-clears-the-bitmap" => "transaction", || json!({"actions": [
            {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "other"}},
            {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "recorded"}},
        ]}), RECORDED;
    "the-bitmap-is-backed-up-again" => "blockdev-backup",
        || json!({"job-id": "again", "device": "disk", "target": "more", "sync": "incremental",
        "bitmap": "recorded"}), RECORDED;
    "another-backup-has-the-target" => "blockdev-backup",
        || json!({"job-id": "again", "device": "disk", "target": "copy", "sync": "full"}), TARGET;
    "the-target-is-resized" => "block_resize", || json!({"node-name": "copy", "size": 2 * MIB}),
        TARGET;
    "the-disk-is-resized" => "block_resize", || json!({"node-name": "disk", "size": 2 * MIB}),
        "Permission conflict on node 'disk': permissions 'resize'";
    "the-target-is-removed" => "blockdev-del", || json!({"node-name": "copy"}), TARGET;
    "the-target-gets-an-overlay" => "blockdev-snapshot", || json!({"node": "copy",
        "overlay": "more"}), TARGET;
}

fn bitmap() -> Value {
    json!({"node": "disk", "name": "recorded"})
}

/// Whatever would spoil a running backup is refused and has no effect: the target gets the disk as it was,
/// and the bitmap is cleared.
#[case(rows = ATTEMPTS)]
async fn while_one_runs(t: &mut Test, attempt: &Attempt) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let more = t.image("more").size(MIB).create().await?;
    let host = t.host().disk(&disk).blockdev(&copy).blockdev(&more);
    let vm = host.launch().await?;
    let _server = vm.nbd_server().start().await?;
    for name in ["recorded", "other"] {
        vm.bitmap("disk", name).add().await?;
    }
    vm.disk("disk").write(0x22, 0..8 * CLUSTER).await?;
    let backup = vm.backup("disk").to("copy").sync("incremental").id("job");
    let backup = backup.set("bitmap", "recorded").set("x-perf", json!({"max-chunk": CLUSTER}));
    let job = backup.speed(HELD).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first step", begun).await?;

    let before = vm.state().await?;
    let error = refused_with(attempt.command, attempt.error);
    let attempt = vm.cmd(attempt.command, (attempt.arguments)());
    attempt.expect_error(error).await?;
    vm.assert_same_graph_as(&before).await?;
    vm.disk("disk").write(0x33, 4 * CLUSTER..5 * CLUSTER).await?;
    job.set_speed(0).await?;
    job.wait().await?;

    vm.bitmap("disk", "recorded").assert(json!({"count": CLUSTER})).await?;
    vm.bitmap("disk", "other").assert(json!({"count": 8 * CLUSTER})).await?;
    vm.shutdown().await?;
    copy.assert_reads(&[(0x22, 0..8 * CLUSTER)]).await?;
    disk.assert_pattern(0x33, 4 * CLUSTER..5 * CLUSTER).await
}

const INCONSISTENT: KnownBug = known(
    "a backup of a node that nobody else uses does not ask for consistent data (137b4d4bd5)",
    "blockdev-add should have been refused with",
    ALWAYS,
)
.fixed_in(["9.1"]);

/// A backup keeps the data of its source consistent, also of one that nobody else uses: a user of the source that would make them
/// inconsistent is refused while the backup runs, and not any more after it.
#[case(needs = [Driver("blkdebug")], known_bugs = [INCONSISTENT])]
async fn is_a_user_that_is_in_the_way_of_others(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let vm = t.host().blockdev(&disk).blockdev(&copy).launch().await?;
    let backup = vm.backup("disk").to("copy").set("x-perf", json!({"max-chunk": CLUSTER}));
    let job = backup.speed(HELD).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first step", begun).await?;

    let other = Node::new("blkdebug").node_name("other").child("image", "disk");
    let other = other.set("unshare-child-perms", json!(["consistent-read"]));
    let conflict = "permissions 'consistent read' are both required by node";
    vm.add_node(other.clone()).refused(conflict).await?;

    job.cancel().await?;
    vm.add_node(other).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A backup can copy what a stored bitmap of a read-only node has, and must leave that bitmap as it is.
#[case]
async fn that_would_change_the_bitmap_of_a_read_only_node(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    vm.bitmap("disk", "stored").add().persistent().await?;
    vm.node("disk").write(0x22, 0..CLUSTER).await?;
    vm.shutdown().await?;

    let file = disk.file_bytes()?;
    let host = t.host().blockdev(disk.node().read_only(true)).blockdev(&copy);
    let vm = host.launch().await?;
    let usual = json!({"job-id": "job", "device": "disk", "target": "copy", "bitmap": "stored"});
    for mode in ["on-success", "always"] {
        let more = json!({"sync": "bitmap", "bitmap-mode": mode});
        let why = "Bitmap 'stored' is readonly and cannot be modified";
        vm.cmd("blockdev-backup", with(&usual, more)).refused(why).await?;
    }
    let incremental = with(&usual, json!({"sync": "incremental"}));
    vm.cmd("blockdev-backup", incremental).refused("is readonly").await?;
    let job = vm.backup("disk").to("copy").sync("bitmap").set("bitmap", "stored");
    job.set("bitmap-mode", "never").run().await?;
    vm.bitmap("disk", "stored").assert(json!({"count": CLUSTER, "busy": false})).await?;
    vm.shutdown().await?;
    file.assert_unchanged()?;
    copy.assert_reads(&[(0x22, 0..CLUSTER)]).await
}
