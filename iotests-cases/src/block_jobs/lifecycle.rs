//! The states of a block job: which it passes through, what is allowed in each, how it rests.

use iotests_core::prelude::*;

use crate::json::number;

defaults! { protocols = [FILE, NBD, FUSE] }

/// At this speed the whole size takes longer than the case may, so the job stays in its middle until
/// its speed is raised.
const SPEED: u64 = 128 * KIB;
/// At this speed there is room for one more chunk within a fraction of a second.
const STEP: u64 = MIB;
/// In effect no limit, but one that QEMU reports.
const FAST: u64 = 1 << 40;
const SIZE: u64 = 16 * MIB;
const CHUNK: u64 = 64 * KIB;

/// A job, and which of its last steps it takes by itself.
struct Kind {
    command: &'static str,
    auto_finalize: bool,
    auto_dismiss: bool,
}

rows! {
    KINDS: Kind { command, auto_finalize, auto_dismiss };
    "mirror" => "drive-mirror", true, true;
    "backup" => "drive-backup", true, true;
    "backup-dismissed-by-hand" => "drive-backup", true, false;
    "backup-finalized-by-hand" => "drive-backup", false, true;
    "backup-all-by-hand" => "drive-backup", false, false;
}

impl Kind {
    fn is_mirror(&self) -> bool {
        self.command == "drive-mirror"
    }

    /// The type of the job.
    fn job(&self) -> &'static str {
        if self.is_mirror() { "mirror" } else { "backup" }
    }
}

/// The commands for what can be done to a job: one for jobs in general, one for block jobs.
const VERBS: [(&str, [(&str, &str); 2]); 6] = [
    (
        "pause",
        [("job-pause", "id"), ("block-job-pause", "device")],
    ),
    (
        "resume",
        [("job-resume", "id"), ("block-job-resume", "device")],
    ),
    (
        "complete",
        [("job-complete", "id"), ("block-job-complete", "device")],
    ),
    (
        "finalize",
        [("job-finalize", "id"), ("block-job-finalize", "id")],
    ),
    (
        "dismiss",
        [("job-dismiss", "id"), ("block-job-dismiss", "id")],
    ),
    (
        "cancel",
        [("job-cancel", "id"), ("block-job-cancel", "device")],
    ),
];

/// What is not allowed in each state.
fn refused_verbs(status: &str) -> &'static [&'static str] {
    match status {
        "running" | "paused" => &["complete", "finalize", "dismiss"],
        "ready" | "standby" => &["finalize", "dismiss"],
        "pending" => &["pause", "complete", "dismiss"],
        "concluded" => &["pause", "complete", "finalize", "cancel"],
        _ => &[],
    }
}

/// A job passes through its states in order, pauses by either command, refuses in each state the commands
/// that do not belong there, and has copied everything at the end.
#[case(upstream = "219", formats = [QCOW2], rows = KINDS)]
async fn passes_through_its_states(t: &mut Test, kind: &Kind) -> CaseResult {
    let quarter = SIZE / 4;
    let mut source = t.image("disk").size(SIZE);
    for part in 0..4 {
        source = source.write(
            0x11 + part,
            quarter * u64::from(part)..quarter * u64::from(part + 1),
        );
    }
    let source = source.create().await?;
    let copy = t.image("copy").size(SIZE).reserve().await?;
    let vm = t.host().blockdev(source.node()).launch().await?;
    let before = vm.state().await?;

    t.step("start");
    let is_mirror = kind.is_mirror();
    let arguments = json!({"device": "disk", "target": copy, "sync": "full"});
    let mut job = vm.job(kind.command, arguments).speed(SPEED);
    job = match is_mirror {
        true => job.set("buf-size", CHUNK),
        false => job
            .set("x-perf", json!({"max-chunk": CHUNK}))
            .set("auto-finalize", kind.auto_finalize)
            .set("auto-dismiss", kind.auto_dismiss),
    };
    let mut job = job.start().await?;
    job.wait_status("running").await?;
    let all_known = |job: &Value| job["total-progress"] == SIZE;
    job.until("its whole size known", all_known).await?;
    let expected = json!({
        "type": kind.job(), "len": SIZE, "speed": SPEED, "io-status": "ok",
        "auto-finalize": kind.auto_finalize, "auto-dismiss": kind.auto_dismiss,
    });
    job.block_info().await?.assert_includes(&expected)?;

    t.step("running");
    pause_and_resume(&vm, &mut job, "paused", "running").await?;
    assert_refusals(&vm, &job, "running").await?;
    job.set_speed(FAST).await?;

    if is_mirror {
        t.step("ready");
        job.wait_ready().await?;
        pause_and_resume(&vm, &mut job, "standby", "ready").await?;
        assert_refusals(&vm, &job, "ready").await?;
        vm.cmd("job-complete", json!({"id": job.id()})).await?;
    }
    if !kind.auto_finalize {
        t.step("pending");
        job.wait_status("pending").await?;
        assert_refusals(&vm, &job, "pending").await?;
        job.finalize().await?;
    }
    if kind.auto_dismiss {
        job.wait().await?;
    } else {
        t.step("concluded");
        job.wait_status("concluded").await?;
        assert_refusals(&vm, &job, "concluded").await?;
        job.dismiss().await?;
    }

    t.step("gone");
    vm.assert_no_jobs().await?;
    assert_states(&vm, is_mirror)?;
    assert_events(&vm, kind)?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    copy.assert_same_as(&source).await?;
    copy.assert_clean().await?;
    source.assert_clean().await
}

