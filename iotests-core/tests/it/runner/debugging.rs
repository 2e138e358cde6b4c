//! Ways to look at what happens, and long runs.

use std::fs;

use iotests_core::runner::event::RunEvent;
use iotests_core::wire::CaseEvent;
use nix::sys::signal::Signal;

use super::bench::{Bench, events, outcomes};
use super::death::Running;

/// What is printed is shown, also of what passes, with the instance before it where there are several; without the option it is not.
#[test]
fn what_a_case_and_its_tools_print_is_shown_as_it_comes() {
    let bench = Bench::new();
    let shown = bench.run(&["calls_a_tool", "passes@raw", "--print"]);
    shown
        .assert_code(0)
        .assert_says("calls_a_tool@qcow2| qemu-img version 7.2.22 (a fake)\n")
        .assert_says("calls_a_tool@qcow2| it was called\n")
        .assert_says("calls_a_tool@qcow2: ── call it\n");
    let alone = bench.run(&["calls_a_tool", "--print"]);
    alone
        .assert_code(0)
        .assert_says("\nqemu-img version 7.2.22 (a fake)\n")
        .assert_says("\n── call it\n")
        .assert_does_not_say("calls_a_tool@qcow2|");
    let plain = bench.run(&["calls_a_tool"]);
    plain.assert_code(0).assert_does_not_say("it was called");
}

#[test]
fn each_step_and_each_call_of_a_tool_is_shown_with_its_time() {
    let bench = Bench::new();
    let ran = bench.run(&["calls_a_tool", "--debug"]);
    ran.assert_code(0).assert_says("it was called");
    let line = |what: &str| {
        let line = ran.stdout.lines().position(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("`{what}` is not in\n{}", ran.stdout))
    };
    let step = line(" s debug: ── call it");
    let call = line("qemu-img --version");
    assert!(
        step < call && call < line("process ended"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_program_is_run_by_another_one_whose_file_is_kept() {
    let bench = Bench::new();
    let wrapper = bench.script(
        "wrapper",
        "#!/bin/sh\nfile=$1; shift; echo \"$@\" >> \"$file\"; exec \"$@\"\n",
    );
    let wrap = format!("qemu-img={} {{}}", wrapper.display());
    let jsonl = bench.path("wrapped").display().to_string();
    let ran = bench.run(&["calls_a_tool", "--wrap", &wrap, "--jsonl", &jsonl]);
    ran.assert_code(0).assert_says("kept in: ");
    let outcomes = outcomes(&events(&fs::read_to_string(jsonl).unwrap()));
    let kept = outcomes["verdicts::calls_a_tool@qcow2"]
        .kept
        .clone()
        .unwrap();
    let text = fs::read_to_string(kept.join("evidence/qemu-img")).unwrap();
    assert!(text.ends_with("/bin/qemu-img --version\n"), "{text}");
    bench
        .run(&["calls_a_tool", "--wrap", "no-such-program -x"])
        .assert_code(2)
        .assert_says("there is no program `no-such-program` to run QEMU's by");
    for option in ["--valgrind", "--strace", "--gdb"] {
        bench
            .run(&["calls_a_tool", option])
            .assert_code(2)
            .assert_says("to run QEMU's by; install it");
    }
}

/// With a debugger there is no hurry.
#[test]
fn deadlines_grow_with_what_a_program_is_run_by() {
    let bench = Bench::new();
    let pass = "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n";
    bench.script("bin/valgrind", pass);
    bench
        .run(&["calls_a_tool", "--valgrind"])
        .assert_code(0)
        .assert_says("deadlines × 20");
}

#[test]
fn a_command_runs_in_the_place_of_a_case() {
    let bench = Bench::new();
    let script = "echo $IMGFMT $QEMU_IMG_PROG; qemu-img --version; [ $TEST_DIR -ef . ] && exit 7";
    let ran = bench.run(&["env", "verdicts::passes@raw", "--", "sh", "-c", script]);
    let program = bench.path("bin/qemu-img");
    ran.assert_code(7)
        .assert_says(&format!("raw {}\n", program.display()))
        .assert_says("qemu-img version 7.2.22");
    assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
    bench
        .run(&["env", "verdicts::passes@", "--", "true"])
        .assert_code(2)
        .assert_says("2 are selected; name one by its id, such as verdicts::passes@qcow2");
    bench
        .run(&["env", "is_skipped", "--", "true"])
        .assert_code(3)
        .assert_says("it cannot run here: needs the program");
}

#[test]
fn quiet_shows_what_failed_or_is_flaky_and_the_summary() {
    let bench = Bench::new();
    let args = [
        "verdicts::passes@",
        "verdicts::fails@",
        "is_flaky",
        "is_quarantined@",
    ];
    let ran = bench.run(&[&args[..], &["-q", "--retries", "1"]].concat());
    ran.assert_code(1)
        .assert_says("FAIL")
        .assert_says("flaky")
        .assert_says("2 passed, 1 failed, 1 flaky, 1 failed in quarantine")
        .assert_does_not_say("verdicts::passes@")
        .assert_does_not_say("verdicts::is_quarantined@");
}

#[test]
fn what_takes_much_longer_than_the_last_times_is_named() {
    let bench = Bench::new();
    let run = |milliseconds: &str| {
        fs::write(bench.path("tmp/state"), milliseconds).unwrap();
        bench.run(&["takes_its_time", "-q"])
    };
    run("0").assert_code(0).assert_does_not_say("slow");
    run("0").assert_code(0);
    // Twice the longest of both, and a second; as slow as this machine is.
    let ran = run("4000");
    ran.assert_code(0)
        .assert_says("(slow: at most ")
        .assert_says("slow verdicts::takes_its_time@qcow2: ");
}

#[test]
fn a_person_who_asks_sees_how_far_the_run_is() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_for_a_file", "verdicts::fails@", "-j2"]);
    let (mut waits, mut failed) = (false, false);
    while !(waits && failed) {
        let event = running.next().expect("the run goes on");
        let said = match &event {
            RunEvent::Case { said, .. } => Some(said),
            _ => None,
        };
        waits |= matches!(said, Some(CaseEvent::Step { text, .. }) if text == "wait");
        failed |= matches!(event, RunEvent::InstanceFinished(_));
    }
    running.signal(Signal::SIGUSR1);
    // It is asked for after the status.
    running.wait_for_an_explanation();
    fs::write(bench.path("tmp/state"), "").unwrap();
    running
        .finish()
        .assert_code(1)
        .assert_says("1 of 2 have ended, 1 failed; running:")
        .assert_says("deaths::waits_for_a_file@qcow2: wait");
}
