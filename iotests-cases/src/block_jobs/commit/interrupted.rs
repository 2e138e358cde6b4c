//! Commits that are held in their middle, looked at, and ended before their time.

use std::ops::Range;

use iotests_core::prelude::*;

use super::chain::{Chain, Layer, Size};
use crate::block_jobs::woken::{HURRIED, assert_not_hurried};
use crate::block_jobs::{HELD, NEGATIVE_SPEED, SCSI};

use Size::{Full, Zero};

/// When a filter is put beside the chain.
#[derive(Clone, Copy, PartialEq)]
enum Filter {
    /// Before the job starts.
    First,
    /// While it runs.
    Later,
}
use Filter::{First, Later};

rows! {
    HELD_AT: (Size, u64);
    "full" => (Full, 0), upstream = "TestSingleDrive";
    "empty" => (Zero, 0), upstream = "TestActiveZeroLengthImage";
    "half-way" => (Full, HELD);
}

rows! {
    FILTERS: Filter;
    "filter-first" => First, upstream = "test_commit_with_filter_and_quit";
    "filter-later" => Later, upstream = "test_commit_plus_filter_and_quit";
}

/// Quitting in the middle of a commit, which cancels it while everything is drained, ends the
/// process in good order even though a filter beside the chain uses one of its layers.
#[case(
    upstream = "040::{held}::{filter}", needs = [Driver("throttle")], rows = (HELD_AT, FILTERS)
)]
async fn is_cancelled_by_quit(t: &mut Test, held: &(Size, u64), filter: &Filter) -> CaseResult {
    let (size, speed) = held;
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let group = json!({"qom-type": "throttle-group", "id": "group"});
    vm.cmd("object-add", group).await?;
    let node = Node::throttle("group", "mid").node_name("filter");

    if *filter == First {
        vm.add_node(&node).await?;
    }
    let job = vm.commit("top").speed(*speed).start().await?;
    if *filter == Later {
        vm.add_node(&node).await?;
    }
    // It cannot end by itself, for nobody completes it.
    job.info().await?.assert("type", "commit")?;
    job.leave();
    vm.cmd("quit", ()).await?;
    vm.wait_exit().await?;
    chain.assert_files_half_committed(Layer::Top).await
}

rows! {
    SIZES: Size;
    "half-way" => Full, upstream = "TestSingleDrive";
    "empty" => Zero, upstream = "TestActiveZeroLengthImage";
}

/// A machine with the chain as a drive, which goes with its device.
async fn unpluggable(t: &Test, chain: &Chain) -> CaseResult<Machine> {
    let vm = t.host().drive(Drive::of(&chain.top).interface("none"));
    let vm = vm.device("virtio-scsi").device("scsi-hd,id=disk,drive=drive0");
    vm.launch().await
}

/// Unplugs the device `disk`, and waits until it has gone.
async fn unplug(vm: &Machine) -> CaseResult {
    vm.cmd("device_del", json!({"id": "disk"})).await?;
    let deleted = Matcher::event("DEVICE_DELETED").data(json!({"device": "disk"}));
    vm.event(deleted).await?;
    Ok(())
}

/// When the guest's device is unplugged, the drive goes with it and a commit in it is cancelled. (One
/// without work has ended before.)
#[case(
    upstream = "040::{size}::test_hot_unplug", needs = [AnyOf(&SCSI)], host = System, rows = SIZES
)]
async fn is_cancelled_by_unplugging(t: &mut Test, size: &Size) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = unpluggable(t, &chain).await?;

    let job = vm.commit("drive0").top(&chain.mid).base(&chain.base);
    let job = job.speed(HELD);
    let mut job = Some(job.start().await?);
    if let Some(done) = job.take_if(|_| *size == Zero) {
        done.wait().await?;
    }
    unplug(&vm).await?;
    if let Some(job) = job {
        assert_cancelled(&job.wait().outcome().await?)?;
    }

    vm.assert_no_jobs().await?;
    for command in ["query-block", "query-named-block-nodes"] {
        check!(vm.cmd(command, ()).await? == json!([]), "{command}");
    }
    vm.shutdown().await?;
    match size {
        Full => chain.assert_files_half_committed(Layer::Mid).await,
        Zero => chain.assert_headers(Layer::Base).await,
    }
}

