//! All reports agree on every instance, however the run ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use iotests_core::runner::Verdict;
use iotests_core::runner::event::RunEvent;
use nix::sys::signal::Signal;
use quick_junit::{NonSuccessKind, Report, TestCaseStatus};

use super::bench::{Bench, Ran, events, verdicts};
use super::death::Running;
use super::model::ALL;
use super::page::Page;

/// What all report formats can distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Passed,
    Failed,
    NotRun,
    /// A failure that does not count, which JUnit can only report as skipped.
    Excused,
}

fn kind(verdict: Verdict) -> Kind {
    match verdict {
        Verdict::Pass | Verdict::Flaky => Kind::Passed,
        Verdict::Skip | Verdict::Interrupted => Kind::NotRun,
        Verdict::ExpectedFail | Verdict::Quarantined => Kind::Excused,
        _ => Kind::Failed,
    }
}

fn of_tap(tap: &str) -> BTreeMap<String, Kind> {
    let point = |line: &str| {
        let (ok, rest) = match line.strip_prefix("not ") {
            Some(rest) => (false, rest),
            None => (true, line),
        };
        let (_, rest) = rest.strip_prefix("ok ")?.split_once(" - ")?;
        let (id, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        let kind = match (ok, directive.split(' ').next()) {
            (true, Some("SKIP")) => Kind::NotRun,
            (false, Some("TODO")) => Kind::Excused,
            (true, Some("")) => Kind::Passed,
            (false, Some("")) => Kind::Failed,
            other => panic!("{other:?}: {line}"),
        };
        Some((id.replace(r"\#", "#"), kind))
    };
    let points: Vec<_> = tap.lines().filter_map(point).collect();
    let plan = format!("1..{}", points.len());
    assert_eq!(
        tap.lines().filter(|line| line.starts_with("1..")).collect::<Vec<_>>(),
        [plan]
    );
    points.into_iter().collect()
}

/// The name of JUnit's entry for instances that did not run.
pub(super) const AS_A_WHOLE: &str = "the run as a whole";

fn of_junit(junit: &str) -> BTreeMap<String, Kind> {
    let report = Report::deserialize_from_str(junit).unwrap();
    let case = |case: &quick_junit::TestCase| {
        let kind = match &case.status {
            TestCaseStatus::Success { .. } => Kind::Passed,
            TestCaseStatus::NonSuccess { .. } => Kind::Failed,
            TestCaseStatus::Skipped { message, .. } => match message.as_deref() {
                Some(why) if why.starts_with("expected fail") || why.starts_with("quarantined") => {
                    Kind::Excused
                }
                _ => Kind::NotRun,
            },
        };
        (case.name.to_string(), kind)
    };
    let cases = report.test_suites[0].test_cases.iter();
    let instances = cases.filter(|case| case.name.as_str() != AS_A_WHOLE);
    instances.map(case).collect()
}

/// Asserts that all reports on these records have the expected verdicts.
#[track_caller]
fn agree(
    bench: &Bench,
    records: &[String],
    expected: &BTreeMap<String, Verdict>,
    code: i32,
) -> Ran {
    let reports = ["junit", "tap", "tap13", "html"]
        .map(|name| (name, bench.path(name).display().to_string()));
    let [(_, junit), (_, tap), (_, tap13), (_, html)] = &reports;
    let merge: Vec<&str> =
        ["merge"].into_iter().chain(records.iter().map(String::as_str)).collect();
    let all = [
        &merge[..],
        &["--junit", junit, "--tap", tap, "--html", html],
    ]
    .concat();
    let ran = bench.run(&all);
    ran.assert_code(code);
    bench
        .run(&[&merge[..], &["--tap", tap13, "--tap-version", "13"]].concat())
        .assert_code(code);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let kinds: BTreeMap<String, Kind> =
        expected.iter().map(|(id, verdict)| (id.clone(), kind(*verdict))).collect();
    assert_eq!(of_tap(&read(tap)), kinds);
    assert_eq!(of_tap(&read(tap13)), kinds);
    assert_eq!(of_junit(&read(junit)), kinds);
    assert_eq!(&Page::read(&read(html)).verdicts(), expected);
    ran
}

#[test]
fn all_reports_agree_on_every_verdict() {
    let record = ALL.bench.path("jsonl").display().to_string();
    let bench = Bench::new();
    agree(&bench, &[record], &verdicts(&ALL.jsonl), 1);
}

#[test]
fn all_reports_agree_on_every_verdict_after_a_kill() {
    let bench = Bench::new();
    let args = [
        "-x",
        "slow",
        "-j4",
        "--repeat",
        "2",
        "waits_with_a_tree/a",
        "passes",
        "is_expected",
        "is_quarantined",
        "skips",
        "fails",
    ];
    let mut running = Running::start(&bench, &args);
    let mut ended = 0;
    while ended < 5 {
        ended += usize::from(matches!(
            running.next(),
            Some(RunEvent::InstanceFinished(_))
        ));
    }
    running.signal(Signal::SIGKILL);
    running.wait_for_death();
    let records = fs::read_dir(bench.path("build/iotests/records")).unwrap();
    let record = records.flatten().map(|entry| entry.path()).max().unwrap();
    let text = fs::read_to_string(&record).unwrap();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let events = events(whole);
    let mut expected = verdicts(&events);
    for event in &events {
        if let RunEvent::InstanceStarted { instance, .. } = event {
            expected.entry(instance.id.clone()).or_insert(Verdict::Interrupted);
        }
    }
    let interrupted = expected.values().filter(|verdict| **verdict == Verdict::Interrupted).count();
    assert!(interrupted > 0, "{expected:?}");
    let selected = events.iter().find_map(|event| match event {
        RunEvent::RunStarted(run) => Some(run.selected.clone()),
        _ => None,
    });
    let left = selected.unwrap();
    let left = left.iter().filter(|id| !expected.contains_key(*id)).count();
    assert!(left > 0, "{expected:?}");
    let code = match expected.values().any(|verdict| verdict.is_failure()) {
        true => 1,
        false => 130,
    };
    let ran = agree(&bench, &[record.display().to_string()], &expected, code);
    ran.assert_says(&format!("{interrupted} interrupted")).assert_says(&format!(
        "the runner was killed: {left} instances did not run"
    ));
    let read = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    let bail = format!("Bail out! {left} not run: the runner was killed");
    assert!(read("tap").contains(&bail), "{}", read("tap"));
    assert!(read("junit").contains(&format!("{left} not run: the runner was killed")));
}

/// Reporting from a record gives the exit code of the run itself.
#[test]
fn a_record_has_the_exit_code_of_its_run() {
    let bench = Bench::new();
    let record = bench.path("jsonl").display().to_string();
    for (args, code) in [
        (&["verdicts::passes@"][..], 0),
        (&["verdicts::fails@"], 1),
        (&["verdicts::skips@"], 8),
        (&["verdicts::skips@", "--allow-all-skipped"], 0),
        (
            &["verdicts::passes@", "verdicts::skips@", "--deny-skips"],
            6,
        ),
    ] {
        let live = bench.run(&[args, &["--jsonl", &record]].concat());
        live.assert_code(code);
        let options: Vec<&str> = args.iter().copied().filter(|arg| arg.starts_with("--")).collect();
        bench.run(&[&["merge", &record][..], &options].concat()).assert_code(code);
    }
    // Records of runs killed before any instance had ended, and before the first line.
    let text = fs::read_to_string(&record).unwrap();
    let first: String = text.split_inclusive('\n').take(1).collect();
    let cut = bench.path("cut.jsonl").display().to_string();
    fs::write(&cut, first).unwrap();
    let ran = bench.run(&["merge", &cut]);
    ran.assert_code(130).assert_says("not run");
    let empty = bench.path("empty.jsonl").display().to_string();
    fs::write(&empty, "").unwrap();
    bench.run(&["merge", &empty]).assert_code(2).assert_says("holds no event");
    let ran = bench.run(&["merge", &empty, &cut]);
    ran.assert_code(130).assert_says("holds no event").assert_says("not run");
}

/// meson and prove read standard output.
#[test]
fn tap_on_standard_output_stands_alone_and_equals_the_file() {
    let bench = Bench::new();
    let args = [
        "verdicts::passes@",
        "verdicts::fails@",
        "skips@",
        "is_expected_to_fail",
        "--seed",
        "7",
        "-j1",
    ];
    for version in ["13", "14"] {
        let file = bench.path("tap").display().to_string();
        let ran = bench.run(&[&args[..], &["--tap", "-", "--tap-version", version]].concat());
        ran.assert_code(1);
        let lines = ran.stdout.lines();
        assert_eq!(
            lines.clone().next(),
            Some(format!("TAP version {version}").as_str())
        );
        for line in lines.skip(1) {
            let known =
                ["ok ", "not ok ", "  ", "# ", "1.."].iter().any(|start| line.starts_with(start));
            assert!(known, "{line:?}");
        }
        let records = fs::read_dir(bench.path("build/iotests/records")).unwrap();
        let record =
            records.flatten().map(|entry| entry.path()).max().unwrap().display().to_string();
        bench.run(&["merge", &record, "--tap", &file, "--tap-version", version]).assert_code(1);
        assert_eq!(fs::read_to_string(&file).unwrap(), ran.stdout);
        // The same from a record.
        let again = bench.run(&["merge", &record, "--tap", "-", "--tap-version", version]);
        assert_eq!(again.stdout, ran.stdout);
        if version == "13" {
            prove(&ran.stdout);
        }
    }
    let junit = bench.run(&["verdicts::passes@", "--junit", "-"]);
    assert_eq!(of_junit(&junit.stdout).len(), 2);
    let records = bench.run(&["verdicts::passes@", "--jsonl", "-"]);
    assert!(matches!(
        events(&records.stdout).last(),
        Some(RunEvent::RunFinished(_))
    ));
    bench
        .run(&["verdicts::passes@", "--junit", "-", "--tap", "-"])
        .assert_code(2)
        .assert_says("--tap and --junit both go to standard output");
}

/// Checks TAP with prove, if installed.
fn prove(tap: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.tap");
    fs::File::create(&file).unwrap().write_all(tap.as_bytes()).unwrap();
    let prove =
        Command::new("prove").args(["-w", "-e", "cat"]).arg(&file).stdin(Stdio::null()).output();
    let Ok(output) = prove else {
        println!("skipped: TAP in prove: there is none in PATH");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let failed: usize = tap
        .lines()
        .filter(|line| line.starts_with("not ok ") && !line.contains(" # TODO "))
        .count();
    let points = tap
        .lines()
        .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "))
        .count();
    assert!(
        said.contains(&format!("Failed {failed}/{points} subtests")),
        "{said}"
    );
    assert!(
        !said.contains("Parse errors") && !said.contains("uninitialized"),
        "{said}"
    );
}

/// The elements of JUnit that CI systems show: the kind of a failure, output and log, the place of
/// the case, and each earlier attempt.
#[test]
fn junit_has_what_ci_systems_show() {
    let report = Report::deserialize_from_str(&ALL.junit).unwrap();
    let cases = &report.test_suites[0].test_cases;
    let case = |id: &str| cases.iter().find(|case| case.name.as_str() == id).unwrap();
    let failed = case("verdicts::fails@qcow2");
    let TestCaseStatus::NonSuccess {
        kind,
        ty,
        message,
        description,
        reruns,
    } = &failed.status
    else {
        panic!("{failed:?}");
    };
    assert_eq!(
        (*kind, ty.as_deref()),
        (NonSuccessKind::Failure, Some("FAIL"))
    );
    assert_eq!(
        message.as_deref(),
        Some("the <answer> & the question differ")
    );
    assert!(description.as_deref().is_some_and(|text| text.contains("step:     second")));
    assert_eq!(reruns.len(), 1);
    assert_eq!(reruns[0].ty.as_deref(), Some("FAIL"));
    assert!(reruns[0].description.is_some());
    let out = failed.system_out.as_ref().unwrap().as_str();
    assert!(
        out.contains("── first") && out.contains("── second"),
        "{out}"
    );
    assert_eq!(
        failed.extra["file"].as_str(),
        "iotests-core/tests/fixture/verdicts.rs"
    );
    assert!(failed.extra["line"].as_str().parse::<u32>().is_ok());
    for name in ["rerun", "kept", "description"] {
        assert!(
            failed.properties.iter().any(|one| one.name.as_str() == name),
            "{name}"
        );
    }
    let TestCaseStatus::Success { flaky_runs } = &case("verdicts::is_flaky@qcow2").status else {
        panic!("it is flaky");
    };
    assert_eq!(flaky_runs.len(), 1);
    assert!(flaky_runs[0].description.is_some());
    let properties = &report.test_suites[0].properties;
    for name in ["seed", "system", "file system", "jobs"] {
        assert!(
            properties.iter().any(|one| one.name.as_str() == name),
            "{name}"
        );
    }
}
