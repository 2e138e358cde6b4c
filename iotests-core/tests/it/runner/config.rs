//! `iotests.toml`: options, settings of cases, and expectations.

use std::fs;

use iotests_core::runner::Verdict;
use iotests_core::runner::event::RunEvent;

use super::bench::{Bench, Ran, events, outcomes, verdicts};

/// The events of a run with this configuration.
fn recorded(bench: &Bench, args: &[&str]) -> (Ran, Vec<RunEvent>) {
    let jsonl = bench.path("recorded").display().to_string();
    let ran = bench.run(&[args, &["--jsonl", &jsonl]].concat());
    let text = fs::read_to_string(&jsonl).unwrap_or_default();
    (ran, events(&text))
}

const EXPECTATIONS: &str = r#"
[[expect]]
select = "verdicts::fails@qcow2"
outcome = "known-failure"
reason = "bug 1"
says = "the question differ"

[[expect]]
select = "verdicts::panics"
outcome = "quarantine"
reason = "bug 2"

[[expect]]
select = ["exits_3", "nobody_knows"]
outcome = "skip"
reason = "bug 3"

[[expect]]
expression = "name(=verdicts::passes) & format(raw)"
outcome = "known-failure"
reason = "bug 4"

[[expect]]
select = "fails_with_an_error"
outcome = "quarantine"
reason = "bug 5"
until = 2020-12-31

[[expect]]
select = "fails_in_shared_code"
outcome = "known-failure"
reason = "bug 6"
version = ">=8.0"

[[expect]]
select = "exits_0"
outcome = "known-failure"
reason = "bug 7"
version = "7.2"
set = "host"

[[expect]]
select = "prints_10_mib"
outcome = "known-failure"
reason = "bug 8"
says = "something else"

[[expect]]
select = "pases"
outcome = "skip"
reason = "bug 9"

[[expect]]
expression = "name(/^fails$/) & !group(none-such)"
outcome = "skip"
reason = "bug 10"
"#;

#[test]
fn expectations_in_a_file_change_verdicts_and_useless_ones_are_reported() {
    let bench = Bench::new();
    fs::write(bench.path("debian.toml"), EXPECTATIONS).unwrap();
    let as_expected = ["verdicts::fails@", "panics@", "exits_3@", "exits_0@"];
    let options = ["--config", "debian.toml", "--deny-skips"];
    let (ran, events) = recorded(&bench, &[&as_expected[..], &options].concat());
    ran.assert_code(0)
        .assert_says("configuration: debian.toml")
        .assert_says("1 skipped: bug 3 (debian.toml:13)")
        .assert_says("bug 1 (debian.toml:2)");
    let found = verdicts(&events);
    for (id, verdict) in [
        ("verdicts::fails@qcow2", Verdict::ExpectedFail),
        ("verdicts::panics@qcow2", Verdict::Quarantined),
        ("verdicts::exits_3@qcow2", Verdict::Skip),
        ("verdicts::exits_0@qcow2", Verdict::ExpectedFail),
    ] {
        assert_eq!(found[id], verdict, "{id}");
    }
    // The warnings are recorded, so that every report has them.
    let warnings = events.iter().filter_map(|event| match event {
        RunEvent::Warning { text } => Some(text.as_str()),
        _ => None,
    });
    let warnings: Vec<&str> = warnings.collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("debian.toml:23: this expectation expired on 2020-12-31"));
    assert!(warnings[1].starts_with("debian.toml:48: this matches no case"));
    assert!(warnings[1].ends_with(": `pases` (similar: verdicts::passes)"));
    assert!(warnings[2].starts_with("debian.toml:53: this matches no case"));
    assert!(warnings[2].contains("group `none-such` is unknown; known: rw"));

    let not_so = ["verdicts::passes@", "fails_with", "in_shared", "prints_10"];
    let (ran, events) = recorded(&bench, &[&not_so[..], &options].concat());
    ran.assert_code(1)
        .assert_says("was expected to fail: bug 4 (debian.toml:18)")
        .assert_says("fails, but not as the known bug does (\"something else\"): bug 8");
    let found = verdicts(&events);
    for (id, verdict) in [
        ("verdicts::passes@qcow2", Verdict::Pass),
        ("verdicts::passes@raw", Verdict::UnexpectedPass),
        ("verdicts::fails_with_an_error@qcow2", Verdict::Fail),
        ("verdicts::fails_in_shared_code@qcow2", Verdict::Fail),
        ("verdicts::prints_10_mib@qcow2", Verdict::Fail),
    ] {
        assert_eq!(found[id], verdict, "{id}");
    }
    assert!(
        outcomes(&events)["verdicts::fails_with_an_error@qcow2"].rerun.contains(" --config /"),
        "a rerun has the same expectations"
    );
}

