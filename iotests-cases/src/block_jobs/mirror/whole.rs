//! Mirrors that run to their end.

use iotests_core::prelude::*;

use super::pair::{ONTO, Onto, Pair};

rows! {
    BUFFERS: Option<u64>;
    "default-buffer" => None, upstream = "test_complete";
    // It is rounded up to the granularity.
    "small-buffer" => Some(4 * KIB), upstream = "test_small_buffer";
}

/// A mirror copies the disk and what the guest writes meanwhile, and the guest goes on with the copy.
#[case(upstream = "041::{onto}::{buffer}", rows = (ONTO, BUFFERS))]
async fn moves_the_guest_to_the_copy(
    t: &mut Test,
    onto: &Onto,
    buffer: &Option<u64>,
) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;

    let mut job = pair.mirror(&vm);
    if let Some(bytes) = buffer {
        job = job.set("buf-size", *bytes);
    }
    let mut job = job.start().await?;
    let whose = json!({"type": "mirror", "device": job.id(), "speed": 0});
    job.wait_ready().await?;
    job.block_info().await?.assert("len", onto.size)?;
    pair.write(&vm).await?;
    let ended = job.complete().await?;

    let event = json!({"event": "BLOCK_JOB_COMPLETED", "data": whose});
    ended.event.assert_includes(&event)?;
    ended.event.assert_absent("data/error")?;
    pair.assert_moved(&vm).await?;
    vm.shutdown().await?;
    pair.assert_copied(true).await
}

/// While it rests, a mirror makes no step; afterwards it goes on to its end.
#[case(upstream = "041::{onto}::test_pause", rows = ONTO)]
async fn rests_while_it_is_paused(t: &mut Test, onto: &Onto) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;

    let mut job = pair.held(&vm).await?;
    job.pause().await?;
    let at_rest = job.info().await?;
    at_rest.assert("status", any_of(["paused", "standby"]))?;
    job.set_speed(0).await?;
    vm.disk("top").assert_reads(pair.before()).await?;
    check!(job.info().await? == at_rest);
    job.resume().await?;

    job.wait_ready().await?;
    pair.write(&vm).await?;
    job.complete().await?;
    pair.assert_moved(&vm).await?;
    vm.shutdown().await?;
    pair.assert_copied(true).await
}
