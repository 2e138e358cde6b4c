//! What may be done to a job in each of its states; and commits and backups, held to it.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use super::commit::STAYS_WRITABLE;
use crate::threads::{THREADS, with_disk};

defaults! { formats = [QCOW2] }

rows! {
    pub(super) STATES: (usize, &str);
    "running" => (0, "running");
    "paused" => (1, "paused");
    "pending" => (2, "pending");
    "concluded" => (3, "concluded");
}

/// Something that is asked of a job.
pub(super) struct Verb {
    pub(super) command: &'static str,
    /// The argument that names the job.
    pub(super) key: &'static str,
    /// What follows, when the job runs, is paused, is pending, and has concluded.
    pub(super) follows: [Follows; 4],
}

#[derive(Clone, Copy)]
pub(super) enum Follows {
    /// The job is in this state then, perhaps for having been there.
    State(&'static str),
    /// The verb does not belong there.
    NoVerb,
    /// It is refused with this text.
    Text(&'static str),
}
use Follows::{NoVerb, State, Text};

const PAUSED: Follows = State("paused");
pub(super) const RUNNING: Follows = State("running");
const CONCLUDED: Follows = State("concluded");
pub(super) const GONE: Follows = State("null");
pub(super) const NOT_PAUSED: Follows = Text("Can't resume a job that was not paused");
pub(super) const TWICE: Follows = Text("Job is already paused");
const REST: Follows = Text("is currently paused");

rows! {
    pub(super) VERBS: Verb { command, key, follows };
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
    pub(super) fn arguments(&self, job: &Job) -> Value {
        let mut arguments = json!({self.key: job.id()});
        if self.command == "block-job-set-speed" {
            arguments["speed"] = (2 * HELD).into();
        }
        arguments
    }

    /// Why it is refused in the state of this number and name, if it is.
    pub(super) fn refusal(&self, number: usize, job: &Job, status: &str) -> Option<String> {
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
    launch_with(t, false).await
}

/// The same, with the chain in an iothread or in the main thread.
async fn launch_with(t: &Test, threaded: bool) -> CaseResult<(Chain, Image, Machine)> {
    let chain = Chain::create(t, Size::Full).await?;
    let copy = t.image("copy").size(chain.size).create().await?;
    let vm = with_disk(t.host(), &chain.top, threaded).blockdev(&copy).launch().await?;
    Ok((chain, copy, vm))
}

/// What a job does not accept in its state is refused and has no effect: the job does all of its work.
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
            vm.cmd(verb.command, verb.arguments(&job)).refused(error).await?;
            job.wait_status(status).await?;
        }
    }
    end(job, status, false).await?;

    vm.assert_no_jobs().await?;
    vm.assert_chain(kind.chain).await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    let all = chain.merged(Layer::Top, Layer::Base);
    match kind.chain {
        "top -> base" => chain.base.assert_reads(chain.merged(Layer::Mid, Layer::Base)).await?,
        _ => copy.assert_reads(&all).await?,
    }
    chain.top.assert_reads(all).await
}

/// What a job accepts in its state has its effect every time: a job that was cancelled has left the chain as it was.
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
    chain.top.assert_reads(chain.merged(Layer::Top, Layer::Base)).await
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

/// Brings a job to its end from this state; `cancelled` says whether it has been.
pub(super) async fn end(mut job: Job, status: &str, cancelled: bool) -> CaseResult {
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
    let expected = match cancelled {
        true => Outcome::Cancelled,
        false => Outcome::Completed,
    };
    check!(job.dismiss().outcome().await?.outcome == expected);
    Ok(())
}

/// A job that, when it is ready, waits to be completed.
struct Waiting {
    start: fn(&Machine) -> JobBuilder,
    /// Where the guest is then.
    completed: &'static str,
}

rows! {
    WAITING: Waiting { start, completed };
    "an-active-commit" => |vm| vm.commit("top"), "base";
    "a-mirror" => |vm| vm.mirror("top").to("copy"), "copy";
}

rows! {
    READY: (usize, &str);
    "ready" => (0, "ready");
    "standby" => (1, "standby");
}

rows! {
    FROM_READY_ON: (usize, &str);
    "ready" => (0, "ready");
    "standby" => (1, "standby");
    "pending" => (2, "pending");
    "concluded" => (3, "concluded");
}

const STANDBY: Follows = State("standby");
const IS_READY: Follows = State("ready");