#[test]
fn options_come_from_command_line_environment_profile_and_file_in_this_order() {
    let bench = Bench::new();
    let text = "[defaults]\ntimeout-scale = 7\njunit = \"out/junit.xml\"\n[profile.ci]\ntimeout-scale = 5\n";
    fs::write(bench.path("iotests.toml"), text).unwrap();
    fs::create_dir(bench.path("out")).unwrap();
    let says = |args: &[&str], scale: Option<&str>, wanted: &str| {
        let mut command = bench.command(&[&["verdicts::passes@raw"], args].concat());
        if let Some(scale) = scale {
            command.env("IOTESTS_TIMEOUT_SCALE", scale);
        }
        let ran = Ran::new(command.output().unwrap());
        ran.assert_code(0).assert_says(&format!("deadlines × {wanted}"));
    };
    says(&[], None, "7");
    assert!(bench.path("out/junit.xml").exists());
    says(&["--profile", "ci"], None, "5");
    says(&["--profile=ci"], Some("3"), "3");
    says(&["--profile=ci", "--timeout-scale", "2"], Some("3"), "2");
    bench
        .run(&["--no-config", "verdicts::passes@raw"])
        .assert_code(0)
        .assert_does_not_say("deadlines");
    bench
        .run(&["--profile", "cl", "901"])
        .assert_code(2)
        .assert_says("failed to find the profile `cl`; known: ci");
    fs::write(bench.path("iotests.toml"), "[defaults]\nretrys = 1\n").unwrap();
    bench
        .run(&["901"])
        .assert_code(2)
        .assert_says("iotests.toml:2: there is no option `retrys`; did you mean `retries`?");
    bench
        .run(&["--config", "none.toml", "901"])
        .assert_code(2)
        .assert_says("failed to read none.toml: No such file");
}

#[test]
fn a_case_gets_the_timeout_in_the_file() {
    let bench = Bench::new();
    let text =
        "[[case]]\nexpression = \"group(auto) & format(raw)\"\ntimeout = \"77s\"\nlock = \"x\"\n";
    fs::write(bench.path("iotests.toml"), text).unwrap();
    let (_, events) = recorded(&bench, &["verdicts::passes@"]);
    let budget = |id: &str| {
        let point = outcomes(&events)[id].instance.point.clone().unwrap();
        point.budget.as_secs()
    };
    assert_eq!(budget("verdicts::passes@raw"), 77);
    assert_eq!(budget("verdicts::passes@qcow2"), 60);
}

#[test]
fn options_of_check_work_and_ignored_variables_are_reported() {
    let bench = Bench::new();
    let mut command = bench.command(&["-raw", "-nocache", "901"]);
    command.env("IMGFMT", "qcow2").env("TEST_DIR", "/t");
    Ran::new(command.output().unwrap())
        .assert_code(0)
        .assert_says("verdicts::passes@raw.cache=none")
        .assert_says("warning: IMGFMT is set and has no effect here: write -f FORMAT")
        .assert_says("warning: TEST_DIR is set");
    bench
        .run(&["-n", "901"])
        .assert_code(0)
        .assert_says("runs on: qcow2 (host), raw (host)");
    bench
        .run(&["-rbd", "901"])
        .assert_code(2)
        .assert_says("`-rbd` is an option of another runner: no case runs on this protocol");
}

#[test]
fn exclude_start_from_and_unfinished_narrow_the_selection() {
    let bench = Bench::new();
    let ids = |args: &[&str]| bench.run(&[&["--list=ids"], args].concat()).stdout;
    let three = ["verdicts::passes@", "verdicts::fails@"];
    let all = "verdicts::fails@qcow2\nverdicts::passes@qcow2\nverdicts::passes@raw\n";
    assert_eq!(ids(&three), all);
    let without = [&three[..], &["--exclude", "fails,passes@raw"]].concat();
    assert_eq!(ids(&without), "verdicts::passes@qcow2\n");
    let from = [&three[..], &["--start-from", "901"]].concat();
    assert_eq!(ids(&from), all[all.find("verdicts::passes").unwrap()..]);
    let bad = [&three[..], &["--exclude", "pases"]].concat();
    bench.run(&bad).assert_code(3).assert_says("similar names");
    bench
        .run(&["verdicts::fails@", "--start-from", "901"])
        .assert_code(3)
        .assert_says("(--start-from) is not among what the other options select");

    let stopped = [&three[..], &["-j1", "--max-fail", "1"]].concat();
    bench.run(&stopped).assert_code(1).assert_says("2 not run");
    let (ran, events) = recorded(&bench, &["--unfinished"]);
    ran.assert_code(0);
    let left: Vec<String> = verdicts(&events).into_keys().collect();
    assert_eq!(left, ["verdicts::passes@qcow2", "verdicts::passes@raw"]);
    bench.run(&["--unfinished"]).assert_code(3).assert_says("completed all of these");

    assert_eq!(
        ids(&["-E", "needs(program no-such) | needs(emulator)"]),
        "",
        "they cannot run here"
    );
    bench
        .run(&["--list", "-E", "needs(program no-such-program)"])
        .assert_says("verdicts::is_skipped\n")
        .assert_says("families::runs_each_row/needy\n")
        .assert_says("2 cases, 2 instances");
}
