//! Streams that meet an I/O error, and what their error policy makes of it.

use std::ops::Range;

use iotests_core::prelude::*;

use super::FORCE;
use super::chain::{Chain, Layer};
use crate::block_jobs::error_policy::{
    EIO, ENOSPC, action, assert_stopped, layer_with, take_job_events,
};
use crate::json::number;
use crate::threads::with_disk;

use Layer::{Base, Mid, Top};

/// A request that fails once.
struct Place {
    layer: Layer,
    /// As blkdebug has it.
    event: &'static str,
    /// The clusters that the job copies at once when that happens.
    chunk: Range<u64>,
}

/// What the job is to make of an error.
struct Policy {
    on_error: &'static str,
    errno: i32,
}

rows! {
    PLACES: Place { layer, event, chunk };
    "base-read" => Base, "read_aio", clusters(20..28), upstream = "030";
    "mid-read" => Mid, "read_aio", clusters(8..16);
    "top-write" => Top, "write_aio", clusters(0..8);
    // The job cannot even see what is where, and has copied nothing.
    "mid-map" => Mid, "l2_load", clusters(0..0);
    "top-map" => Top, "l2_load", clusters(0..0);
}

rows! {
    POLICIES: Policy { on_error, errno };
    "report" => "report", EIO, upstream = "TestEIO::test_report";
    "ignore" => "ignore", EIO, upstream = "TestEIO::test_ignore";
    "stop" => "stop", EIO, upstream = "TestEIO::test_stop";
    "enospc" => "enospc", EIO, upstream = "TestEIO::test_enospc";
    "no-space" => "enospc", ENOSPC, upstream = "TestENOSPC::test_enospc";
}

rows! {
    PLACES_IN_A_THREAD: Place { layer, event, chunk };
    "base-read" => Base, "read_aio", clusters(20..28);
    "top-write" => Top, "write_aio", clusters(0..8);
}

rows! {
    POLICIES_IN_A_THREAD: Policy { on_error, errno };
    "report" => "report", EIO;
    "ignore" => "ignore", EIO;
    "stop" => "stop", EIO;
}

impl Place {
    /// A layer as a node, which fails once if it is this one.
    async fn node(&self, chain: &Chain, layer: Layer, errno: i32) -> CaseResult<Node> {
        if layer != self.layer {
            return Ok(layer_with(chain, layer, None));
        }
        let mut error = json!({"event": self.event, "once": true, "errno": errno});
        if self.event == "read_aio" {
            let offset = match layer {
                Mid => {
                    let map = chain.image(Mid).own_map().json().await?;
                    let here = json!({"start": self.chunk.start, "data": true});
                    number(map.find(&here)?, "offset")?
                }
                _ => self.chunk.start,
            };
            error["sector"] = (offset / 512).into();
        }
        Ok(layer_with(chain, layer, Some(error)))
    }
}

/// What the top holds when the stream was over but for this part.
fn streamed(chain: &Chain, without: Range<u64>) -> Content {
    let zeroes = Content::nothing().zeroes(0..chain.size);
    let all = chain.merged(Top, Base).over(&zeroes);
    all.with_part_of(chain.content(Top), without)
}

/// An I/O error ends a stream, pauses it or is passed over, as its error policy says. Backing files
/// go only when all is copied, and everything reads as before at any time.
#[case(upstream = "{place}::{policy}", needs = [Driver("blkdebug")], rows = (PLACES, POLICIES))]
async fn follow_the_policy(t: &mut Test, place: &Place, policy: &Policy) -> CaseResult {
    follows(t, place, policy, false).await
}

/// The same holds when an iothread serves the disk.
#[case(
    needs = [Driver("blkdebug")], rows = (PLACES_IN_A_THREAD, POLICIES_IN_A_THREAD), host = System
)]
async fn follow_the_policy_in_an_iothread(
    t: &mut Test,
    place: &Place,
    policy: &Policy,
) -> CaseResult {
    follows(t, place, policy, true).await
}

