//! Attacks from outside at random moments, repeatedly: the runner must report what was done.
//!
//! By default there are a few of each. A hundred of each, with a table of attack, tries and wrong
//! reports:
//! `IOTESTS_ATTACKS=100 cargo test -p iotests-core --test it campaign -- --nocapture`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iotests_core::runner::Verdict;
use iotests_core::runner::event::{Outcome, RunEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agree::AS_A_WHOLE;
use super::bench::{Bench, Ran, events, outcomes};
use super::death::Running;
use super::truth::{bench_with_daemon, named, state};

/// The storage daemon's name as the kernel truncates it.
const DAEMON: &str = "qemu-storage-da";

/// How often each attack is made.
fn tries() -> usize {
    let asked = std::env::var("IOTESTS_ATTACKS").ok();
    asked.map_or(2, |number| {
        number.parse().expect("IOTESTS_ATTACKS is a number")
    })
}

/// Repeats an attack, which returns what was wrong with the report.
#[track_caller]
fn campaign(attack: &str, tries: usize, mut once: impl FnMut() -> Result<(), String>) {
    let wrong: Vec<String> = (0..tries).filter_map(|_| once().err()).collect();
    println!("{attack} | {tries} | {}", wrong.len());
    assert!(wrong.is_empty(), "{attack}: {}\n{wrong:#?}", wrong.len());
}

/// Passes a random time by reading the process table.
fn pass_time(bench: &Bench, most: u32) {
    for _ in 0..fastrand::u32(0..most) {
        bench.processes();
    }
}

/// Checks the verdict and that the headline contains these texts; the error says what was found.
fn expect(outcome: &Outcome, verdict: Verdict, wanted: &[String]) -> Result<(), String> {
    let headline = &outcome.attempts.last().expect("an attempt").headline;
    let right = outcome.verdict == verdict && wanted.iter().all(|text| headline.contains(text));
    let found = || {
        format!(
            "{} instead of {verdict}, {wanted:?}: {headline}",
            outcome.verdict
        )
    };
    right.then_some(()).ok_or_else(found)
}

/// While an instance runs, keeps sending a signal to the process of this name until the instance
/// ends or, for SIGSTOP, until one is stopped. Returns the outcome, and which process was stopped.
fn attacked(
    bench: &Bench,
    args: &[&str],
    target: &'static str,
    signal: Signal,
) -> (Outcome, Option<u32>) {
    let mut running = Running::start(bench, args);
    running.wait_for_a_step();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            pass_time(bench, 60);
            while !over.load(Ordering::Relaxed) {
                for pid in named(bench, target) {
                    // Fails if the process has just ended; there will be another.
                    let _ = kill(Pid::from_raw(pid as i32), signal);
                    if signal == Signal::SIGSTOP && state(pid) == Some('T') {
                        return Some(pid);
                    }
                }
                pass_time(bench, 3);
            }
            None
        });
        let outcome = loop {
            match running.next().expect("the run goes on") {
                RunEvent::InstanceFinished(outcome) => break *outcome,
                _ => continue,
            }
        };
        over.store(true, Ordering::Relaxed);
        let hit = attacker.join().expect("the attacker ends");
        running.finish();
        assert_eq!(bench.processes(), [0; 0], "something is left");
        (outcome, hit)
    })
}

#[test]
fn a_machine_killed_at_any_moment_is_reported_with_its_signal() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT] {
        campaign(
            &format!("{signal} to the daemon"),
            tries().div_ceil(3),
            || {
                // Reading cores with a debugger would take long, and is not tested here.
                let args = ["works_without_end", "--timeout-scale", "6"];
                let (outcome, _) = attacked(&bench, &args, DAEMON, signal);
                expect(&outcome, Verdict::Crash, &[format!("died of {signal}")])
            },
        );
    }
}

#[test]
fn a_case_killed_at_any_moment_is_reported_with_its_signal() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    for signal in [Signal::SIGKILL, Signal::SIGSEGV] {
        campaign(
            &format!("{signal} to the case"),
            tries().div_ceil(4),
            || {
                let args = ["works_without_end", "--timeout-scale", "6"];
                let (outcome, _) = attacked(&bench, &args, "iot-case", signal);
                let wanted = format!("the case process was killed by {signal}");
                expect(&outcome, Verdict::Crash, &[wanted])
            },
        );
    }
}

#[test]
fn a_process_stopped_at_any_moment_is_reported_as_stopped() {
    let Some(bench) = bench_with_daemon() else {
        return;
    };
    // Short deadlines, so that some attacks happen while the case explains itself.
    for scale in ["0.1", "0.15"] {
        for target in [DAEMON, "iot-case", "iot-supervisor"] {
            let name = format!("SIGSTOP to {target} at {scale}");
            campaign(&name, tries().div_ceil(3), || {
                let args = ["works_without_end", "--timeout-scale", scale];
                let (outcome, hit) = attacked(&bench, &args, target, Signal::SIGSTOP);
                let stopped = "stopped by a signal".to_owned();
                match (target, hit) {
                    // The deadline came before the attack.
                    (_, None) => expect(&outcome, Verdict::Timeout, &[]),
                    ("iot-supervisor", _) => {
                        let who = "the supervisor of the case is ".to_owned() + &stopped;
                        expect(&outcome, Verdict::Crash, &[who])
                    }
                    ("iot-case", _) => expect(
                        &outcome,
                        Verdict::Timeout,
                        &["the case is ".to_owned() + &stopped],
                    ),
                    _ => expect(&outcome, Verdict::Timeout, &[stopped]),
                }
            });
        }
    }
}