rows! {
    COPIES: &str;
    "backup" => "blockdev-backup";
    "mirror" => "blockdev-mirror";
}

/// What a guest writes while a job runs is on the target of a mirror, and not on that of a backup, which has
/// the data of the moment when the job began.
#[case(formats = [QCOW2, RAW], rows = COPIES)]
async fn copies_what_it_has_to_while_a_guest_writes(t: &mut Test, command: &&str) -> CaseResult {
    let source = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(&source).blockdev(copy.node());
    let vm = vm.launch().await?;

    let arguments = json!({"device": "disk", "target": "copy", "sync": "full"});
    let job = vm.job(command, arguments).speed(1).start().await?;
    // Both where the job has been already and where it has not, and parts of what it copies at once.
    let (half, last) = (SIZE / 2, SIZE - CHUNK);
    vm.disk("disk").write(0x22, 512..1024).await?;
    vm.disk("disk").zero(half..half + CHUNK).await?;
    vm.disk("disk").write(0x33, last + 512..last + 1024).await?;
    job.set_speed(0).await?;
    match *command {
        "blockdev-mirror" => job.complete().await?,
        _ => job.wait().await?,
    };

    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    let old = vec![(0x11, 0..SIZE)];
    let new = vec![
        (0x11, 0..512),
        (0x22, 512..1024),
        (0x11, 1024..half),
        (0, half..half + CHUNK),
        (0x11, half + CHUNK..last + 512),
        (0x33, last + 512..last + 1024),
        (0x11, last + 1024..SIZE),
    ];
    source.assert_patterns(&new).await?;
    let copied = if *command == "blockdev-mirror" {
        new
    } else {
        old
    };
    copy.assert_patterns(&copied).await?;
    source.assert_clean().await?;
    copy.assert_clean().await
}

/// Pauses and resumes it in all four mixtures of the general and the block job commands. While it
/// rests it makes no step, even with no limit on its speed; afterwards it goes on.
async fn pause_and_resume(vm: &Machine, job: &mut Job, rest: &str, go: &str) -> CaseResult {
    let [(_, pauses), (_, resumes), ..] = VERBS;
    for (pause, pause_key) in pauses {
        for (resume, resume_key) in resumes {
            vm.cmd(pause, json!({pause_key: job.id()})).await?;
            job.wait_status(rest).await?;
            let at_rest = job.info().await?;
            at_rest.assert("total-progress", SIZE)?;
            let again = vm.cmd(pause, json!({pause_key: job.id()}));
            again.expect_error("Job is already paused").await?;
            job.set_speed(0).await?;
            assert_refusals(vm, job, rest).await?;
            check!(job.info().await? == at_rest, "after refused commands");
            job.set_speed(SPEED).await?;

            vm.cmd(resume, json!({resume_key: job.id()})).await?;
            job.wait_status(go).await?;
            if go == "running" {
                let before = number(&at_rest, "current-progress")?;
                let further = move |job: &Value| job["current-progress"].as_u64() > Some(before);
                job.set_speed(STEP).await?;
                job.until("a step further", further).await?;
                job.set_speed(SPEED).await?;
            }
            let again = vm.cmd(resume, json!({resume_key: job.id()}));
            again.expect_error("Can't resume a job that was not paused").await?;
        }
    }
    Ok(())
}

