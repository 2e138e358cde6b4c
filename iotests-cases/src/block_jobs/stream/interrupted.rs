//! Streams that are held in their middle, looked at, hurried, and ended before their time.

use iotests_core::prelude::*;

use super::chain::{Chain, Layer, Size};
use super::{FORCE, HELD, HURRIED};
use crate::block_jobs::{NEGATIVE_SPEED, SCSI};
use crate::served::Served;

use Layer::{Base, Mid, Top};

/// What a stream has done when it is held.
const FIRST: u64 = 8 * CLUSTER;

/// A stream of everything, which has copied the first clusters and then waits.
async fn held(vm: &Machine) -> CaseResult<Job> {
    let job = vm.stream("top").speed(HELD).start().await?;
    job.until("its first step", |job: &Value| {
        job["current-progress"] == FIRST
    })
    .await?;
    Ok(job)
}

/// What the top holds when a stream was stopped after its first step.
fn half_way(chain: &Chain) -> Content {
    let first = chain.merged(Top, Base).cut(FIRST);
    chain.content(Top).over(&first)
}

/// A stream was cancelled after its first step: the copied data stays, and all else is as it was.
async fn assert_half_streamed(chain: &Chain) -> CaseResult {
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.assert_layer(half_way(chain)).await?;
    chain.assert_headers(Mid).await
}

/// A paused stream rests, also without a limit on its speed, until it is resumed.
#[case(upstream = "030::TestSingleDrive::test_stream_pause")]
async fn rests_while_it_is_paused(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = held(&vm).await?;
    job.pause().await?;
    job.set_speed(0).await?;
    let at_rest = job.info().await?;
    at_rest.assert("current-progress", FIRST)?;
    // Whatever it did would be done by the end of these.
    chain.assert_guest_reads(&vm).await?;
    check!(job.info().await? == at_rest);
    job.resume().await?;
    job.wait().await?;
    vm.assert_chain("top").await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.assert_reads(chain.merged(Top, Base)).await
}

/// Cancelling a stream leaves the chain as it was.
#[case(upstream = "030::TestStreamStop::test_stream_stop", rows = FORCE)]
async fn leaves_the_chain(t: &mut Test, force: &bool) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = held(&vm).await?;
    let ended = match force {
        true => job.force_cancel().await?,
        false => job.cancel().await?,
    };
    check!(ended.outcome == Outcome::Cancelled);
    let data = json!({"type": "stream", "len": chain.size, "offset": FIRST, "speed": HELD});
    ended.event.at("data")?.assert_includes(&data)?;
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    assert_half_streamed(&chain).await
}

/// A read-only layer that is streamed into is read-only again when the stream is cancelled.
#[case(known_bugs = [super::STAYS_WRITABLE])]
async fn makes_it_read_only_again(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = vm.stream("mid").speed(HELD).start().await?;
    vm.assert_read_only(&[("mid", false), ("base", true)]).await?;
    check!(job.cancel().await?.outcome == Outcome::Cancelled);
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Top])?;
    chain.mid.assert_reads(chain.merged(Mid, Base)).await
}

/// Quitting in the middle of a stream cancels it, and leaves files in good order.
#[case]
async fn is_cancelled_by_quit(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    held(&vm).await?.leave();
    vm.cmd("quit", ()).await?;
    vm.wait_exit().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.assert_headers(Mid).await?;
    chain.top.assert_reads(chain.merged(Top, Base)).await
}

/// A stream keeps the speed that it was given, at its start and later.
#[case(upstream = "030::TestSetSpeed::test_set_speed")]
async fn keeps_to_its_speed(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = held(&vm).await?;
    job.block_info().await?.assert("speed", HELD)?;
    job.set_speed(2).await?;
    let now = json!({"speed": 2, "type": "stream", "paused": false});
    job.block_info().await?.assert_includes(&now)?;
    job.set_speed(0).await?;
    let ended = job.wait().await?;
    ended.event.assert("data/speed", 0)?;
    vm.assert_chain("top").await?;
    vm.shutdown().await?;
    Ok(())
}

/// What is not copied costs a stream nothing of its speed: here all that there is to copy is in its last
/// step.
#[case(formats = [QCOW2])]
async fn passes_over_holes_at_any_speed(t: &mut Test) -> CaseResult {
    let last = Content::nothing().written(0x11, clusters(31..32));
    let base = t.image("base").size(2 * MIB).content(&last).create().await?;
    let top = t.image("top").backing(&base).create().await?;
    let vm = t.host().disk(&top).launch().await?;
    vm.stream("top").speed(HELD).start().await?.wait().await?;
    vm.assert_chain("top").await?;
    vm.shutdown().await?;
    top.assert_layer(&last).await
}