#[test]
fn a_stuck_case_is_explained_with_its_place() {
    let bench = Bench::new();
    for (how, what) in [
        ("spin", "the case spins or blocks its thread, in "),
        ("park", "the case spins or blocks its thread, in "),
        ("read", "the case spins or blocks its thread, in "),
        ("spin-in-tasks", "in the step \"get stuck\""),
        ("wait", "in the step \"get stuck\""),
    ] {
        campaign(&format!("stuck: {how}"), tries().div_ceil(5), || {
            let selector = format!("is_stuck/{how}@");
            let mut running = Running::start(&bench, &[&selector, "--timeout-scale", "0.1"]);
            let mut outcome = None;
            while let Some(event) = running.next() {
                if let RunEvent::InstanceFinished(finished) = event {
                    outcome = Some(*finished);
                }
            }
            running.finish();
            let outcome = outcome.ok_or("there is no outcome")?;
            let mut wanted = vec![what.to_owned()];
            if what.ends_with("in ") {
                wanted.push("deaths.rs:".to_owned());
            }
            expect(&outcome, Verdict::Timeout, &wanted)
        });
    }
}

/// The number of instances in each kind of report.
fn counted(bench: &Bench) -> Result<BTreeMap<&'static str, usize>, String> {
    let read = |name: &str| {
        fs::read_to_string(bench.path(name)).map_err(|error| format!("{name}: {error}"))
    };
    let junit = quick_junit::Report::deserialize_from_str(&read("junit")?);
    let junit = junit.map_err(|error| format!("junit: {error}"))?;
    let tap = read("tap")?;
    let points = tap.lines().filter(|line| line.starts_with("ok ") || line.starts_with("not ok "));
    let plan = tap.lines().find_map(|line| line.strip_prefix("1.."));
    let points = points.count();
    if plan != Some(points.to_string().as_str()) {
        return Err(format!("tap: {points} points, the plan is {plan:?}"));
    }
    let html = read("html")?;
    if !html.trim_end().ends_with("</html>") {
        return Err("html: it is cut".to_owned());
    }
    let cases = junit.test_suites.iter().flat_map(|suite| &suite.test_cases);
    // Instances that did not run have a common entry.
    let instances = cases.filter(|case| case.name.as_str() != AS_A_WHOLE);
    Ok([("junit", instances.count()), ("tap", points)].into())
}

#[test]
fn a_runner_killed_at_any_moment_leaves_readable_reports() {
    let bench = Bench::new();
    let reports = ["junit", "tap", "html"];
    let flags: Vec<String> =
        reports.iter().map(|name| format!("--{name}={}", bench.path(name).display())).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let work = [
        "passes@",
        "verdicts::fails@",
        "waits_with_a_tree/a",
        "leaves_a_sleeper@",
        "-j4",
    ];
    let mut before = None;
    campaign("kill -9 of the runner", tries().div_ceil(2), || {
        let mut running = Running::start(&bench, &[&work[..], &flags, &["--repeat", "4"]].concat());
        let runner = Pid::from_raw(running.id() as i32);
        // The record must have what the runner reported until its end.
        let seen = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = BTreeMap::new();
                while let Some(event) = running.next() {
                    if let RunEvent::InstanceFinished(outcome) = event {
                        seen.insert(outcome.instance.id.clone(), outcome.verdict);
                    }
                }
                seen
            });
            pass_time(&bench, 200);
            kill(runner, Signal::SIGKILL).map_err(|error| error.to_string())?;
            Ok::<_, String>(reader.join().expect("the reader ends"))
        })?;
        running.wait_for_death();
        // Earlier reports, if any, are unchanged.
        if before.is_some() && counted(&bench).ok() != before {
            return Err("the report before was changed".to_owned());
        }
        let records =
            fs::read_dir(bench.path("build/iotests/records")).map_err(|e| e.to_string())?;
        let newest = records.flatten().map(|entry| entry.path()).max();
        let record = newest.ok_or("there is no record")?;
        let text = fs::read_to_string(&record).map_err(|error| error.to_string())?;
        if seen.is_empty() && !text.contains('\n') {
            // Killed before it recorded anything: there is nothing to report.
            return Ok(());
        }
        let ran = Ran::new(
            bench
                .command(
                    &[
                        &["--from-record", &record.display().to_string()][..],
                        &flags,
                    ]
                    .concat(),
                )
                .output()
                .map_err(|error| error.to_string())?,
        );
        // The last line may be incomplete.
        let whole: String =
            text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        let recorded = events(&whole);
        let ended = outcomes(&recorded);
        for (id, verdict) in &seen {
            if ended.get(id).map(|outcome| outcome.verdict) != Some(*verdict) {
                return Err(format!(
                    "{id} ended with {verdict}, and that is not recorded"
                ));
            }
        }
        let begun = recorded.iter().filter(|event| match event {
            RunEvent::InstanceStarted { attempt, .. } => *attempt == 1,
            RunEvent::InstanceSkipped { .. } => true,
            _ => false,
        });
        let begun = begun.count();
        let now =
            counted(&bench).map_err(|why| format!("{why}\n{}\n{}", ran.stdout, ran.stderr))?;
        if now.values().any(|count| *count != begun) {
            return Err(format!("{begun} have begun, and the reports have {now:?}"));
        }
        before = Some(now);
        Ok(())
    });
}
