//! What the command line selects, and what `--list` shows.

use std::fs;

use serde_json::Value;

use super::bench::{Bench, Ran, events, verdicts};

fn selected(bench: &Bench, args: &[&str]) -> Vec<String> {
    let jsonl = bench.path("selected").display().to_string();
    let mut all = args.to_vec();
    all.extend(["--jsonl", &jsonl]);
    bench.run(&all);
    verdicts(&events(&std::fs::read_to_string(jsonl).unwrap())).into_keys().collect()
}

#[test]
fn a_case_is_selected_by_a_part_of_its_name_an_upstream_number_or_id_and_its_own_id() {
    let bench = Bench::new();
    let both = ["verdicts::passes@qcow2", "verdicts::passes@raw"];
    assert_eq!(selected(&bench, &["verdicts::passes@"]), both);
    assert_eq!(selected(&bench, &["901"]), both);
    assert_eq!(selected(&bench, &["verdicts::passes@raw"]), both[1..]);
    assert_eq!(selected(&bench, &["901", "-f", "raw"]), both[1..]);
    let good = ["families::runs_each_row/good@qcow2"];
    assert_eq!(selected(&bench, &["903::TestRows::test_good"]), good);
    assert_eq!(selected(&bench, &["TestRows.test_good"]), good);
    assert_eq!(selected(&bench, &["runs_each_row/good"]), good);
    assert_eq!(selected(&bench, &["903"]).len(), 4);
}

#[test]
fn a_case_is_selected_by_a_glob_a_range_a_script_and_a_place_in_a_file() {
    let bench = Bench::new();
    let both = ["verdicts::passes@qcow2", "verdicts::passes@raw"];
    assert_eq!(selected(&bench, &["verdicts::pas*s"]), both);
    assert_eq!(selected(&bench, &["pa?ses@raw"]), both[1..]);
    assert_eq!(selected(&bench, &["900-901"]), both);
    assert_eq!(selected(&bench, &["./901"]), both);
    assert_eq!(selected(&bench, &["~/qemu/tests/qemu-iotests/901"]), both);
    let listed = bench.run(&["--list=json", "verdicts::passes@"]).stdout;
    let listed: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let line = listed["place"]["line"].as_u64().unwrap();
    for line in [line, line + 1] {
        let place = format!("tests/fixture/verdicts.rs:{line}");
        assert_eq!(selected(&bench, &[&place]), both, "{place}");
    }
    assert_ne!(selected(&bench, &["fixture/verdicts.rs"]), both);
    bench.run(&["verdicts.rs:1"]).assert_code(3);
}

#[test]
fn an_expression_narrows_the_selection_and_points_at_its_errors() {
    let bench = Bench::new();
    let means = |expression: &str| selected(&bench, &["-E", expression]);
    assert_eq!(
        means("name(=verdicts::passes) & !format(qcow2)"),
        ["verdicts::passes@raw"]
    );
    assert_eq!(
        means("upstream(/^901/) & fmt(raw)"),
        ["verdicts::passes@raw"]
    );
    // After a run of both.
    let both = ["verdicts::fails@qcow2", "verdicts::passes@raw"];
    selected(&bench, &both);
    assert_eq!(means("last(fail) & name(verdicts::fails)"), both[..1]);
    assert_eq!(means("last(pass) & took(<1min) & format(raw)"), both[1..]);
    assert_eq!(
        selected(&bench, &["verdicts::passes@", "-E", "last(never)"]),
        ["verdicts::passes@qcow2"]
    );
    let wrong = bench.run(&["-E", "name(a) & fmt(raw9)"]);
    wrong.assert_code(2).assert_says("`raw9` is unknown");
    wrong.assert_says("\n                  ^");
    bench
        .run(&["-E", "none()"])
        .assert_code(3)
        .assert_says("matches none of the selected instances");
}

