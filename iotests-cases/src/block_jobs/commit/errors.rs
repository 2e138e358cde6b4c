//! Commits that meet an I/O error, and what their error policy makes of it.

use iotests_core::prelude::*;

use super::chain::{Chain, Layer};
use crate::block_jobs::error_policy::{
    EIO, ENOSPC, action, assert_stopped, layer_with, reported, take_job_events,
};
use crate::json::number;
use crate::threads::with_disk;

/// An error that happens once, and what is to follow.
struct Injected {
    /// Whether the active layer is committed, or the one below it.
    active: bool,
    /// What fails, as blkdebug has it.
    operation: &'static str,
    /// The job's `on-error`.
    policy: &'static str,
    errno: i32,
}

/// The active layer is committed.
const ACTIVE: bool = true;
/// The layer below it is.
const MID: bool = false;

rows! {
    ERRORS: Injected { active, operation, policy, errno };
    "active-read-report" => ACTIVE, "read", "report", EIO, upstream = "ActiveReadErrorReport";
    "active-read-stop" => ACTIVE, "read", "stop", EIO, upstream = "ActiveReadErrorStop";
    "active-read-ignore" => ACTIVE, "read", "ignore", EIO, upstream = "ActiveReadErrorIgnore";
    "active-write-report" => ACTIVE, "write", "report", EIO, upstream = "ActiveWriteErrorReport";
    "active-write-stop" => ACTIVE, "write", "stop", EIO, upstream = "ActiveWriteErrorStop";
    "active-write-ignore" => ACTIVE, "write", "ignore", EIO, upstream = "ActiveWriteErrorIgnore";
    "mid-read-report" => MID, "read", "report", EIO, upstream = "IntermediateReadErrorReport";
    "mid-read-stop" => MID, "read", "stop", EIO, upstream = "IntermediateReadErrorStop";
    "mid-read-ignore" => MID, "read", "ignore", EIO, upstream = "IntermediateReadErrorIgnore";
    "mid-write-report" => MID, "write", "report", EIO, upstream = "IntermediateWriteErrorReport";
    "mid-write-stop" => MID, "write", "stop", EIO, upstream = "IntermediateWriteErrorStop";
    "mid-write-ignore" => MID, "write", "ignore", EIO, upstream = "IntermediateWriteErrorIgnore";
    "active-flush-report" => ACTIVE, "flush", "report", EIO;
    "active-flush-stop" => ACTIVE, "flush", "stop", EIO;
    // The policy `enospc` is to stop when there is no space, and to report any other error.
    "active-write-enospc" => ACTIVE, "write", "enospc", EIO;
    "mid-write-enospc" => MID, "write", "enospc", EIO;
    "active-write-no-space" => ACTIVE, "write", "enospc", ENOSPC;
    "mid-write-no-space" => MID, "write", "enospc", ENOSPC;
}

rows! {
    IN_A_THREAD: Injected { active, operation, policy, errno };
    "active-read-report" => ACTIVE, "read", "report", EIO;
    "active-write-stop" => ACTIVE, "write", "stop", EIO;
    "active-write-ignore" => ACTIVE, "write", "ignore", EIO;
    "mid-read-report" => MID, "read", "report", EIO;
    "mid-write-stop" => MID, "write", "stop", EIO;
}

/// How many clusters of the upper layers are allocated.
const ALLOCATED: u64 = 8;

impl Injected {
    /// The layers between which the job copies.
    fn layers(&self) -> (Layer, Layer) {
        match self.active {
            true => (Layer::Top, Layer::Mid),
            false => (Layer::Mid, Layer::Base),
        }
    }

