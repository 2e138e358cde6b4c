//! Each misbehaving case gets the right verdict, with what the user needs to know.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use iotests_core::runner::event::{Outcome, RunEvent};
use iotests_core::runner::{End, Verdict};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::bench::{Bench, events, outcomes, verdicts};
use super::model::{ALL, model};

fn outcome(name: &str) -> Outcome {
    outcomes(&ALL.jsonl).remove(name).unwrap_or_else(|| panic!("{name} did not run"))
}

#[test]
fn each_misbehaving_case_yields_what_the_model_says() {
    assert_eq!(verdicts(&ALL.jsonl), model(ALL.bench.has_qemu_nbd));
    ALL.ran.assert_code(1);
}

#[test]
fn after_a_run_no_process_is_left() {
    let _ = &ALL.ran;
    assert_eq!(ALL.bench.processes(), [0; 0]);
}

/// It should end at most two seconds after its deadline. On a machine that may be busy, only this
/// can be asserted: it is not ended early, and others do not wait for it.
#[test]
fn a_hang_ends_after_its_deadline_while_others_run() {
    const DEADLINE: Duration = Duration::from_secs(1);
    for name in [
        "verdicts::hangs@qcow2",
        "verdicts::spins@qcow2",
        "verdicts::stops_itself@qcow2",
    ] {
        for attempt in outcome(name).attempts {
            let elapsed = attempt.elapsed;
            assert!(
                (DEADLINE..DEADLINE * 60).contains(&elapsed),
                "{name}: {elapsed:?}"
            );
        }
    }
    let mut hanging = ALL.jsonl.iter().skip_while(
        |event| !matches!(event, RunEvent::InstanceStarted { instance, .. } if instance.id == "verdicts::hangs@qcow2"),
    );
    let next = hanging.find_map(|event| match event {
        RunEvent::InstanceFinished(outcome) => Some(outcome.instance.id.as_str()),
        _ => None,
    });
    assert_ne!(next, Some("verdicts::hangs@qcow2"), "others end before it");
}

/// Keeps a processor busy as long as this process exists.
struct Hog(Child);

