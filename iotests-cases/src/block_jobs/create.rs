//! What may be done to a job that makes an image, in each of its states. It works without a point at which it could rest, so one that is
//! paused still runs; and it is no block job.

use iotests_core::prelude::*;

use super::verbs::Follows::{NoVerb, State, Text};
use super::verbs::{GONE, NOT_PAUSED, RUNNING, TWICE, Verb};
use crate::served::Served;

const FILE: u64 = 16 * MIB;

rows! {
    STATES: (usize, &str);
    "running" => (0, "running");
    "paused" => (1, "running");
    "concluded" => (3, "concluded");
}

const NO_BLOCK_JOB: super::verbs::Follows = Text("Block job 'make' not found");

rows! {
    VERBS: Verb { command, key, follows };
    "pause" => "job-pause", "id", [RUNNING, TWICE, NoVerb, NoVerb];
    "pause-block-job" => "block-job-pause", "device", [NO_BLOCK_JOB; 4];
    "resume" => "job-resume", "id", [NOT_PAUSED, RUNNING, NOT_PAUSED, NOT_PAUSED];
    "complete" => "job-complete", "id", [NoVerb; 4];
    "finalize" => "job-finalize", "id", [NoVerb; 4];
    "dismiss" => "job-dismiss", "id", [NoVerb, NoVerb, NoVerb, GONE];
    "cancel" => "job-cancel", "id", [RUNNING, RUNNING, RUNNING, NoVerb];
    "cancel-softly" => "block-job-cancel", "device", [NO_BLOCK_JOB; 4];
    "set-speed" => "block-job-set-speed", "device", [NO_BLOCK_JOB; 4];
}

/// Each verb is accepted where it belongs, or is refused and has no effect: the image is created, and the job
/// reports that it was cancelled if it was.
#[case(formats = [QCOW2, VDI, VMDK, VHDX, PARALLELS], rows = (STATES, VERBS))]
async fn are_accepted_or_refused(t: &mut Test, state: &(usize, &str), verb: &Verb) -> CaseResult {
    let (number, status) = *state;
    let file = t.image("file").format(RAW).size(FILE).create().await?;
    let served = Served::holding(t, &file, 0..FILE)?;
    let node = served.node().node_name("file");
    let vm = t.host().blockdev(node).launch().await?;
    let made = json!({"driver": t.format(), "file": "file", "size": MIB});
    let job = vm.job("blockdev-create", json!({"options": made}));
    let mut job = job.id("make").start().await?;
    job.wait_status("running").await?;
    match number {
        0 => {}
        1 => drop(vm.cmd("job-pause", json!({"id": "make"})).await?),
        _ => {
            served.release();
            job.wait_status("concluded").await?;
        }
    }
    let call = vm.cmd(verb.command, verb.arguments(&job));
    let refusal = verb.refusal(number, &job, status);
    let is_cancelled = refusal.is_none() && verb.command == "job-cancel";
    match refusal {
        Some(text) if verb.key == "device" => call.refused_class("DeviceNotActive", text).await?,
        Some(text) => call.refused(text).await?,
        None => drop(call.await?),
    }
    if let State("null") = verb.follows[number] {
        check!(job.wait().outcome().await?.outcome == Outcome::Completed);
    } else {
        job.wait_status(status).await?;
        served.release();
        job.wait_status("concluded").await?;
        let expected = match is_cancelled {
            true => Outcome::Cancelled,
            false => Outcome::Completed,
        };
        check!(job.dismiss().outcome().await?.outcome == expected);
    }
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    served.finish().await?;
    let image = t.open(file.filename()).format(t.format()).await?;
    check!(image.size().await? == MIB);
    image.assert_fill(0).await
}
