//! Stopping a machine while a job copies from a throttled disk.

use iotests_core::prelude::*;

use crate::json::number;

defaults! {
    formats = [QCOW2], groups = [QUICK, THROTTLE], needs = [Driver("throttle")],
    host = System, guest = RunningIdle,
}

const SIZE: u64 = 16 * MIB;

rows! {
    JOBS: &str;
    "mirror" => "blockdev-mirror", upstream = "test_drive_mirror";
    "backup" => "blockdev-backup", upstream = "test_drive_backup";
    "commit" => "block-commit", upstream = "test_block_commit";
    "stream" => "block-stream";
}

/// `stop` drains all disks, but does not wait for jobs to do all their work.
#[case(upstream = "129::TestStopWithBlockJob::{command}", rows = JOBS)]
async fn does_not_finish_jobs(t: &mut Test, command: &&str) -> CaseResult {
    let base = t.image("base").size(SIZE).create().await?;
    let source = t.image("source").backing(&base).fill(0x5d).create().await?;
    let overlay = t.image("overlay").size(SIZE).create().await?;
    let target = t.image("target").size(SIZE).create().await?;
    let group = json!({"bps-total": 1024});
    let slow = Node::throttle("slow", source.node()).node_name("slow");
    let top = overlay.node().backing(slow);
    let vm = t.host().throttle_group("slow", group);
    let vm = vm.disk(top).blockdev(&target).launch().await?;

    let job = match *command {
        "block-stream" => vm.stream("overlay"),
        "block-commit" => vm.commit("overlay").set("top-node", "slow"),
        "blockdev-mirror" => vm.mirror("overlay").to("target").set("buf-size", 65536),
        _ => {
            let few = json!({"max-chunk": 65536, "max-workers": 8});
            vm.backup("overlay").to("target").set("x-perf", few)
        }
    };
    let job = job.start().await?;
    vm.cmd("stop", ()).await?;
    let goes_on = json!({"status": "running", "ready": false});
    job.block_info().await?.assert_includes(&goes_on)?;
    check!(number(&job.block_info().await?, "offset")? < SIZE);
    // Left to the throttle, it would take hours.
    job.leave();
    vm.shutdown().await?;
    source.assert_fill(0x5d).await
}
