//! Snapshots within the image of a disk in use (`blockdev-snapshot-internal-sync`), which emulators take.

use imgtools::qcow2;
use iotests_core::prelude::*;

use super::{Refusal, assert_refused, assert_waits_for_write};
use crate::json::with;
use crate::served::Served;

defaults! {
    formats = [QCOW2], groups = [QUICK, SNAPSHOT], host = System,
    unsupported_imgopts = [
        "data_file", "compat", "refcount_bits", "cluster_size", "extended_l2", "preallocation",
    ],
}

const TAKE: &str = "blockdev-snapshot-internal-sync";
const DELETE: &str = "blockdev-snapshot-delete-internal-sync";

/// The ids and names of the snapshots of an image.
fn snapshots(image: &Image) -> CaseResult<Vec<(String, String)>> {
    let all = qcow2::Image::open(image.file())?.snapshots()?;
    Ok(all.into_iter().map(|one| (one.id, one.name)).collect())
}

fn named(id: &str, name: &str) -> (String, String) {
    (id.to_owned(), name.to_owned())
}

/// A copy of what a snapshot holds.
async fn copy_of(t: &Test, image: &Image, snapshot: &str) -> CaseResult<Image> {
    let copy = t.image(&format!("copy-{snapshot}")).format(RAW).reserve().await?;
    image.convert(&copy).with(|call| call.snapshot(snapshot)).await?;
    Ok(copy)
}

rows! {
    DELETIONS: fn() -> Value;
    "by-its-name" => || json!({"name": "first"});
    "by-its-id" => || json!({"id": "1"});
    "by-both" => || json!({"id": "1", "name": "first"});
}

/// Each snapshot holds the disk as it was when it was taken. One that is deleted is described in the answer, and leaves the others and the disk as they are.
#[case(rows = DELETIONS)]
async fn keeps_what_was_there(t: &mut Test, deletion: &fn() -> Value) -> CaseResult {
    let disk = t.image("disk").size(MIB).write(0x11, clusters(0..4)).create().await?;
    let vm = t.vm().disk(&disk).launch().await?;
    vm.internal_snapshot("disk", "first").await?;
    vm.disk("disk").write(0x22, clusters(1..6)).await?;
    vm.internal_snapshot("disk", "second").await?;
    vm.disk("disk").write(0x33, clusters(2..8)).await?;
    vm.internal_snapshot("disk", "third").await?;

    let delete = with(&json!({"device": "disk"}), deletion());
    let deleted = vm.cmd(DELETE, delete).await?;
    deleted.assert_includes(&json!({"id": "1", "name": "first", "vm-state-size": 0}))?;
    vm.delete_internal_snapshot("disk", "third").await?;
    vm.internal_snapshot("disk", "first").await?;
    vm.disk("disk").write(0x44, clusters(0..1)).await?;
    vm.shutdown().await?;

    check!(snapshots(&disk)? == [named("2", "second"), named("3", "first")]);
    disk.assert_clean().await?;
    let second = Content::nothing().written(0x11, clusters(0..1)).written(0x22, clusters(1..6));
    let first = second.clone().written(0x33, clusters(2..8));
    copy_of(t, &disk, "second").await?.assert_reads(&second).await?;
    copy_of(t, &disk, "first").await?.assert_reads(&first).await?;
    disk.assert_reads(first.written(0x44, clusters(0..1))).await?;
    disk.go_back_to("second").await?;
    disk.assert_reads(&second).await?;
    disk.assert_clean().await
}

fn take(device: &str, name: &str) -> Value {
    json!({"device": device, "name": name})
}

fn delete(more: Value) -> Value {
    with(&json!({"device": "disk"}), more)
}

const UNKNOWN: &str = "Cannot find device='nobody' nor node-name='nobody'";
const NOT_ROOT: &str = "Need a root block node";

const REFUSALS: [Refusal; 18] = [
    (
        TAKE,
        || take("disk", "then"),
        "Snapshot with name 'then' already exists on device 'disk'",
    ),
    (TAKE, || take("disk", ""), "Name is empty"),
    (TAKE, || take("nobody", "new"), UNKNOWN),
    (
        TAKE,
        || take("raw", "new"),
        "Block format 'raw' used by device 'raw' does not support internal snapshots",
    ),
    (
        TAKE,
        || take("with-data", "new"),
        "Failed to get a snapshot list: Operation not supported",
    ),
    (TAKE, || take("fixed", "new"), "Device 'fixed' is read only"),
    (TAKE, || take("base", "new"), NOT_ROOT),
    (TAKE, || take("copied", "new"), NOT_ROOT),
    (TAKE, || take("target", "new"), NOT_ROOT),
    (DELETE, || take("nobody", "then"), UNKNOWN),
    (DELETE, || take("base", "then"), NOT_ROOT),
    (DELETE, || take("copied", "then"), NOT_ROOT),
    (DELETE, || delete(json!({})), "Name or id must be provided"),
    (
        DELETE,
        || delete(json!({"name": "nobody"})),
        "Snapshot with id 'null' and name 'nobody' does not exist on device 'disk'",
    ),
    (
        DELETE,
        || delete(json!({"id": "9"})),
        "Snapshot with id '9' and name 'null' does not exist on device 'disk'",
    ),
    (
        DELETE,
        || delete(json!({"id": "2", "name": "then"})),
        "Snapshot with id '2' and name 'then' does not exist on device 'disk'",
    ),
    (
        DELETE,
        || delete(json!({"id": "1", "name": "2"})),
        "Snapshot with id '1' and name '2' does not exist on device 'disk'",
    ),
    (
        DELETE,
        || take("raw", "then"),
        "Failed to get a snapshot list: Operation not supported",
    ),
];

