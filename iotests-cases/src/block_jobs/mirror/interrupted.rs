//! Mirrors that are looked at, or cancelled, in their middle.

use iotests_core::prelude::*;

use super::HELD;
use super::pair::{CHUNK, NODES, ONTO, Onto, Pair};

rows! {
    FORCE: bool;
    "softly" => false, upstream = "test_cancel_after_ready";
    "by-force" => true;
}

/// A mirror that is cancelled before it is ready leaves the machine as if it had never run.
#[case(upstream = "041::{onto}::test_cancel", rows = ONTO)]
async fn is_cancelled(t: &mut Test, onto: &Onto) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let before = vm.state().await?;

    let job = pair.held(&vm).await?;
    let ended = job.force_cancel().await?;

    check!(ended.outcome == Outcome::Cancelled);
    ended.event.assert("data/type", "mirror")?;
    vm.assert_same_graph_as(&before).await?;
    vm.assert_no_jobs().await?;
    vm.disk("top").assert_reads(pair.before()).await?;
    vm.shutdown().await?;
    pair.assert_half_copied().await
}

/// When it is ready, a mirror that is cancelled leaves the guest where it is. Unless it is forced, the
/// copy then has all that the guest wrote.
#[case(upstream = "041::{onto}::{force}", rows = (ONTO, FORCE))]
async fn is_cancelled_when_ready(t: &mut Test, onto: &Onto, force: &bool) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let before = vm.state().await?;

    let mut job = pair.mirror(&vm).start().await?;
    job.wait_ready().await?;
    pair.write(&vm).await?;
    let ended = match force {
        true => job.force_cancel().await?,
        false => job.cancel().await?,
    };

    check!((ended.outcome == Outcome::Cancelled) == *force);
    vm.assert_same_graph_as(&before).await?;
    vm.assert_no_jobs().await?;
    vm.disk("top").assert_node("top").await?;
    vm.disk("top").assert_reads(pair.written()).await?;
    vm.shutdown().await?;
    if *force {
        return pair.copy.assert_clean().await;
    }
    pair.assert_copied(true).await
}

/// The node that a mirror inserts above the disk does not show in what QEMU reports of the drive.
#[case(upstream = "041::{onto}::test_implicit_node", rows = ONTO)]
async fn hides_its_own_node(t: &mut Test, onto: &Onto) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let before = vm.state().await?;
    let job = pair.held(&vm).await?;

    let nodes = vm.cmd("query-named-block-nodes", ()).await?;
    nodes.find(&json!({"drv": "mirror_top"}))?;
    let layers = json!({"filename": pair.top, "backing-image": {"filename": pair.base}});
    let reported = match vm.backend() {
        Backend::System => vm.cmd("query-block", ()).await?.at("[0]/inserted")?.clone(),
        // A storage daemon has no drives, and reports nodes as they are.
        Backend::Qsd => vm.node_and_layers("top").await?,
    };
    reported.assert_includes(&json!({
        "file": pair.top, "drv": pair.top.format().name(), "ro": false, "node-name": "top",
        "backing_file": pair.base, "backing_file_depth": 1, "image": layers,
    }))?;
    if vm.backend() == Backend::System {
        let statistics = vm.cmd("query-blockstats", ()).await?;
        let backing = json!({"node-name": "top", "backing": {"node-name": "base"}});
        statistics[0].assert_includes(&backing)?;
    }

    check!(job.force_cancel().await?.outcome == Outcome::Cancelled);
    vm.assert_same_graph_as(&before).await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    pair.assert_half_copied().await
}

/// The backing file that the target records is opened for a mirror that completes, not for one that is
/// cancelled: here there is no such file.
#[case(formats = [QCOW2])]
async fn opens_no_backing_file_when_cancelled(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let base = t.image("base").size(MIB).create().await?;
    let copy = t.image("copy").backing(&base).create().await?;
    std::fs::remove_file(base.filename())?;
    let vm = t.host().disk(&source).launch().await?;
    let job = vm.drive_mirror("source", &copy).set("mode", "existing");
    let job = job.set("buf-size", CHUNK).speed(HELD).start().await?;

    check!(job.force_cancel().await?.outcome == Outcome::Cancelled);

    vm.disk("source").assert_node("source").await?;
    // An error that is printed fails the case.
    vm.shutdown().await?;
    source.assert_fill(0x11).await
}

rows! {
    SIDES: &str;
    "source" => "top", upstream = "test_source_resize";
    "target" => "copy", upstream = "test_target_resize";
}

/// Neither side of a mirror can be resized, whatever state it is in.
#[case(upstream = "041::{onto}::{node}", rows = (NODES, SIDES))]
async fn keeps_its_size(t: &mut Test, onto: &Onto, node: &&str) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let resize = || vm.cmd("block_resize", json!({"node-name": node, "size": 64 * KIB}));
    // Before 9.0, no more was said.
    let busy = "is in use";

    let mut job = pair.mirror(&vm).manual().speed(HELD).start().await?;
    resize().expect_error(busy).await.context("running")?;
    job.set_speed(0).await?;
    job.wait_ready().await?;
    resize().expect_error(busy).await.context("ready")?;
    vm.cmd("job-complete", json!({"id": job.id()})).await?;
    job.wait_status("pending").await?;
    resize().expect_error(busy).await.context("pending")?;
    job.finalize().await?;
    job.dismiss().await?;

    check!(vm.node(*node).size().await? == onto.size);
    vm.shutdown().await?;
    pair.assert_copied(false).await
}
