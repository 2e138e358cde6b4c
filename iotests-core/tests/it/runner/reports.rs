//! Every report agrees with the model and with the summary.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use iotests_core::runner::Verdict;
use iotests_core::runner::event::RunEvent;
use quick_junit::{Report, TestCaseStatus};

use super::bench::{Bench, summary};
use super::model::{ALL, model};
use super::page::Page;

fn expected() -> BTreeMap<String, Verdict> {
    model(ALL.bench.has_qemu_nbd)
}

fn number(wanted: impl Fn(Verdict) -> bool) -> usize {
    expected().values().filter(|verdict| wanted(**verdict)).count()
}

#[test]
fn the_summary_counts_what_the_model_counts() {
    let summary = summary(&ALL.jsonl);
    for verdict in Verdict::ALL {
        assert_eq!(
            summary.count(verdict),
            number(|other| other == verdict),
            "{verdict}"
        );
    }
    assert_eq!(summary.total(), expected().len());
    assert_eq!(
        summary.skips.iter().map(|(_, count)| count).sum::<usize>(),
        number(|verdict| verdict == Verdict::Skip)
    );
}

#[test]
fn the_terminal_has_a_line_for_each_instance_that_ran_and_the_counts() {
    let skipped_before: Vec<&str> = ALL
        .jsonl
        .iter()
        .filter_map(|event| match event {
            RunEvent::InstanceSkipped { instance, .. } => Some(instance.id.as_str()),
            _ => None,
        })
        .collect();
    for (id, verdict) in expected() {
        let line = ALL.ran.stdout.lines().find(|line| {
            let mut words = line.trim_start_matches(' ');
            words = words.strip_prefix(verdict.word()).unwrap_or_default();
            words.split_whitespace().nth(2) == Some(id.as_str())
        });
        assert_eq!(
            line.is_some(),
            !skipped_before.contains(&id.as_str()),
            "{id}"
        );
    }
    for verdict in Verdict::ALL {
        let count = number(|other| other == verdict);
        if count > 0 {
            ALL.ran.assert_says(&format!("{count} {}", verdict.counted()));
        }
    }
}

#[test]
fn the_terminal_says_what_skipped_instances_lack_and_how_to_get_it() {
    ALL.ran.assert_says("2 skipped: needs an emulator (qemu-system-*)");
    ALL.ran.assert_says("2 instances need an emulator: `iotests --provision` fetches one");
    ALL.ran.assert_says("1 skipped: the moon is in the wrong phase");
}

#[test]
fn without_a_terminal_there_are_no_colours_and_no_bars() {
    for text in [&ALL.ran.stdout, &ALL.ran.stderr] {
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
    }
}

/// What the program prints on a terminal, and on standard error.
fn on_a_terminal(args: &[&str], env: &[(&str, &str)]) -> (String, String) {
    let bench = Bench::new();
    bench.run(&["passes@"]).assert_code(0);
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = bench.command(args);
    command.envs(env.iter().copied()).stdout(terminal.slave).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // Closes our copy of the terminal's other end.
    drop(command);
    let mut shown = Vec::new();
    // A closed terminal is a read error.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&shown), text(&output.stderr))
}

#[test]
fn colours_and_bars_are_only_on_a_terminal_that_can_show_them() {
    let args = ["passes@", "--reprobe"];
    let (shown, aside) = on_a_terminal(&args, &[("TERM", "xterm")]);
    assert!(
        shown.contains("\u{1b}[32m") && shown.contains('░'),
        "{shown:?}"
    );
    assert!(
        aside.contains("probing") && !aside.contains('\u{1b}'),
        "{aside:?}"
    );
    let xterm = ("TERM", "xterm");
    let (shown, _) = on_a_terminal(&args, &[xterm, ("CI", ""), ("NO_COLOR", "")]);
    assert!(
        shown.contains("\u{1b}[32m"),
        "what is empty is not set: {shown:?}"
    );
    let (shown, _) = on_a_terminal(&args, &[xterm, ("NO_COLOR", "1")]);
    assert!(
        shown.contains('░') && !shown.contains("\u{1b}[32m"),
        "{shown:?}"
    );
    for env in [[xterm, ("CI", "true")], [("TERM", "dumb"), ("CI", "")]] {
        let (shown, _) = on_a_terminal(&args, &env);
        assert!(
            !shown.contains('\u{1b}') && !shown.contains('░'),
            "{shown:?}"
        );
    }
}