/// A snapshot that cannot be taken or deleted is refused: the machine, the disk and its snapshots stay as they are.
#[case]
async fn is_refused(t: &mut Test) -> CaseResult {
    let image = |name: &str| t.image(name).size(MIB).create();
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    disk.snapshot("then").await?;
    // Its name is the id of another one.
    disk.snapshot("1").await?;
    let fixed = image("fixed").await?;
    fixed.snapshot("then").await?;
    let raw = t.image("raw").format(RAW).size(MIB).create().await?;
    let file = t.file("data")?;
    let data = t.image("with-data").size(MIB).option("data_file", file.as_str()).create().await?;
    let base = image("base").await?;
    let top = t.image("top").backing(&base).create().await?;
    let copied = t.image("copied").size(MIB).fill(0x22).create().await?;
    let target = image("target").await?;
    let vm = t.vm().disk(&disk).blockdev(&raw).blockdev(&data).blockdev(&top).blockdev(&copied);
    let vm = vm.blockdev(&target).blockdev(fixed.node().read_only(true)).launch().await?;
    let job = vm.mirror("copied").to("target").set("buf-size", CLUSTER).speed(1).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first step", begun).await?;
    // QEMU 7.2 takes another step each time that all is drained.
    job.pause().await?;
    let unchanged = fixed.file_bytes()?;

    assert_refused(t, &vm, &REFUSALS).await?;
    unchanged.assert_unchanged()?;
    job.resume().await?;
    job.force_cancel().await?;
    vm.disk("disk").write(0x33, 0..CLUSTER).await?;
    vm.shutdown().await?;
    check!(snapshots(&disk)? == [named("1", "then"), named("2", "1")]);
    disk.assert_reads(&[(0x11, 0..MIB), (0x33, 0..CLUSTER)]).await?;
    copy_of(t, &disk, "snapshot.name=then").await?.assert_fill(0x11).await?;
    disk.assert_clean().await
}

/// See docs/qemu-findings.md.
const FORGOTTEN: KnownBug = known(
    "a snapshot that cannot be deleted is missing from the list in memory",
    "is missing, expected",
    ALWAYS,
);

/// A snapshot of a read-only image cannot be deleted: the image has it still, and its node knows of it.
#[case(known_bugs = [FORGOTTEN])]
async fn stays_in_a_read_only_image(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    disk.snapshot("then").await?;
    let file = disk.file_bytes()?;
    let vm = t.vm().blockdev(disk.node().read_only(true)).launch().await?;
    let why = "Failed to remove snapshot from snapshot list: Operation not permitted";
    vm.delete_internal_snapshot("disk", "then").refused(why).await?;
    vm.shutdown().await?;
    file.assert_unchanged()
}

/// See docs/qemu-findings.md.
const CUT: KnownBug = known(
    "a name of more than 255 bytes is cut, and nobody finds the snapshot by it",
    "a snapshot was taken that its name does not lead to",
    ALWAYS,
)
.only(&[&["too-long"]]);

rows! {
    NAMES: usize;
    "of-the-greatest-length" => 255;
    "too-long" => 256;
}

/// A snapshot that was taken has the name that was asked for, and is found by it.
#[case(rows = NAMES, known_bugs = [CUT])]
async fn is_found_by_a_name(t: &mut Test, length: &usize) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.vm().disk(&disk).launch().await?;
    let name = "n".repeat(*length);
    let taken = vm.internal_snapshot("disk", &name).outcome().await?;
    if taken.is_ok() {
        let again = vm.internal_snapshot("disk", &name).outcome().await?;
        let deleted = vm.delete_internal_snapshot("disk", &name).outcome().await?;
        check!(
            again.is_err() && deleted.is_ok(),
            "a snapshot was taken that its name does not lead to"
        );
    }
    vm.shutdown().await?;
    check!(snapshots(&disk)?.is_empty());
    disk.assert_fill(0x11).await?;
    disk.assert_clean().await
}

/// A snapshot waits for a write that is in flight, and holds all of it; what is written then it does not hold.
#[case(host = Any)]
async fn waits_for_a_write(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let place = clusters(2..3);
    let (served, host) = Served::holding_cluster(t, &disk, place.start).await?;
    let node = Node::new("qcow2").node_name("disk").file(served.node());
    let vm = t.host().blockdev(node).launch().await?;
    let client = vm.export("disk").writable().await?.client().await?;

    let write = async {
        client.write(place.start, vec![0x22; CLUSTER as usize]).await?;
        CaseResult::Ok(())
    };
    let snapshot = async {
        served.wait_write(host.clone()).await?;
        let snapshot = vm.internal_snapshot("disk", "then");
        assert_waits_for_write(&vm, &served, snapshot).await
    };
    tokio::try_join!(write, snapshot)?;

    client.write(place.start, vec![0x33; 512]).await?;
    client.disconnect().await?;
    vm.shutdown().await?;
    served.finish().await?;
    let then = Content::nothing().written(0x11, 0..MIB).written(0x22, place.clone());
    copy_of(t, &disk, "then").await?.assert_reads(&then).await?;
    disk.assert_reads(then.written(0x33, place.start..place.start + 512)).await?;
    disk.assert_clean().await
}
