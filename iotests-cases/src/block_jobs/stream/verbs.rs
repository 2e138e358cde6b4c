//! What may be done to a stream in each of its states.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use crate::block_jobs::verbs::{Follows, STATES, VERBS, Verb, end};

defaults! { formats = [QCOW2] }

/// Each verb is accepted where it belongs and then has its effect, or is refused and has none; a
/// stream that was cancelled has changed nothing but where the data lies.
#[case(rows = (STATES, VERBS))]
async fn are_accepted_or_refused(t: &mut Test, state: &(usize, &str), verb: &Verb) -> CaseResult {
    let (number, status) = state;
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let mut job = stream(&vm, status).await?;
    let call = vm.cmd(verb.command, verb.arguments(&job));
    let last = verb.command.rsplit("job-").next().unwrap_or_default();
    let refused = verb.refusal(*number, &job, status);
    let now = match (refused, verb.follows[*number]) {
        // Looking at the nodes kills QEMU then.
        (Some(text), _) if *status == "concluded" => {
            let before = job.info().await?;
            call.expect_error(text).await?;
            check!(job.info().await? == before);
            status
        }
        (Some(text), _) => {
            call.refused(text).await?;
            status
        }
        (None, follows) => {
            call.await?;
            match follows {
                Follows::State(state) => state,
                _ => status,
            }
        }
    };
    if last == "set-speed" && matches!(verb.follows[*number], Follows::State(_)) {
        job.block_info().await?.assert("speed", 2 * HELD)?;
    }
    let cancelled = last == "cancel" && now != *status;
    if now != "null" {
        job.wait_status(now).await?;
        end(job, now, cancelled).await?;
    } else {
        check!(job.wait().outcome().await?.outcome == Outcome::Completed);
    }

    vm.assert_no_jobs().await?;
    if cancelled {
        chain.assert_nodes_unchanged(&vm).await?;
        vm.shutdown().await?;
        chain.top.assert_backing(&chain.mid).await?;
    } else {
        vm.assert_chain("top").await?;
        chain.assert_guest_reads(&vm).await?;
        vm.shutdown().await?;
    }
    chain.assert_unchanged(&[Layer::Base, Layer::Mid])?;
    chain.top.assert_reads(chain.merged(Layer::Top, Layer::Base)).await
}

/// A stream in this state.
async fn stream(vm: &Machine, status: &str) -> CaseResult<Job> {
    let early = ["running", "paused"].contains(&status);
    let speed = if early { HELD } else { 0 };
    let mut job = vm.stream("top").manual().speed(speed).start().await?;
    match status {
        "running" => job.wait_status("running").await?,
        "paused" => job.pause().await?,
        "pending" => {}
        _ => {
            job.wait_status("pending").await?;
            job.finalize().await?;
        }
    }
    if early {
        let rests = |job: &Value| job["current-progress"] == 8 * CLUSTER;
        job.until("its first step", rests).await?;
    }
    job.wait_status(status).await?;
    Ok(job)
}

const IMPLICIT: KnownBug = known(
    "listing nodes crashes QEMU while a stream waits to be dismissed: its filter has no child",
    "died of SIGSEGV",
    ALWAYS,
)
.fixed_in(["10.0.13", "10.1"]);

/// While a stream waits with its result to be dismissed, the nodes can be listed; afterwards they can
/// be removed.
#[case(known_bugs = [IMPLICIT])]
async fn leave_the_nodes_in_the_end(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = t.host().blockdev(&chain.top).launch().await?;
    let job = stream(&vm, "concluded").await?;
    vm.assert_read_only(&[("top", false)]).await?;
    vm.assert_chain("top").await?;
    job.dismiss().await?;
    vm.remove_node("top").await?;
    vm.assert_no_nodes(&["top", "mid", "base"]).await?;
    vm.shutdown().await?;
    Ok(())
}