#[test]
fn the_json_lines_start_with_the_run_and_have_each_start_before_its_end() {
    let Some(RunEvent::RunStarted(run)) = ALL.jsonl.first() else {
        panic!("{:?}", ALL.jsonl.first())
    };
    assert_eq!((run.seed, run.jobs), (7, 8));
    assert_eq!(run.planned + run.skipped, expected().len());
    let mut running = BTreeMap::new();
    for event in &ALL.jsonl {
        match event {
            RunEvent::InstanceStarted {
                instance, attempt, ..
            } => {
                let earlier = running.insert(instance.id.clone(), *attempt);
                assert_eq!(earlier, None, "{}", instance.id);
            }
            RunEvent::InstanceFinished(outcome) => {
                let attempt = running.remove(&outcome.instance.id);
                let attempts = u32::try_from(outcome.attempts.len()).unwrap();
                assert_eq!(attempt, Some(attempts), "{}", outcome.instance.id);
            }
            RunEvent::AttemptFailed { id, .. } => assert_eq!(running.remove(id), Some(1), "{id}"),
            _ => {}
        }
    }
    assert_eq!(running, BTreeMap::new());
}

#[test]
fn only_failures_are_retried() {
    let mut attempts = BTreeMap::new();
    for event in &ALL.jsonl {
        if let RunEvent::InstanceFinished(outcome) = event {
            attempts.insert(outcome.instance.id.as_str(), outcome.attempts.len());
        }
    }
    for (id, number) in [
        ("verdicts::fails@qcow2", 2),
        ("verdicts::is_flaky@qcow2", 2),
        ("verdicts::is_expected_to_fail@qcow2", 1),
        ("verdicts::is_quarantined@qcow2", 1),
        ("verdicts::passes_unexpectedly@qcow2", 1),
        ("verdicts::passes@qcow2", 1),
    ] {
        assert_eq!(attempts[id], number, "{id}");
    }
}

#[test]
fn junit_agrees_with_the_model() {
    let report = Report::deserialize_from_str(&ALL.junit).unwrap();
    let mut found = BTreeMap::new();
    for case in &report.test_suites[0].test_cases {
        let kind = match &case.status {
            TestCaseStatus::Success { flaky_runs, .. } => {
                if flaky_runs.is_empty() {
                    "success"
                } else {
                    "flaky"
                }
            }
            TestCaseStatus::NonSuccess {
                kind: quick_junit::NonSuccessKind::Failure,
                ..
            } => "failure",
            TestCaseStatus::NonSuccess { .. } => "error",
            TestCaseStatus::Skipped { .. } => "skipped",
        };
        found.insert(case.name.to_string(), kind);
    }
    let kind = |verdict| match verdict {
        Verdict::Pass => "success",
        Verdict::Flaky => "flaky",
        Verdict::Fail | Verdict::Leak | Verdict::UnexpectedPass => "failure",
        Verdict::Timeout | Verdict::Crash => "error",
        _ => "skipped",
    };
    let expected: BTreeMap<String, &str> =
        expected().into_iter().map(|(id, verdict)| (id, kind(verdict))).collect();
    assert_eq!(found, expected);
    let failed = number(|verdict| kind(verdict) == "failure");
    let errors = number(|verdict| kind(verdict) == "error");
    assert!(
        ALL.junit.contains(&format!("tests=\"{}\"", expected.len())),
        "{}",
        &ALL.junit[..300]
    );
    assert!(
        ALL.junit.contains(&format!("failures=\"{failed}\""))
            && ALL.junit.contains(&format!("errors=\"{errors}\""))
    );
}

#[test]
fn tap_agrees_with_the_model() {
    let mut lines = ALL.tap.lines();
    assert_eq!(lines.next(), Some("TAP version 13"));
    let mut found = BTreeMap::new();
    let mut number = 0;
    for line in lines {
        let (ok, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => ("ok", rest),
            (_, Some(rest)) => ("not ok", rest),
            _ => continue,
        };
        let (this, description) = rest.split_once(" - ").unwrap();
        number += 1;
        assert_eq!(this, number.to_string());
        let (id, directive) = description.split_once(" # ").unwrap_or((description, ""));
        let directive = directive.split(' ').next().unwrap_or_default();
        found.insert(
            id.to_owned(),
            format!("{ok} {directive}").trim_end().to_owned(),
        );
    }
    let point = |verdict: Verdict| match verdict {
        Verdict::Skip => "ok SKIP",
        Verdict::ExpectedFail | Verdict::Quarantined => "not ok TODO",
        verdict if verdict.is_failure() => "not ok",
        _ => "ok",
    };
    let expected: BTreeMap<String, String> =
        expected().into_iter().map(|(id, verdict)| (id, point(verdict).to_owned())).collect();
    assert_eq!(found, expected);
    assert_eq!(
        ALL.tap.lines().last(),
        Some(format!("1..{number}").as_str())
    );
}

#[test]
fn tap_lines_are_test_points_yaml_comments_or_the_plan() {
    for line in ALL.tap.lines().skip(1) {
        let known =
            ["ok ", "not ok ", "  ", "# ", "1.."].iter().any(|start| line.starts_with(start));
        assert!(known, "{line:?}");
    }
}

