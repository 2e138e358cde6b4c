//! What a backup makes of requests that are on their way.

use iotests_core::prelude::*;

use super::super::{HELD, IN_A_TABLE};
use crate::served::Served;

const SIZE: u64 = MIB;
const LAST: std::ops::Range<u64> = SIZE - CLUSTER..SIZE;

/// How a backup ends while what it copies for a guest is on its way.
enum End {
    Completed,
    Cancelled,
}

rows! {
    ENDS: End;
    "goes-on" => End::Completed;
    "is-cancelled" => End::Cancelled;
}

/// A guest's write waits until what it overwrites has been copied, however slow the target is, and then
/// completes, whether the backup goes on or is cancelled; a backup that completes has the disk as it was.
#[case(formats = [RAW], host = System, rows = ENDS)]
async fn a_guest_waits_for_its_copy_and_the_backup(t: &mut Test, end: &End) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let served = Served::holding(t, &copy, LAST)?;
    let vm = t.host().disk(&disk).launch().await?;
    let target = Node::new("raw").node_name("copy").file(served.node());
    vm.add_node(target).await?;
    let backup = vm.backup("disk").to("copy");
    let backup = backup.set("x-perf", json!({"max-chunk": CLUSTER}));
    let mut job = backup.speed(HELD).start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("its first step", begun).await?;

    let guest = vm.disk("disk");
    guest.io(&format!("aio_write -P 0x77 {} {CLUSTER}", LAST.start)).await?;
    served.wait_write(LAST).await?;
    // The data of the disk are still the old ones.
    guest.io(&format!("read -P 0x11 {} 512", SIZE - 2 * CLUSTER)).await?;
    match end {
        End::Completed => {
            job.set_speed(0).await?;
            served.release();
            job.wait().await?;
        }
        End::Cancelled => {
            let cancel = vm.cmd("job-cancel", json!({"id": job.id()}));
            vm.while_in_flight(cancel, || served.release()).await?;
            job.wait_status("null").await?;
            check!(job.wait().outcome().await?.outcome == Outcome::Cancelled);
        }
    }
    guest.io("aio_flush").await?;
    guest.assert_pattern(0x77, LAST).await?;
    vm.remove_node("copy").await?;
    served.finish().await?;
    vm.shutdown().await?;
    if let End::Completed = end {
        copy.assert_fill(0x11).await?;
    }
    disk.assert_patterns(&[(0x11, 0..LAST.start), (0x77, LAST)]).await
}

/// What is copied for a guest while the backup still looks for what it passes over is to be done as well, and counts as that.
#[case(host = System, unsupported_imgopts = ["data_file", "cluster_size", "extended_l2"])]
async fn a_copy_for_a_guest_counts_while_the_rest_is_passed_over(t: &mut Test) -> CaseResult {
    // All that is in the overlay is the last cluster, which the guest writes, and the table of it is none that is read before.
    let written = clusters(IN_A_TABLE + 1..IN_A_TABLE + 2);
    let base = t.image("base").size(written.end).write(0x11, clusters(0..1)).create().await?;
    let disk = t.image("disk").backing(&base).write(0x22, written.clone());
    let disk = disk.create().await?;
    let copy = t.image("copy").format(RAW).size(written.end).create().await?;
    let served = Served::holding(t, &copy, written.clone())?;
    let target = Node::new("raw").node_name("copy").file(served.node());
    let node = disk.node().set("l2-cache-entry-size", 4 * KIB);
    let vm = t.host().disk(Disk::of(node).with_breakpoints());
    let vm = vm.blockdev(target).launch().await?;
    let guest = vm.disk("disk");
    guest.io("read -P 0x11 0 512").await?;

    let table = guest.hold("l2_load").await?;
    let job = vm.backup("disk").to("copy").sync("top").start().await?;
    table.wait_hit().await?;
    guest.io(&format!("aio_write -P 0x77 {} {CLUSTER}", written.start)).await?;
    table.resume().await?;
    served.wait_write(written.clone()).await?;

    check!(job.info().await?["total-progress"] == CLUSTER);
    served.release();
    job.wait().await?;
    guest.io("aio_flush").await?;
    vm.remove_node("copy").await?;
    served.finish().await?;
    vm.shutdown().await?;
    copy.assert_reads(&[(0x22, written)]).await
}