/// What follows when the job is ready, is paused then, is pending, and has concluded. One that is completed
/// while it is paused stays so until it is resumed.
const OF_WAITING: [Verb; 9] = {
    const fn verb(command: &'static str, key: &'static str, follows: [Follows; 4]) -> Verb {
        Verb {
            command,
            key,
            follows,
        }
    }
    [
        verb("job-pause", "id", [STANDBY, TWICE, NoVerb, NoVerb]),
        verb(
            "block-job-pause",
            "device",
            [STANDBY, TWICE, NoVerb, NoVerb],
        ),
        verb(
            "job-resume",
            "id",
            [NOT_PAUSED, IS_READY, NOT_PAUSED, NOT_PAUSED],
        ),
        verb(
            "block-job-set-speed",
            "device",
            [IS_READY, STANDBY, NoVerb, NoVerb],
        ),
        verb(
            "job-cancel",
            "id",
            [CONCLUDED, CONCLUDED, CONCLUDED, NoVerb],
        ),
        verb(
            "block-job-cancel",
            "device",
            [State("pending"), REST, CONCLUDED, NoVerb],
        ),
        verb(
            "job-complete",
            "id",
            [State("pending"), STANDBY, NoVerb, NoVerb],
        ),
        verb("job-finalize", "id", [NoVerb, NoVerb, CONCLUDED, NoVerb]),
        verb("job-dismiss", "id", [NoVerb, NoVerb, NoVerb, GONE]),
    ]
};

impl Waiting {
    /// A job in this state.
    async fn reach(&self, vm: &Machine, status: &str) -> CaseResult<Job> {
        let mut job = (self.start)(vm).manual().start().await?;
        job.wait_ready().await?;
        if status == "standby" {
            job.pause().await?;
        } else if status != "ready" {
            vm.cmd("job-complete", json!({"id": job.id()})).await?;
            job.wait_status("pending").await?;
        }
        if status == "concluded" {
            job.finalize().await?;
        }
        job.wait_status(status).await?;
        Ok(job)
    }

    /// Brings a job, which goes on if it was paused, to its end from this state: the guest is where the job
    /// leads, and reads what it did.
    async fn end(&self, vm: Machine, chain: &Chain, mut job: Job, status: &str) -> CaseResult {
        if ["ready", "standby"].contains(&status) {
            vm.cmd("job-complete", json!({"id": job.id()})).await?;
            job.wait_status("pending").await?;
        }
        if status != "concluded" {
            job.finalize().await?;
        }
        job.dismiss().await?;
        vm.assert_no_jobs().await?;
        vm.disk("top").assert_node(self.completed).await?;
        chain.assert_guest_reads(&vm).await?;
        vm.shutdown().await?;
        Ok(())
    }
}

/// What a job that waits to be completed, or has been, does not accept is refused, and the job ends as it would
/// have.
#[case(rows = (WAITING, FROM_READY_ON))]
async fn of_what_waits_are_refused(
    t: &mut Test,
    waiting: &Waiting,
    state: &(usize, &str),
) -> CaseResult {
    let (chain, _copy, vm) = launch(t).await?;
    let (number, status) = state;
    let mut job = waiting.reach(&vm, status).await?;
    for verb in &OF_WAITING {
        if let Some(error) = verb.refusal(*number, &job, status) {
            vm.cmd(verb.command, verb.arguments(&job)).refused(error).await?;
            job.wait_status(status).await?;
        }
    }
    if *status == "standby" {
        job.resume().await?;
    }
    waiting.end(vm, &chain, job, status).await
}

/// What a job that is ready accepts, paused or not, has its effect every time. Only one that is completed, and
/// is not cancelled before its end, moves the guest.
#[case(
    rows = (WAITING, READY, THREADS),
    known_bugs = [STAYS_WRITABLE.only(&[&["an-active-commit", "*", "*"]])]
)]
async fn of_what_waits_are_accepted(
    t: &mut Test,
    waiting: &Waiting,
    state: &(usize, &str),
    threaded: &bool,
) -> CaseResult {
    let (chain, _copy, vm) = launch_with(t, *threaded).await?;
    let (number, status) = state;
    for verb in &OF_WAITING {
        let Follows::State(then) = verb.follows[*number] else {
            continue;
        };
        let mut job = waiting.reach(&vm, status).await?;
        vm.cmd(verb.command, verb.arguments(&job)).await?;
        job.wait_status(then).await?;
        if verb.command == "job-complete" && *status == "standby" {
            job.resume().await?;
            job.wait_status("pending").await?;
        }
        if then != "concluded" {
            vm.cmd("job-cancel", json!({"id": job.id()})).await?;
            job.wait_status("concluded").await?;
        }
        check!(job.dismiss().outcome().await?.outcome == Outcome::Cancelled);
        vm.disk("top").assert_node("top").await?;
        chain.assert_nodes_unchanged(&vm).await?;
    }
    // Softly cancelled, and not cancelled any more, it has done its work and leaves the guest where it is.
    let mut job = waiting.reach(&vm, "ready").await?;
    vm.cmd("block-job-cancel", json!({"device": job.id()})).await?;
    job.wait_status("pending").await?;
    job.finalize().await?;
    job.dismiss().await?;
    vm.disk("top").assert_node("top").await?;
    vm.assert_no_jobs().await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    Ok(())
}

