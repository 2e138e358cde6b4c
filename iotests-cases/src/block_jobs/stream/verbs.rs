//! What may be done to a stream in each of its states.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};

defaults! { formats = [QCOW2] }

rows! {
    pub(in crate::block_jobs) STATES: (usize, &str);
    "running" => (0, "running");
    "paused" => (1, "paused");
    "pending" => (2, "pending");
    "concluded" => (3, "concluded");
}

/// Something that is asked of a job.
pub(in crate::block_jobs) struct Verb {
    pub(in crate::block_jobs) command: &'static str,
    /// The argument that names the job.
    key: &'static str,
    /// What follows, when the job runs, is paused, is pending, and has concluded.
    pub(in crate::block_jobs) follows: [Follows; 4],
}

#[derive(Clone, Copy)]
pub(in crate::block_jobs) enum Follows {
    /// The job is in this state then, perhaps for having been there.
    State(&'static str),
    /// The verb does not belong there.
    NoVerb,
    /// It is refused with this text.
    Text(&'static str),
}
use Follows::{NoVerb, State, Text};

const PAUSED: Follows = State("paused");
const RUNNING: Follows = State("running");
const CONCLUDED: Follows = State("concluded");
const GONE: Follows = State("null");
const NOT_PAUSED: Follows = Text("Can't resume a job that was not paused");
const TWICE: Follows = Text("Job is already paused");
const REST: Follows = Text("is currently paused");

rows! {
    pub(in crate::block_jobs) VERBS: Verb { command, key, follows };
    "pause" => "job-pause", "id", [PAUSED, TWICE, NoVerb, NoVerb];
    "pause-block-job" => "block-job-pause", "device", [PAUSED, TWICE, NoVerb, NoVerb];
    "resume" => "job-resume", "id", [NOT_PAUSED, RUNNING, NOT_PAUSED, NOT_PAUSED];
    "complete" => "job-complete", "id", [NoVerb; 4];
    "finalize" => "job-finalize", "id", [NoVerb, NoVerb, CONCLUDED, NoVerb];
    "dismiss" => "job-dismiss", "id", [NoVerb, NoVerb, NoVerb, GONE];
    "cancel" => "job-cancel", "id", [CONCLUDED, CONCLUDED, CONCLUDED, NoVerb];
    "cancel-softly" => "block-job-cancel", "device", [CONCLUDED, REST, CONCLUDED, NoVerb];
    "set-speed" => "block-job-set-speed", "device", [RUNNING, PAUSED, NoVerb, NoVerb];
}

impl Verb {
    /// What is asked of this job.
    pub(in crate::block_jobs) fn arguments(&self, job: &Job) -> Value {
        let mut arguments = json!({self.key: job.id()});
        if self.command == "block-job-set-speed" {
            arguments["speed"] = (2 * HELD).into();
        }
        arguments
    }

    /// Why it is refused in the state of this number and name, if it is.
    pub(in crate::block_jobs) fn refusal(
        &self,
        number: usize,
        job: &Job,
        status: &str,
    ) -> Option<String> {
        match self.follows[number] {
            State(_) => None,
            Text(text) => Some(text.to_owned()),
            NoVerb => {
                let whose = format!("Job '{}' in state '{status}'", job.id());
                let verb = self.command.rsplit("job-").next().unwrap_or_default();
                Some(format!("{whose} cannot accept command verb '{verb}'"))
            }
        }
    }
}

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
                State(state) => state,
                _ => status,
            }
        }
    };
    if last == "set-speed" && matches!(verb.follows[*number], State(_)) {
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
    chain
        .top
        .assert_reads(chain.merged(Layer::Top, Layer::Base))
        .await
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

/// Brings a job to its end from this state.
async fn end(mut job: Job, status: &str, cancelled: bool) -> CaseResult {
    if status == "paused" {
        job.resume().await?;
    }
    if ["running", "paused"].contains(&status) {
        job.set_speed(0).await?;
        job.wait_status("pending").await?;
    }
    if ["running", "paused", "pending"].contains(&status) {
        job.finalize().await?;
    }
    let ended = job.dismiss().outcome().await?;
    check!((ended.outcome == Outcome::Cancelled) == cancelled);
    Ok(())
}

const IMPLICIT: KnownBug = known(
    "listing nodes kills QEMU while a stream rests with its result: its filter has no child",
    "died of SIGSEGV",
    ALWAYS,
)
.fixed_in(["10.0.13", "10.1"]);

/// While a stream rests with its result, the nodes can be looked at; when it is dismissed, they can
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
