//! Transactions: all that they ask for is done at one moment, or nothing is.

use std::ops::Range;

use iotests_core::author::Transaction;
use iotests_core::prelude::*;

use crate::json::with;
use crate::threads::CLIENT_LEAVES;

defaults! { formats = [QCOW2], groups = [QUICK, SNAPSHOT, BITMAP], host = Any }

const PIECE: u64 = 4096;

/// An action, with its data, which may name a file.
type Part = (&'static str, fn(&str) -> Value);

rows! {
    /// Each with its data, some of which name a file that is not there yet.
    PARTS: Part;
    "a-snapshot" => ("blockdev-snapshot", |_| json!({"node": "disk", "overlay": "overlay"}));
    "an-internal-snapshot" => ("blockdev-snapshot-internal-sync", |_| named("device", "then"));
    "a-backup" => ("blockdev-backup", |_| json!({
        "job-id": "backup", "device": "disk", "target": "copy", "sync": "full",
    }));
    "a-snapshot-in-a-new-file" => ("blockdev-snapshot-sync", |file| json!({
        "node-name": "disk", "snapshot-file": file, "snapshot-node-name": "new", "format": "qcow2",
    }));
    "a-backup-to-a-new-file" => ("drive-backup", |file| json!({
        "job-id": "backup", "device": "disk", "target": file, "format": "qcow2", "sync": "full",
    }));
    "a-new-bitmap" => ("block-dirty-bitmap-add", |_| named("node", "new"));
    "a-bitmap-removed" => ("block-dirty-bitmap-remove", |_| named("node", "full"));
    "a-bitmap-cleared" => ("block-dirty-bitmap-clear", |_| named("node", "full"));
    "a-bitmap-enabled" => ("block-dirty-bitmap-enable", |_| named("node", "still"));
    "a-bitmap-disabled" => ("block-dirty-bitmap-disable", |_| named("node", "full"));
    "a-bitmap-merged" => ("block-dirty-bitmap-merge", |_| json!({
        "node": "disk", "target": "still", "bitmaps": ["full"],
    }));
}

/// An action that fails, and what QEMU says then.
type Failing = (&'static str, fn() -> Value, &'static str);

/// What fails, behind so many others.
type Failure = (usize, Failing);

const ABORT: Failing = (
    "abort",
    || json!({}),
    "Transaction aborted using Abort action",
);
const UNKNOWN: Failing = (
    "block-dirty-bitmap-clear",
    || named("node", "nobody"),
    "Dirty bitmap 'nobody' not found",
);

rows! {
    /// What fails, behind so many others.
    FAILURES: Failure;
    "undone" => (1, ABORT);
    "undone-for-a-refusal" => (1, UNKNOWN);
    "not-begun" => (0, ABORT);
}

rows! {
    IN_A_THREAD: Part;
    "a-snapshot" => ("blockdev-snapshot", |_| json!({"node": "disk", "overlay": "overlay"}));
    "an-internal-snapshot" => ("blockdev-snapshot-internal-sync", |_| named("device", "then"));
    "a-backup" => ("blockdev-backup", |_| json!({
        "job-id": "backup", "device": "disk", "target": "copy", "sync": "full",
    }));
    "a-bitmap-cleared" => ("block-dirty-bitmap-clear", |_| named("node", "full"));
}

fn named(of: &str, name: &str) -> Value {
    json!({of: "disk", "name": name})
}

/// Writes a byte to all pieces of a range, one after another.
async fn write_pieces(client: &nbd::Client, byte: u8, range: Range<u64>) -> CaseResult {
    for at in range.step_by(PIECE as usize) {
        client.write(at, vec![byte; PIECE as usize]).await?;
    }
    Ok(())
}

/// See docs/qemu-findings.md.
const LOST: KnownBug = known(
    "what a client writes while a snapshot is rolled back is lost with the overlay",
    "disk holds 0x11 in 0x",
    since(8, 0),
)
.fixed_in(["10.1"])
.only(&[
    &["undone", "a-snapshot"],
    &["undone-for-a-refusal", "a-snapshot"],
    &["undone", "a-snapshot-in-a-new-file"],
    &["undone-for-a-refusal", "a-snapshot-in-a-new-file"],
])
.intermittent();

/// When one action of a transaction fails, nothing is left of the others, before or after it; a client that
/// writes at that moment is not disturbed.
#[case(rows = (FAILURES, PARTS), known_bugs = [LOST])]
async fn that_fails_changes_nothing(t: &mut Test, failure: &Failure, part: &Part) -> CaseResult {
    changes_nothing(t, failure, part, false).await
}

/// See docs/qemu-findings.md.
const LOST_THERE: KnownBug = known(
    "what a client writes while a snapshot is rolled back is lost with the overlay",
    "disk holds 0x11 in 0x",
    since(8, 0),
)
.fixed_in(["10.1"])
.only(&[&["a-snapshot"]])
.intermittent();

/// The same holds when the client is served by an iothread.
#[case(rows = IN_A_THREAD, known_bugs = [CLIENT_LEAVES, LOST_THERE])]
async fn that_fails_changes_nothing_in_an_iothread(t: &mut Test, part: &Part) -> CaseResult {
    changes_nothing(t, &(1, ABORT), part, true).await
}

async fn changes_nothing(t: &Test, failure: &Failure, part: &Part, threaded: bool) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let file = t.file("new")?;
    let overlay = t.image("overlay").backing(&disk).create().await?;
    let host = t.host().iothread("thread").blockdev(&disk).blockdev(&copy);
    let vm = host.blockdev(overlay.node().no_backing()).launch().await?;
    vm.bitmap("disk", "full").add().await?;
    let export = vm.export("disk").writable();
    let export = match threaded {
        true => export.iothread("thread").set("fixed-iothread", true),
        false => export,
    };
    let client = export.await?.client().await?;
    write_pieces(&client, 0x11, 0..3 * CLUSTER).await?;
    vm.bitmap("disk", "still").add().disabled().await?;
    let (state, bitmaps) = (vm.state().await?, vm.bitmaps("disk").await?);

    let mut actions = vec![(part.0, part.1(file.as_str()))];
    let (before, (kind, data, error)) = failure;
    actions.insert(*before, (kind, data()));
    let add = |all: Transaction, (kind, data): (&str, Value)| all.action(kind, data);
    let transaction = actions.into_iter().fold(vm.transaction(), add);
    let refused = transaction.expect_error(*error);
    let writes = write_pieces(&client, 0x22, 0..2 * CLUSTER);
    let (refused, written) = tokio::join!(refused, writes);
    refused?;
    written?;

    // What is written makes the files grow.
    vm.assert_same_graph_as(&state).await?;
    vm.assert_no_jobs().await?;
    check!(vm.bitmaps("disk").await? == bitmaps);
    write_pieces(&client, 0x33, 3 * CLUSTER..4 * CLUSTER).await?;
    client.disconnect().await?;
    vm.shutdown().await?;
    disk.assert_layer(&[
        (0x22, 0..2 * CLUSTER),
        (0x11, 2 * CLUSTER..3 * CLUSTER),
        (0x33, 3 * CLUSTER..4 * CLUSTER),
    ])
    .await?;
    disk.assert_clean().await?;
    copy.assert_layer(&[]).await?;
    overlay.assert_layer(&[]).await
}