/// What a job may be asked to become, by the type that it is said to have.
fn changes(id: &str) -> [Value; 3] {
    [
        json!({"id": id, "type": "mirror", "copy-mode": "write-blocking"}),
        json!({"id": id, "type": "commit"}),
        json!({"id": id, "type": "backup"}),
    ]
}

/// A job that cannot be changed, or not any more, says so whatever type it is said to have.
async fn refuse_to_change(vm: &Machine, job: &mut Job, status: &str) -> CaseResult {
    let error = match status {
        "pending" | "concluded" => {
            format!(
                "Job '{}' in state '{status}' cannot accept command verb 'change'",
                job.id()
            )
        }
        _ => "Job type does not support change".to_owned(),
    };
    for change in changes(job.id()) {
        vm.cmd("block-job-change", change).refused(error.as_str()).await?;
        job.wait_status(status).await?;
    }
    Ok(())
}

/// A commit and a backup cannot be changed in any state, and do all of their work.
#[case(rows = (KINDS, STATES), needs = [Command("block-job-change")])]
async fn do_not_change(t: &mut Test, kind: &Kind, state: &(usize, &str)) -> CaseResult {
    let (chain, copy, vm) = launch(t).await?;
    let (_, status) = state;
    let mut job = kind.reach(&vm, status).await?;
    refuse_to_change(&vm, &mut job, status).await?;
    end(job, status, false).await?;
    vm.assert_no_jobs().await?;
    vm.assert_chain(kind.chain).await?;
    vm.shutdown().await?;
    let all = chain.merged(Layer::Top, Layer::Base);
    if kind.chain != "top -> base" {
        copy.assert_reads(&all).await?;
    }
    chain.top.assert_reads(all).await
}

/// A change of a mirror that cannot be.
struct Unchanged {
    change: fn(&str) -> Value,
    class: &'static str,
    error: &'static str,
}

const NO_CHANGES: [Unchanged; 5] = [
    Unchanged {
        change: |_| changes("nowhere")[0].clone(),
        class: "DeviceNotActive",
        error: "Block job 'nowhere' not found",
    },
    Unchanged {
        change: |id| json!({"id": id, "copy-mode": "write-blocking"}),
        class: "GenericError",
        error: "'type' is missing",
    },
    Unchanged {
        change: |id| json!({"id": id, "type": "mirror"}),
        class: "GenericError",
        error: "Parameter 'copy-mode' is missing",
    },
    Unchanged {
        change: |id| json!({"id": id, "type": "mirror", "copy-mode": "nonsense"}),
        class: "GenericError",
        error: "does not accept value 'nonsense'",
    },
    Unchanged {
        change: |id| json!({"id": id, "type": "commit", "copy-mode": "write-blocking"}),
        class: "GenericError",
        error: "Parameter 'copy-mode' is unexpected",
    },
];

const BOTH: &str = "both sides the same";

/// A job that waits to be completed, or has been, changes its mode only if it is a mirror that is ready, paused
/// or not: to what it is as often as one likes, and not back.
#[case(rows = (WAITING, FROM_READY_ON), needs = [Command("block-job-change")])]
async fn that_wait_change(t: &mut Test, waiting: &Waiting, state: &(usize, &str)) -> CaseResult {
    let (chain, _copy, vm) = launch(t).await?;
    let (_, status) = state;
    let mut job = waiting.reach(&vm, status).await?;
    let waits = ["ready", "standby"].contains(status);
    let id = job.id().to_owned();
    for other in &NO_CHANGES {
        let change = vm.cmd("block-job-change", (other.change)(&id));
        change.refused_class(other.class, other.error).await?;
    }
    if waits && waiting.completed == "copy" {
        let change = |mode: &str| {
            let change = json!({"id": id, "type": "mirror", "copy-mode": mode});
            vm.cmd("block-job-change", change)
        };
        for _ in 0..2 {
            change("background").await?;
            job.block_info().await?.assert("actively-synced", false)?;
        }
        for _ in 0..2 {
            change("write-blocking").await?;
            job.wait_status(status).await?;
            if *status == "ready" {
                job.until_block_info(BOTH, |job| job["actively-synced"] == true).await?;
            }
            change("background")
                .refused("Change to copy mode 'background' is not implemented")
                .await?;
        }
    } else {
        refuse_to_change(&vm, &mut job, status).await?;
    }
    if *status == "standby" {
        job.resume().await?;
    }
    if waits && waiting.completed == "copy" {
        job.until_block_info(BOTH, |job| job["actively-synced"] == true).await?;
    }
    waiting.end(vm, &chain, job, status).await
}
