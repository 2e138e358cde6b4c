//! What a mirror makes of requests that are in flight, of a guest or its own.

use iotests_core::prelude::*;

use super::HELD;
use super::active::MODES;
use crate::block_jobs::IN_A_TABLE;
use crate::served::Served;

defaults! { formats = [RAW] }

const SIZE: u64 = 4 * MIB;
const FIRST: std::ops::Range<u64> = clusters(0..1);
const LAST: std::ops::Range<u64> = SIZE - CLUSTER..SIZE;

/// How long a client looks for its server: longer than any case may run.
const FOREVER: u32 = 24 * 60 * 60;

const STARVES: KnownBug = known(
    "a mirror copies nothing while a guest's write is in flight (d69a879bdf)",
    "all else copied",
    before(7, 2),
);

/// A guest whose writes are in flight all the time does not keep a mirror that writes to both at once from
/// copying all else. (On an emulator, where blkdebug holds the write of the guest alone.)
#[case(
    upstream = "151::TestLowThrottledWithNbdExport::testUnderLoad", formats = [QCOW2, RAW],
    host = System, known_bugs = [STARVES]
)]
async fn writes_elsewhere_hold_up_nothing(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).fill(0x11).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(Disk::of(&source).with_breakpoints());
    let vm = vm.blockdev(&copy).launch().await?;
    let job = vm.mirror("source").to("copy").set("buf-size", CLUSTER);
    let job = job.set("copy-mode", "write-blocking").speed(HELD);
    let job = job.start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first piece", begun).await?;

    let disk = vm.disk("source");
    let write = disk.hold("write_aio").await?;
    disk.io(&format!("aio_write -P 0x77 {} {CLUSTER}", LAST.start)).await?;
    write.wait_hit().await?;
    job.set_speed(0).await?;
    let all_else = |job: &Value| job["current-progress"] == SIZE - CLUSTER;
    job.until("all else copied", all_else).await?;
    write.resume().await?;
    job.complete().await?;

    disk.assert_node("copy").await?;
    vm.shutdown().await?;
    let all = Content::nothing().written(0x11, 0..SIZE);
    copy.assert_reads(all.written(0x77, LAST)).await
}

/// See docs/qemu-findings.md. It shows in this text.
pub(super) const fn missed(says: &'static str) -> KnownBug {
    known(
        "a mirror misses what is written while it looks for what to copy (since 32125b1460, until 0f51f9c342)",
        says,
        since(8, 0),
    )
    .fixed_in(["10.0.13", "10.1"])
}

/// What a guest writes while a mirror still looks for what it has to copy is on the copy.
#[case(
    formats = [QCOW2], host = System, rows = MODES, needs = [Driver("blkdebug")],
    known_bugs = [missed("expected 0x77")],
    unsupported_imgopts = ["data_file", "cluster_size", "extended_l2"]
)]
async fn is_not_missed_while_the_mirror_looks_around(t: &mut Test, mode: &&str) -> CaseResult {
    // The mirror finds nothing in the first table. It is held where it loads the second one, and paused there.
    let last = clusters(IN_A_TABLE + 1..IN_A_TABLE + 2);
    let base = t.image("base").size(last.end).write(0x11, clusters(0..1)).create().await?;
    let source = t.image("source").backing(&base).write(0x22, last.clone());
    let source = source.create().await?;
    let copy = t.image("copy").format(RAW).size(last.end).create().await?;
    let node = source.node().set("l2-cache-entry-size", 4 * KIB);
    let vm = t.host().disk(Disk::of(node).with_breakpoints()).blockdev(&copy).launch().await?;
    let disk = vm.disk("source");
    disk.io("read -P 0x11 0 512").await?;

    let table = disk.hold("l2_load").await?;
    let job = vm.mirror("source").to("copy").sync("top").set("copy-mode", *mode);
    let mut job = job.start().await?;
    table.wait_hit().await?;
    vm.cmd("job-pause", json!({"id": job.id()})).await?;
    table.resume().await?;
    job.wait_status("paused").await?;
    disk.write(0x77, clusters(1..2)).await?;
    job.resume().await?;
    job.complete().await?;

    disk.assert_node("copy").await?;
    vm.shutdown().await?;
    copy.assert_reads(&[(0x77, clusters(1..2)), (0x22, last)]).await
}

