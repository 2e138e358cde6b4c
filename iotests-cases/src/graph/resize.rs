//! Nodes that get another size while they are in use (`block_resize`).

use iotests_core::prelude::*;

use super::{Refusal, assert_refused, assert_waits_for_write};
use crate::served::Served;
use crate::threads::{THREADS, with_disk};

defaults! {
    formats = [QCOW2], groups = [QUICK], host = Any,
    unsupported_imgopts = [
        "data_file", "compat", "refcount_bits", "cluster_size", "extended_l2", "preallocation",
    ],
}

const RESIZE: &str = "block_resize";

fn resize(node: &str, size: impl Into<Value>) -> Value {
    json!({"node-name": node, "size": size.into()})
}

const NEGATIVE: &str = "Parameter 'size' expects a >0 size";
const MOST: &str = "exceeds maximum(9223372035781033984)";
const TABLE: &str = "Failed to grow the L1 table: File too large";
const WINDOW: &str = "Cannot resize fixed-size raw disks";
const NO_NODE: &str = "Cannot find device='' nor node-name='nobody'";

const REFUSALS: [Refusal; 16] = [
    (RESIZE, || resize("disk", -1), NEGATIVE),
    (RESIZE, || resize("disk", i64::MIN), NEGATIVE),
    (
        RESIZE,
        || resize("disk", 1_u64 << 63),
        "Invalid parameter type for 'size', expected: integer",
    ),
    (RESIZE, || resize("disk", i64::MAX), MOST),
    (RESIZE, || resize("disk", (1_u64 << 63) - 512), MOST),
    (RESIZE, || resize("disk", 1_u64 << 62), TABLE),
    (RESIZE, || resize("disk", 1_u64 << 53), TABLE),
    (
        RESIZE,
        || resize("disk", 1000),
        "The new size must be a multiple of 512",
    ),
    (RESIZE, || resize("plain", (1_u64 << 63) - 512), MOST),
    (RESIZE, || resize("window", MIB), WINDOW),
    (RESIZE, || resize("window", 512), WINDOW),
    (RESIZE, || resize("fixed", 2 * MIB), "Image is read-only"),
    (RESIZE, || resize("fixed", 512), "Image is read-only"),
    (RESIZE, || resize("nobody", MIB), NO_NODE),
    (
        RESIZE,
        || json!({"device": "nobody", "size": MIB}),
        "Cannot find device='nobody' nor node-name=''",
    ),
    (
        RESIZE,
        || json!({"size": MIB}),
        "Cannot find device='' nor node-name=''",
    ),
];

/// A size that a node cannot have is refused, and the node keeps its size and content.
#[case]
async fn is_refused(t: &mut Test) -> CaseResult {
    let image = |name: &str, format| t.image(name).format(format).size(MIB).fill(0x11).create();
    let (disk, fixed) = (image("disk", QCOW2).await?, image("fixed", QCOW2).await?);
    let (plain, window) = (image("plain", RAW).await?, image("window", RAW).await?);
    let part = window.node().set("offset", 64 * KIB).set("size", 128 * KIB);
    let host = t.host().blockdev(&disk).blockdev(&plain).blockdev(part);
    let vm = host.blockdev(fixed.node().read_only(true)).launch().await?;
    let files = [
        fixed.file_bytes()?,
        plain.file_bytes()?,
        window.file_bytes()?,
    ];

    assert_refused(t, &vm, &REFUSALS).await?;
    for file in &files {
        file.assert_unchanged()?;
    }
    check!(vm.node("window").size().await? == 128 * KIB);
    vm.node("disk").write(0x22, MIB - 512..MIB).await?;
    vm.shutdown().await?;
    check!(disk.size().await? == MIB);
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, MIB - 512..MIB)]).await?;
    disk.assert_clean().await
}

rows! {
    SIZES: u64;
    "nothing" => 0;
    "a-few-sectors" => 3 * 512;
    "more" => 2 * MIB;
}

