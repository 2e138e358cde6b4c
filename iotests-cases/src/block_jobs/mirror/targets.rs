//! What a mirror copies to, and in what pieces.

use iotests_core::prelude::*;

use super::{NEGATIVE_SPEED, null};
use crate::block_jobs::mirror_backing_chain::shows_through;
use crate::block_jobs::woken::{HURRIED, assert_not_hurried};

const SIZE: u64 = 2 * MIB;

/// What the lower layer of a source holds, and what the upper one does.
fn contents() -> [Content; 2] {
    [
        Content::nothing().numbered(0x20, clusters(0..12)),
        Content::nothing()
            .numbered(0x60, clusters(8..16))
            .zeroes(clusters(4..5))
            .numbered(0x60, clusters(31..32)),
    ]
}

/// What the guest writes when the mirror is ready: parts of clusters.
fn written(content: Content) -> Content {
    let content = content.written(0x77, 2 * CLUSTER + 4096..2 * CLUSTER + 8192);
    content.written(0x78, 20 * CLUSTER + 512..21 * CLUSTER + 512)
}

/// A file that is there.
struct File {
    /// The backing image that it records.
    backing: Option<&'static str>,
    cluster: u64,
    arguments: fn() -> Value,
    cancel: bool,
}

rows! {
    FILES: File { backing, cluster, arguments, cancel };
    "with-large-clusters" => None, SIZE, || json!({"buf-size": 64 * KIB}), false,
        upstream = "041::TestSingleDrive::test_small_buffer2";
    "with-large-clusters-and-the-backing-file" => Some("base"), MIB, || json!({}), false,
        upstream = "041::TestSingleDrive::test_large_cluster";
    "with-the-backing-file" => Some("base"), CLUSTER, || json!({}), false,
        upstream = "041::TestMirrorNoBacking::test_complete",
        known_bugs = [shows_through("source holds 0x24 in 0x40000..0x41000, expected 0x00")];
    "with-the-backing-file-and-cancelled" => Some("base"), CLUSTER, || json!({}), true,
        upstream = "041::TestMirrorNoBacking::test_cancel",
        known_bugs = [shows_through("copy holds 0x24 in 0x40000..0x50000, expected 0x00")];
    "with-large-clusters-and-another-backing-file" => Some("other"), SIZE, || json!({}), false,
        upstream = "041::TestMirrorNoBacking::test_large_cluster";
    "in-small-pieces" => None, CLUSTER, || json!({"granularity": 8 * KIB}), false,
        upstream = "041::TestGranularity::test_granularity";
    "in-the-smallest-pieces" => None, CLUSTER,
        || json!({"granularity": 512, "buf-size": 3 * 512}), false;
    "in-pieces-larger-than-the-image" => None, CLUSTER,
        || json!({"granularity": 64 * MIB}), false;
}

/// A file becomes a whole copy whatever its clusters and the pieces are, and keeps its backing image.
#[case(rows = FILES)]
async fn a_file_that_is_there(t: &mut Test, file: &File) -> CaseResult {
    let [lower, upper] = contents();
    let base = t.image("base").format(RAW).size(SIZE).content(&lower);
    let base = base.create().await?;
    let other = t.image("other").size(SIZE).create().await?;
    let source = t.image("source").backing(&base).content(&upper);
    let source = source.create().await?;
    let backing = match file.backing {
        None => None,
        Some("base") => Some(&base),
        Some(_) => Some(&other),
    };
    let copy = t.image("copy").option("cluster_size", file.cluster);
    let copy = match backing {
        None => copy.size(SIZE).create().await?,
        Some(backing) => copy.backing(backing).create().await?,
    };
    let vm = t.host().disk(&source).launch().await?;

    let mut job = vm.drive_mirror("source", &copy);
    for (name, value) in (file.arguments)().as_object().into_iter().flatten() {
        job = job.set(name, value.clone());
    }
    let mut job = job.set("mode", "existing").start().await?;
    job.wait_ready().await?;
    let own = written(Content::nothing());
    vm.disk("source").write_all(&own).await?;
    let node = if file.cancel {
        check!(job.cancel().await?.outcome == Outcome::Completed);
        "source"
    } else {
        job.complete().await?;
        "copy"
    };

    vm.disk("source").assert_node(node).await?;
    let all = written(upper.over(&lower));
    vm.disk("source").assert_reads(&all).await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    copy.assert_reads(&all).await?;
    copy.assert_clean().await?;
    match backing {
        None => copy.header().await?.assert_absent("backing-filename"),
        Some(backing) => copy.assert_backing(backing).await.map(drop),
    }
}

rows! {
    SYNCS: &str;
    "full" => "full", upstream = "test_complete_full";
    "top" => "top", upstream = "test_complete_top";
}