/// A negative speed is refused, at the start and later, and changes nothing.
#[case(upstream = "030::TestSetSpeed::test_set_speed_invalid")]
async fn refuses_a_negative_speed(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = vm.stream("top").set("speed", -1);
    job.refused(NEGATIVE_SPEED).await?;
    chain.assert_nodes_unchanged(&vm).await?;

    let job = held(&vm).await?;
    let slower = json!({"device": job.id(), "speed": -1});
    let slower = vm.cmd("block-job-set-speed", slower);
    slower.refused(NEGATIVE_SPEED).await?;
    check!(job.cancel().await?.outcome == Outcome::Cancelled);
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    assert_half_streamed(&chain).await
}

/// A job that something else wakes up early, here by draining its nodes, does not do more for it.
#[case(known_bugs = [HURRIED], needs = [Command("blockdev-reopen")])]
async fn is_not_hurried(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let job = held(&vm).await?;
    for _ in 0..3 {
        vm.reopen("top", |node| node).await?;
    }
    job.info().await?.assert("current-progress", FIRST)?;
    check!(job.cancel().await?.outcome == Outcome::Cancelled);
    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    assert_half_streamed(&chain).await
}

/// When the guest's device is unplugged, the drive goes with it and a stream in it is cancelled.
#[case(needs = [AnyOf(&SCSI)], host = System)]
async fn is_cancelled_by_unplugging(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = t.host().drive(Drive::of(&chain.top).interface("none"));
    let vm = vm.device("virtio-scsi").device("scsi-hd,id=disk,drive=drive0");
    let vm = vm.launch().await?;
    let job = vm.stream("drive0").speed(HELD).start().await?;
    vm.cmd("device_del", json!({"id": "disk"})).await?;
    check!(job.wait().outcome().await?.outcome == Outcome::Cancelled);
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.assert_reads(chain.merged(Top, Base)).await
}

rows! {
    ENDS: Outcome;
    "completed" => Outcome::Completed;
    "cancelled" => Outcome::Cancelled;
}

/// A write of the guest that is on its way when a stream ends is waited for, and is not lost.
#[case(formats = [QCOW2], protocols = [FILE], rows = ENDS)]
async fn ends_while_a_guest_writes(t: &mut Test, end: &Outcome) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let (file, at) = Served::holding_cluster(t, &chain.top, WRITTEN.start).await?;
    let vm = t.host().disk(chain.top.node().file(file.node()));
    let vm = vm.launch().await?;

    let job = held(&vm).await?;
    let disk = vm.disk("top");
    let write = format!("aio_write -P 0x77 {} {CLUSTER}", WRITTEN.start);
    let write = disk.io(&write);
    let ending = async {
        file.wait_write(at).await?;
        let (order, status) = match end {
            Outcome::Cancelled => (json!({"device": job.id()}), "aborting"),
            _ => (json!({"device": job.id(), "speed": 0}), "pending"),
        };
        let command = match end {
            Outcome::Cancelled => "block-job-cancel",
            _ => "block-job-set-speed",
        };
        // From then on QEMU does nothing but wait for the write.
        let at_its_end = json!({"id": job.id(), "status": status});
        let at_its_end = vm.event(Matcher::event("JOB_STATUS_CHANGE").data(at_its_end));
        let order = vm.cmd(command, order);
        let (order, at_its_end) = tokio::join!(order, async {
            let event = at_its_end.await;
            file.release();
            event
        });
        order?;
        at_its_end?;
        CaseResult::Ok(())
    };
    let (write, ending) = tokio::join!(write, ending);
    write?;
    ending?;
    check!(job.wait().outcome().await?.outcome == *end);

    let all = chain.merged(Top, Base).written(0x77, WRITTEN);
    disk.assert_reads(&all).await?;
    let line = if *end == Outcome::Completed {
        "top"
    } else {
        "top -> mid -> base"
    };
    vm.assert_chain(line).await?;
    vm.shutdown().await?;
    file.finish().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.assert_clean().await?;
    chain.top.assert_reads(&all).await
}

/// What the guest writes to.
const WRITTEN: std::ops::Range<u64> = clusters(12..13);