/// A mirror that is cancelled while a piece is in flight writes nothing more to its target: what the guest then
/// writes goes to its disk alone.
#[case]
async fn pieces_are_the_last_when_it_is_cancelled(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).write(0x11, FIRST);
    let source = source.create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let file = Served::holding(t, &copy, FIRST)?;
    let vm = t.host().disk(&source);
    let vm = vm.blockdev(file.node().node_name("copy")).launch().await?;
    let job = vm.mirror("source").to("copy").set("buf-size", CLUSTER);
    let job = job.set("copy-mode", "write-blocking").start().await?;

    file.wait_write(FIRST).await?;
    let now = json!({"device": job.id(), "force": true});
    vm.cmd("block-job-cancel", now).await?;
    vm.disk("source").write(0x77, clusters(20..21)).await?;
    file.release();
    check!(job.wait().outcome().await?.outcome == Outcome::Cancelled);

    vm.disk("source").assert_node("source").await?;
    vm.shutdown().await?;
    file.finish().await?;
    copy.assert_pattern(0, clusters(20..21)).await?;
    let all = Content::nothing().written(0x11, FIRST);
    source.assert_reads(all.written(0x77, clusters(20..21))).await
}

const ROOM: u64 = 2 * CLUSTER;

/// What is to be copied. The second piece and the last are kept back, and the wide one waits for room
/// between them.
const PIECES: [std::ops::Range<u64>; 4] = [
    clusters(0..1),
    clusters(2..3),
    clusters(4..6),
    clusters(7..8),
];

/// A piece that waits for room in the buffer gets it as soon as there is enough, however often it has looked
/// in vain.
///
/// Before 11, QEMU's client keeps the answer to the second piece back until there is another one
/// (docs/qemu-findings.md; which release between 10.0 and 11.1 has the fix is not known).
#[case(formats = [QCOW2], needs = [since(11, 0)])]
async fn pieces_get_the_room_they_wait_for(t: &mut Test) -> CaseResult {
    let numbered = |all: Content, piece| all.numbered(0x10, piece);
    let content = PIECES.into_iter().fold(Content::nothing(), numbered);
    let base = t.image("base").size(SIZE).create().await?;
    let source = t.image("source").backing(&base).content(&content);
    let source = source.create().await?;
    let copy = t.image("copy").format(RAW).size(SIZE).create().await?;
    let [_, second, _, last] = PIECES;
    let file = Served::holding_each(t, &copy, &[second.clone(), last.clone()])?;
    let vm = t.host().disk(&source);
    let vm = vm.blockdev(file.node().node_name("copy")).launch().await?;
    let job = vm.mirror("source").to("copy").sync("top");
    let job = job.set("buf-size", ROOM).set("granularity", CLUSTER);
    let mut job = job.start().await?;

    file.wait_write(second.clone()).await?;
    file.wait_write(last.clone()).await?;
    file.release_one(&second);
    let two_are_done = |job: &Value| job["current-progress"] == 2 * CLUSTER;
    job.until("half of the room", two_are_done).await?;
    file.release_one(&last);
    job.wait_ready().await?;
    job.complete().await?;

    vm.disk("source").assert_node("copy").await?;
    vm.shutdown().await?;
    file.finish().await?;
    copy.assert_reads(content).await
}

/// A mirror that is ready and is cancelled softly waits for the server of its target to come back, and
/// loses nothing.
#[case]
async fn pieces_are_not_lost_with_the_server(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let file = Served::lost(t, &copy)?;
    let target = file.node().node_name("copy").set("reconnect-delay", FOREVER);
    let vm = t.host().disk(&source).blockdev(target).launch().await?;
    let mut job = vm.mirror("source").to("copy").start().await?;
    job.wait_ready().await?;

    vm.disk("source").write(0x77, clusters(1..2)).await?;
    file.wait_return().await?;
    let softly = json!({"device": job.id()});
    vm.cmd("block-job-cancel", softly).await?;
    file.release();
    let ended = job.wait().await?;

    check!(ended.outcome == Outcome::Completed);
    vm.disk("source").assert_node("source").await?;
    vm.shutdown().await?;
    file.finish().await?;
    let all = Content::nothing().written(0x77, clusters(1..2));
    copy.assert_reads(&all).await?;
    source.assert_reads(&all).await
}