/// A disk that is larger than its backing image is copied to its end.
#[case(upstream = "041::TestMirrorResized::{sync}", rows = SYNCS)]
async fn of_a_disk_larger_than_its_backing_file(t: &mut Test, sync: &&str) -> CaseResult {
    let base = t.image("base").format(RAW).size(MIB).fill(0x11).create().await?;
    let own = Content::nothing().written(0x22, clusters(4..5));
    let own = own.written(0x33, clusters(30..32));
    let source = t.image("source").backing(&base).size(SIZE).content(&own);
    let source = source.create().await?;
    let copy = t.image("copy").reserve().await?;
    let vm = t.host().disk(&source).launch().await?;

    let job = vm.drive_mirror("source", &copy).sync(sync);
    job.start().await?.complete().await?;

    vm.disk("source").assert_node("copy").await?;
    let all = own.over(&Content::nothing().written(0x11, 0..MIB));
    vm.disk("source").assert_reads(&all).await?;
    vm.shutdown().await?;
    copy.assert_reads(&all).await?;
    match *sync {
        "top" => copy.assert_layer(&own).await?,
        _ => copy.header().await?.assert_absent("backing-filename")?,
    }
    copy.assert_clean().await
}

/// How a disk without a backing image is copied.
struct Unbacked {
    command: &'static str,
    mode: &'static str,
    sync: &'static str,
}

rows! {
    UNBACKED: Unbacked { command, mode, sync };
    "absolute-paths-full" => "drive-mirror", "absolute-paths", "full",
        upstream = "test_absolute_paths_full";
    "absolute-paths-top" => "drive-mirror", "absolute-paths", "top",
        upstream = "test_absolute_paths_top";
    "absolute-paths-none" => "drive-mirror", "absolute-paths", "none",
        upstream = "test_absolute_paths_none";
    "existing-full" => "drive-mirror", "existing", "full", upstream = "test_existing_full";
    "blockdev-full" => "blockdev-mirror", "existing", "full", upstream = "test_blockdev_full";
}

/// Where a disk without a backing image has nothing, the copy reads as zeroes, whatever it held.
#[case(upstream = "041::TestUnbackedSource::{row}", rows = UNBACKED)]
async fn of_a_disk_without_a_backing_file(t: &mut Test, row: &Unbacked) -> CaseResult {
    let content = Content::nothing().numbered(0x20, clusters(3..6));
    let source = t.image("source").size(SIZE).content(&content);
    let source = source.create().await?;
    let copy = t.image("copy").size(SIZE);
    let copy = match row.mode {
        "existing" => copy.write(42, clusters(0..4)).create().await?,
        _ => copy.reserve().await?,
    };
    let vm = t.host().disk(&source).launch().await?;

    let job = if row.command == "blockdev-mirror" {
        vm.add_node(&copy).await?;
        vm.mirror("source").to("copy")
    } else {
        vm.drive_mirror("source", &copy).set("mode", row.mode)
    };
    job.sync(row.sync).start().await?.complete().await?;

    vm.assert_no_jobs().await?;
    vm.disk("source").assert_node("copy").await?;
    vm.disk("source").assert_reads(&content).await?;
    vm.shutdown().await?;
    copy.assert_reads(&content).await?;
    if row.sync == "none" {
        copy.assert_empty().await?;
        copy.assert_backing(&source).await?;
    }
    copy.assert_clean().await
}

/// A mirror keeps the speed that it was given, at its start and later.
#[case(
    upstream = ["041::TestSetSpeed::test_set_speed", "041::TestSetSpeed::test_set_speed_invalid"]
)]
async fn at_a_speed(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).fill(0x11).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(&source).blockdev(&copy).launch().await?;
    let mirror = || vm.mirror("source").to("copy").set("buf-size", CLUSTER);
    mirror().set("speed", -1).refused(NEGATIVE_SPEED).await?;

    let job = mirror().start().await?;
    job.block_info().await?.assert("speed", 0)?;
    job.force_cancel().await?;

    let mut job = mirror().speed(1).start().await?;
    job.block_info().await?.assert("speed", 1)?;
    job.set_speed(2).await?;
    let whose = json!({"device": job.id(), "speed": -1});
    let negative = vm.cmd("block-job-set-speed", whose);
    negative.expect_error(NEGATIVE_SPEED).await?;
    let expected = json!({"speed": 2, "type": "mirror", "status": "running", "ready": false});
    job.block_info().await?.assert_includes(&expected)?;
    job.set_speed(0).await?;
    job.wait_ready().await?;
    job.complete().await?.event.assert("data/speed", 0)?;
    vm.shutdown().await?;
    copy.assert_fill(0x11).await
}

