//! The moments for which a runner exists: QEMU dies or hangs, the run is cut short, or the machine
//! is odd.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use iotests_core::runner::Verdict;
use iotests_core::runner::event::{Outcome, RunEvent};
use nix::sys::signal::Signal;

use super::agree::AS_A_WHOLE;
use super::bench::{Bench, Ran, events, outcomes};
use super::death::Running;
use super::page::Page;

/// A bench with a real storage daemon; `None` with a note if there is none.
pub(super) fn bench_with_daemon() -> Option<Bench> {
    let bench = Bench::new();
    if bench.link("qemu-storage-daemon") {
        // For the stacks.
        bench.link("gdb");
        return Some(bench);
    }
    println!("skipped: there is no qemu-storage-daemon in PATH");
    assert!(
        std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
        "qemu-storage-daemon is required"
    );
    None
}

/// Runs with all reports; returns the outcomes by id and the reports by name.
fn reported(
    bench: &Bench,
    args: &[&str],
) -> (
    Ran,
    BTreeMap<String, Outcome>,
    BTreeMap<&'static str, String>,
) {
    let names = ["jsonl", "junit", "tap", "html"];
    let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    for name in names {
        all.push(format!("--{name}={}", bench.path(name).display()));
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let ran = bench.run(&all);
    let read = |name| fs::read_to_string(bench.path(name)).unwrap_or_default();
    let outcomes = outcomes(&events(&read("jsonl")));
    (ran, outcomes, names.map(|name| (name, read(name))).into())
}

/// The processes of a bench with this name.
pub(super) fn named(bench: &Bench, wanted: &'static str) -> impl Iterator<Item = u32> + use<> {
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let processes = bench.processes().into_iter();
    processes.filter(move |pid| name(pid).trim_end() == wanted)
}

/// The letter of a process's state; `None` if it is gone.
pub(super) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn headline(outcome: &Outcome) -> &str {
    &outcome.attempts.last().unwrap().headline
}

#[test]
fn a_machine_that_dies_is_reported_as_dead_whatever_the_case_does_next() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    let (ran, outcomes, _) = reported(&bench, &["loses_its_machine", "--repeat", "2", "-j4"]);
    ran.assert_code(1);
    assert_eq!(outcomes.len(), 22);
    for (id, outcome) in &outcomes {
        let signal = match id {
            id if id.contains("/kill") => "died of SIGKILL",
            id if id.contains("/segv") => "died of SIGSEGV",
            _ => "died of SIGABRT",
        };
        assert_eq!(outcome.verdict, Verdict::Crash, "{id}: {outcome:#?}");
        assert!(
            headline(outcome).contains(signal),
            "{id}: {}",
            headline(outcome)
        );
        if signal != "died of SIGKILL" && cores_can_be_read() {
            let deaths = &outcome.attempts.last().unwrap().deaths;
            let stacks = &deaths[0].backtrace;
            assert!(stacks.starts_with("Thread 1 "), "{id}: {outcome:#?}");
            assert!(deaths[0].core.as_ref().unwrap().is_absolute());
            let named = &outcome.attempts.last().unwrap().evidence;
            assert!(named.iter().any(|file| file.path == "evidence/backtrace"));
        }
    }
}

/// Whether the kernel writes cores into the working directory, and there is a debugger.
fn cores_can_be_read() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let gdb = std::process::Command::new("gdb").arg("--version").output();
    pattern.starts_with("core") && gdb.is_ok_and(|output| output.status.success())
}

#[test]
fn a_machine_that_dies_while_the_case_waits_for_something_else_is_reported_as_dead() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    let (_, outcomes, _) = reported(&bench, &["waits_although_its_machine_is_dead"]);
    let outcome = outcomes.values().next().unwrap();
    assert_eq!(outcome.verdict, Verdict::Crash, "{outcome:#?}");
    assert!(
        headline(outcome).contains("died of SIGSEGV"),
        "{outcome:#?}"
    );
}

#[test]
fn a_failed_assertion_is_in_the_first_three_lines_of_every_report() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    let (ran, outcomes, reports) = reported(&bench, &["loses_its_machine/abort-ask@"]);
    let plain = "Assertion `bs->refcnt' failed.";
    let first_three = |report: &str, start: &str, text: &str| {
        let mut lines = report.lines().skip_while(|line| !line.starts_with(start));
        let is_there = lines.by_ref().take(3).any(|line| line.contains(text));
        assert!(is_there, "{report}");
    };
    first_three(&ran.stdout, "── ", plain);
    let junit = quick_junit::Report::deserialize_from_str(&reports["junit"]).unwrap();
    let (message, description) = match &junit.test_suites[0].test_cases[0].status {
        quick_junit::TestCaseStatus::NonSuccess {
            message,
            description,
            ..
        } => (message.clone().unwrap(), description.clone().unwrap()),
        other => panic!("{other:?}"),
    };
    first_three(message.as_str(), "", plain);
    first_three(description.as_str(), "", plain);
    first_three(&reports["tap"], "not ok", plain);
    let page = Page::read(&reports["html"]);
    let row = page.row(outcomes.keys().next().unwrap());
    let remark = row[6].as_str().unwrap();
    assert!(
        remark.contains(plain) && remark.starts_with("qsd died of SIGABRT"),
        "{remark}"
    );
}

