//! Migration to a host that has no access to the disk, which is mirrored there over NBD meanwhile.
//!
//! Upstream has no test of it.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2, RAW], protocols = [FILE], groups = [RW, MIGRATION, JOB], host = System,
    guest = RunningIdle,
}

const SIZE: u64 = 4 * MIB;

/// A guest goes on with the copy of its disk, which has all that it wrote until then, and takes its
/// bitmap along; the mirror is ready all the time and does not keep it from leaving.
#[case]
async fn takes_the_disk_along(t: &mut Test) -> CaseResult {
    let content = Content::nothing().numbered(0x20, clusters(0..20));
    let disk = t.image("disk").size(SIZE).content(&content).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let source = t.vm().name("source").disk(&disk).launch().await?;
    // The export may still write when the guest has the disk.
    let there = Disk::of(copy.node().node_name("disk")).property("share-rw", true);
    let target = t.vm().name("target").disk(there).incoming("defer");
    let target = target.launch().await?;
    let export = target.export("disk").writable().await?;
    source.add_node(export.node()?.node_name("remote")).await?;

    source.bitmap("disk", "b0").add().await?;
    source.disk("disk").write(0x77, clusters(30..32)).await?;
    let job = source.mirror("disk").to("remote");
    let mut job = job.set("copy-mode", "write-blocking").start().await?;
    job.wait_ready().await?;
    source.disk("disk").write(0x78, clusters(1..2)).await?;
    t.migrate(&source, &target).capability("dirty-bitmaps").await?;
    check!(job.cancel().await?.outcome == Outcome::Completed);
    source.shutdown().await?;
    export.remove().await?;

    let content = content.written(0x77, clusters(30..32)).written(0x78, clusters(1..2));
    target.disk("disk").assert_reads(&content).await?;
    check!(target.bitmap("disk", "b0").await?.count == 3 * CLUSTER);
    target.disk("disk").write(0x79, clusters(2..3)).await?;
    target.shutdown().await?;
    disk.assert_reads(&content).await?;
    copy.assert_reads(content.written(0x79, clusters(2..3))).await
}