const GOES_ON_WITH_A_JOB_THAT_IS_GONE: KnownBug = known(
    "unplugging cancels a job that is pending, and then follows it where it has been freed (e2626874a3)",
    "died of SIGSEGV",
    before(7, 2),
);

/// A commit that is done and waits to be finalized is not cancelled with the drive, and can be finalized.
#[case(
    needs = [AnyOf(&SCSI)], host = System, known_bugs = [GOES_ON_WITH_A_JOB_THAT_IS_GONE]
)]
async fn is_left_alone_by_unplugging_when_it_is_pending(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = unpluggable(t, &chain).await?;
    let job = vm.commit("drive0").top(&chain.mid).base(&chain.base);
    let mut job = job.set("auto-finalize", false).start().await?;
    job.wait_status("pending").await?;

    unplug(&vm).await?;
    check!(job.info().await?["status"] == "pending");
    job.finalize().await?;
    job.wait().await?;

    vm.assert_no_jobs().await?;
    check!(vm.cmd("query-named-block-nodes", ()).await? == json!([]));
    vm.shutdown().await?;
    chain.assert_headers(Layer::Base).await
}

/// See docs/qemu-findings.md.
const MOVED_BUSY: KnownBug = known(
    "a commit that is cancelled and still busy is moved to another thread",
    "job_set_aio_context: Assertion `job->paused || job_is_completed_locked(job)'",
    since(8, 0),
)
.intermittent();

/// A disk in an iothread can be unplugged in the moment in which a commit of its active layer starts: the
/// commit ends one way or the other, and the data is whole.
#[case(needs = [AnyOf(&SCSI)], host = System, known_bugs = [MOVED_BUSY])]
async fn ends_when_its_disk_is_unplugged_at_once(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let drive = Drive::of(&chain.top).interface("none");
    let vm = t.host().iothread("io").drive(drive);
    let vm = vm.device("virtio-scsi,iothread=io");
    let vm = vm.device("scsi-hd,id=disk,drive=drive0").launch().await?;

    let job = vm.commit("drive0").base(&chain.base).start().await?;
    unplug(&vm).await?;
    job.wait().outcome().await?;

    vm.assert_no_jobs().await?;
    check!(vm.cmd("query-named-block-nodes", ()).await? == json!([]));
    vm.shutdown().await?;
    chain.assert_files_half_committed(Layer::Top).await
}

fn assert_cancelled(ended: &Ended) -> CaseResult {
    check!(ended.outcome == Outcome::Cancelled);
    ended.event.assert("data/type", "commit")
}

pub(in crate::block_jobs) const STAYS_WRITABLE: KnownBug = known(
    "the base stays writable when a commit of the active layer is cancelled (7d99ae59a2)",
    "the node base: \"ro\" is false, expected true",
    ALWAYS,
)
.fixed_in(["9.1"]);

/// Cancelling a commit of the active layer leaves the chain as it was, its base read-only again.
#[case(known_bugs = [STAYS_WRITABLE])]
async fn is_cancelled_in_the_active_layer(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    let job = vm.commit("top").speed(HELD).start().await?;
    assert_cancelled(&job.cancel().await?)?;
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_half_committed(Layer::Top).await
}

/// The node that a commit inserts into the chain does not show in what QEMU reports of the drive.
#[case(upstream = "040::{size}::test_implicit_node", rows = SIZES)]
async fn hides_its_own_node(t: &mut Test, size: &Size) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let job = vm.commit("top").top(&chain.mid).base(&chain.base).speed(HELD);
    // One without work rests before it takes its node out again.
    let mut job = job.set("auto-finalize", *size != Zero).start().await?;
    if *size == Zero {
        job.wait_status("pending").await?;
    }

    t.step("look at the drive");
    let nodes = vm.cmd("query-named-block-nodes", ()).await?;
    nodes.find(&json!({"drv": "commit_top"})).context("the node of the job")?;
    let layers = json!({"filename": chain.mid, "backing-image": {"filename": chain.base}});
    let (reported, depth, layers) = match vm.backend() {
        Backend::System => (
            vm.cmd("query-block", ()).await?.at("[0]/inserted")?.clone(),
            2,
            layers,
        ),
        // Where there is no drive, nodes are reported as they are. This one looks like another `mid`.
        Backend::Qsd => {
            let layers = json!({"filename": chain.mid, "backing-image": layers});
            (vm.node_and_layers("top").await?, 3, layers)
        }
    };
    reported.assert_includes(&json!({
        "file": chain.top, "drv": chain.top.format().name(), "ro": false,
        "backing_file": chain.mid, "backing_file_depth": depth,
        "image": {"filename": chain.top, "backing-image": layers},
    }))?;
    if vm.backend() == Backend::System {
        let backing = json!({"node-name": "mid", "backing": {"node-name": "base"}});
        let statistics = vm.cmd("query-blockstats", ()).await?;
        statistics[0].assert_includes(&json!({"node-name": "top", "backing": backing}))?;
    }

    assert_cancelled(&job.cancel().await?)?;
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_half_committed(Layer::Mid).await
}

