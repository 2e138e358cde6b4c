//! Mirrors that meet an I/O error, and what their error policy makes of it.

use iotests_core::prelude::*;

use super::active::MODES;
use crate::block_jobs::error_policy::{
    EIO, ENOSPC, action, assert_stopped, failing, reported, take_job_events,
};
use crate::json::number;
use crate::threads::with_disk;

defaults! { needs = [Driver("blkdebug")] }

const SIZE: u64 = 2 * MIB;

/// An error that happens once, and what is to follow.
struct Injected {
    /// What fails: a read of the source, a write or a flush of the target.
    operation: &'static str,
    policy: &'static str,
    errno: i32,
}

rows! {
    ERRORS: Injected { operation, policy, errno };
    "read-report" => "read", "report", EIO, upstream = "041::TestReadErrors::test_report_read";
    "read-ignore" => "read", "ignore", EIO, upstream = "041::TestReadErrors::test_ignore_read";
    "read-stop" => "read", "stop", EIO, upstream = "041::TestReadErrors::test_stop_read";
    "write-report" => "write", "report", EIO, upstream = "041::TestWriteErrors::test_report_write";
    "write-ignore" => "write", "ignore", EIO, upstream = "041::TestWriteErrors::test_ignore_write";
    "write-stop" => "write", "stop", EIO, upstream = "041::TestWriteErrors::test_stop_write";
    // The policy `enospc` is to stop when there is no space, and to report any other error.
    "read-enospc" => "read", "enospc", EIO;
    "write-enospc" => "write", "enospc", EIO;
    "write-no-space" => "write", "enospc", ENOSPC;
    "flush-report" => "flush", "report", EIO;
    "flush-ignore" => "flush", "ignore", EIO;
    "flush-stop" => "flush", "stop", EIO;
}

rows! {
    IN_A_THREAD: Injected { operation, policy, errno };
    "read-report" => "read", "report", EIO;
    "read-stop" => "read", "stop", EIO;
    "write-ignore" => "write", "ignore", EIO;
    "write-stop" => "write", "stop", EIO;
    "flush-report" => "flush", "report", EIO;
}

impl Injected {
    /// What QEMU makes of the error.
    fn action(&self) -> &'static str {
        action(self.policy, self.errno)
    }

    /// The image as a node, which fails once: in its middle where that is known, else at the first
    /// data that is written.
    fn node(&self, image: &Image) -> Node {
        let is_source = self.operation == "read";
        if is_source != (image.name() == "source") {
            return image.node();
        }
        let mut error = json!({"event": "none", "once": true, "errno": self.errno});
        error["iotype"] = self.operation.into();
        match self.operation {
            "read" => error["sector"] = (SIZE / 2 / 512).into(),
            "write" => error["event"] = "write_aio".into(),
            _ => {}
        }
        failing(image, json!({"inject-error": [error]}))
    }

    /// Its events, in this order.
    fn events(&self, job: &str) -> Value {
        let operation = reported(self.operation);
        let error = json!({"device": job, "operation": operation, "action": self.action()});
        let mut data = json!({"device": job, "type": "mirror", "len": SIZE, "speed": 0});
        let mut events = vec![json!({"event": "BLOCK_JOB_ERROR", "data": error})];
        if self.action() == "report" {
            data["error"] = "Input/output error".into();
        } else {
            data["offset"] = SIZE.into();
            events.push(json!({"event": "BLOCK_JOB_READY", "data": data}));
        }
        events.push(json!({"event": "BLOCK_JOB_COMPLETED", "data": data}));
        json!(events)
    }
}

/// What the images hold in these cases: each cluster has a byte of its own.
fn numbered() -> Content {
    Content::nothing().numbered(0x20, clusters(0..32))
}

/// An I/O error ends a mirror, pauses it or is tried again, as its policy for that side says; the guest
/// is on the copy with all its data, or where it was.
#[case(rows = ERRORS)]
async fn follow_the_policy(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, false).await
}