/// Streams, in an iothread if it is for a guest that has its disk there.
async fn follows(t: &Test, place: &Place, policy: &Policy, threaded: bool) -> CaseResult {
    let contents = [(0x20, 0..24), (0x60, 8..16), (0xa0, 16..20)];
    let contents = contents.map(|(first, at)| Content::nothing().numbered(first, clusters(at)));
    let chain = Chain::with(t, 2 * MIB, contents).await?;
    let mut vm = t.host();
    for layer in [Base, Mid, Top] {
        let node = place.node(&chain, layer, policy.errno).await?;
        vm = match layer {
            Top if threaded => with_disk(vm, node, true),
            _ => vm.blockdev(node),
        };
    }
    let vm = vm.launch().await?;
    let before = vm.state().await?;

    let mut job = vm.stream("top").set("on-error", policy.on_error).start().await?;
    let id = job.id().to_owned();
    let action = action(policy.on_error, policy.errno);
    if action == "stop" {
        assert_stopped(&mut job, "paused", policy.errno).await?;
        let done = place.chunk.start;
        job.block_info().await?.assert("offset", done)?;
        job.resume().await?;
        job.wait().await?;
    } else {
        job.wait().expect_error(exactly("Input/output error")).await?;
    }

    let done = if action == "report" {
        place.chunk.start
    } else {
        chain.size
    };
    take_job_events(&vm).assert_includes(&json!([
        {"event": "BLOCK_JOB_ERROR",
         "data": {"device": id, "operation": "read", "action": action}},
        {"event": "BLOCK_JOB_COMPLETED",
         "data": {"device": id, "type": "stream", "len": chain.size, "offset": done}},
    ]))?;
    vm.assert_no_jobs().await?;
    match action {
        "stop" => vm.assert_chain("top").await?,
        _ => vm.assert_same_graph_as(&before).await?,
    }
    vm.node("top").assert_reads(chain.merged(Top, Base)).await?;
    vm.shutdown().await?;
    let own = match action {
        "stop" => streamed(&chain, 0..0),
        "ignore" => streamed(&chain, place.chunk.clone()),
        _ => streamed(&chain, place.chunk.start..chain.size),
    };
    chain.top.assert_reads(chain.merged(Top, Base)).await?;
    // QED copies cluster by cluster, and loses the clusters that it could not write.
    if chain.top.format() == QCOW2 {
        chain.top.assert_layer(own).await?;
        chain.top.assert_clean().await?;
    }
    match action {
        "stop" => chain.top.header().await?.assert_absent("backing-filename")?,
        _ => drop(chain.top.assert_backing(&chain.mid).await?),
    }
    chain.assert_unchanged(&[Base, Mid])
}

/// A stream that an error has paused can be cancelled by force, and then the chain is as it was; to be cancelled
/// softly, it has to be resumed first.
#[case(needs = [Driver("blkdebug")], rows = FORCE)]
async fn that_make_it_rest_let_it_be_cancelled(t: &mut Test, force: &bool) -> CaseResult {
    let contents = [(0x20, 0..24), (0x60, 8..16), (0xa0, 16..20)];
    let contents = contents.map(|(first, at)| Content::nothing().numbered(first, clusters(at)));
    let chain = Chain::with(t, 2 * MIB, contents).await?;
    let mut vm = t.host();
    for layer in [Base, Mid, Top] {
        let place = Place {
            layer: Base,
            event: "read_aio",
            chunk: clusters(20..28),
        };
        vm = vm.blockdev(place.node(&chain, layer, EIO).await?);
    }
    let vm = vm.launch().await?;
    let before = vm.state().await?;
    let mut job = vm.stream("top").set("on-error", "stop").start().await?;
    job.wait_status("paused").await?;
    if !force {
        let softly = vm.cmd("block-job-cancel", json!({"device": job.id()}));
        softly.expect_error("is currently paused").await?;
        job.info().await?.assert("status", "paused")?;
    }
    check!(job.force_cancel().await?.outcome == Outcome::Cancelled);
    vm.assert_no_jobs().await?;
    vm.assert_same_graph_as(&before).await?;
    vm.node("top").assert_reads(chain.merged(Top, Base)).await?;
    vm.shutdown().await?;
    chain.top.assert_reads(chain.merged(Top, Base)).await?;
    chain.top.assert_backing(&chain.mid).await?;
    chain.assert_unchanged(&[Base, Mid])
}