/// See docs/qemu-findings.md.
const SHOWN: KnownBug = known(
    "what was cut off within a cluster shows when the image grows again",
    "holds 0x11 in 0x600..0x10000, expected 0x00",
    ALWAYS,
)
.only(&[&["a-few-sectors", "*"]]);

/// A guest's disk gets the size that is asked for, keeps what is below it, and has zeroes above it when it grows again; an internal snapshot keeps all that was there.
#[case(rows = (SIZES, THREADS), host = System, known_bugs = [SHOWN])]
async fn leads_to(t: &mut Test, size: &u64, threaded: &bool) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    disk.snapshot("then").await?;
    let vm = with_disk(t.vm(), &disk, *threaded).launch().await?;
    vm.cmd(RESIZE, resize("disk", *size)).await?;
    check!(vm.disk("disk").size().await? == *size);
    if *size > 0 {
        vm.disk("disk").write(0x22, size - 512..*size).await?;
    }
    vm.cmd(RESIZE, resize("disk", 3 * MIB)).await?;
    vm.disk("disk").write(0x33, 3 * MIB - 512..3 * MIB).await?;
    vm.shutdown().await?;

    let now = Content::nothing().written(0x11, 0..*size.min(&MIB));
    let now = now.written(0x22, size.saturating_sub(512)..*size);
    disk.assert_reads(now.written(0x33, 3 * MIB - 512..3 * MIB)).await?;
    disk.assert_clean().await?;
    disk.go_back_to("then").await?;
    check!(disk.size().await? == MIB);
    disk.assert_fill(0x11).await?;
    disk.assert_clean().await
}

/// See docs/qemu-findings.md.
const TAKEN: KnownBug = known(
    "a node has the size that its header could not get",
    "\"[0]/image/virtual-size\" is 2097152, expected 1048576",
    ALWAYS,
);

/// A node whose header cannot be written keeps its size; the next attempt succeeds.
#[case(known_bugs = [TAKEN])]
async fn that_fails_changes_nothing(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let first_sector = json!([{"event": "none", "iotype": "write", "sector": 0, "once": true}]);
    let file = Node::new("blkdebug").set("image", disk.protocol_node()).set("align", 512);
    let node = disk.node().file(file.set("inject-error", first_sector));
    let vm = t.host().blockdev(node).launch().await?;

    let grow = || vm.cmd(RESIZE, resize("disk", 2 * MIB));
    grow().refused("Failed to update the image size: Input/output error").await?;
    check!(vm.node("disk").size().await? == MIB);
    grow().await?;
    vm.shutdown().await?;
    check!(disk.size().await? == 2 * MIB);
    disk.assert_reads(&[(0x11, 0..MIB)]).await?;
    disk.assert_clean().await
}

/// A shrink waits for a guest's write behind the new end, which has then been, and shows nowhere.
#[case(host = System)]
async fn waits_for_a_write(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let place = MIB - CLUSTER..MIB;
    let (served, host) = Served::holding_cluster(t, &disk, place.start).await?;
    let node = Node::new("qcow2").node_name("disk").file(served.node());
    let vm = t.vm().disk(&node).launch().await?;
    let guest = vm.disk("disk");
    guest.io(&format!("aio_write -P 0x22 {} {CLUSTER}", place.start)).await?;
    served.wait_write(host).await?;
    let shrink = vm.cmd(RESIZE, resize("disk", 512 * KIB));
    assert_waits_for_write(&vm, &served, shrink).await?;

    guest.io("aio_flush").await?;
    check!(guest.size().await? == 512 * KIB);
    vm.cmd(RESIZE, resize("disk", MIB)).await?;
    guest.assert_pattern(0x11, 0..512 * KIB).await?;
    guest.assert_pattern(0, 512 * KIB..MIB).await?;
    vm.shutdown().await?;
    served.finish().await?;
    disk.assert_reads(&[(0x11, 0..512 * KIB)]).await?;
    disk.assert_clean().await
}
