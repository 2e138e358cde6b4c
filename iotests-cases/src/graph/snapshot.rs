//! Overlays that are put on a node in use (`blockdev-snapshot`, `blockdev-snapshot-sync`).

use imgtools::qcow2;
use iotests_core::prelude::*;

use super::{Refusal, assert_refused, assert_waits_for_write};
use crate::json::with;
use crate::served::Served;

defaults! { formats = [QCOW2], groups = [QUICK, SNAPSHOT], host = Any,
unsupported_imgopts = ["data_file", "compat", "preallocation"] }

fn overlay(node: &str, overlay: &str) -> Value {
    json!({"node": node, "overlay": overlay})
}

/// A new overlay of the disk, in a file that is there for none of these.
fn new(more: Value) -> Value {
    let usual = json!({
        "node-name": "disk", "snapshot-file": "/nowhere/new", "snapshot-node-name": "new",
    });
    with(&usual, more)
}

const PUT: &str = "blockdev-snapshot";
const MAKE: &str = "blockdev-snapshot-sync";
const USED: &str = "The overlay is already in use";

const REFUSALS: [Refusal; 20] = [
    (PUT, || overlay("disk", "used"), USED),
    (PUT, || overlay("disk", "disk"), USED),
    (
        PUT,
        || overlay("disk", "backed"),
        "The overlay already has a backing image",
    ),
    (
        PUT,
        || overlay("alone", "alone"),
        "Making 'alone' a backing child of 'alone' would create a cycle",
    ),
    (
        PUT,
        || overlay("disk", "raw"),
        "The overlay does not support backing images",
    ),
    (
        PUT,
        || overlay("disk", "filter"),
        "Filters cannot be used as overlays",
    ),
    (PUT, || overlay("disk", "fixed"), "Block node is read-only"),
    (
        PUT,
        || overlay("base", "over"),
        "Node 'base' is busy: node is used as backing hd of 'backed'",
    ),
    (
        PUT,
        || overlay("copied", "over"),
        "Node 'copied' is busy: block device is in use by block job: mirror",
    ),
    (
        PUT,
        || overlay("disk", "nobody"),
        "Cannot find device='nobody' nor node-name='nobody'",
    ),
    (
        PUT,
        || overlay("nobody", "over"),
        "Cannot find device='nobody' nor node-name='nobody'",
    ),
    (
        MAKE,
        || new(json!({"snapshot-node-name": "used"})),
        "New overlay node-name already in use",
    ),
    (
        MAKE,
        || json!({"node-name": "disk", "snapshot-file": "/nowhere/new"}),
        "New overlay node-name missing",
    ),
    (
        MAKE,
        || json!({"snapshot-node-name": "new", "snapshot-file": "/nowhere/new"}),
        "Cannot find device='' nor node-name=''",
    ),
    (
        MAKE,
        || new(json!({"node-name": "copied"})),
        "Node 'copied' is busy: block device is in use by block job: mirror",
    ),
    (
        MAKE,
        || new(json!({"mode": "existing"})),
        "Could not open '/nowhere/new': No such file or directory",
    ),
    (
        MAKE,
        || new(json!({})),
        "Could not create '/nowhere/new': No such file or directory",
    ),
    (
        MAKE,
        || new(json!({"format": "nonsense"})),
        "Unknown file format 'nonsense'",
    ),
    (
        MAKE,
        || new(json!({"format": "raw"})),
        "Backing file not supported for file format 'raw'",
    ),
    (
        MAKE,
        || new(json!({"mode": "some"})),
        "Parameter 'mode' does not accept value 'some'",
    ),
];

/// An overlay that cannot be put on a node is refused, and so is one that would be made in a file that is in use: nothing has changed, and one that can is put on it
/// afterwards.
#[case(needs = [Driver("copy-on-read")])]
async fn is_refused(t: &mut Test) -> CaseResult {
    let image = |name: &str| t.image(name).size(MIB).create();
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let (used, alone, fixed) = (
        image("used").await?,
        image("alone").await?,
        image("fixed").await?,
    );
    let (over, other, target) = (
        image("over").await?,
        image("other").await?,
        image("target").await?,
    );
    let base = image("base").await?;
    let backed = t.image("backed").backing(&base).create().await?;
    let raw = t.image("raw").format(RAW).size(MIB).create().await?;
    let copied = t.image("copied").size(MIB).fill(0x22).create().await?;
    let filter = Node::new("copy-on-read").node_name("filter").file(other.node());
    let host = t.host().disk(&disk).disk(&used).blockdev(&alone).blockdev(&backed).blockdev(&raw);
    let host = host.blockdev(&over).blockdev(&copied).blockdev(&target).blockdev(filter);
    let vm = host.blockdev(fixed.node().read_only(true)).tolerate("Formatting").launch().await?;
    let job = vm.mirror("copied").to("target").set("buf-size", CLUSTER).speed(1).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first step", begun).await?;
    // QEMU 7.2 takes another step each time that all is drained.
    job.pause().await?;

    assert_refused(t, &vm, &REFUSALS).await?;
    for (mode, file, error) in [
        (
            "absolute-paths",
            &disk,
            "Trying to create an image with the same filename as the backing file",
        ),
        ("existing", &disk, "Failed to get \"write\" lock"),
        ("absolute-paths", &used, "Failed to get \"write\" lock"),
    ] {
        let new = new(json!({"mode": mode, "snapshot-file": file}));
        vm.cmd(MAKE, new).refused(error).await?;
    }
    job.resume().await?;
    job.force_cancel().await?;

    vm.snapshot("disk", "over").await?;
    vm.disk("disk").write(0x33, 0..CLUSTER).await?;
    vm.assert_chain("over -> disk").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await?;
    over.assert_layer(&[(0x33, 0..CLUSTER)]).await?;
    for empty in [&used, &alone, &fixed, &base, &backed, &other] {
        empty.assert_layer(&[]).await?;
    }
    Ok(())
}