/// The same holds when an iothread serves the disk.
#[case(rows = IN_A_THREAD, host = System, formats = [QCOW2])]
async fn follow_the_policy_in_an_iothread(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, true).await
}

/// See docs/qemu-findings.md.
const HANGS: KnownBug = known(
    "the end of a mirror to QED in an iothread waits for ever for the readers of the graph",
    "hangs: its monitor does not answer",
    since(8, 0),
)
.fixed_in(["10.0.13", "10.1"])
.intermittent();

/// The same holds when the target is a QED image. (By itself: it takes all of its time where it hangs.)
#[case(formats = [QED], host = System, budget = secs(30), known_bugs = [HANGS])]
async fn follow_the_policy_onto_qed_in_an_iothread(t: &mut Test) -> CaseResult {
    let row = &Injected {
        operation: "read",
        policy: "stop",
        errno: EIO,
    };
    follows(t, row, true).await
}

/// Mirrors, in an iothread or in the main thread.
async fn follows(t: &Test, row: &Injected, threaded: bool) -> CaseResult {
    let source = t.image("source").format(RAW).size(SIZE);
    let source = source.content(numbered()).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = with_disk(t.host(), row.node(&source), threaded);
    let vm = vm.blockdev(row.node(&copy)).launch().await?;
    let before = vm.state().await?;

    let (policy, other) = match row.operation {
        "read" => ("on-source-error", "on-target-error"),
        _ => ("on-target-error", "on-source-error"),
    };
    let job = vm.mirror("source").to("copy").set("buf-size", 4 * CLUSTER);
    let job = job.set(policy, row.policy).set(other, "report");
    let mut job = job.start().await?;
    let id = job.id().to_owned();
    if row.action() == "stop" {
        assert_stopped(&mut job, "paused", row.errno).await?;
        job.resume().await?;
    }
    if row.action() == "report" {
        let failed = job.wait().expect_error(exactly("Input/output error"));
        failed.await?;
        vm.assert_same_graph_as(&before).await?;
    } else {
        job.wait_ready().await?;
        job.block_info().await?.assert("io-status", "ok")?;
        job.complete().await?;
        vm.disk("source").assert_node("copy").await?;
    }

    take_job_events(&vm).assert_includes(&row.events(&id))?;
    vm.assert_no_jobs().await?;
    vm.disk("source").assert_reads(numbered()).await?;
    vm.shutdown().await?;
    source.assert_reads(numbered()).await?;
    match row.action() {
        "report" => copy.assert_reads_either(numbered(), Content::nothing()).await?,
        _ => copy.assert_reads(numbered()).await?,
    }
    // QED leaves the cluster of a write that failed allocated, for its check to find.
    match t.format() {
        QED => Ok(()),
        _ => copy.assert_clean().await,
    }
}

/// Errors that happen at the same time pause a mirror once, and resuming it once is enough.
#[case]
async fn that_coincide_pause_once(t: &mut Test) -> CaseResult {
    let source = t.image("source").format(RAW).size(SIZE);
    let source = source.content(numbered()).create().await?;
    let copy = t.image("copy").format(RAW).size(SIZE).create().await?;
    // The mirror has both of these pieces under way at once.
    let error =
        |sector: u64| json!({"event": "none", "once": true, "iotype": "write", "sector": sector});
    let errors = json!({"inject-error": [error(0), error(MIB / 512)]});
    let vm = t.host().disk(&source).blockdev(failing(&copy, errors));
    let vm = vm.launch().await?;

    let job = vm.mirror("source").to("copy").set("on-target-error", "stop");
    let mut job = job.start().await?;
    assert_stopped(&mut job, "paused", EIO).await?;
    check!(vm.take_events("BLOCK_JOB_ERROR").len() == 2);
    job.resume().await?;
    job.complete().await?;
    vm.disk("source").assert_node("copy").await?;
    vm.shutdown().await?;
    copy.assert_reads(numbered()).await
}