#[test]
fn a_stopped_machine_is_a_hang_with_its_state_and_not_a_failed_command() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    let (ran, outcomes, _) = reported(&bench, &["stops_its_machine"]);
    let outcome = outcomes.values().next().unwrap();
    assert_eq!(outcome.verdict, Verdict::Timeout, "{outcome:#?}");
    let headline = headline(outcome);
    assert!(
        headline.contains("hangs: stopped by a signal"),
        "{headline}"
    );
    assert!(headline.contains("query-jobs"), "{headline}");
    ran.assert_says("threads:").assert_says("step:     ask it");
    let kept = outcome.kept.as_ref().unwrap();
    let diagnosis = fs::read_to_string(kept.join("evidence/diagnosis")).unwrap();
    assert!(diagnosis.contains("stacks of"), "{diagnosis}");
}

#[test]
fn sigusr1_makes_a_case_explain_itself_and_continue() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_for_a_file"]);
    running.wait_for_a_step();
    running.signal(Signal::SIGUSR1);
    running.wait_for_an_explanation();
    fs::write(bench.path("tmp/state"), "").unwrap();
    running.finish().assert_code(0).assert_says("1 passed");
}

#[test]
fn suspending_a_run_stops_all_of_it_until_it_is_continued() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_for_a_file"]);
    running.wait_for_a_step();
    running.signal(Signal::SIGTSTP);
    let stopped = |pid: u32| state(pid) == Some('T');
    let runner = running.id();
    while !stopped(runner) {
        std::thread::yield_now();
    }
    while !named(&bench, "iot-case").all(stopped) {
        std::thread::yield_now();
    }
    running.signal(Signal::SIGCONT);
    fs::write(bench.path("tmp/state"), "").unwrap();
    running.finish().assert_code(0).assert_says("1 passed");
}

#[test]
fn evidence_is_kept_and_listed_for_every_attempt() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    let (ran, outcomes, _) = reported(&bench, &["fails_with_evidence", "--retries", "1"]);
    let outcome = outcomes.values().next().unwrap();
    assert_eq!(outcome.attempts.len(), 2);
    for attempt in &outcome.attempts {
        let kept = attempt.kept.as_ref().unwrap();
        let read = |name: &str| fs::read_to_string(kept.join(name)).unwrap_or_default();
        assert_eq!(read("test/disk"), "as it was");
        let qmp = fs::read_dir(kept.join("evidence")).unwrap().flatten();
        let qmp = qmp
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "qmp"));
        let qmp = fs::read_to_string(qmp.expect("no transcript")).unwrap();
        assert!(
            qmp.contains("qmp_capabilities") && qmp.contains("query-jobs"),
            "{qmp}"
        );
        assert!(read("evidence/report").contains("so that somebody looks"));
        let named = |path: &str| attempt.evidence.iter().any(|one| one.path == path);
        assert!(
            named("test/disk") && named("evidence/report"),
            "{:?}",
            attempt.evidence
        );
    }
    ran.assert_says("test/disk (9 bytes)").assert_says("an earlier attempt: ");
}

#[test]
fn the_files_of_a_passed_case_are_kept_only_on_request() {
    let bench = Bench::new();
    let (_, outcomes, _) = reported(&bench, &["passes_with_a_file", "--keep"]);
    let kept = outcomes.values().next().unwrap().kept.clone().unwrap();
    assert_eq!(
        fs::read_to_string(kept.join("test/disk")).unwrap(),
        "as it was"
    );
    let bench = Bench::new();
    bench.run(&["passes_with_a_file"]).assert_code(0);
    assert_eq!(bench.left().len(), 0);
}

#[test]
fn a_run_that_skips_everything_fails_unless_that_is_allowed() {
    let bench = Bench::new();
    for selector in ["skips@", "is_skipped@"] {
        bench.run(&[selector]).assert_code(8);
        bench.run(&[selector, "--allow-all-skipped"]).assert_code(0);
        bench.run(&[selector, "verdicts::passes@raw"]).assert_code(0);
    }
}