impl Hog {
    fn start() -> Self {
        let work = ["-c", "while kill -0 $PPID; do :; done"];
        let mut shell = Command::new("sh");
        Hog(shell.args(work).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processor_time_taken_by_others_does_not_count_for_a_case() {
    let kept = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    if kept.is_empty() || kept.starts_with("0 ") {
        println!("skipped: this kernel does not keep how long a process waited");
        return;
    }
    let bench = Bench::new();
    // Everything started from here shares one processor.
    let me = Pid::from_raw(0);
    let all = sched_getaffinity(me).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap());
    let mut one = CpuSet::new();
    one.set(first.unwrap()).unwrap();
    sched_setaffinity(me, &one).unwrap();
    let _hogs = [Hog::start(), Hog::start(), Hog::start()];
    let ran = bench.run(&["works_for_half_a_second"]);
    ran.assert_code(0).assert_says("1 passed");
}

#[test]
fn a_hang_is_explained_by_the_case_and_a_stopped_case_from_outside() {
    let hang = |name| outcome(name).attempts.pop().unwrap().hang.unwrap();
    assert_eq!(
        hang("verdicts::hangs@qcow2").step.as_deref(),
        Some("wait for ever")
    );
    let stopped = hang("verdicts::stops_itself@qcow2");
    assert_eq!(stopped.headline, "the case is stopped by a signal");
    let seen = &stopped.evidence;
    assert!(
        seen.iter().any(|one| one.text.contains("is stopped")),
        "{seen:?}"
    );
    // A case that spins is explained with the line.
    let spins = hang("verdicts::spins@qcow2");
    assert!(
        spins.headline.starts_with("the case spins or blocks its thread, in ")
            && spins.headline.contains("fixture/verdicts.rs:"),
        "{}",
        spins.headline
    );
}

#[test]
fn a_failure_has_its_step_place_and_message() {
    let failure = outcome("verdicts::fails@qcow2").attempts.pop().unwrap().failure.unwrap();
    assert_eq!(failure.step.as_deref(), Some("second"));
    assert_eq!(failure.message, "the <answer> & the question differ");
    assert!(failure.place.unwrap().file.ends_with("fixture/verdicts.rs"));
}

#[test]
fn a_panic_is_a_failure_with_its_message_and_place() {
    let failure = outcome("verdicts::panics@qcow2").attempts.pop().unwrap().failure.unwrap();
    assert_eq!(failure.message, "panicked: out of cheese");
    assert!(failure.place.unwrap().file.ends_with("fixture/verdicts.rs"));
}

#[test]
fn a_crash_says_how_the_process_ended_and_what_it_printed() {
    let exited = outcome("verdicts::exits_3@qcow2");
    assert_eq!(exited.attempts[0].end, Some(End::Exited(3)));
    assert!(exited.stderr_tail.contains("leaving early"));
    let end = outcome("verdicts::segfaults@qcow2").attempts[0].end.clone().unwrap();
    assert!(end.to_string().starts_with("killed by SIGSEGV"), "{end}");
}

#[test]
fn a_leak_is_named_with_its_arguments() {
    let leaks = |name| outcome(name).attempts.pop().unwrap().leaks;
    assert_eq!(
        leaks("processes::leaves_a_sleeper@qcow2")[0].argv,
        ["sleep", "4711"]
    );
    assert_eq!(
        leaks("processes::leaves_a_sleeper_and_fails@qcow2")[0].argv,
        ["sleep", "4712"]
    );
    if ALL.bench.has_qemu_nbd {
        let argv = leaks("processes::leaves_a_server@raw")[0].argv.join(" ");
        assert!(argv.contains("qemu-nbd --fork --persistent"), "{argv}");
    }
}

#[test]
fn ten_mebibytes_of_output_do_not_block_and_the_end_is_shown() {
    let tail = outcome("verdicts::prints_10_mib@qcow2").stdout_tail;
    assert!(
        tail.ends_with("the last line\n") && tail.len() < 100_000,
        "{}",
        tail.len()
    );
}

#[test]
fn a_case_cannot_write_outside_its_directory_if_the_kernel_can_prevent_it() {
    let failure =
        outcome("verdicts::writes_outside@qcow2").attempts.pop().unwrap().failure.unwrap();
    assert!(failure.message.contains("Permission denied"), "{failure:?}");
    assert!(!ALL.bench.path("outside").exists());
}

#[test]
fn directories_of_failures_are_kept_and_those_of_passes_removed() {
    assert_eq!(outcome("verdicts::passes@qcow2").kept, None);
    let kept = outcome("verdicts::fails@qcow2").kept.unwrap();
    assert!(kept.join("case.json").exists() && kept.join("evidence/report").exists());
    let folders = kept
        .parent()
        .unwrap()
        .read_dir()
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir());
    let outcomes = outcomes(&ALL.jsonl);
    let attempts = outcomes.values().flat_map(|outcome| &outcome.attempts);
    let failures = attempts.filter(|attempt| attempt.kept.is_some()).count();
    assert_eq!(folders.count(), failures);
}

#[test]
fn a_case_that_passes_on_a_retry_is_flaky_and_does_not_fail_the_run() {
    let bench = Bench::new();
    bench.run(&["is_flaky", "--retries", "2"]).assert_code(0).assert_says("flaky");
    let bench = Bench::new();
    bench.run(&["is_flaky"]).assert_code(1).assert_says("the first time is the hardest");
}

#[test]
fn known_failures_and_quarantine_do_not_fail_the_run() {
    let bench = Bench::new();
    bench
        .run(&["is_expected_to_fail", "is_quarantined@qcow2"])
        .assert_code(0)
        .assert_says("1 failed as expected, 1 failed in quarantine");
}

#[test]
fn the_rerun_line_of_a_failure_repeats_exactly_that_instance() {
    let bench = Bench::new();
    let program = env!("CARGO_BIN_EXE_iotests-fixture");
    let args = ["runs_each_row", "--repeat", "2", "--seed", "40", "-j1"];
    let mut first = bench.command(&args);
    let first = super::bench::Ran::new(first.env("IOTESTS_CALLED_AS", program).output().unwrap());
    let lines: Vec<&str> = first
        .stdout
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("rerun:")?.trim()))
        .collect();
    // Each repetition has its own seed.
    let [line, second] = lines[..] else {
        panic!("{}", first.stdout);
    };
    assert!(line.contains(" --seed 40 ") && second.contains(" --seed 41 "));
    let jsonl = bench.path("again").display().to_string();
    let mut again = bench.command(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{line} --jsonl {jsonl}")]).env_clear();
    shell.envs(again.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(again.current_dir(bench.path("")).get_current_dir().unwrap());
    assert_eq!(shell.output().unwrap().status.code(), Some(1));
    let verdicts = verdicts(&events(&std::fs::read_to_string(jsonl).unwrap()));
    assert_eq!(
        verdicts,
        [(
            "families::runs_each_row/bad@qcow2".to_owned(),
            Verdict::Fail
        )]
        .into()
    );
}