/// Where a chunk is only a part of a cluster of the target, the rest of the cluster is copied as well; an
/// error there is tried again like any other.
#[case(upstream = "041::TestReadErrors::test_large_cluster")]
async fn in_a_cluster_of_the_target(t: &mut Test) -> CaseResult {
    let own = Content::nothing().written(0x77, MIB + CLUSTER..MIB + CLUSTER + 512);
    let base = t.image("base").format(RAW).size(SIZE);
    let base = base.content(numbered()).create().await?;
    let source = t.image("source").backing(&base).content(&own);
    let source = source.create().await?;
    let copy = t.image("copy").backing(&base);
    let copy = copy.option("cluster_size", 2 * CLUSTER).create().await?;
    let sector = MIB / 512;
    let error = json!({"event": "none", "once": true, "sector": sector, "iotype": "read"});
    let below = failing(&base, json!({"inject-error": [error]}));
    let vm = t.host().disk(source.node().backing(below)).launch().await?;

    let mut job = vm
        .job(
            "drive-mirror",
            json!({"device": "source", "target": copy, "mode": "existing"}),
        )
        .set("format", copy.format().name())
        .sync("top")
        .set("on-source-error", "ignore")
        .start()
        .await?;
    job.wait_ready().await?;
    let error = Matcher::event("BLOCK_JOB_ERROR");
    let error = vm.event(error).await?;
    error.assert_includes(&json!({"data": {"operation": "read", "action": "ignore"}}))?;
    job.complete().await?;

    vm.disk("source").assert_reads(own.over(&numbered())).await?;
    vm.shutdown().await?;
    copy.assert_reads(own.over(&numbered())).await?;
    copy.assert_backing(&base).await?;
    copy.assert_clean().await
}

/// What a mirror is to do when it is ready, and how often its target then cannot be flushed.
struct Last {
    cancel: bool,
    once: bool,
}

rows! {
    LAST: Last { cancel, once };
    "cancelled-transient" => true, true,
        upstream = "mirror-ready-cancel-error::TestMirrorReadyCancelError::test_transient_error";
    "cancelled-persistent" => true, false,
        upstream = "mirror-ready-cancel-error::TestMirrorReadyCancelError::test_persistent_error";
    "completed-transient" => false, true;
    "completed-persistent" => false, false;
}

/// A mirror whose target cannot be flushed at the end waits in standby; then the flush can be retried, or the
/// mirror cancelled.
#[case(rows = LAST, formats_except = [LUKS])]
async fn in_the_last_flush(t: &mut Test, last: &Last) -> CaseResult {
    let source = t.image("source").size(MIB).write(1, 0..CLUSTER);
    let source = source.create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    // The first flush is that before the job is ready.
    let options = json!({
        "set-state": [{"event": "flush_to_disk", "state": 1, "new_state": 2}],
        "inject-error": [
            {"event": "flush_to_disk", "once": last.once, "immediately": true, "state": 2},
        ],
    });
    let vm = t.host().disk(&source).blockdev(failing(&copy, options));
    let vm = vm.tolerate("Failed to flush").tolerate("Failed flush").launch().await?;
    let before = vm.state().await?;

    let job = vm.mirror("source").to("copy").set("on-target-error", "stop");
    let mut job = job.start().await?;
    job.wait_ready().await?;
    vm.disk("source").write(2, 0..CLUSTER).await?;
    let command = if last.cancel {
        "block-job-cancel"
    } else {
        "block-job-complete"
    };
    vm.cmd(command, json!({"device": job.id()})).await?;
    assert_stopped(&mut job, "standby", EIO).await?;
    let on_source = last.cancel || !last.once;
    if last.once {
        job.resume().await?;
        job.wait().await?;
    } else {
        check!(job.force_cancel().await?.outcome == Outcome::Cancelled);
    }

    vm.assert_no_jobs().await?;
    let node = if on_source { "source" } else { "copy" };
    vm.disk("source").assert_node(node).await?;
    if on_source {
        vm.assert_same_graph_as(&before).await?;
    }
    vm.disk("source").assert_pattern(2, 0..CLUSTER).await?;
    vm.shutdown().await?;
    if last.once {
        copy.assert_same_as(&source).await?;
    }
    source.assert_pattern(2, 0..CLUSTER).await
}