#[test]
fn a_killed_run_leaves_the_old_report_and_a_record_for_a_new_one() {
    let bench = Bench::new();
    let junit = bench.path("junit").display().to_string();
    bench.run(&["verdicts::passes@raw", "--junit", &junit]).assert_code(0);
    let before = fs::read_to_string(&junit).unwrap();
    let args = [
        "verdicts::fails@qcow2",
        "waits_with_a_tree/a",
        "-j2",
        "--junit",
        &junit,
    ];
    let mut running = Running::start(&bench, &args);
    while !matches!(running.next(), Some(RunEvent::InstanceFinished(_))) {}
    running.signal(Signal::SIGKILL);
    running.wait_for_death();
    assert_eq!(fs::read_to_string(&junit).unwrap(), before);
    let mut records: Vec<_> = fs::read_dir(bench.path("build/iotests/records"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    records.sort();
    let record = records.pop().unwrap().display().to_string();
    let ran = bench.run(&["--from-record", &record, "--junit", &junit]);
    ran.assert_says("1 interrupted").assert_says("the runner was killed");
    let report = quick_junit::Report::deserialize_from_str(&fs::read_to_string(&junit).unwrap());
    let report = report.unwrap();
    let cases = report.test_suites[0].test_cases.iter();
    let names: Vec<&str> = cases.map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names[2], AS_A_WHOLE);
}

#[test]
fn the_third_ctrl_c_leaves_complete_reports() {
    let bench = Bench::new();
    let junit = bench.path("junit").display().to_string();
    let mut running = Running::start(
        &bench,
        &["is_deaf", "verdicts::passes@raw", "-j2", "--junit", &junit],
    );
    while !matches!(running.next(), Some(RunEvent::InstanceFinished(_))) {}
    // So that nothing ends before the third Ctrl-C.
    let supervisors: Vec<u32> = named(&bench, "iot-supervisor").collect();
    let send = |signal| {
        for pid in &supervisors {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid as i32), signal).unwrap();
        }
    };
    send(Signal::SIGSTOP);
    for _ in 0..2 {
        running.signal(Signal::SIGINT);
        while !matches!(running.next(), Some(RunEvent::Stopping { .. })) {}
    }
    running.signal(Signal::SIGINT);
    running.wait_for_death();
    send(Signal::SIGCONT);
    running.finish().assert_code(130);
    let report = quick_junit::Report::deserialize_from_str(&fs::read_to_string(&junit).unwrap());
    assert_eq!(report.unwrap().test_suites[0].test_cases.len(), 2);
}

#[test]
fn a_long_log_is_recorded_with_its_start_and_its_end() {
    let bench = Bench::new();
    let (ran, _, reports) = reported(&bench, &["logs_much"]);
    ran.assert_code(1);
    let record = &reports["jsonl"];
    assert!(record.contains("line 000000") && record.contains("line 099999"));
    assert!(record.contains("bytes left out"));
    assert!(record.len() < 4 << 20, "{}", record.len());
}

/// The peak memory of a process, in KiB.
fn most_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

#[test]
fn a_log_of_100_mib_takes_no_more_memory_than_a_short_one() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["logs_mebibytes/100"]);
    running.wait_for_running_cases(1);
    let before = most_memory(running.id());
    let is_end = |event: &RunEvent| matches!(event, RunEvent::InstanceFinished(_));
    while !is_end(&running.next().expect("the run goes on")) {}
    let after = most_memory(running.id());
    assert!(after < before + (16 << 10), "{before} KiB, {after} KiB");
    running.finish().assert_code(1);
}

#[test]
fn a_temporary_failure_is_not_cached() {
    let bench = Bench::new();
    let daemon = "#!/bin/sh\ncase \"$1\" in --version) echo 'qemu-storage-daemon version 7.2.22 (a fake)'; exit 0 ;; esac\n: > asked.$$\nexit 1\n";
    bench.script("bin/qemu-storage-daemon", daemon);
    for _ in 0..2 {
        bench
            .run(&["verdicts::passes@raw"])
            .assert_code(0)
            .assert_says("the next run probes again");
    }
    fs::remove_file(bench.path("bin/qemu-storage-daemon")).unwrap();
    bench.run(&["verdicts::passes@raw"]).assert_code(0).assert_does_not_say("probes again");
}

#[test]
fn odd_folder_names_make_no_case_fail() {
    let bench = Bench::new();
    let long = "d".repeat(200) + "/" + &"e".repeat(100);
    for folder in ["a%20b", "a&b", "a\nb", long.as_str()] {
        let folder = bench.path("odd").join(folder);
        fs::create_dir_all(&folder).unwrap();
        let mut command =
            bench.command(&["passes_with_a_file", "verdicts::passes@raw", "--scratch"]);
        command.arg(&folder).env("TMPDIR", &folder);
        Ran::new(command.output().unwrap()).assert_code(0);
    }
}

