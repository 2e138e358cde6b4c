//! Backups that meet an I/O error: what their error policy makes of it, and what a bitmap has then.

use std::ops::Range;

use iotests_core::prelude::*;

use crate::block_jobs::error_policy::{
    EIO, ENOSPC, action, assert_stopped, failing, take_job_events,
};
use crate::block_jobs::{HELD, null};
use crate::threads::with_disk;

// Where an error is to happen is known in a raw image.
defaults! { formats = [RAW], needs = [Driver("blkdebug"), Driver("null-co")] }

const SIZE: u64 = MIB;
const WHOLE: Range<u64> = 0..SIZE;

/// What the guest writes when the bitmap records, before the backup: what is due where there is a bitmap.
const DIRTY: [Range<u64>; 2] = [clusters(2..10), clusters(12..14)];

/// Where the error happens.
const FAILING: Range<u64> = clusters(5..6);

/// What the guest writes while the backup runs and is before the error: something due, and something that is
/// due only without a bitmap.
const LATER: Range<u64> = clusters(8..9);
const OTHER: Range<u64> = clusters(15..16);

/// An error that happens once in a copy.
struct Injected {
    /// What fails: a read of the source or a write of the target.
    operation: &'static str,
    errno: i32,
    /// The policy for that side.
    policy: &'static str,
    /// How the bitmap is used, if there is one.
    bitmap: Option<&'static str>,
}

rows! {
    ERRORS: Injected { operation, errno, policy, bitmap };
    "read-report" => "read", EIO, "report", None;
    "read-ignore" => "read", EIO, "ignore", None;
    "read-stop" => "read", EIO, "stop", None;
    "write-report" => "write", EIO, "report", None;
    "write-ignore" => "write", EIO, "ignore", None;
    "write-stop" => "write", EIO, "stop", None;
    // The policy `enospc` is to stop when there is no space, and to report any other error.
    "write-enospc" => "write", EIO, "enospc", None, host = Qsd;
    "write-no-space" => "write", ENOSPC, "enospc", None;
    // What a bitmap has is not up to the guest's device.
    "write-report-on-success" => "write", EIO, "report", Some("on-success"), host = Qsd;
    "write-report-always" => "write", EIO, "report", Some("always"), host = Qsd;
    "write-report-never" => "write", EIO, "report", Some("never"), host = Qsd;
    "read-report-always" => "read", EIO, "report", Some("always"), host = Qsd;
    "write-stop-always" => "write", EIO, "stop", Some("always"), host = Qsd;
    "read-ignore-on-success" => "read", EIO, "ignore", Some("on-success"), host = Qsd;
    "read-stop-never" => "read", EIO, "stop", Some("never"), host = Qsd;
}

rows! {
    IN_A_THREAD: Injected { operation, errno, policy, bitmap };
    "read-report" => "read", EIO, "report", None;
    "read-stop" => "read", EIO, "stop", None;
    "write-ignore" => "write", EIO, "ignore", None;
    "write-stop" => "write", EIO, "stop", None;
    "write-report-on-success" => "write", EIO, "report", Some("on-success");
}

impl Injected {
    /// What is to be copied.
    fn due(&self) -> Vec<Range<u64>> {
        match self.bitmap {
            None => vec![WHOLE],
            Some(_) => DIRTY.to_vec(),
        }
    }

    /// An image as a node, which fails once, here, if it is on the side of the error.
    fn node(&self, image: &Image, at: &Range<u64>) -> Node {
        let is_source = self.operation == "read";
        if is_source != (image.name() == "source") {
            return image.node();
        }
        let mut error = json!({"event": "none", "once": true, "errno": self.errno});
        error["iotype"] = self.operation.into();
        error["sector"] = (at.start / 512).into();
        failing(image, json!({"inject-error": [error]}))
    }

    /// A backup of the source that rests after its first cluster, and goes on cluster by cluster.
    async fn held(&self, vm: &Machine, more: Value) -> CaseResult<Job> {
        let (side, other) = match self.operation {
            "read" => ("on-source-error", "on-target-error"),
            _ => ("on-target-error", "on-source-error"),
        };
        let mut backup = vm.backup("source").to("copy").set(side, self.policy).set(other, "report");
        if let Some(mode) = self.bitmap {
            backup = backup.sync("bitmap").set("bitmap", "since").set("bitmap-mode", mode);
        }
        for (name, value) in more.as_object().into_iter().flatten() {
            backup = backup.set(name, value.clone());
        }
        let one = json!({"max-workers": 1, "max-chunk": CLUSTER});
        let job = backup.set("x-perf", one).speed(HELD).start().await?;
        let begun = |job: &Value| job["current-progress"] == CLUSTER;
        job.until("its first cluster", begun).await?;
        Ok(job)
    }
}