/// Behind a `!`, a typing mistake would select everything.
#[test]
fn an_unknown_name_in_an_expression_is_an_error_at_its_place() {
    let bench = Bench::new();
    for (expression, says, place) in [
        ("!group(quik)", "group `quik` is unknown; known: rw", "quik"),
        ("!group(quik)", "did you mean `quick`?", "quik"),
        (
            "all() | set(hots)",
            "set `hots` is unknown; known: host; did you mean `host`?",
            "hots",
        ),
        ("!needs(emulater)", "did you mean `emulator`?", "emulater"),
        ("!name(pases)", "did you mean `passes`?", "pases"),
        ("!name(=passes)", "name `passes` is unknown", "=passes"),
        ("format(qcow9)", "did you mean `qcow2`?", "qcow9"),
        ("backend(qds)", "did you mean `qsd`?", "qds"),
        ("last(pas)", "did you mean `pass`?", "pas)"),
        ("cache(nnoe)", "did you mean `none`?", "nnoe"),
    ] {
        let ran = bench.run(&["--list", "-E", expression]);
        ran.assert_code(2).assert_says(says);
        let at = expression.find(place).unwrap();
        ran.assert_says(&format!("\n    {expression}\n    {}^\n", " ".repeat(at)));
    }
    // Parts of existing names are known, and patterns are not checked.
    bench
        .run(&[
            "--list",
            "-E",
            "needs(program) | group(#qui*) | set(/x/) | name(verdicts::)",
        ])
        .assert_code(0);
    for (args, says) in [
        (
            ["passes@", "format(vmdk)"],
            "the options select: add -f vmdk",
        ),
        (
            ["passes@", "cache(none) & proto(nbd)"],
            "the options select: add -p nbd -c none",
        ),
    ] {
        let ran = bench.run(&[args[0], "-E", args[1]]);
        ran.assert_code(3).assert_says(says);
    }
    bench
        .run(&["passes@", "-E", "format(raw) & none()"])
        .assert_code(3)
        .assert_does_not_say("only narrows");
}

#[test]
fn a_list_can_be_ids_or_json_with_the_last_verdict() {
    let bench = Bench::new();
    let ids = bench.run(&["--list=ids", "verdicts::passes@"]).stdout;
    assert_eq!(ids, "verdicts::passes@qcow2\nverdicts::passes@raw\n");
    bench.run(&["verdicts::passes@raw"]).assert_code(0);
    let none = bench.run(&["--list=ids", "is_skipped"]);
    none.assert_code(0)
        .assert_says("verdicts::is_skipped@qcow2 cannot run here: needs the program");
    assert_eq!(none.stdout, "");
    let text = bench.run(&["--list", "verdicts::passes@"]);
    text.assert_says("qcow2 (host), raw (host; pass, ");
    let lines = bench
        .run(&[
            "--list=json",
            "verdicts::passes@raw",
            "verdicts::fails@",
            "-f",
            "raw",
        ])
        .stdout;
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["id"], "verdicts::passes@raw");
    assert_eq!(lines[1]["last"]["verdicts"][0], "pass");
    assert_eq!(lines[1]["skip"], Value::Null);
    assert_eq!(lines[1]["point"]["format"], "raw");
    let skip = lines[0]["skip"].as_str().unwrap();
    assert!(skip.contains("does not run with format raw"), "{skip}");
}

#[test]
fn backends_groups_and_formats_narrow_the_selection() {
    let bench = Bench::new();
    assert_eq!(
        selected(&bench, &["runs_on_e", "--backend", "qsd"]),
        ["families::runs_on_either_host@qcow2.qsd"]
    );
    assert_eq!(selected(&bench, &["-g", "auto"]).len(), 2);
    assert_eq!(
        selected(&bench, &["-g", "auto,rw", "-x", "quick"]),
        ["verdicts::fails@qcow2"]
    );
    assert_eq!(
        selected(&bench, &["runs_on_vmdk@vmdk", "-f", "all"]),
        ["families::runs_on_vmdk@vmdk"]
    );
}

