//! Backups that are held in their middle.

use iotests_core::prelude::*;

use crate::block_jobs::HELD;
use crate::block_jobs::woken::assert_not_hurried;

/// A backup that something else wakes up early does not do more for it.
#[case]
async fn is_not_hurried(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let copy = t.image("copy").format(RAW).size(MIB).create().await?;
    let vm = t.host().disk(&disk).blockdev(&copy).launch().await?;
    let backup = vm.backup("disk").to("copy").set("x-perf", json!({"max-chunk": CLUSTER}));
    let job = backup.speed(HELD).start().await?;
    let begun = |job: &Value| job["current-progress"] == CLUSTER;
    job.until("its first step", begun).await?;

    assert_not_hurried(&vm, &job).await?;

    check!(job.cancel().await?.outcome == Outcome::Cancelled);
    vm.shutdown().await?;
    copy.assert_reads(&[(0x11, 0..CLUSTER)]).await?;
    disk.assert_fill(0x11).await
}