/// What the source holds when the backup starts: each cluster has a byte of its own.
fn at_first() -> Content {
    Content::nothing().numbered(0x20, 0..SIZE)
}

/// The parts of the content that are in these ranges.
fn parts(content: &Content, ranges: &[Range<u64>]) -> Content {
    let add = |all: Content, range: &Range<u64>| all.with_part_of(content, range.clone());
    ranges.iter().fold(Content::nothing(), add)
}

/// The parts of these ranges that are within this one.
fn within(ranges: &[Range<u64>], limits: &Range<u64>) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| range.start.max(limits.start)..range.end.min(limits.end);
    ranges.iter().map(cut).filter(|range| range.start < range.end).collect()
}

/// A machine with the source, of whose first writes the bitmap knows, and with the copy.
async fn launch(t: &Test, nodes: [Node; 2]) -> CaseResult<Machine> {
    launch_with(t, nodes, false).await
}

/// The same, with the source in an iothread or in the main thread.
async fn launch_with(t: &Test, [source, copy]: [Node; 2], threaded: bool) -> CaseResult<Machine> {
    let vm = with_disk(t.host(), source, threaded).blockdev(copy);
    let vm = vm.blockdev(null("model", SIZE)).launch().await?;
    vm.bitmap("source", "since").add().granularity(CLUSTER).await?;
    vm.disk("source").write_all(parts(&at_first(), &DIRTY)).await?;
    Ok(vm)
}

/// The bitmap records, and this is dirty in it and nothing else.
async fn assert_dirty(vm: &Machine, ranges: &[Range<u64>]) -> CaseResult {
    let usable = json!({"busy": false, "recording": true});
    vm.bitmap("source", "since").assert(usable).await?;
    vm.bitmap("model", "model").add().granularity(CLUSTER).await?;
    for range in ranges {
        vm.node("model").write(1, range.clone()).await?;
    }
    let (found, model) = (vm.bitmap("source", "since"), vm.bitmap("model", "model"));
    check!(found.clone().await?.count == model.clone().await?.count);
    check!(found.sha256().await? == model.sha256().await?);
    Ok(())
}

/// An I/O error ends a backup, pauses it or is tried again, as its policy for that side says. The copy has
/// what was copied, as it was at the start; the bitmap has what the guest wrote since, and what is left
/// to be done.
#[case(rows = ERRORS)]
async fn follow_the_policy(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, false).await
}

/// The same holds when an iothread serves the disk.
#[case(rows = IN_A_THREAD, host = System)]
async fn follow_the_policy_in_an_iothread(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, true).await
}

/// Backs up, in an iothread or in the main thread.
async fn follows(t: &Test, row: &Injected, threaded: bool) -> CaseResult {
    let source = t.image("source").size(SIZE).content(at_first()).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let nodes = [row.node(&source, &FAILING), row.node(&copy, &FAILING)];
    let vm = launch_with(t, nodes, threaded).await?;
    let before = vm.state().await?;
    let mut job = row.held(&vm, json!({})).await?;
    let id = job.id().to_owned();

    let written = Content::nothing().written(0x77, LATER).written(0x78, OTHER);
    vm.disk("source").write_all(&written).await?;
    vm.assert_no_event("BLOCK_JOB_ERROR").await?;
    job.set_speed(0).await?;
    let (due, action) = (row.due(), action(row.policy, row.errno));
    let beside = [within(&due, &LATER), within(&due, &OTHER)].concat();
    let copied = [within(&due, &(0..FAILING.start)), beside].concat();
    let count =
        |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    if action == "stop" {
        assert_stopped(&mut job, "paused", row.errno).await?;
        job.info().await?.assert("current-progress", count(&copied))?;
        job.resume().await?;
    }
    let mut end = json!({"device": id, "type": "backup", "len": count(&due), "speed": 0});
    let failed = action == "report";
    if failed {
        job.wait().expect_error(exactly("Input/output error")).await?;
        end["error"] = "Input/output error".into();
        end["offset"] = count(&copied).into();
    } else {
        job.wait().await?;
        end["offset"] = count(&due).into();
    }

    let error = json!({"device": id, "operation": row.operation, "action": action});
    take_job_events(&vm).assert_includes(&json!([
        {"event": "BLOCK_JOB_ERROR", "data": error}, {"event": "BLOCK_JOB_COMPLETED", "data": end},
    ]))?;
    vm.assert_no_jobs().await?;
    vm.assert_same_graph_as(&before).await?;
    let left = match (failed, row.bitmap) {
        (false, Some("on-success" | "always")) => vec![],
        (true, Some("always")) => within(&due, &(FAILING.start..SIZE)),
        _ => DIRTY.to_vec(),
    };
    assert_dirty(&vm, &[left, vec![LATER, OTHER]].concat()).await?;
    vm.shutdown().await?;
    source.assert_reads(written.over(&at_first())).await?;
    copy.assert_reads(parts(&at_first(), if failed { &copied } else { &due })).await
}

