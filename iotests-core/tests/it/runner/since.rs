//! What a change to QEMU's sources selects.

use std::fs;
use std::process::Command;

use super::bench::{Bench, Ran};

/// A clone with files named as in QEMU, and a first commit on the branch `base`.
fn clone() -> Option<Bench> {
    let bench = Bench::new();
    if !bench.link("git") {
        println!("skipped: there is no git");
        return None;
    }
    for (name, text) in [
        ("tests/qemu-iotests/001", "#!/bin/sh\necho drive-mirror\n"),
        ("tests/qemu-iotests/002", "#!/bin/sh\necho nothing\n"),
        ("tests/qemu-iotests/002.out", "nothing\n"),
        ("block/vmdk.c", ""),
        ("block/qcow2.c", ""),
        ("block/mirror.c", ""),
        ("docs/a.rst", ""),
    ] {
        change(&bench, name, text);
    }
    git(&bench, &["init", "-q"]);
    commit(&bench, "base");
    Some(bench)
}

fn change(bench: &Bench, name: &str, text: &str) {
    let path = bench.path("qemu").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn git(bench: &Bench, args: &[&str]) {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(bench.path("qemu"))
        .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    assert!(command.status().unwrap().success(), "{args:?}");
}

fn commit(bench: &Bench, branch: &str) {
    git(bench, &["checkout", "-q", "-b", branch]);
    git(bench, &["add", "."]);
    git(bench, &["commit", "-q", "-m", branch]);
}

fn since(bench: &Bench, args: &[&str]) -> Ran {
    let fixed = ["--list=ids", "--since", "base", "--qemu-source", "qemu"];
    bench.run(&[&fixed[..], args].concat())
}

#[test]
fn a_change_selects_what_it_may_affect_and_shows_which_file_did() {
    let Some(bench) = clone() else { return };
    since(&bench, &[])
        .assert_code(0)
        .assert_says("0 files in qemu changed since base")
        .assert_says("the change affects none of the selected instances, so nothing runs");
    let jsonl = bench.path("jsonl").display().to_string();
    let nothing = [
        "--since",
        "base",
        "--qemu-source",
        "qemu",
        "--jsonl",
        &jsonl,
    ];
    bench.run(&nothing).assert_code(0).assert_says("nothing ran");
    assert!(fs::read_to_string(&jsonl).unwrap().contains("run-finished"));

    // An uncommitted change to a format that does not run by default.
    change(&bench, "block/vmdk.c", "new");
    change(&bench, "docs/a.rst", "new");
    let ran = since(&bench, &[]);
    ran.assert_code(0)
        .assert_says("2 files in qemu changed since base:")
        .assert_says("  block/vmdk.c: format(vmdk): 1 of ")
        .assert_says("  docs/a.rst: nothing, because no test covers it");
    assert_eq!(ran.stdout, "families::runs_on_vmdk@vmdk\n");
    // Other options narrow the selection.
    let none = since(&bench, &["-f", "qcow2"]);
    assert_eq!(none.assert_code(0).stdout, "");

    // A committed change. Later changes on the base are not part of this branch.
    commit(&bench, "mine");
    git(&bench, &["checkout", "-q", "base"]);
    change(&bench, "block/qcow2.c", "others");
    git(&bench, &["commit", "-q", "-a", "-m", "others"]);
    git(&bench, &["checkout", "-q", "mine"]);
    assert_eq!(since(&bench, &[]).stdout, "families::runs_on_vmdk@vmdk\n");

    // An unknown file selects everything.
    change(&bench, "odd/new.c", "new");
    git(&bench, &["add", "."]);
    let all = since(&bench, &["verdicts::passes"]);
    all.assert_says("  odd/new.c: everything, because what it affects is unknown");
    assert!(
        all.stdout.contains("verdicts::passes@raw\n"),
        "{}",
        all.stdout
    );
}

#[test]
fn scripts_are_selected_by_their_text_and_by_changes_to_them() {
    let Some(bench) = clone() else { return };
    // The tree is also the clone.
    let list = [
        "--upstream",
        "qemu",
        "--since",
        "base",
        "--list=text",
        "-f",
        "raw",
    ];
    change(&bench, "block/mirror.c", "new");
    let by_text = bench.run(&list);
    by_text.assert_code(0).assert_says("upstream::001\n");
    by_text.assert_does_not_say("upstream::002\n");
    change(&bench, "tests/qemu-iotests/002.out", "new");
    bench.run(&list).assert_says("upstream::002\n");
    // Numbers may be abbreviated.
    for (word, yes, no) in [
        ("1", "001", "002"),
        ("02", "002", "001"),
        ("./002", "002", "001"),
    ] {
        let ran = bench.run(&["--upstream", "qemu", "--list", "-f", "raw", word]);
        ran.assert_says(&format!("upstream::{yes}\n"))
            .assert_does_not_say(&format!("upstream::{no}\n"));
    }
}

#[test]
fn a_failure_of_git_is_an_error_with_its_output() {
    let Some(bench) = clone() else { return };
    let wrong = |args: &[&str], wanted: &str| {
        let ran = bench.run(&[&["--list"][..], args].concat());
        ran.assert_code(2).assert_says(wanted);
    };
    wrong(
        &["--since", "nowhere", "--qemu-source", "qemu"],
        "--since: there is no revision `nowhere` in qemu",
    );
    wrong(
        &["--since", "base", "--qemu-source", "nowhere"],
        "cannot tell what changed in nowhere",
    );
    wrong(
        &["--since=-p", "--qemu-source", "qemu"],
        "`-p` is not a revision",
    );
    wrong(&["--since", "base"], "name the clone with --qemu-source");
}