#[test]
fn the_page_has_a_row_for_each_instance_and_no_markup_of_the_cases() {
    let page = Page::read(&ALL.html);
    assert_eq!(page.verdicts(), expected());
    let failures = number(|verdict| verdict.is_failure());
    let grouped: usize = page.index["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause[1].as_array().unwrap().len())
        .sum();
    assert_eq!(grouped, failures);
    assert!(!ALL.html.contains("<answer>"));
    let row = page.row("verdicts::fails@qcow2");
    assert_eq!(row[6], "the <answer> & the question differ");
    // The steps are those of the last attempt, but all attempts are there.
    let detail = page.detail("verdicts::fails@qcow2");
    let steps = detail["steps"].as_array().unwrap();
    assert_eq!(
        steps.iter().map(|step| &step[0]).collect::<Vec<_>>(),
        ["first", "second"]
    );
    assert_eq!(detail["attempts"].as_array().unwrap().len(), 2);
    // Kept files are linked and exist.
    let files = detail["attempts"][1]["files"].as_array().unwrap();
    for file in files {
        let address = file[1].as_str().unwrap();
        let path = ALL.bench.path(address.strip_prefix("./").unwrap());
        assert!(path.exists(), "{address}");
    }
    assert!(
        files.iter().any(|file| file[0] == "evidence/report"),
        "{files:?}"
    );
}

#[test]
fn the_page_shows_the_circumstances_of_the_run() {
    let facts = Page::read(&ALL.html).index["facts"].to_string();
    for wanted in [
        "-x slow -j 8",
        "linux",
        "file system",
        "TMPDIR",
        "7.2.22",
        "bin/qemu-img",
        "seed",
    ] {
        assert!(
            facts.to_lowercase().contains(&wanted.to_lowercase()),
            "{wanted}: {facts}"
        );
    }
    // The checksum of the fake, computed by another program.
    let sum = std::process::Command::new("sha256sum")
        .arg(ALL.bench.path("bin/qemu-img"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(facts.contains(sum.split(' ').next().unwrap()), "{facts}");
}

/// H45: a part that a case leaves out (upstream's `case_notrun`) is in every report once, with its
/// case, whatever the verdict.
#[test]
fn a_part_that_was_not_run_is_in_every_report() {
    for (function, reason) in [
        ("leaves_a_part_out", "the <tide> is too low for ships"),
        ("leaves_a_part_out_and_fails", "there is no harbour master"),
    ] {
        let id = format!("verdicts::{function}@qcow2");
        // In text formats, each instance has a block that starts with its id.
        let block = |text: &str, start: &str, end: &str| {
            let from = text.find(start).unwrap_or_else(|| panic!("{start}: {text}"));
            let rest = &text[from + start.len()..];
            rest[..rest.find(end).unwrap_or(rest.len())].to_owned()
        };
        let shown = block(&ALL.ran.stdout, &format!("{id}\n"), "\n");
        assert_eq!(shown, format!("  part not run: {reason}"));
        ALL.ran.assert_says(&format!("   1 partly not run: {reason}\n"));
        let tap = block(&ALL.tap, &format!(" - {id}\n"), "...");
        assert!(
            tap.contains(&format!("not_run:\n    - \"{reason}\"\n")),
            "{tap}"
        );

        let report = Report::deserialize_from_str(&ALL.junit).unwrap();
        let cases = &report.test_suites[0].test_cases;
        let case = cases.iter().find(|case| case.name.as_str() == id).unwrap();
        let mut notes = case.properties.iter();
        let notes = notes.by_ref().filter(|one| one.name.as_str() == "not-run");
        let notes: Vec<&str> = notes.map(|one| one.value.as_str()).collect();
        assert_eq!(notes, [reason]);

        let row = Page::read(&ALL.html).row(&id).clone();
        let remark = row[6].as_str().unwrap();
        assert!(remark.contains(&format!("part not run: {reason}")), "{row}");

        let outcome = ALL.jsonl.iter().find_map(|event| match event {
            RunEvent::InstanceFinished(outcome) if outcome.instance.id == id => Some(outcome),
            _ => None,
        });
        assert_eq!(outcome.unwrap().not_run, [reason]);
    }
    assert_eq!(ALL.jsonl.iter().filter(|event| matches!(event, RunEvent::InstanceFinished(outcome) if !outcome.not_run.is_empty())).count(), 2);
}

/// A failure in shared code names both that code and the line in the case.
#[test]
fn a_failure_in_shared_code_names_the_line_of_the_case() {
    let line = |text: &str, part: &str| 1 + text.lines().position(|it| it.contains(part)).unwrap();
    let (case, shared) = (
        line(include_str!("../../fixture/verdicts.rs"), "assert_answer("),
        line(include_str!("../../fixture/shared.rs"), "check!(answer"),
    );
    let block = ALL.ran.stdout.split("── FAIL verdicts::fails_in_shared_code").nth(1);
    let block = block.unwrap_or_else(|| panic!("{}", ALL.ran.stdout));
    let block = block.split("rerun:").next().unwrap();
    for place in [
        format!("fixture/shared.rs:{shared}"),
        format!("from:     iotests-core/tests/fixture/verdicts.rs:{case}\n"),
    ] {
        assert!(block.contains(&place), "{place}: {block}");
    }
}