rows! {
    FOR_THE_GUEST: Injected { operation, errno, policy, bitmap };
    "read-report" => "read", EIO, "report", Some("on-success");
    "write-stop" => "write", EIO, "stop", Some("always");
    "write-ignore" => "write", EIO, "ignore", None;
}

/// An error in what is copied for a guest is the guest's, and not the backup's: its write fails and has changed
/// nothing, and can be tried again. The backup goes on, whatever its policy is, and has the disk as it was.
#[case(rows = FOR_THE_GUEST)]
async fn of_a_copy_for_the_guest_are_told_to_the_guest(t: &mut Test, row: &Injected) -> CaseResult {
    let source = t.image("source").size(SIZE).content(at_first()).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = launch(t, [row.node(&source, &LATER), row.node(&copy, &LATER)]).await?;
    let job = row.held(&vm, json!({})).await?;
    let before = job.info().await?;

    let write = format!("write -P 0x77 {} {CLUSTER}", LATER.start);
    let failed = vm.disk("source").io(&write).await;
    let told = "write failed: Input/output error";
    check!(failed.is_err_and(|failure| failure.message().contains(told)));
    check!(job.info().await? == before);
    vm.disk("source").assert_reads(at_first()).await?;
    vm.disk("source").io(&write).await?;
    job.set_speed(0).await?;
    job.wait().await?;

    check!(vm.take_events("BLOCK_JOB_ERROR").is_empty());
    let left = if row.bitmap.is_none() {
        &DIRTY[..]
    } else {
        &[LATER]
    };
    assert_dirty(&vm, left).await?;
    vm.shutdown().await?;
    source.assert_reads(at_first().written(0x77, LATER)).await?;
    copy.assert_reads(parts(&at_first(), &row.due())).await
}

/// See docs/qemu-findings.md.
const GOES_ON: KnownBug = known(
    "a backup whose snapshot is broken goes on, copies what the guest has written since, and completes",
    "but it was Completed",
    ALWAYS,
);

/// Where an error in what is copied for a guest is not to be the guest's, it is the backup's, which cannot have
/// the disk as it was any more: it ends with an error, and the bitmap still has all that is due.
#[case(
    needs = [Schema("blockdev-backup/arg-type/on-cbw-error")], known_bugs = [GOES_ON]
)]
async fn of_a_copy_that_the_guest_does_not_wait_for_end_it(t: &mut Test) -> CaseResult {
    let row = Injected {
        operation: "write",
        errno: EIO,
        policy: "report",
        bitmap: Some("on-success"),
    };
    let source = t.image("source").size(SIZE).content(at_first()).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = launch(t, [row.node(&source, &LATER), row.node(&copy, &LATER)]).await?;
    let job = row.held(&vm, json!({"on-cbw-error": "break-snapshot"})).await?;

    vm.disk("source").write(0x77, LATER).await?;
    vm.disk("source").assert_reads(at_first().written(0x77, LATER)).await?;
    job.set_speed(0).await?;
    job.wait().expect_error("Input/output error").await?;

    assert_dirty(&vm, &DIRTY).await?;
    vm.shutdown().await?;
    source.assert_reads(at_first().written(0x77, LATER)).await
}

/// See docs/qemu-findings.md.
const IS_NOT_FLUSHED: KnownBug = known(
    "a backup does not flush its target, and so does not learn that it is lost",
    "but it was Completed",
    ALWAYS,
);

/// A backup whose target cannot be flushed has not succeeded: it ends with an error, and the bitmap still has
/// all that is due.
#[case(known_bugs = [IS_NOT_FLUSHED])]
async fn of_the_last_flush_end_it(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(SIZE).content(at_first()).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let error = json!({"event": "none", "iotype": "flush", "once": true});
    let lost = failing(&copy, json!({"inject-error": [error]}));
    let vm = launch(t, [source.node(), lost]).await?;

    let backup = vm.backup("source").to("copy").sync("incremental").set("bitmap", "since");
    backup.start().await?.wait().expect_error("Input/output error").await?;

    assert_dirty(&vm, &DIRTY).await?;
    vm.shutdown().await?;
    source.assert_reads(at_first()).await
}
