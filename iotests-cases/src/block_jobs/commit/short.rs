//! Commits past a layer that is shorter than those above and below it.

use super::*;
use crate::shorter::{ENDS, layers};

enum By {
    Job,
    ActiveJob,
}

rows! {
    BY: By;
    "of-a-middle-layer" => By::Job;
    "of-the-active-layer" => By::ActiveJob;
}

/// Behind the end of a shorter layer, a disk reads zeroes and nothing of what is below; so it does when the layer has gone, and the base has
/// zeroes there.
#[case(formats = [QCOW2], host = Any, groups = [QUICK], rows = (BY, ENDS))]
async fn still_hides_what_is_behind_its_end(t: &mut Test, by: &By, end: &u64) -> CaseResult {
    let [base, _, top] = layers(t, *end).await?;
    let disk = match by {
        By::Job => t.image("disk").backing(&top).create().await?,
        By::ActiveJob => top.clone(),
    };
    let held = Content::of(&[(0x22, 0..CLUSTER), (0x11, CLUSTER..MIB)]);
    let held = held.written(0x33, 2 * MIB..2 * MIB + CLUSTER);
    let held = held.written(0x11, MIB..*end);
    disk.assert_reads(&held).await?;

    let vm = t.host().disk(&disk).launch().await?;
    let commit = vm.commit(&disk).top(&top).base(&base);
    let job = commit.start().await?;
    match by {
        By::Job => job.wait().await?,
        By::ActiveJob => job.complete().await?,
    };
    vm.disk(&disk).assert_reads(&held).await?;
    vm.shutdown().await?;
    base.assert_reads(&held).await?;
    base.assert_clean().await
}
