//! Jobs of a disk that a daemon exports in an iothread.

use std::ops::Range;

use iotests_core::prelude::*;

use super::HELD;
use crate::threads::CLIENT_LEAVES;

defaults! { formats = [QCOW2], groups = [QUICK, EXPORT], host = Qsd }

struct Work {
    start: fn(&Machine) -> JobBuilder,
    /// What is on the disk when it is done.
    chain: &'static str,
}

rows! {
    WORK: Work { start, chain };
    "backup" => |vm| vm.backup("disk").to("copy"), "disk -> base";
    "mirror" => |vm| vm.mirror("disk").to("copy"), "copy";
    "stream" => |vm| vm.stream("disk"), "disk";
    "commit" => |vm| vm.commit("disk"), "base";
}

rows! {
    /// Whether the export insists on its iothread.
    STAYS: bool;
    "that-may-move" => false;
    "that-stays" => true;
}

/// Where the client writes while the job is held, and when it has ended.
const DURING: Range<u64> = clusters(30..31);
const AFTER: Range<u64> = clusters(31..32);

/// See docs/qemu-findings.md.
const MOVED: KnownBug = known(
    "a filter that is made in the main thread takes the node of an export there",
    "bdrv_insert_node: Assertion `bdrv_get_aio_context(bs) == ctx' failed",
    since(8, 0),
)
.only(&[&["that-may-move", "backup"], &["that-may-move", "stream"]]);

const CLOSED: KnownBug = CLIENT_LEAVES.only(&[&["that-stays", "*"]]);

/// See docs/qemu-findings.md.
const ATTACHED: KnownBug = known(
    "an export that moves to another thread when its client has just sent a request aborts the daemon",
    "blk_aio_attached: Assertion `client->recv_coroutine == NULL'",
    before(8, 0),
)
.only(&[&["that-may-move", "*"]])
.intermittent();

/// A client of an export in an iothread writes while a job runs and afterwards, and reads what it has written; the job does its work, whether
/// the export lets its disk go to another thread or not.
#[case(rows = (STAYS, WORK), known_bugs = [MOVED, CLOSED, ATTACHED])]
async fn in_an_iothread_do_their_work(t: &mut Test, stays: &bool, work: &Work) -> CaseResult {
    let base = t.image("base").size(2 * MIB).fill(0x11).create().await?;
    let disk = t.image("disk").backing(&base).write(0x22, clusters(0..8)).create().await?;
    let copy = t.image("copy").size(2 * MIB).create().await?;
    let old = Content::nothing().written(0x11, 0..2 * MIB).written(0x22, clusters(0..8));
    let vm = t.host().iothread("one").blockdev(&disk).blockdev(&copy).launch().await?;
    let export = vm.export("disk").writable().iothread("one").set("fixed-iothread", *stays);
    let client = export.await?.client().await?;

    let mut job = (work.start)(&vm).speed(HELD).start().await?;
    job.wait_status("running").await?;
    client.write(DURING.start, vec![0x33; CLUSTER as usize]).await?;
    job.set_speed(0).await?;
    match work.chain {
        "copy" | "base" => job.complete().await?,
        _ => job.wait().await?,
    };
    client.write(AFTER.start, vec![0x44; CLUSTER as usize]).await?;

    let now = old.clone().written(0x33, DURING).written(0x44, AFTER);
    vm.assert_no_jobs().await?;
    vm.assert_chain(work.chain).await?;
    for (at, byte) in [
        (0, 0x22),
        (clusters(8..9).start, 0x11),
        (DURING.start, 0x33),
        (AFTER.start, 0x44),
    ] {
        check!(client.read(at, 512).await? == [byte; 512], "at {at:#x}");
    }
    client.disconnect().await?;
    vm.shutdown().await?;
    match work.chain {
        "copy" => copy.assert_reads(now).await,
        "base" => base.assert_reads(now).await,
        _ => disk.assert_reads(now).await,
    }?;
    if work.chain == "disk -> base" {
        copy.assert_reads(old).await?;
    }
    Ok(())
}
