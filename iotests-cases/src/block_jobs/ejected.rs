//! Removing nodes that a job uses.

use iotests_core::prelude::*;

defaults! { formats = [QCOW2, QED], groups = [AUTO, QUICK] }

/// A job on the top of `drv0 -> middle -> bottom`.
struct Uses {
    command: &'static str,
    arguments: &'static [(&'static str, &'static str)],
    /// Which of the layers below have data; all of it takes the job longer than the case.
    filled: Option<&'static str>,
    /// Whether it is ready, so that cancelling it completes it.
    ready: bool,
    /// Why the node stays.
    error: &'static str,
}

const BUSY: &str = "Node 'drv0' is busy: block device is in use by block job";

const COPY: &[(&str, &str)] = &[("target", "target"), ("sync", "none")];

rows! {
    USES: Uses { command, arguments, filled, ready, error };
    "backup" => "blockdev-backup", COPY, None, false, "Block device drv0 is in use",
        upstream = "141";
    "mirror" => "blockdev-mirror", COPY, None, true, BUSY, upstream = "141";
    "active-commit" => "block-commit", &[], None, true, BUSY, upstream = "141";
    "commit" => "block-commit", &[("top-node", "middle")], Some("middle"), false, BUSY,
        upstream = "141";
    "stream" => "block-stream", &[], Some("bottom"), false, BUSY, upstream = "141";
}

/// A node that a job uses cannot be removed until the job is cancelled.
#[case(upstream = "{row}", rows = USES)]
async fn is_refused_while_a_job_runs(t: &mut Test, row: &Uses) -> CaseResult {
    let data = |name: &str| match row.filled == Some(name) {
        true => Content::nothing().written(0x11, 0..MIB),
        false => Content::nothing(),
    };
    let bottom = t.image("bottom").size(MIB).content(data("bottom"));
    let bottom = bottom.create().await?;
    let middle = t.image("middle").backing(&bottom).content(data("middle"));
    let middle = middle.create().await?;
    let top = t.image("drv0").backing(&middle).create().await?;
    let target = t.image("target").size(MIB).create().await?;
    let files = [bottom.file_bytes()?, middle.file_bytes()?];
    let vm = t.host().blockdev(&target).blockdev(&top).launch().await?;

    let mut job = vm.job(row.command, json!({"device": "drv0"}));
    for (key, value) in row.arguments {
        job = job.set(key, *value);
    }
    let job = if row.filled.is_some() {
        job.speed(1)
    } else {
        job
    };
    let mut job = job.start().await?;
    if row.ready {
        job.wait_ready().await?;
    }
    let before = vm.state().await?;
    vm.remove_node("drv0").expect_error(row.error).await?;
    vm.assert_same_graph_as(&before).await?;

    let ended = job.cancel().await?;
    check!((ended.outcome == Outcome::Completed) == row.ready);
    vm.assert_no_jobs().await?;
    vm.remove_node("drv0").await?;
    vm.assert_no_nodes(&["drv0", "middle", "bottom"]).await?;
    vm.shutdown().await?;
    top.assert_reads(data("middle").over(&data("bottom"))).await?;
    top.assert_clean().await?;
    match row.filled {
        Some("middle") => Ok(()),
        _ => files.iter().try_for_each(FileBytes::assert_unchanged),
    }
}
