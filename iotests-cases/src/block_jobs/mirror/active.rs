//! What a guest writes while its disk is mirrored, by a copy later on or in the same request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iotests_core::author::DiskBuilder;
use iotests_core::prelude::*;
use nbd::proto::CommandType;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Action as Fault, Event, Export, FaultPlan, On, Rule, Server};

use super::in_flight::missed;

defaults! { formats = [QCOW2, RAW] }

const SIZE: u64 = 4 * MIB;

fn content() -> Content {
    Content::nothing().numbered(0x10, clusters(0..64))
}

/// With what a guest writes before and after a change.
fn written_twice() -> Content {
    let first = content().written(0x91, clusters(1..2));
    first.written(0x92, clusters(2..3))
}

/// A disk with data, a node for its copy, and a mirror that writes to both at once and stays in its middle.
async fn active(
    t: &Test,
    disk: impl Fn(&Image) -> DiskBuilder,
) -> CaseResult<(Image, Image, Machine, Job)> {
    let source = t.image("source").size(SIZE).content(content());
    let source = source.create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(disk(&source)).blockdev(&copy).launch().await?;
    let job = vm.mirror("source").to("copy").set("copy-mode", "write-blocking");
    let job = job.set("buf-size", 4 * CLUSTER).speed(1).start().await?;
    Ok((source, copy, vm, job))
}

rows! {
    FLUSHED: bool;
    "flushed" => true, upstream = "testActiveIOFlushed";
    "not-flushed" => false, upstream = "testActiveIO";
}

/// All that a guest writes before a mirror copies it, while it does and when it is ready is on the copy,
/// whether or not the guest flushes it.
#[case(upstream = "151::TestActiveMirror::{flushed}", rows = FLUSHED)]
async fn is_all_on_the_copy(t: &mut Test, flushed: &bool) -> CaseResult {
    let (source, copy, vm, mut job) = active(t, |source| Disk::of(source)).await?;
    let disk = vm.disk("source");
    let mut all = content();
    for phase in [0_u8, 1, 2] {
        if phase == 1 {
            job.set_speed(0).await?;
        }
        if phase == 2 {
            job.wait_ready().await?;
        }
        let first = 8 + 18 * u64::from(phase);
        let (written, zeroed) = (clusters(first..first + 8), clusters(first + 8..first + 12));
        let byte = 0x90 + phase;
        let mut writes = Vec::new();
        for at in (written.start..written.end).step_by(CLUSTER as usize) {
            writes.push(format!("aio_write -P {byte} {at} {CLUSTER}"));
        }
        writes.push(format!("aio_write -z {} {}", zeroed.start, 4 * CLUSTER));
        disk.io_all(writes).await?;
        all = all.written(byte, written).zeroes(zeroed);
    }
    if *flushed {
        disk.io("aio_flush").await?;
        disk.flush().await?;
    }
    job.complete().await?;
    disk.assert_node("copy").await?;
    disk.assert_reads(&all).await?;
    vm.shutdown().await?;
    copy.assert_reads(&all).await?;
    copy.assert_clean().await?;
    if *flushed {
        source.assert_reads(&all).await?;
    }
    source.assert_clean().await
}

/// A write of a few bytes, where the mirror has not copied the piece around it yet.
#[case(upstream = "151::TestActiveMirror::testUnalignedActiveIO")]
async fn in_a_part_of_a_piece_keeps_the_rest(t: &mut Test) -> CaseResult {
    let (source, copy, vm, job) = active(t, |source| Disk::of(source)).await?;
    let mut all = content();
    for (byte, at) in [
        (0x91, MIB + 42..MIB + 43),
        (0x92, 40 * CLUSTER - 1..40 * CLUSTER + 1),
        (0x93, 50 * CLUSTER + 512..51 * CLUSTER + 512),
    ] {
        vm.disk("source").write(byte, at.clone()).await?;
        all = all.written(byte, at);
    }
    let at = 60 * CLUSTER + 512..61 * CLUSTER + 4096;
    vm.disk("source").zero(at.clone()).await?;
    let all = all.zeroes(at);
    job.set_speed(0).await?;
    job.complete().await?;
    vm.disk("source").assert_reads(&all).await?;
    vm.shutdown().await?;
    copy.assert_reads(&all).await?;
    source.assert_reads(&all).await
}

const AT: [(u64, u64); 3] = [
    (512, 1024),
    (CLUSTER - 512, 1024),
    (2 * CLUSTER + 4096, 512),
];

/// Zeroes that the guest writes to less than a piece, or to parts of two, are on the copy, and change
/// nothing beside them.
#[case(upstream = "151::TestActiveMirror::testUnalignedSmallerThanGranularityWriteZeroes")]
async fn that_zeroes_less_than_a_piece_keeps_the_rest(t: &mut Test) -> CaseResult {
    let (source, copy, vm, mut job) = active(t, |source| Disk::of(source)).await?;
    let mut all = content();
    for first in [clusters(10..10).start, clusters(30..30).start] {
        for (at, length) in AT {
            let range = first + at..first + at + length;
            vm.disk("source").zero(range.clone()).await?;
            all = all.zeroes(range);
        }
        // The first ones are in pieces that are still to be copied.
        job.set_speed(0).await?;
        job.wait_ready().await?;
    }
    job.complete().await?;
    vm.disk("source").assert_reads(&all).await?;
    vm.shutdown().await?;
    copy.assert_reads(&all).await?;
    source.assert_reads(&all).await
}

