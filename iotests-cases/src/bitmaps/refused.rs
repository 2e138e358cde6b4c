//! What cannot be done to bitmaps, and then has changed none of them.

use iotests_core::prelude::*;

use crate::json::with;
use crate::threads::{THREADS, with_disk};

defaults! { formats = [QCOW2], groups = [RW, QUICK, BITMAP], host = Any }

/// The greatest length of a name that a qcow2 image stores.
const LONGEST: usize = 1023;

/// Something that is asked of a disk with the bitmaps `full`, which has bits, `empty`, and `fine` with another granularity, beside a larger
/// disk with the bitmap `large`.
struct Refusal {
    command: &'static str,
    arguments: fn() -> Value,
    error: &'static str,
}

const ADD: &str = "block-dirty-bitmap-add";
const MERGE: &str = "block-dirty-bitmap-merge";

fn add(name: &str, more: Value) -> Value {
    with(&json!({"node": "disk", "name": name}), more)
}

fn merge(into: &str, from: Value) -> Value {
    json!({"node": "disk", "target": into, "bitmaps": [from]})
}

rows! {
    REFUSALS: Refusal { command, arguments, error };
    "add-one-that-is-there" => ADD, || add("full", json!({})), "Bitmap already exists: full";
    "add-without-a-name" => ADD, || add("", json!({})), "Bitmap name cannot be empty";
    "add-a-long-name" => ADD, || add(&"n".repeat(LONGEST + 1), json!({})), "Bitmap name too long";
    "add-a-long-name-to-be-stored" => ADD,
        || add(&"n".repeat(LONGEST + 1), json!({"persistent": true})),
        "Name length exceeds maximum (1023 characters)";
    "add-with-no-granularity" => ADD, || add("new", json!({"granularity": 0})),
        "Granularity must be power of 2";
    "add-with-an-odd-granularity" => ADD, || add("new", json!({"granularity": 3000})),
        "Granularity must be power of 2";
    "add-with-a-granularity-below-a-sector" => ADD, || add("new", json!({"granularity": 256})),
        "Granularity must be power of 2";
    "store-with-a-granularity-above-2-gib" => ADD,
        || add("new", json!({"granularity": 1_u64 << 31 << 1, "persistent": true})),
        "Parameter 'granularity' expects uint32_t";
    "add-to-nobody" => ADD, || json!({"node": "nobody", "name": "new"}),
        "Cannot find device='nobody'";
    "store-in-a-raw-image" => ADD, || json!({"node": "raw", "name": "new", "persistent": true}),
        "Can't store persistent bitmaps to raw";
    "remove-what-is-not-there" => "block-dirty-bitmap-remove", || add("nobody", json!({})),
        "Dirty bitmap 'nobody' not found";
    "clear-what-is-not-there" => "block-dirty-bitmap-clear", || add("nobody", json!({})),
        "Dirty bitmap 'nobody' not found";
    "merge-into-nothing" => MERGE, || merge("nobody", "full".into()),
        "Dirty bitmap 'nobody' not found";
    "merge-nothing" => MERGE, || merge("empty", "nobody".into()), "Dirty bitmap 'nobody' not found";
    "merge-another-size" => MERGE, || merge("empty", json!({"node": "other", "name": "large"})),
        "and can't be merged";
    "merge-one-that-is-there-and-one-that-is-not" => MERGE,
        || json!({"node": "disk", "target": "empty", "bitmaps": ["full", "nobody"]}),
        "Dirty bitmap 'nobody' not found";
    "merge-one-that-fits-and-one-of-another-size" => MERGE,
        || json!({"node": "disk", "target": "empty", "bitmaps": ["full", {"node": "other",
        "name": "large"}]}),
        "and can't be merged";
    "the-last-of-a-transaction" => "transaction", || json!({"actions": [
        {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "full"}},
        {"type": "block-dirty-bitmap-disable", "data": {"node": "disk", "name": "fine"}},
        {"type": MERGE, "data": merge("empty", "full".into())},
        {"type": ADD, "data": add("new", json!({}))},
        {"type": "block-dirty-bitmap-clear", "data": {"node": "disk", "name": "nobody"}},
    ]}), "Dirty bitmap 'nobody' not found";
}

