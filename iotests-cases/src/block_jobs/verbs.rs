//! What may be done to a commit and a backup in each of their states.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use super::stream::verbs::{Follows, STATES, VERBS};

defaults! { formats = [QCOW2] }

/// A job that copies with a speed, and so can be held in its middle.
struct Kind {
    start: fn(&Machine) -> JobBuilder,
    /// How much it has done when it is held.
    step: u64,
    /// What becomes of the chain in the end.
    chain: &'static str,
}

rows! {
    KINDS: Kind { start, step, chain };
    "commit" => |vm| vm.commit("top").top("mid").base("base"), 4 * CLUSTER, "top -> base";
    "backup" => |vm| vm.backup("top").to("copy").set("x-perf", json!({"max-chunk": CLUSTER})),
        CLUSTER, "top -> mid -> base";
}

/// The chain, a target for backups, and a machine that has them.
async fn launch(t: &Test) -> CaseResult<(Chain, Image, Machine)> {
    let chain = Chain::create(t, Size::Full).await?;
    let copy = t.image("copy").size(chain.size).create().await?;
    let vm = t.host().disk(&chain.top).blockdev(&copy).launch().await?;
    Ok((chain, copy, vm))
}

/// What a job does not take in its state is refused, has no effect, and keeps it from nothing: it does all of its work.
#[case(rows = (KINDS, STATES))]
async fn are_refused_where_they_do_not_belong(
    t: &mut Test,
    kind: &Kind,
    state: &(usize, &str),
) -> CaseResult {
    let (chain, copy, vm) = launch(t).await?;
    let (number, status) = state;
    let mut job = kind.reach(&vm, status).await?;
    for verb in VERBS.iter().map(|row| row.value()) {
        if let Some(error) = verb.refusal(*number, &job, status) {
            vm.cmd(verb.command, verb.arguments(&job))
                .refused(error)
                .await?;
            job.wait_status(status).await?;
        }
    }
    finish(job, status).await?;

    vm.assert_no_jobs().await?;
    vm.assert_chain(kind.chain).await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    let all = chain.merged(Layer::Top, Layer::Base);
    match kind.chain {
        "top -> base" => {
            chain
                .base
                .assert_reads(chain.merged(Layer::Mid, Layer::Base))
                .await?
        }
        _ => copy.assert_reads(&all).await?,
    }
    chain.top.assert_reads(all).await
}

/// What a job takes in its state has its effect, one time like the next: one that was cancelled has left the chain as it was.
#[case(rows = (KINDS, STATES))]
async fn are_accepted_where_they_belong(
    t: &mut Test,
    kind: &Kind,
    state: &(usize, &str),
) -> CaseResult {
    let (chain, _copy, vm) = launch(t).await?;
    let (number, status) = state;
    for verb in VERBS.iter().map(|row| row.value()) {
        let Follows::State(then) = verb.follows[*number] else {
            continue;
        };
        if then == "concluded" && !verb.command.ends_with("cancel") && kind.chain == "top -> base" {
            // There is nothing to be committed after this.
            continue;
        }
        let mut job = kind.reach(&vm, status).await?;
        vm.cmd(verb.command, verb.arguments(&job)).await?;
        if then == "null" {
            check!(job.wait().outcome().await?.outcome == Outcome::Completed);
            continue;
        }
        job.wait_status(then).await?;
        if then == "concluded" {
            job.dismiss().outcome().await?;
        } else {
            vm.cmd("job-cancel", json!({"id": job.id()})).await?;
            job.wait_status("concluded").await?;
            check!(job.dismiss().outcome().await?.outcome == Outcome::Cancelled);
        }
        chain.assert_nodes_unchanged(&vm).await?;
    }
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    chain
        .top
        .assert_reads(chain.merged(Layer::Top, Layer::Base))
        .await
}

impl Kind {
    /// A job in this state.
    async fn reach(&self, vm: &Machine, status: &str) -> CaseResult<Job> {
        let early = ["running", "paused"].contains(&status);
        let speed = if early { HELD } else { 0 };
        let mut job = (self.start)(vm).manual().speed(speed).start().await?;
        if early {
            let step = self.step;
            let rests = move |job: &Value| job["current-progress"].as_u64() >= Some(step);
            job.until("its first step", rests).await?;
        }
        match status {
            "paused" => job.pause().await?,
            "concluded" => {
                job.wait_status("pending").await?;
                job.finalize().await?;
            }
            _ => {}
        }
        job.wait_status(status).await?;
        Ok(job)
    }
}

/// Brings a job to its end from this state.
async fn finish(mut job: Job, status: &str) -> CaseResult {
    if status == "paused" {
        job.resume().await?;
    }
    if ["running", "paused"].contains(&status) {
        job.set_speed(0).await?;
        job.wait_status("pending").await?;
    }
    if status != "concluded" {
        job.finalize().await?;
    }
    check!(job.dismiss().outcome().await?.outcome == Outcome::Completed);
    Ok(())
}