rows! {
    POLICIES: &str;
    "report" => "report";
    "ignore" => "ignore";
    "stop" => "stop";
}

/// What the guest writes while the mirror is ready may fail on the target, which the guest does not notice: the
/// policy is followed, and the guest's data is not lost.
#[case(rows = (POLICIES, MODES))]
async fn after_it_was_ready(t: &mut Test, policy: &&str, mode: &&str) -> CaseResult {
    let source = t.image("source").size(SIZE).content(numbered());
    let source = source.create().await?;
    let copy = t.image("copy").format(RAW).size(SIZE).create().await?;
    let (at, written) = (clusters(9..10), numbered().written(0x77, clusters(9..10)));
    // The first write there is a part of the copy, which is flushed in the end.
    let options = json!({
        "set-state": [{"event": "flush_to_disk", "state": 1, "new_state": 2}],
        "inject-error": [{
            "event": "write_aio", "sector": at.start / 512, "iotype": "write", "once": true, "state": 2,
        }],
    });
    let vm = t.host().disk(&source).blockdev(failing(&copy, options));
    let vm = vm.launch().await?;

    let job = vm.mirror("source").to("copy").set("on-target-error", *policy);
    let mut job = job.set("copy-mode", *mode).start().await?;
    job.wait_ready().await?;
    vm.disk("source").write(0x77, at).await?;
    let error = vm.event("BLOCK_JOB_ERROR").await?;
    error.assert_includes(&json!({"data": {"operation": "write", "action": policy}}))?;
    if *policy == "stop" {
        assert_stopped(&mut job, "standby", EIO).await?;
        job.resume().await?;
    }
    let (node, failed) = match *policy {
        "report" => ("source", true),
        _ => ("copy", false),
    };
    if failed {
        job.wait().expect_error("Input/output error").await?;
    } else {
        job.complete().await?;
    }

    vm.assert_no_jobs().await?;
    vm.disk("source").assert_node(node).await?;
    vm.disk("source").assert_reads(&written).await?;
    vm.shutdown().await?;
    source.assert_reads(&written).await?;
    if !failed {
        copy.assert_reads(&written).await?;
    }
    Ok(())
}

/// When the target is full, a mirror waits for more space, and then goes on where it was.
#[case(upstream = "248", formats = [QCOW2], needs = [Command("blockdev-reopen")])]
async fn of_a_full_target(t: &mut Test) -> CaseResult {
    let (size, limit) = (5 * MIB, 2 * MIB);
    let disk = Content::nothing().written(0xcd, 0..size);
    let source = t.image("source").size(size).content(&disk).create().await?;
    let copy = t.image("copy").size(size).fill(0x99).create().await?;
    let limited = |node: Node, size: Option<u64>| {
        let below = Node::new("raw").file(copy.protocol_node());
        match size {
            Some(size) => node.file(below.set("size", size)),
            None => node.file(below),
        }
    };
    let vm = t.host().disk(&source).launch().await?;
    vm.add_node(limited(copy.node(), Some(limit))).await?;

    let job = vm.mirror("source").to("copy");
    let mut job = job.set("on-target-error", "enospc").start().await?;
    assert_stopped(&mut job, "paused", ENOSPC).await?;
    let at_rest = job.info().await?;
    let done = number(&at_rest, "current-progress")?;
    check!(done <= limit, "{done} bytes do not fit");
    vm.reopen_all([limited(copy.node(), None)]).await?;
    job.resume().await?;
    job.complete().await?;

    vm.disk("source").assert_node("copy").await?;
    vm.disk("source").assert_reads(&disk).await?;
    vm.shutdown().await?;
    copy.assert_reads(&disk).await?;
    copy.assert_clean().await
}