/// An operation that a bitmap does not allow is refused; all bitmaps are as they were, and keep recording.
#[case(rows = REFUSALS)]
async fn changes_nothing(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let other = t.image("other").size(MIB + 512).create().await?;
    let raw = t.image("raw").format(RAW).size(MIB).create().await?;
    let host = t.host().disk(&disk).blockdev(&other).blockdev(&raw);
    let vm = host.launch().await?;
    vm.bitmap("disk", "full").add().await?;
    vm.disk("disk").write(0x11, 0..3 * CLUSTER).await?;
    vm.bitmap("disk", "empty").add().await?;
    vm.bitmap("disk", "fine").add().granularity(512).await?;
    vm.bitmap("other", "large").add().await?;

    vm.cmd(refusal.command, (refusal.arguments)()).refused(refusal.error).await?;

    check!(vm.bitmaps("disk").await?.len() == 3);
    vm.bitmap("disk", "full")
        .assert(json!({"count": 3 * CLUSTER, "recording": true}))
        .await?;
    vm.bitmap("disk", "empty").assert(json!({"count": 0, "recording": true})).await?;
    vm.disk("disk").write(0x22, 8 * CLUSTER..8 * CLUSTER + 512).await?;
    vm.bitmap("disk", "full").assert(json!({"count": 4 * CLUSTER})).await?;
    vm.bitmap("disk", "empty").assert(json!({"count": CLUSTER})).await?;
    vm.bitmap("disk", "fine").assert(json!({"count": 512, "recording": true})).await?;
    vm.shutdown().await?;
    disk.assert_reads(&[
        (0x11, 0..3 * CLUSTER),
        (0x22, 8 * CLUSTER..8 * CLUSTER + 512),
    ])
    .await
}

rows! {
    SIZES: u64;
    "shrunk" => MIB;
    "grown" => 4 * MIB;
    "grown-by-a-sector" => 2 * MIB + 512;
}

/// When a disk is resized, its bitmaps are resized with it: they record up to the new end, and can be merged.
#[case(rows = (SIZES, THREADS))]
async fn follow_the_size_of_their_disk(t: &mut Test, size: &u64, threaded: &bool) -> CaseResult {
    let disk = t.image("disk").size(2 * MIB).create().await?;
    let vm = match threaded {
        true => with_disk(t.host(), &disk, true),
        false => t.host().blockdev(&disk),
    };
    let vm = vm.launch().await?;
    let write = async |byte, range| match threaded {
        true => vm.disk("disk").write(byte, range).await,
        false => vm.node("disk").write(byte, range).await,
    };
    vm.bitmap("disk", "old").add().granularity(512).await?;
    write(0x11, 0..2 * MIB).await?;
    vm.cmd("block_resize", json!({"node-name": "disk", "size": size})).await?;
    vm.bitmap("disk", "new").add().granularity(512).await?;

    let end = size - 512..*size;
    write(0x22, end.clone()).await?;
    vm.bitmap("disk", "new").assert(json!({"count": 512})).await?;
    vm.bitmap("disk", "new").merge(["old"]).await?;

    let both = size.min(&(2 * MIB)) + if *size > 2 * MIB { 512 } else { 0 };
    vm.bitmap("disk", "new").assert(json!({"count": both})).await?;
    vm.bitmap("disk", "old").assert(json!({"count": both})).await?;
    vm.shutdown().await?;
    disk.assert_pattern(0x22, end).await
}

/// A bitmap of the file that holds an image grows with the file when the image is written to, and records the
/// writes that made it grow.
#[case]
async fn follow_the_size_of_their_file(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).create().await?;
    let file = disk.protocol_node().node_name("file");
    let host = t.host().blockdev(file);
    let vm = host.blockdev(disk.node().file("file")).launch().await?;
    let before = vm.node("file").size().await?;
    vm.bitmap("file", "old").add().granularity(512).await?;
    vm.node("disk").write(0x11, 0..2 * MIB).await?;
    vm.node("disk").flush().await?;

    check!(vm.node("file").size().await? > before + MIB);
    let recorded = vm.bitmaps("file").await?[0].count;
    check!(recorded >= 2 * MIB, "{recorded} bytes are recorded");
    // It has the size that the file has now.
    vm.bitmap("file", "new").add().granularity(512).await?;
    vm.bitmap("file", "new").merge(["old"]).await?;
    vm.bitmap("file", "new").assert(json!({"count": recorded})).await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..2 * MIB)]).await?;
    disk.assert_clean().await
}