    /// What QEMU makes of the error.
    fn action(&self) -> &'static str {
        action(self.policy, self.errno)
    }

    /// Whether this is the layer that the error happens in.
    fn is_in(&self, layer: Layer) -> bool {
        let (from, into) = self.layers();
        layer == if self.operation == "read" { from } else { into }
    }

    /// A layer as a node, which fails once: where its first data lies, or when it is flushed.
    async fn node(&self, chain: &Chain, layer: Layer) -> CaseResult<Node> {
        if !self.is_in(layer) {
            return Ok(layer_with(chain, layer, None));
        }
        let map = chain.image(layer).own_map().json().await?;
        let first = map.find(&json!({"start": 0, "data": true}))?;
        let sector = number(first, "offset")? / 512;
        let mut error = match self.operation {
            "flush" => json!({"event": "none", "iotype": "flush"}),
            operation => json!({"event": format!("{operation}_aio"), "sector": sector}),
        };
        error["once"] = true.into();
        error["errno"] = self.errno.into();
        Ok(layer_with(chain, layer, Some(error)))
    }

    /// The events of the job, which are to come in this order.
    fn events(&self, job: &str) -> Vec<Value> {
        let len = match self.active {
            true => ALLOCATED * CLUSTER,
            false => 2 * MIB,
        };
        let event = |name: &str, data: Value| json!({"event": name, "data": data});
        let operation = reported(self.operation);
        let error = json!({"device": job, "operation": operation, "action": self.action()});
        let mut job = json!({"device": job, "type": "commit", "len": len, "speed": 0});
        let mut events = vec![event("BLOCK_JOB_ERROR", error)];
        if self.action() == "report" {
            job["error"] = "Input/output error".into();
        } else {
            job["offset"] = len.into();
        }
        if self.active && self.action() != "report" {
            events.push(event("BLOCK_JOB_READY", job.clone()));
        }
        events.push(event("BLOCK_JOB_COMPLETED", job));
        events
    }

    /// What must be in the files after a failure: where the error was, what was there before. Other
    /// requests may have been under way, and may have been done.
    async fn assert_files_after_failure(&self, chain: &Chain) -> CaseResult {
        let (from, into) = self.layers();
        let before = chain.merged(into, Layer::Base);
        let mut after = chain.merged(from, Layer::Base);
        if self.operation != "flush" {
            after = after.with_part_of(&before, clusters(0..1));
        }
        chain.image(into).assert_reads_either(after, before).await?;
        for layer in [Layer::Base, Layer::Mid, Layer::Top] {
            if layer != into {
                let own = chain.content(layer);
                chain.image(layer).assert_layer(own).await?;
            }
        }
        chain.assert_headers(Layer::Mid).await
    }

    /// What must be in the files after a success, at whatever attempt.
    async fn assert_files(&self, chain: &Chain) -> CaseResult {
        let (from, into) = self.layers();
        for layer in [Layer::Base, Layer::Mid, Layer::Top] {
            let upper = if layer == into { from } else { layer };
            let own = chain.merged(upper, layer);
            chain.image(layer).assert_layer(own).await?;
        }
        chain.assert_headers(if self.active { Layer::Mid } else { Layer::Base }).await
    }
}

/// An I/O error ends a commit, pauses it or is tried again, as its error policy says; in the end the
/// data is all there, or untouched.
#[case(upstream = "040::TestErrorHandling::test{row}", needs = [Driver("blkdebug")], rows = ERRORS)]
async fn follow_the_policy(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, false).await
}

/// The same holds when an iothread serves the disk; the guest is then on what its disk was committed to.
#[case(needs = [Driver("blkdebug")], rows = IN_A_THREAD, host = System)]
async fn follow_the_policy_in_an_iothread(t: &mut Test, row: &Injected) -> CaseResult {
    follows(t, row, true).await
}

/// Commits, in an iothread if it is for a guest that has its disk there.
async fn follows(t: &Test, row: &Injected, threaded: bool) -> CaseResult {
    let contents = [(0x20, 32), (0x60, ALLOCATED), (0xa0, ALLOCATED)];
    let contents = contents.map(|(first, to)| Content::nothing().numbered(first, clusters(0..to)));
    let chain = Chain::with(t, 2 * MIB, contents).await?;
    let mut vm = t.host();
    for layer in [Layer::Base, Layer::Mid, Layer::Top] {
        let node = row.node(&chain, layer).await?;
        vm = match layer {
            Layer::Top if threaded => {
                // The device does not read the disk to guess this.
                let geometry = ["cyls", "heads", "secs"];
                let disk = Disk::of(node);
                let disk = geometry.iter().fold(disk, |disk, name| disk.property(name, 1));
                with_disk(vm, disk, true)
            }
            _ => vm.blockdev(node),
        };
    }
    let vm = vm.launch().await?;
    let before = vm.state().await?;
    let (from, into) = row.layers();

    let mut job = vm.commit("top").top(chain.image(from)).base(chain.image(into));
    if !row.active {
        // The node with the errors has no name that a header should have.
        job = job.set("backing-file", chain.image(into).filename());
    }
    let mut job = job.set("on-error", row.policy).start().await?;
    let id = job.id().to_owned();
    if row.action() == "stop" {
        assert_stopped(&mut job, "paused", row.errno).await?;
        job.resume().await?;
    }
    let failed = row.action() == "report";
    match (failed, row.active) {
        (true, _) => job.wait().expect_error(exactly("Input/output error")).await?,
        (false, true) => drop(job.complete().await?),
        (false, false) => drop(job.wait().await?),
    }

    let events = take_job_events(&vm);
    events.assert_includes(&json!(row.events(&id)))?;
    let last = events.at("[-1]/data")?;
    let all_copied = !failed || row.operation == "flush";
    check!(
        (last.at("offset")? == last.at("len")?) == all_copied,
        "{last}"
    );
    vm.assert_no_jobs().await?;
    if !failed && row.active && threaded {
        vm.disk("top").assert_node("mid").await?;
        vm.disk("top").assert_reads(chain.merged(Layer::Top, Layer::Base)).await?;
    } else if failed || row.active {
        vm.assert_unchanged_since(&before).await?;
    } else {
        vm.assert_chain("top -> base").await?;
        vm.assert_read_only(&[("top", false), ("mid", false), ("base", false)]).await?;
    }
    vm.shutdown().await?;
    match failed {
        true => row.assert_files_after_failure(&chain).await,
        false => row.assert_files(&chain).await,
    }
}
