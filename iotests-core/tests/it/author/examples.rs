//! The cases of docs/case-examples.md: all that it shows is a part of this file, and is run here.

use iotests_core::prelude::*;

use super::bench::{Bench, hosts, sets};
use super::guide::{blocks, plain};

const PATTERNS: Content = Content::of(&[(0x5d, 0..64 * KIB), (0xd5, MIB..MIB + 64 * KIB)]);

/// A copy in another format holds the same data, and what qemu-img refuses leaves the image as it was.
#[case(formats = [QCOW2], groups = [RW, QUICK])]
async fn convert_copies_the_data(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).content(&PATTERNS).create().await?;
    let copy = t.image("copy").format(RAW).reserve().await?;
    disk.convert(&copy).await?;
    copy.assert_reads(&PATTERNS).await?;
    disk.assert_same_as(&copy).await?;

    let file = disk.file_bytes()?;
    disk.resize(MIB).expect_error("--shrink").await?;
    file.assert_unchanged()?;
    check!(disk.info().await?.virtual_size == 4 * MIB);
    Ok(())
}

/// A mirror copies the disk, and goes on copying what the guest writes until it is completed.
#[case(formats = [QCOW2, RAW], groups = [RW, JOB], host = Any)]
async fn a_mirror_follows_the_guest(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).content(&PATTERNS).create().await?;
    let copy = t.image("copy").size(4 * MIB).create().await?;
    let vm = t.host().disk(&disk).blockdev(&copy).launch().await?;

    let mut job = vm.mirror(&disk).to(&copy).start().await?;
    job.wait_ready().await?;
    vm.disk(&disk).write(0x33, 0..64 * KIB).await?;
    job.complete().await?;

    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    copy.assert_reads(PATTERNS.written(0x33, 0..64 * KIB)).await
}

/// A bitmap records where the guest writes.
#[case(formats = [QCOW2], groups = [RW, QUICK], host = Any)]
async fn a_bitmap_records_writes(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    vm.bitmap(&disk, "b0").add().await?;
    vm.disk(&disk).write(0x11, MIB..MIB + 64 * KIB).await?;
    check!(vm.bitmap(&disk, "b0").await?.count == 64 * KIB);
    let again = json!({"node": "disk", "name": "b0"});
    vm.cmd("block-dirty-bitmap-add", again).refused("already exists").await?;
    vm.shutdown().await?;
    Ok(())
}

/// A client of an export reads what the machine has, and writes to it.
#[case(formats = [QCOW2], groups = [RW, QUICK], host = Any)]
async fn an_export_is_read_and_written(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).content(&PATTERNS).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let export = vm.export(&disk).writable().await?;

    let client = export.open().await?;
    client.assert_reads(&PATTERNS).await?;
    client.write(0x33, 0..64 * KIB).await?;

    vm.shutdown().await?;
    disk.assert_reads(PATTERNS.written(0x33, 0..64 * KIB)).await
}

/// A node that is reopened read-only refuses writers, and keeps its data.
#[case(formats = [QCOW2], groups = [RW, QUICK], host = Any, needs = [Command("blockdev-reopen")])]
async fn a_reopened_node_is_read_only(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).content(&PATTERNS).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    vm.reopen(&disk, |node| node.read_only(true)).await?;
    vm.assert_read_only(&[("disk", true)]).await?;
    let writer = vm.export("disk").writable();
    writer.expect_error("Cannot export read-only node as writable").await?;
    vm.shutdown().await?;
    disk.assert_reads(&PATTERNS).await
}

/// What the source had written is there for the target.
#[case(formats = [QCOW2], groups = [RW, MIGRATION], host = System)]
async fn a_migration_keeps_the_data(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).content(&PATTERNS).create().await?;
    let source = t.vm().name("source").disk(&disk).launch().await?;
    let target = t.vm().name("target").disk(&disk).incoming("defer").launch().await?;
    source.disk(&disk).write(0x33, 0..64 * KIB).await?;

    t.migrate(&source, &target).await?;

    let now = PATTERNS.written(0x33, 0..64 * KIB);
    target.disk(&disk).assert_reads(&now).await?;
    source.shutdown().await?;
    target.shutdown().await?;
    disk.assert_reads(now).await
}

#[test]
fn the_case_of_a_tool_passes() {
    for set in sets() {
        let run = Bench::new(&set).run(|t| Box::pin(convert_copies_the_data(t)));
        run.assert_passed();
    }
}

#[test]
fn the_cases_of_machines_pass() {
    for (set, backend) in hosts() {
        let bench = || Bench::new(&set).backend(backend);
        let runs = [
            bench().run(|t| Box::pin(a_mirror_follows_the_guest(t))),
            bench().run(|t| Box::pin(a_bitmap_records_writes(t))),
            bench().run(|t| Box::pin(an_export_is_read_and_written(t))),
            bench().run(|t| Box::pin(a_reopened_node_is_read_only(t))),
        ];
        for run in runs {
            run.assert_passed();
        }
        if backend == Backend::System {
            let run = bench().run(|t| Box::pin(a_migration_keeps_the_data(t)));
            run.assert_passed();
        }
    }
}

#[test]
fn all_that_the_page_of_examples_shows_is_a_part_of_this_file() {
    let here = plain(include_str!("examples.rs"));
    let blocks = blocks(include_str!("../../../../docs/case-examples.md"));
    assert_eq!(blocks.len(), 6);
    for block in blocks {
        assert!(here.contains(&plain(&block)), "no test runs:\n{block}");
    }
}