#[test]
fn a_program_may_be_named_by_a_relative_path() {
    let bench = Bench::new();
    for (flag, variable) in [(Some("--qemu-img"), None), (None, Some("QEMU_IMG_PROG"))] {
        let mut command = bench.command(&["verdicts::passes@raw"]);
        if let Some(flag) = flag {
            command.args([flag, "bin/qemu-img"]);
        }
        if let Some(variable) = variable {
            command.env(variable, "bin/qemu-img");
        }
        Ran::new(command.output().unwrap()).assert_code(0);
    }
}

#[test]
fn an_option_that_one_format_lacks_skips_it_and_one_that_all_lack_is_an_error() {
    let bench = Bench::new();
    let img = "#!/bin/sh
case \"$1\" in
--version) echo 'qemu-img version 7.2.22 (a fake)' ;;
--help) printf 'x\\n\\nSupported formats: raw qcow2 vmdk\\n\\nSee nothing\\n' ;;
create) printf 'Supported options:\\n  size=<size> - Virtual size\\n'
  [ \"$3\" = raw ] || printf '  cluster_size=<size> - Cluster\\n' ;;
esac
exit 0
";
    bench.script("bin/qemu-img", img);
    bench
        .run(&["verdicts::passes@", "-o", "cluster_size=4k"])
        .assert_code(0)
        .assert_says("1 passed")
        .assert_says("1 skipped");
    bench
        .run(&["verdicts::passes@raw", "-o", "cluster_size=4k"])
        .assert_code(2)
        .assert_says("has no such option for the format raw");
}

#[test]
fn a_file_size_limit_is_an_error_and_does_not_kill_the_run() {
    let bench = Bench::new();
    let program = env!("CARGO_BIN_EXE_iotests-fixture");
    let like = bench.command(&[]);
    let mut limited = Command::new("sh");
    limited
        .args([
            "-c",
            "ulimit -f 8; exec \"$0\" \"$@\"",
            program,
            "--repeat",
            "50",
            "verdicts::passes",
        ])
        .env_clear()
        .envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(bench.path(""))
        .stdin(Stdio::null());
    Ran::new(limited.output().unwrap()).assert_code(5).assert_says("File too large");
}

#[test]
fn a_rerun_line_names_the_program_and_the_variables_that_matter() {
    let bench = Bench::new();
    let mut first = bench.command(&["verdicts::fails@qcow2", "--seed", "3"]);
    first
        .env("QEMU_IMG_PROG", bench.path("bin/qemu-img"))
        .env("QEMU_IO_OPTIONS", "--nothing 'at all'");
    let first = Ran::new(first.output().unwrap());
    let line = first.stdout.lines().find_map(|line| line.trim().strip_prefix("rerun:"));
    let line = line.expect("no line").trim();
    for word in [
        format!("QEMU_IMG_PROG={}", bench.path("bin/qemu-img").display()),
        "QEMU_IO_OPTIONS=\"--nothing 'at all'\"".to_owned(),
        env!("CARGO_BIN_EXE_iotests-fixture").to_owned(),
        format!("--build-dir {}", bench.path("build").display()),
        "--seed 3 'verdicts::fails@qcow2'".to_owned(),
    ] {
        assert!(line.contains(&word), "{word} is not in {line}");
    }
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .env_clear()
        .env("PATH", bench.path("bin"))
        .current_dir("/")
        .stdin(Stdio::null());
    Ran::new(shell.output().unwrap())
        .assert_code(1)
        .assert_says("FAIL verdicts::fails@qcow2")
        .assert_says("1 failed in");
}

#[test]
fn a_program_slow_to_report_its_version_is_waited_for_with_a_note() {
    let bench = Bench::new();
    // It answers only once the program has reported that it is waiting.
    let slow = "#!/bin/sh\nif [ \"$1\" = --version ]; then while [ ! -e go ]; do sleep 0.1; done; echo 'qemu-io version 7.2.22 (a fake)'; fi\nexit 0\n";
    bench.script("bin/qemu-io", slow);
    let mut child = bench
        .command(&["verdicts::passes@raw"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("qemu-io is slow to report its version") {
        line.clear();
        assert_ne!(
            std::io::BufRead::read_line(&mut said, &mut line).unwrap(),
            0
        );
    }
    fs::write(bench.path("go"), "").unwrap();
    std::io::copy(&mut said, &mut std::io::sink()).unwrap();
    Ran::new(child.wait_with_output().unwrap()).assert_code(0);
}
