//! Cancelling a mirror in each phase of its life.

use std::sync::Arc;

use iotests_core::prelude::*;
use nbd::proto::CommandType;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Event, Export, Server};

use super::null;
use crate::json::number;

defaults! { formats = [QCOW2, RAW], groups = [QUICK] }

/// When and how a mirror is cancelled, and what becomes of it then.
struct Cancel {
    /// The state that it is cancelled in.
    status: &'static str,
    force: bool,
    outcome: Outcome,
}

rows! {
    CANCELS: Cancel { status, force, outcome };
    "before-ready" => "running", false, Outcome::Cancelled, upstream = "218";
    "before-ready-by-force" => "running", true, Outcome::Cancelled, upstream = "218";
    "when-ready" => "ready", false, Outcome::Completed, upstream = "218";
    "when-ready-by-force" => "ready", true, Outcome::Cancelled, upstream = "218";
    "when-paused-by-force" => "paused", true, Outcome::Cancelled;
    "in-standby-by-force" => "standby", true, Outcome::Cancelled;
    "when-pending" => "pending", false, Outcome::Cancelled;
    "when-pending-by-force" => "pending", true, Outcome::Cancelled;
}

/// In effect no limit, but one that QEMU reports.
const FAST: u64 = 1 << 40;

/// Starts a mirror, and brings it into a state: before it is ready one piece is copied, and then the
/// job waits.
async fn mirror(vm: &Machine, status: &str) -> CaseResult<Job> {
    let mirror = vm.mirror("source").to("target").manual();
    let mirror = match status {
        "running" | "paused" => mirror.speed(1).set("buf-size", 64 * KIB),
        _ => mirror.speed(FAST),
    };
    let mut job = mirror.start().await?;
    match status {
        "running" => {}
        "paused" => job.pause().await?,
        status => {
            job.wait_ready().await?;
            match status {
                "standby" => job.pause().await?,
                "pending" => drop(vm.cmd("job-complete", json!({"id": job.id()})).await?),
                _ => {}
            }
        }
    }
    job.wait_status(status).await?;
    Ok(job)
}

/// A mirror that is cancelled counts as cancelled, unless it was ready and is not forced: then it
/// has completed. It rests with its result until it is dismissed.
#[case(needs = [Driver("null-co")], rows = CANCELS)]
async fn cancelled_or_completed(t: &mut Test, cancel: &Cancel) -> CaseResult {
    let host = t.host().blockdev(null("source", MIB)).blockdev(null("target", MIB));
    let vm = host.launch().await?;
    let mut job = mirror(&vm, cancel.status).await?;
    let id = job.id().to_owned();
    if ["paused", "standby"].contains(&cancel.status) {
        let softly = vm.cmd("block-job-cancel", json!({"device": id}));
        softly.expect_error("is currently paused").await?;
        job.info().await?.assert("status", cancel.status)?;
    }
    match cancel.force {
        true => vm.cmd("job-cancel", json!({"id": id})).await?,
        false => vm.cmd("block-job-cancel", json!({"device": id})).await?,
    };
    let completed = cancel.outcome == Outcome::Completed;
    if completed {
        job.wait_status("pending").await?;
        job.finalize().await?;
    }
    job.wait_status("concluded").await?;

    let info = job.info().await?;
    match completed {
        true => info.assert_absent("error")?,
        false => info.assert("error", "Operation canceled")?,
    }
    let ended = job.dismiss().outcome().await?;
    check!(ended.outcome == cancel.outcome);
    let name = if completed {
        "BLOCK_JOB_COMPLETED"
    } else {
        "BLOCK_JOB_CANCELLED"
    };
    let ends = vm.take_events(Matcher::one_of([
        "BLOCK_JOB_COMPLETED",
        "BLOCK_JOB_CANCELLED",
    ]));
    check!(ends.len() == 1);
    ends[0].assert("event", name)?;
    let data = ends[0].at("data")?;
    data.assert_includes(&json!({"device": id, "type": "mirror", "len": MIB}))?;
    let done = number(data, "offset")?;
    let half_way = ["running", "paused"].contains(&cancel.status);
    check!((done < MIB) == half_way, "{done} bytes were copied");
    data.assert("speed", if half_way { 1 } else { FAST })?;
    data.assert_absent("error")?;
    vm.assert_no_jobs().await?;
    vm.assert_block_path("source", "/backing", None).await?;
    vm.shutdown().await?;
    Ok(())
}

rows! {
    COMPLETIONS: bool;
    "cancelled" => true;
    "completed" => false;
}

/// When a mirror has completed, whether it was cancelled or asked to, all that the guest wrote until
/// then is on the target, and was flushed there.
#[case(formats = [RAW], protocols = [FILE, NBD, FUSE], rows = COMPLETIONS)]
async fn what_has_completed_is_flushed(t: &mut Test, cancel: &bool) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let disk = Arc::new(MemoryBackend::new(MIB));
    let socket = t.socket("nbd")?;
    let server = Server::builder().export(Export::shared(disk.clone()));
    let server = server.listen_unix(&*socket)?;
    let target =
        json!({"driver": "nbd", "node-name": "target", "server": {"type": "unix", "path": socket}});
    let vm = t.host().disk(&source).blockdev(target).launch().await?;

    let mut job = vm.mirror("source").to("target").start().await?;
    job.wait_ready().await?;
    vm.disk("source").write(0x22, 0..64 * KIB).await?;
    let ended = match cancel {
        true => job.cancel().await?,
        false => job.complete().await?,
    };
    check!(ended.outcome == Outcome::Completed);
    let requests = server.journal().entries();
    let last = |wanted: CommandType| {
        let is =
            |event: &Event| matches!(event, Event::Request { command, .. } if *command == wanted);
        requests.iter().rposition(|entry| is(&entry.event))
    };
    let write = last(CommandType::WRITE);
    check!(write.is_some(), "nothing was written");
    check!(
        write < last(CommandType::FLUSH),
        "no flush follows the last write"
    );
    let content = disk.snapshot(0, MIB);
    let (written, rest) = content.split_at(64 * KIB as usize);
    check!(written.iter().all(|byte| *byte == 0x22));
    check!(rest.iter().all(|byte| *byte == 0x11));
    vm.shutdown().await?;
    server.finish().await?;
    Ok(())
}

/// A machine quits at once even if a mirror waits for its throttled source.
#[case(
    upstream = "218", groups = [THROTTLE], protocols = [FILE, NBD, FUSE],
    needs = [Driver("throttle"), Driver("null-co")]
)]
async fn quitting_cancels_a_throttled_mirror(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(64 * MIB).fill(42).create().await?;
    let limits = json!({"bps-read": 4 * KIB});
    let throttled = Node::throttle("tg", "disk").node_name("throttled");
    let vm = t
        .host()
        .throttle_group("tg", limits)
        .blockdev(disk.node())
        .blockdev(throttled)
        .blockdev(null("target", 64 * MIB))
        .launch()
        .await?;
    vm.mirror("throttled").to("target").start().await?.leave();

    // Left to the throttle, the mirror would take hours, and the requests already under way minutes.
    vm.shutdown().await?;
    disk.assert_fill(42).await?;
    disk.assert_clean().await
}