/// H10, H11: a selected case without a matrix point for the requested values is a skip in every
/// report.
#[test]
fn a_case_without_the_requested_format_cache_or_backend_is_skipped_with_that_reason() {
    let bench = Bench::new();
    for (args, id, reason) in [
        (
            ["verdicts::fails@", "-f", "vmdk"],
            "verdicts::fails@vmdk",
            "does not run with format vmdk, only with qcow2",
        ),
        (
            ["runs_on_an_emulator", "--backend", "qsd"],
            "families::runs_on_an_emulator@qcow2.qsd",
            "does not run with backend qsd, only with system",
        ),
        (
            ["in_the_page_cache", "-c", "none"],
            "families::runs_in_the_page_cache@qcow2.cache=none",
            "does not run with cache mode none, only with writeback, unsafe",
        ),
        (
            ["verdicts::fails@", "-p", "nbd"],
            "verdicts::fails@qcow2.nbd",
            "does not run with protocol nbd, only with file",
        ),
    ] {
        let [jsonl, tap, junit] = ["jsonl", "tap", "junit"].map(|name| bench.path(name));
        let paths = [&jsonl, &tap, &junit].map(|path| path.display().to_string());
        let reports = [
            "--jsonl", &paths[0], "--tap", &paths[1], "--junit", &paths[2],
        ];
        let ran = bench.run(&[&args[..], &reports[..]].concat());
        assert_eq!(ran.code, Some(8), "{args:?}: {}", ran.stderr);
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
        assert!(ran.stdout.contains("1 skipped"), "{}", ran.stdout);
        assert!(ran.stdout.contains(reason), "{}", ran.stdout);
        for report in [read(&tap), read(&junit)] {
            assert!(report.contains(id), "{args:?}: {report}");
            assert!(report.contains(reason), "{args:?}: {report}");
        }
        let events = read(&jsonl);
        assert!(events.contains(id), "{args:?}: {events}");
        assert!(
            events.contains("\"kind\":\"not-in-matrix\""),
            "{args:?}: {events}"
        );
    }
    // A case with the format runs, and the others are still reported.
    let all = selected(&bench, &["runs_on_", "-f", "vmdk"]);
    assert!(
        all.contains(&"families::runs_on_vmdk@vmdk".to_owned()),
        "{all:?}"
    );
    assert!(
        all.contains(&"families::runs_on_an_emulator@vmdk.system".to_owned()),
        "{all:?}"
    );
}

#[test]
fn matrix_points_other_than_the_default_have_their_own_ids() {
    let bench = Bench::new();
    let ids = selected(
        &bench,
        &[
            "passes@",
            "-f",
            "raw",
            "-c",
            "writeback,none",
            "--aio",
            "threads,native",
        ],
    );
    let point = |text: &str| format!("verdicts::passes@raw{text}");
    let expected = ["", ".aio=native", ".cache=none", ".cache=none.aio=native"].map(point);
    assert_eq!(ids, expected);
    assert_eq!(
        selected(&bench, &["verdicts::passes@raw.cache=none"]),
        [point(".cache=none")]
    );
}

#[test]
fn an_id_selects_only_itself_and_does_not_affect_other_selectors() {
    let bench = Bench::new();
    let one = ["verdicts::passes@raw"];
    assert_eq!(selected(&bench, &one), one);
    // Neither its name nor its format applies to the other selector.
    assert_eq!(
        selected(&bench, &["verdicts::passes@raw", "is_quarantined@"]),
        ["verdicts::is_quarantined@qcow2", "verdicts::passes@raw"]
    );
    let two = ["runs_on_vmdk@vmdk", "verdicts::passes"];
    let found = selected(&bench, &two);
    assert!(found.contains(&"families::runs_on_vmdk@vmdk".to_owned()));
    assert!(found.contains(&"verdicts::passes@qcow2".to_owned()));
    bench.run(&["verdicts::passes@qcow"]).assert_code(3).assert_says("is not in its matrix");
    bench
        .run(&["verdicts::pass@qcow2"])
        .assert_code(3)
        .assert_says("before an @, the name or number must be whole: write '*verdicts::pass*@qcow2', or verdicts::pass -f qcow2; similar")
        .assert_says("similar names:\n  verdicts::passes");
    assert_eq!(
        selected(&bench, &["*verdicts::pass*s@raw"]),
        ["verdicts::passes@raw"]
    );
}