rows! {
    NAMED: Layer;
    "mid" => Layer::Mid;
    "active" => Layer::Top;
}

/// The node of a commit can be given a name, is seen in its place under that, and goes with the job.
#[case(rows = NAMED)]
async fn shows_a_node_with_a_name(t: &mut Test, top: &Layer) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = t.host().blockdev(chain.top.node()).launch().await?;
    let job = vm.commit("top").top(chain.image(*top)).base(&chain.base);
    let job = job.set("filter-node-name", "named").speed(HELD);
    let job = job.start().await?;

    let line = match top {
        Layer::Top => "named -> top -> mid -> base",
        _ => "top -> named -> mid -> base",
    };
    vm.assert_chain(line).await?;
    assert_cancelled(&job.cancel().await?)?;
    vm.assert_no_jobs().await?;
    vm.assert_no_nodes(&["named"]).await?;
    vm.assert_chain("top -> mid -> base").await?;
    vm.shutdown().await?;
    chain.assert_files_half_committed(*top).await
}

/// A job keeps the speed that it was given, at its start and later, and stays where it is until it
/// is cancelled or may go on.
#[case(upstream = "040::TestSetSpeed::test_set_speed")]
async fn keeps_to_its_speed(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    let slow = || vm.commit("top").top(&chain.mid).base(&chain.base).speed(HELD);

    let job = slow().start().await?;
    job.block_info().await?.assert("speed", HELD)?;
    job.set_speed(2).await?;
    let whose = json!({"device": job.id(), "speed": -1});
    vm.cmd("block-job-set-speed", whose).expect_error(NEGATIVE_SPEED).await?;
    job.block_info()
        .await?
        .assert_includes(&json!({"speed": 2, "type": "commit", "paused": false}))?;
    assert_cancelled(&job.cancel().await?)?;
    chain.assert_nodes_unchanged(&vm).await?;

    let job = slow().start().await?;
    job.set_speed(0).await?;
    let ended = job.wait().await?;
    ended.event.assert("data/speed", 0)?;
    vm.assert_chain("top -> base").await?;
    vm.shutdown().await?;
    let merged = chain.merged(Layer::Mid, Layer::Base);
    chain.base.assert_reads(merged).await?;
    chain.assert_headers(Layer::Base).await
}

/// What is committed, and what a commit of it does in its first step.
struct Step {
    top: Layer,
    does: Range<u64>,
}

rows! {
    STEPS: Step { top, does };
    // It passes over what the layer does not have, and then copies as much as fits into its buffer.
    "mid" => Layer::Mid, clusters(0..16);
    // It copies the first run of clusters that there is.
    "active" => Layer::Top, clusters(8..19);
}

/// A commit that something else wakes up early does not do more for it.
#[case(formats = [QCOW2], rows = STEPS, known_bugs = [HURRIED])]
async fn is_not_hurried(t: &mut Test, step: &Step) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    let job = vm.commit("top").top(chain.image(step.top)).base(&chain.base);
    let job = job.speed(HELD).start().await?;
    let does = step.does.end - step.does.start;
    job.until("its first step", move |job: &Value| {
        job["current-progress"] == does
    })
    .await?;

    assert_not_hurried(&vm, &job).await?;

    assert_cancelled(&job.force_cancel().await?)?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Layer::Mid, Layer::Top])?;
    let all = chain.merged(step.top, Layer::Base);
    let below = chain.content(Layer::Base).clone();
    chain.base.assert_reads(below.with_part_of(&all, step.does.clone())).await
}