/// What does not belong into this state is refused by both commands for it, and changes nothing.
async fn assert_refusals(vm: &Machine, job: &Job, status: &str) -> CaseResult {
    for (verb, commands) in VERBS {
        if !refused_verbs(status).contains(&verb) {
            continue;
        }
        let id = job.id();
        let why = format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'");
        for (command, key) in commands {
            let call = vm.cmd(command, json!({key: id}));
            call.expect_error(&why).await?;
        }
    }
    if ["pending", "concluded"].contains(&status) {
        let faster = vm.cmd(
            "block-job-set-speed",
            json!({"device": job.id(), "speed": 0}),
        );
        let why = "cannot accept command verb 'set-speed'";
        faster.expect_error(why).await?;
    }
    let ready = ["ready", "standby"].contains(&status);
    let expected = json!({"status": status, "ready": ready});
    job.block_info().await?.assert_includes(&expected)?;
    let info = job.info().await?;
    info.assert("status", status)?;
    info.assert("type", job.block_info().await?["type"].clone())?;
    info.assert_absent("error")?;
    if ["ready", "standby", "pending", "concluded"].contains(&status) {
        info.assert("current-progress", SIZE)?;
    }
    Ok(())
}

/// Each state had its event, in the order of a job's life.
fn assert_states(vm: &Machine, is_mirror: bool) -> CaseResult {
    let events = vm.take_events("JOB_STATUS_CHANGE");
    let mut life = Vec::new();
    let mut rests = 0;
    let mut states = events.iter().filter_map(|event| event["data"]["status"].as_str());
    while let Some(state) = states.next() {
        match state {
            // QEMU also rests a job for a moment when it changes the graph, so there may be more
            // rests than were asked for; each is followed by the state that it interrupted.
            "paused" | "standby" => {
                rests += 1;
                check!(states.next() == life.last().copied(), "after {state}");
            }
            state => life.push(state),
        }
    }
    let end = ["waiting", "pending", "concluded", "null"];
    let ready = is_mirror.then_some("ready");
    let expected: Vec<&str> = ["created", "running"].into_iter().chain(ready).chain(end).collect();
    check!(life == expected);
    let asked = if is_mirror { 8 } else { 4 };
    check!(rests >= asked, "{rests} pauses, expected {asked} or more");
    Ok(())
}

/// The events of block jobs: completed once, ready and pending where that applies, nothing else.
fn assert_events(vm: &Machine, kind: &Kind) -> CaseResult {
    let is_mirror = kind.is_mirror();
    let done = json!({"type": kind.job(), "len": SIZE, "offset": SIZE});
    let expected = [
        ("BLOCK_JOB_READY", is_mirror),
        ("BLOCK_JOB_PENDING", !kind.auto_finalize),
        ("BLOCK_JOB_COMPLETED", true),
        ("BLOCK_JOB_CANCELLED", false),
        ("BLOCK_JOB_ERROR", false),
    ];
    for (name, once) in expected {
        let events = vm.take_events(name);
        check!(events.len() == usize::from(once), "{name}");
        let data = events.first().map(|event| &event["data"]);
        match (name, data) {
            ("BLOCK_JOB_READY", Some(data)) => {
                data.assert_includes(&done)?;
                data.assert("speed", FAST)?;
            }
            ("BLOCK_JOB_PENDING", Some(data)) => data.assert("type", kind.job())?,
            ("BLOCK_JOB_COMPLETED", Some(data)) => {
                data.assert_includes(&done)?;
                data.assert_absent("error")?;
            }
            _ => {}
        }
    }
    Ok(())
}