#[test]
fn an_image_option_that_a_case_cannot_work_with_skips_it() {
    let bench = Bench::new();
    bench
        .run(&["runs_on_vmdk", "-o", "subformat=twoGbMaxExtentSparse"])
        .assert_code(8)
        .assert_says(
            "1 skipped: does not work with the image option `subformat=twoGbMaxExtentSparse`",
        );
}

#[test]
fn the_list_has_name_description_formats_groups_upstream_and_the_reason_of_a_skip() {
    let bench = Bench::new();
    let listed = bench.run(&["--list", "passes@", "runs_on_an_emulator"]);
    listed.assert_code(0).assert_says("verdicts::passes\n    Passes.\n");
    listed.assert_says("formats: raw qcow2; groups: auto quick; upstream: 901");
    listed.assert_says("runs on: qcow2 (host), raw (host)");
    listed.assert_says("not on qcow2.system: needs an emulator (qemu-system-*)");
    listed.assert_says("2 cases, 3 instances: 2 run here, 1 does not");
}

#[test]
fn failed_selects_instances_that_failed_last_and_they_run_first() {
    let bench = Bench::new();
    bench.run(&["runs_each_row", "passes@"]).assert_code(1);
    assert_eq!(
        selected(&bench, &["--failed"]),
        ["families::runs_each_row/bad@qcow2"]
    );
    let ran = bench.run(&["runs_each_row", "passes@", "-j1"]);
    let first = ran.stdout.lines().find(|line| line.contains("FAIL") || line.contains(" pass "));
    assert!(
        first.is_some_and(|line| line.contains("runs_each_row/bad")),
        "{}",
        ran.stdout
    );
    let clean = Bench::new();
    clean
        .run(&["--failed"])
        .assert_code(3)
        .assert_says("none of these failed the last time");
}

#[test]
fn a_limit_of_failures_stops_the_run_and_repeats_have_numbers() {
    let bench = Bench::new();
    let ran = bench.run(&[
        "verdicts::fails@",
        "--repeat",
        "5",
        "-j1",
        "--max-fail",
        "2",
    ]);
    ran.assert_code(1)
        .assert_says("2 failed, 3 not run")
        .assert_says("verdicts::fails@qcow2#2");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let bench = Bench::new();
    let mut help = bench.command(&["--help"]);
    help.env("IOTESTS_CALLED_AS", "cargo xtask iotests");
    let help = Ran::new(help.output().unwrap());
    help.assert_code(0);
    let examples = help.stdout.lines();
    let examples: Vec<&str> = examples
        .skip_while(|line| *line != "Examples:")
        .take_while(|line| !line.is_empty())
        .skip(1)
        .collect();
    assert!(examples.len() > 5, "{}", help.stdout);
    for line in examples {
        // It must not wrap.
        assert!(
            line.starts_with("  cargo xtask iotests") && line.len() <= 80,
            "{line}"
        );
    }
    for code in [
        "0   everything that ran passed",
        "3   no case was selected",
        "130 stopped by a signal",
    ] {
        help.assert_says(code);
    }
}

/// Sets on which no instance is planned are not in the run's header or reports.
#[test]
fn a_run_names_only_the_sets_it_uses() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("build/qemu/9.9.9/bin")).unwrap();
    for tool in ["qemu-img", "qemu-io"] {
        let fake = fs::read_to_string(bench.path("bin").join(tool)).unwrap();
        let name = format!("build/qemu/9.9.9/bin/{tool}");
        bench.script(&name, &fake.replace("7.2.22", "9.9.9"));
    }
    let run = |set: &str| bench.run(&["passes@raw", "--set", set]);
    run("all")
        .assert_code(0)
        .assert_says("set host: qemu-img 7.2.22")
        .assert_says("set 9.9.9: qemu-img 9.9.9");
    run("9.9.9")
        .assert_code(0)
        .assert_says("set 9.9.9: qemu-img 9.9.9")
        .assert_does_not_say("set host");
    run("9.9.9,host")
        .assert_code(0)
        .assert_says("verdicts::passes@raw.set=9.9.9")
        .assert_says("2 passed");
    run("host,9.9.8").assert_code(2).assert_says(
        "set `9.9.8` is unknown; known: auto, all, host, 9.9.9; did you mean `9.9.9`?",
    );
}