/// Writes that overlap wait for each other, and none for itself.
#[case(
    upstream = "151::TestActiveMirror::testIntersectingActiveIO", host = System,
    needs = [Driver("blkdebug")]
)]
async fn in_overlapping_requests_gets_done(t: &mut Test) -> CaseResult {
    let disk = |source: &Image| Disk::of(source).with_breakpoints();
    let (source, copy, vm, job) = active(t, disk).await?;
    let disk = vm.disk("source");
    let first = disk.hold("write_aio").await?;
    disk.io("aio_write -P 0x91 0 1M").await?;
    first.wait_hit().await?;
    // These wait for the first one.
    disk.io("aio_write -P 0x92 0 2M").await?;
    disk.io("aio_write -P 0x92 0 2M").await?;
    let last = disk.hold("write_aio").await?;
    disk.io("aio_write -P 0x93 1M 2M").await?;
    last.wait_hit().await?;
    // They go on waiting, now for the last one.
    first.resume().await?;
    last.resume().await?;
    job.set_speed(0).await?;
    job.complete().await?;
    let lower = Content::nothing().written(0x92, 0..MIB);
    disk.assert_pattern(0x92, 0..MIB).await?;
    disk.assert_pattern(0x93, 2 * MIB..3 * MIB).await?;
    vm.shutdown().await?;
    source.assert_same_as(&copy).await?;
    let all = lower.written(0x93, 2 * MIB..3 * MIB);
    let either = |byte: u8| all.clone().written(byte, MIB..2 * MIB);
    let rest = content().with_part_of(&either(0x92), 0..3 * MIB);
    let other = content().with_part_of(&either(0x93), 0..3 * MIB);
    copy.assert_reads_either(rest, other).await
}

/// See docs/qemu-findings.md. It corrupts the heap, so the process may end in any way: by a lock that
/// is none any more, or by what glibc finds.
const FREED: KnownBug = known(
    "a write in flight when an active mirror ends uses its bitmap after it was freed",
    "died of SIG",
    since(11, 0),
)
.intermittent();

const MISSED: KnownBug = missed("copy holds").intermittent();

/// Writes to all of a disk, sixteen at a time, each time with another byte, until it is told to stop; returns
/// the last byte.
async fn overwrite(client: &nbd::Client, last: u8, stop: &AtomicBool) -> CaseResult<u8> {
    let mut byte = last;
    while !stop.load(Ordering::Relaxed) {
        byte = byte.wrapping_add(1);
        let lanes = (0..16).map(|lane| {
            let client = client.clone();
            async move {
                for at in (lane * PIECE..SIZE).step_by(16 * PIECE as usize) {
                    client.write(at, vec![byte; PIECE as usize]).await?;
                }
                CaseResult::Ok(())
            }
        });
        for lane in lanes.map(tokio::spawn).collect::<Vec<_>>() {
            lane.await.map_err(std::io::Error::from)??;
        }
    }
    Ok(byte)
}

const PIECE: u64 = 4 * KIB;

/// Requests may come at any time while mirrors start and end, one after another, and none is lost.
#[case(
    upstream = "151::TestHighThrottledWithNbdExport::testActiveOnCreation",
    known_bugs = [FREED, MISSED]
)]
async fn while_a_mirror_starts_is_left_alone(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().blockdev(&source).blockdev(&copy).launch().await?;
    let export = vm.export("source").writable().await?;
    let client = export.client().await?;
    let mut byte = 0;
    for _ in 0..8 {
        let stop = AtomicBool::new(false);
        let writes = overwrite(&client, byte, &stop);
        let mirror = async {
            let job = vm.mirror("source").to("copy").set("copy-mode", "write-blocking");
            let mut job = job.start().await?;
            let ready = job.wait_ready().await;
            stop.store(true, Ordering::Relaxed);
            ready.map(|()| job)
        };
        let (last, job) = tokio::try_join!(writes, mirror)?;
        byte = last;
        check!(job.cancel().await?.outcome == Outcome::Completed);
        vm.node("copy").assert_reads(&[(byte, 0..SIZE)]).await?;
    }
    client.disconnect().await?;
    vm.shutdown().await?;
    source.assert_same_as(&copy).await?;
    copy.assert_clean().await
}