/// A mirror keeps to its speed although the machine is drained time and again, which wakes it early.
#[case(known_bugs = [HURRIED])]
async fn at_a_speed_although_it_is_woken(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).fill(0x11).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(&source).blockdev(&copy).launch().await?;
    let job = vm.mirror("source").to("copy").set("buf-size", CLUSTER);
    let job = job.speed(1).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first piece", begun).await?;
    assert_not_hurried(&vm, &job).await?;
    check!(job.force_cancel().await?.outcome == Outcome::Cancelled);
    vm.shutdown().await?;
    source.assert_fill(0x11).await
}

/// When a mirror begins to copy what a guest discards.
#[derive(PartialEq)]
enum When {
    Before,
    During,
    Ready,
}

rows! {
    WHEN: When;
    "before-it-is-copied" => When::Before;
    "at-any-time" => When::During, upstream = "132::TestSingleDrive::test_mirror_discard";
    "when-ready" => When::Ready;
}

/// What a guest discards while its disk is mirrored is discarded in the copy as well.
#[case(formats = [RAW, QCOW2], rows = WHEN)]
async fn of_discarded_data(t: &mut Test, when: &When) -> CaseResult {
    let source = t.image("source").size(SIZE).fill(0x5d).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let unmap = |image: &Image| image.node().set("discard", "unmap");
    let vm = t.host().disk(unmap(&source)).blockdev(unmap(&copy));
    let vm = vm.launch().await?;

    let mut job = vm.mirror("source").to("copy");
    if *when == When::Before {
        job = job.speed(1).set("buf-size", CLUSTER);
    }
    let mut job = job.start().await?;
    if *when == When::Ready {
        job.wait_ready().await?;
    }
    vm.disk("source").discard(clusters(0..1)).await?;
    vm.disk("source").discard(clusters(20..24)).await?;
    job.set_speed(0).await?;
    job.complete().await?;

    vm.disk("source").assert_node("copy").await?;
    vm.shutdown().await?;
    source.assert_same_as(&copy).await?;
    copy.assert_pattern(0x5d, clusters(1..20)).await?;
    copy.assert_clean().await
}

rows! {
    UPDATES: bool;
    "copied" => false, upstream = "test_unaligned";
    "written-to" => true, upstream = "test_unaligned_with_update";
}

rows! {
    COMMANDS: &str;
    "drive" => "drive-mirror", upstream = "TestUnaligned";
    "blockdev" => "blockdev-mirror";
}

/// An image that is smaller than a piece of the mirror does not become larger.
#[case(upstream = "152::{command}::{update}", formats = [RAW, QCOW2], rows = (COMMANDS, UPDATES))]
async fn of_a_disk_smaller_than_a_piece(t: &mut Test, command: &&str, update: &bool) -> CaseResult {
    let source = t.image("source").size(512).fill(0x11).create().await?;
    let copy = t.image("copy").size(512).create().await?;
    let vm = t.host().disk(&source).launch().await?;
    let job = if *command == "blockdev-mirror" {
        vm.add_node(&copy).await?;
        vm.mirror("source").to("copy")
    } else {
        vm.drive_mirror("source", &copy)
    };
    let mut job = job.set("granularity", 64 * KIB).start().await?;
    job.wait_ready().await?;
    let byte = if *update { 0x22 } else { 0x11 };
    if *update {
        vm.disk("source").write(byte, 0..512).await?;
    }
    job.complete().await?;
    vm.disk("source").assert_node("copy").await?;
    vm.shutdown().await?;
    for image in [&source, &copy] {
        check!(image.size().await? == 512);
        image.assert_fill(byte).await?;
    }
    Ok(())
}

/// An image whose data are copied in many pieces at once, to a target that is slower, does not make the
/// mirror wait for itself.
#[case(upstream = "235", formats = [QCOW2], needs = [Driver("throttle"), Driver("null-co")])]
async fn that_is_slow(t: &mut Test) -> CaseResult {
    let size = 128 * MIB;
    let source = t.image("source").size(size).option("preallocation", "metadata");
    let source = source.create().await?;
    let slow = Node::throttle("group", null("fast", size)).node_name("slow");
    let vm = t.host().iothread("io").disk(Disk::of(&source).scsi().iothread("io"));
    let vm = vm.throttle_group("group", json!({"bps-total": size}));
    let vm = vm.blockdev(slow).launch().await?;
    let mut job = vm.mirror("source").to("slow").start().await?;
    job.wait_ready().await?;
    job.block_info().await?.assert("offset", size)?;
    check!(job.cancel().await?.outcome == Outcome::Completed);
    vm.shutdown().await?;
    source.assert_clean().await
}
