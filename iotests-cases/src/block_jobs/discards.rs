//! What a guest discards while a job runs.

use iotests_core::prelude::*;

use super::HELD;

defaults! { formats = [QCOW2], groups = [QUICK] }

/// A job that is held, or is ready.
struct Work {
    start: Option<fn(&Machine) -> JobBuilder>,
    is_ready: bool,
}

rows! {
    WORK: Work { start, is_ready };
    "no-job" => None, false;
    "a-stream" => Some(|vm| vm.stream("disk").speed(HELD)), false;
    "a-commit-below" => Some(|vm| vm.commit("disk").top("mid").speed(HELD)), false;
    "an-active-commit" => Some(|vm| vm.commit("disk")), true;
    "a-mirror" => Some(|vm| vm.mirror("disk").to("copy")), true;
    "a-backup" => Some(|vm| vm.backup("disk").to("copy").speed(HELD)), false;
}

/// See docs/qemu-findings.md.
const DROPPED: KnownBug = known(
    "the filter of a job drops what a guest discards",
    "disk holds 0x33 in 0x0",
    ALWAYS,
)
.only(&[
    &["a-stream"],
    &["an-active-commit"],
    &["a-mirror"],
    &["a-backup"],
]);

/// What a guest discards reads as zeroes and takes no more room, while a job runs as at any other time.
#[case(rows = WORK, known_bugs = [DROPPED])]
async fn take_effect(t: &mut Test, work: &Work) -> CaseResult {
    let base = t.image("base").size(2 * MIB).fill(0x11).create().await?;
    let mid = t.image("mid").backing(&base).write(0x22, clusters(0..24)).create().await?;
    let disk = t.image("disk").backing(&mid).write(0x33, clusters(0..16)).create().await?;
    let copy = t.image("copy").size(2 * MIB).create().await?;
    let unmap = |image: &Image| image.node().set("discard", "unmap");
    let below = unmap(&mid).backing(unmap(&base));
    let host = t.host().disk(unmap(&disk).backing(below)).blockdev(unmap(&copy));
    let vm = host.launch().await?;
    let job = match work.start {
        Some(start) => {
            let mut job = start(&vm).start().await?;
            job.wait_status(if work.is_ready { "ready" } else { "running" }).await?;
            Some(job)
        }
        None => None,
    };
    vm.disk("disk").discard(clusters(0..4)).await?;
    let now = Content::nothing().written(0x11, clusters(24..32)).written(0x22, clusters(16..24));
    let now = now.written(0x33, clusters(4..16));
    vm.disk("disk").assert_reads(&now).await?;
    if let Some(job) = job {
        job.force_cancel().await?;
    }
    vm.disk("disk").assert_reads(&now).await?;
    vm.shutdown().await?;
    disk.assert_reads(now).await?;
    disk.assert_clean().await
}