rows! {
    THREADS: Option<&str>;
    "in-the-main-loop" => None;
    "in-an-iothread" => Some("io");
}

/// An overlay waits for a write that is in flight, which goes to the node below; what is written then goes to the overlay, and what is written after a second one
/// to that.
#[case(rows = THREADS)]
async fn waits_for_a_write(t: &mut Test, thread: &Option<&str>) -> CaseResult {
    let place = clusters(2..3);
    let disk = t.image("disk").format(RAW).size(MIB).fill(0x11).create().await?;
    let over = t.image("over").size(MIB).create().await?;
    let next = t.image("next").size(MIB).create().await?;
    let served = Served::holding(t, &disk, place.clone())?;
    let node = Node::new("raw").node_name("disk").file(served.node());
    let vm = t.host().iothread("io").blockdev(node).blockdev(&over);
    let vm = vm.blockdev(&next).launch().await?;
    let mut export = vm.export("disk").writable();
    if let Some(thread) = thread {
        export = export.iothread(thread);
    }
    let client = export.await?.client().await?;

    let write = async {
        client.write(place.start, vec![0x22; CLUSTER as usize]).await?;
        CaseResult::Ok(())
    };
    let snapshot = async {
        served.wait_write(place.clone()).await?;
        let snapshot = vm.snapshot("disk", "over");
        assert_waits_for_write(&vm, &served, snapshot).await
    };
    tokio::try_join!(write, snapshot)?;

    client.write(place.start, vec![0x33; CLUSTER as usize]).await?;
    vm.snapshot("disk", "next").expect_error("Node 'disk' is busy").await?;
    vm.snapshot("over", "next").await?;
    client.write(place.end, vec![0x44; CLUSTER as usize]).await?;
    vm.assert_chain("next -> over -> disk").await?;
    client.disconnect().await?;
    vm.shutdown().await?;
    served.finish().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, place.clone())]).await?;
    over.assert_layer(&[(0x33, place.clone())]).await?;
    next.assert_layer(&[(0x44, clusters(3..4))]).await
}

/// A bitmap stays with the node below: it records nothing that goes to the overlay, and is stored in the image it was made for.
#[case]
async fn leaves_a_bitmap_below(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let over = t.image("over").size(MIB).create().await?;
    let vm = t.host().disk(&disk).blockdev(&over).launch().await?;
    vm.bitmap("disk", "kept").add().persistent().await?;
    vm.disk("disk").write(0x11, 0..CLUSTER).await?;
    vm.snapshot("disk", "over").await?;
    vm.disk("disk").write(0x22, 4 * CLUSTER..6 * CLUSTER).await?;

    let kept = json!({"count": CLUSTER, "recording": true, "persistent": true});
    vm.bitmap("disk", "kept").assert(kept).await?;
    check!(vm.bitmaps("over").await?.is_empty());
    vm.assert_chain("over -> disk").await?;
    vm.shutdown().await?;
    let names = |image: &Image| -> CaseResult<Vec<String>> {
        let bitmaps = qcow2::Image::open(image.file())?.bitmaps()?;
        Ok(bitmaps.into_iter().map(|bitmap| bitmap.name).collect())
    };
    check!(names(&disk)? == ["kept"]);
    check!(names(&over)?.is_empty());
    disk.assert_layer(&[(0x11, 0..CLUSTER)]).await?;
    over.assert_layer(&[(0x22, 4 * CLUSTER..6 * CLUSTER)]).await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let kept = json!({"count": CLUSTER, "recording": true, "persistent": true});
    vm.bitmap("disk", "kept").assert(kept).await?;
    vm.shutdown().await?;
    Ok(())
}