/// A background mirror can be switched to write-blocking while it runs, not back.
#[case(
    upstream = "mirror-change-copy-mode::TestMirrorChangeCopyMode::test_background_to_active",
    needs = [Command("block-job-change")]
)]
async fn is_copied_at_once_from_then_on(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).content(content());
    let source = source.create().await?;
    // No other user may read the target node of a mirror, but the memory behind the server can be looked at.
    let copy = Arc::new(MemoryBackend::new(SIZE));
    let socket = t.socket("nbd")?;
    let server = Server::builder().export(Export::shared(copy.clone()));
    let server = server.listen_unix(&*socket)?;
    let node = Node::new("nbd").node_name("copy");
    let node = node.set("server", json!({"type": "unix", "path": socket}));
    let vm = t.host().disk(&source).blockdev(node).launch().await?;
    let copied = |cluster: u64, byte: u8| {
        let found = copy.snapshot(cluster * CLUSTER, CLUSTER);
        found.iter().all(|found| *found == byte)
    };
    let mut job = vm.mirror("source").to("copy").start().await?;
    let id = job.id().to_owned();
    let change = |mode: &str| {
        let how = json!({"id": id, "type": "mirror", "copy-mode": mode});
        vm.cmd("block-job-change", how)
    };
    job.wait_ready().await?;
    job.block_info().await?.assert("actively-synced", false)?;
    // A mirror that is paused copies nothing later on.
    job.pause().await?;
    vm.disk("source").write(0x91, clusters(1..2)).await?;
    check!(copied(1, 0x11));
    change("write-blocking").await?;
    vm.disk("source").write(0x92, clusters(2..3)).await?;
    check!(copied(2, 0x92));
    check!(copied(1, 0x11));
    change("background").expect_error("not implemented").await?;
    change("write-blocking").await?;
    job.resume().await?;
    job.until_block_info("both sides the same", |job| job["actively-synced"] == true)
        .await?;
    check!(copied(1, 0x91));
    job.complete().await?;
    vm.disk("source").assert_node("copy").await?;
    let all = written_twice();
    vm.disk("source").assert_reads(&all).await?;
    vm.shutdown().await?;
    server.finish().await?;
    source.assert_reads(&all).await
}

rows! {
    /// When a mirror copies what the guest writes.
    pub(super) MODES: &str;
    "copied-later" => "background";
    "copied-at-once" => "write-blocking";
}

rows! {
    VERBS: &str;
    "completed" => "block-job-complete";
    "cancelled" => "block-job-cancel";
}

/// A write that is still in flight when a mirror that is ready is completed, or cancelled, is waited for, and
/// is on the copy.
#[case(formats = [RAW], rows = (MODES, VERBS))]
async fn in_flight_when_the_job_ends_is_waited_for(
    t: &mut Test,
    mode: &&str,
    verb: &&str,
) -> CaseResult {
    let disk = Arc::new(MemoryBackend::new(SIZE));
    let socket = t.socket("nbd")?;
    let held = Rule::new(
        On::reply(CommandType::WRITE),
        Fault::HoldReply("go".to_owned()),
    );
    let server = Server::builder().export(Export::shared(disk.clone()));
    let server = server.plan(FaultPlan::new().rule(held)).listen_unix(&*socket)?;
    let source = Node::new("nbd").node_name("source");
    let source = source.set("server", json!({"type": "unix", "path": socket}));
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(source).blockdev(&copy).launch().await?;
    let mut job = vm.mirror("source").to("copy").set("copy-mode", *mode).start().await?;
    job.wait_ready().await?;

    let journal = server.journal();
    let go = server.trigger("go");
    let disk = vm.disk("source");
    let write = disk.io("aio_write -P 0x77 64k 64k");
    let end = async {
        let is = |event: &Event| matches!(event, Event::Request { command, .. } if *command == CommandType::WRITE);
        journal.wait_for(1, |entry| is(&entry.event)).await?;
        let order = vm.cmd(verb, json!({"device": job.id()}));
        vm.while_in_flight(order, || go.set()).await.map(drop)
    };
    tokio::try_join!(write, end)?;
    job.wait().await?;

    let node = if *verb == "block-job-complete" {
        "copy"
    } else {
        "source"
    };
    disk.assert_node(node).await?;
    let all = Content::nothing().written(0x77, clusters(1..2));
    disk.assert_reads(&all).await?;
    vm.shutdown().await?;
    server.finish().await?;
    copy.assert_reads(&all).await
}

/// A mirror in standby accepts the request to complete, and completes when it is resumed.
#[case(formats = [RAW], rows = MODES)]
async fn is_not_lost_when_completed_in_standby(t: &mut Test, mode: &&str) -> CaseResult {
    let source = t.image("source").size(SIZE).content(content());
    let source = source.create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(&source).blockdev(&copy).launch().await?;
    let job = vm.mirror("source").to("copy").set("copy-mode", *mode);
    let mut job = job.start().await?;
    job.wait_ready().await?;
    job.pause().await?;
    vm.disk("source").write(0x91, clusters(1..2)).await?;
    vm.cmd("block-job-complete", json!({"device": job.id()})).await?;
    job.info().await?.assert("status", "standby")?;
    vm.disk("source").write(0x92, clusters(2..3)).await?;
    job.info().await?.assert("status", "standby")?;
    job.resume().await?;
    job.wait().await?;
    vm.disk("source").assert_node("copy").await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    let all = written_twice();
    copy.assert_reads(&all).await?;
    source.assert_reads(&all).await
}