/// What is begun on each of two disks, by its name.
type OnBoth = (&'static str, fn(&str) -> Value);

rows! {
    BOTH: OnBoth;
    "snapshots" => ("blockdev-snapshot", |disk| json!({
        "node": disk, "overlay": format!("overlay-of-{disk}"),
    }));
    "backups" => ("blockdev-backup", |disk| json!({
        "job-id": format!("backup-of-{disk}"), "device": disk,
        "target": format!("copy-of-{disk}"), "sync": "full",
    }));
    "bitmaps-cleared" => ("block-dirty-bitmap-clear", |disk| json!({"node": disk, "name": "full"}));
}

rows! {
    /// What fails on the second disk.
    SECOND: Failing;
    "a-bitmap-is-unknown" => (
        "block-dirty-bitmap-clear",
        || json!({"node": "two", "name": "nobody"}),
        "Dirty bitmap 'nobody' not found",
    );
    "a-backup-has-no-target" => (
        "blockdev-backup",
        || json!({"device": "two", "target": "nowhere", "sync": "full"}),
        "Cannot find device='nowhere' nor node-name='nowhere'",
    );
}

/// See docs/qemu-findings.md.
const LOST_ON_TWO: KnownBug = known(
    "what a client writes while a snapshot is rolled back is lost with the overlay",
    "holds 0x11 in 0x",
    since(8, 0),
)
.fixed_in(["10.1"])
.only(&[&["*", "snapshots"]])
.intermittent();

/// When an action on one disk fails, what was begun on it and on another one is undone on both; clients that write to both at that moment are
/// not disturbed.
#[case(rows = (SECOND, BOTH), known_bugs = [LOST_ON_TWO])]
async fn that_fails_on_one_disk_changes_neither(
    t: &mut Test,
    (kind, data, error): &Failing,
    both: &OnBoth,
) -> CaseResult {
    let mut host = t.host();
    let mut images = Vec::new();
    for name in ["one", "two"] {
        let disk = t.image(name).size(MIB).create().await?;
        let copy = t.image(&format!("copy-of-{name}")).size(MIB).create().await?;
        let overlay = t.image(&format!("overlay-of-{name}")).backing(&disk).create().await?;
        host = host.blockdev(&disk).blockdev(&copy).blockdev(overlay.node().no_backing());
        images.push((disk, copy, overlay));
    }
    let vm = host.launch().await?;
    let mut clients = Vec::new();
    for name in ["one", "two"] {
        vm.bitmap(name, "full").add().await?;
        let client = vm.export(name).writable().await?.client().await?;
        write_pieces(&client, 0x11, 0..3 * CLUSTER).await?;
        clients.push(client);
    }
    let state = vm.state().await?;
    let bitmaps = [vm.bitmaps("one").await?, vm.bitmaps("two").await?];

    let begun = ["one", "two"].map(|name| (both.0, (both.1)(name)));
    let add = |all: Transaction, (kind, data): (&str, Value)| all.action(kind, data);
    let actions = begun.into_iter().chain([(*kind, data())]);
    let refused = actions.fold(vm.transaction(), add).expect_error(*error);
    let on_one = write_pieces(&clients[0], 0x22, 0..2 * CLUSTER);
    let on_two = write_pieces(&clients[1], 0x22, 0..2 * CLUSTER);
    let (refused, on_one, on_two) = tokio::join!(refused, on_one, on_two);
    refused?;
    on_one?;
    on_two?;

    vm.assert_same_graph_as(&state).await?;
    vm.assert_no_jobs().await?;
    check!([vm.bitmaps("one").await?, vm.bitmaps("two").await?] == bitmaps);
    for client in clients {
        client.disconnect().await?;
    }
    vm.shutdown().await?;
    for (disk, copy, overlay) in images {
        disk.assert_layer(&[(0x22, 0..2 * CLUSTER), (0x11, 2 * CLUSTER..3 * CLUSTER)]).await?;
        disk.assert_clean().await?;
        copy.assert_layer(&[]).await?;
        overlay.assert_layer(&[]).await?;
    }
    Ok(())
}

/// A backup and a bitmap that start in one transaction miss no write: what a client writes is either in the
/// backup or recorded by the bitmap.
#[case]
async fn begins_a_backup_and_a_bitmap_at_one_moment(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let copy = t.image("copy").format(RAW).size(MIB).create().await?;
    let vm = t.host().blockdev(&disk).blockdev(&copy).launch().await?;
    let client = vm.export("disk").writable().await?.client().await?;

    let since = json!({"node": "disk", "name": "since", "granularity": PIECE});
    let both = vm.transaction().action("block-dirty-bitmap-add", since);
    let both = both.job(vm.backup("disk").to("copy")).start();
    let writes = write_pieces(&client, 0x22, 0..MIB);
    let (jobs, written) = tokio::join!(both, writes);
    let [job] = jobs?;
    written?;
    job.wait().await?;

    let recorded = vm.bitmaps("disk").await?[0].count;
    client.disconnect().await?;
    vm.shutdown().await?;
    disk.assert_fill(0x22).await?;
    let copied = std::fs::read(copy.file())?;
    let copied = copied.iter().filter(|byte| **byte == 0x22).count() as u64;
    check!(
        copied + recorded == MIB,
        "{copied} bytes were copied, {recorded} are recorded"
    );
    Ok(())
}

/// See docs/qemu-findings.md.
const REMOVED: KnownBug = known(
    "a bitmap whose removal was undone has gone from the image",
    "bitmaps[0][\"name\"] is Null",
    ALWAYS,
);

/// A stored bitmap whose removal is undone is in its image all the time: a machine that dies leaves it there.
#[case(known_bugs = [REMOVED])]
async fn that_fails_leaves_a_bitmap_in_its_image(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let host = t.host().blockdev(&disk);
    let vm = host.launch().await?;
    vm.bitmap("disk", "stored").add().persistent().await?;
    vm.shutdown().await?;

    let vm = host.launch().await?;
    let remove = json!({"node": "disk", "name": "stored"});
    let both = vm.transaction().action("block-dirty-bitmap-remove", remove);
    let missing = json!({"node": "disk", "name": "missing"});
    let both = both.action("block-dirty-bitmap-clear", missing);
    both.expect_error("'missing' not found").await?;
    vm.kill().await?;
    let info = disk.info().json().await?;
    let bitmaps = &info["format-specific"]["data"]["bitmaps"];
    check!(bitmaps[0]["name"] == "stored", "{bitmaps}");
    Ok(())
}

/// A `drive-backup` that cannot begin, and why.
struct Drive {
    more: fn() -> Value,
    error: &'static str,
}

rows! {
    DRIVES: Drive { more, error };
    "to-an-unknown-format" => || json!({"format": "nonsense"}),
        "Unknown file format 'nonsense'";
    "to-what-is-not-there" => || json!({"mode": "existing", "target": "/nowhere"}),
        "Could not open '/nowhere': No such file or directory";
    "to-where-nothing-can-be" => || json!({"target": "/nowhere/copy"}),
        "Could not create '/nowhere/copy': No such file or directory";
}

/// After a backup to a file failed to start, the guest can still write.
#[case(host = System, rows = DRIVES)]
async fn whose_backup_cannot_begin_lets_the_guest_go_on(t: &mut Test, drive: &Drive) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let copy = t.file("copy")?;
    let vm = t.host().disk(&disk).launch().await?;
    let usual =
        json!({"device": "disk", "sync": "full", "format": "qcow2", "target": copy.as_str()});
    vm.transaction()
        .action("drive-backup", with(&usual, (drive.more)()))
        .expect_error(drive.error)
        .await?;
    vm.disk("disk").write(0x22, 0..CLUSTER).await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, 0..CLUSTER)]).await
}
