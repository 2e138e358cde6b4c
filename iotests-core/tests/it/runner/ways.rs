//! Help for the user: explanations, completions, the manual page, and where files are kept.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::bench::{Bench, Ran};
use super::model::ALL;

#[test]
fn a_case_is_explained_with_what_it_needs_and_how_it_ended() {
    let bench = Bench::new();
    let ran = bench.run(&[
        "explain",
        "runs_on_an_emulator",
        "verdicts::fails@",
        "is_quarantined@",
    ]);
    ran.assert_code(0)
        .assert_says("Fails in its second step.")
        .assert_says("fixture/verdicts.rs:")
        .assert_says("902::TestFailure::test_fails")
        .assert_says("cannot run here: needs an emulator")
        .assert_says("`iotests --provision` fetches one")
        .assert_says("verdicts::fails@qcow2  runs on the set host")
        .assert_says("in quarantine until")
        .assert_says("never completed");
    bench.run(&["verdicts::fails@"]).assert_code(1);
    bench
        .run(&["explain", "verdicts::fails@"])
        .assert_code(0)
        .assert_says("last runs, newest first: FAIL");
    bench.run(&["explain", "verdicts::fail_"]).assert_code(3).assert_says("verdicts::fails");
    bench.run(&["explain"]).assert_code(2);
}

#[test]
fn shells_complete_options_and_the_names_of_cases() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = bench.run(&["completions", shell]);
        ran.assert_code(0);
        for wanted in ["partition", "segfaults", "explain"] {
            assert!(ran.stdout.contains(wanted), "{shell}: {wanted}");
        }
    }
    for bad in [&["completions"][..], &["completions", "tcsh"]] {
        bench.run(bad).assert_code(2).assert_says("bash|zsh|fish");
    }
    // Completions as bash computes them.
    fs::create_dir_all(bench.path("build/qemu/9.9.9")).unwrap();
    let script = bench.path("completions");
    fs::write(&script, bench.run(&["completions", "bash"]).stdout).unwrap();
    for (typed, breaks, expected) in [
        // If a colon breaks words, bash replaces only what follows it.
        ("iotests verdicts::seg", ":= ", "segfaults"),
        ("iotests -f raw verdicts::seg", ":= ", "segfaults"),
        ("iotests verdicts::seg", "= ", "verdicts::segfaults"),
        ("iotests -f qco", ":", "qcow2 qcow"),
        ("iotests -p n", ":", "nbd"),
        ("iotests -c n", ":", "none"),
        ("iotests -g qui", ":", "quick"),
        ("iotests --set ", ":", "auto all host 9.9.9"),
        ("iotests --e", ":", "--exclude --exclude-group --expression"),
        ("iotests --me", ":", ""),
    ] {
        let line = format!(
            "COMP_WORDBREAKS='{breaks}'; source {}; set -- $(complete -p iotests); COMP_LINE='{typed}' COMP_POINT={}; while [ $1 != -F ]; do shift; done; $2 iotests; echo \"${{COMPREPLY[@]}}\"; echo \"$COMP_WORDBREAKS.\"",
            script.display(),
            typed.len()
        );
        let Ok(output) =
            Command::new("bash").args(["--norc", "-c", &line]).stdin(Stdio::null()).output()
        else {
            println!("skipped: completions in bash: there is none in PATH");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let mut lines = said.lines();
        let mut words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let mut expected: Vec<&str> = expected.split(' ').collect();
        words.sort_unstable();
        expected.sort_unstable();
        assert_eq!(words, expected, "{typed}: {errors}");
        // The setting for the whole shell is unchanged.
        assert_eq!(lines.next(), Some(&*format!("{breaks}.")), "{errors}");
    }
}

#[test]
fn the_manual_page_has_every_option() {
    let ran = Bench::new().run(&["man"]);
    ran.assert_code(0);
    for wanted in [
        ".TH",
        "partition",
        "build\\-dir",
        "iotests explain",
        "Exit codes",
    ] {
        assert!(ran.stdout.contains(wanted), "{wanted}: {}", ran.stdout);
    }
}

/// Runs a copy of the program at this path, without telling it the build folder.
fn alone(bench: &Bench, program: &str) -> Ran {
    let path = bench.path(program);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Written by another process: if we had it open for writing, a child that another test starts
    // at this moment could inherit the descriptor.
    let copy = Command::new("cp").arg(env!("CARGO_BIN_EXE_iotests-fixture")).arg(&path).status();
    assert!(copy.unwrap().success());
    let like = bench.command(&["verdicts::passes@raw"]);
    let mut command = Command::new(&path);
    let set = |(name, value)| Some((name, value?));
    command
        .args(like.get_args())
        .env_clear()
        .envs(like.get_envs().filter_map(set))
        .env_remove("IOTESTS_BUILD_DIR")
        .current_dir(bench.path(""));
    Ran::new(command.output().unwrap())
}

#[test]
fn the_build_folder_depends_on_the_program_and_a_run_names_it() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("clone/target/debug")).unwrap();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag created by cargo.\n";
    fs::write(bench.path("clone/target/CACHEDIR.TAG"), tag).unwrap();
    for (program, folder) in [
        ("clone/target/debug/iotests", "clone/target/iotests"),
        (
            "clone/target/x86_64-unknown-linux-musl/release/iotests",
            "clone/target/iotests",
        ),
        ("elsewhere/debug/iotests", ".cache/qemu-iotests/iotests"),
    ] {
        let folder = bench.path(folder);
        let ran = alone(&bench, program);
        ran.assert_code(0).assert_says(&format!(
            "caches, records and kept failures: {}\n",
            folder.display()
        ));
        assert!(folder.join("records.json").exists(), "{program}");
    }
}

/// Its parent is writable by others, and programs in it are run.
#[test]
fn without_a_home_the_build_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let copy = bench.path("elsewhere/debug/iotests");
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_iotests-fixture")).arg(&copy).status();
    assert!(copied.unwrap().success());
    let run = || {
        let like = bench.command(&["verdicts::passes@raw"]);
        let set = |(name, value)| Some((name, value?));
        let mut command = Command::new(&copy);
        command
            .args(like.get_args())
            .env_clear()
            .envs(like.get_envs().filter_map(set))
            .env_remove("IOTESTS_BUILD_DIR")
            .env_remove("HOME")
            .current_dir(bench.path(""));
        Ran::new(command.output().unwrap())
    };
    run().assert_code(0);
    let folder = bench.path("tmp").join(format!("qemu-iotests-{}", nix::unistd::getuid()));
    let mode =
        |folder: &std::path::Path| fs::metadata(folder).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    run()
        .assert_code(5)
        .assert_says("it must be private to this user (mode 0700)")
        .assert_says("name another folder with --build-dir");
}

#[test]
fn new_without_sources_says_what_it_needs() {
    let bench = Bench::new();
    bench
        .run(&["new", "nbd::sees_holes"])
        .assert_code(2)
        .assert_says("run this in a clone of the repository, or set IOTESTS_SOURCE_DIR");
}

/// docs/record.md has every member of every object that a run of the whole fixture records.
#[test]
fn the_document_of_the_record_has_every_member() {
    let document = include_str!("../../../../docs/record.md");
    // The keys of these maps are not part of the schema.
    let maps = ["tools", "counts", "expected", "variables"];
    let mut missing = std::collections::BTreeSet::new();
    fn walk(value: &Value, maps: &[&str], see: &mut dyn FnMut(&str)) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    see(name);
                    match value {
                        Value::Object(inner) if maps.contains(&name.as_str()) => {
                            inner.values().for_each(|value| walk(value, maps, see));
                        }
                        value => walk(value, maps, see),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, maps, see)),
            _ => {}
        }
    }
    let text = fs::read_to_string(ALL.bench.path("jsonl")).unwrap();
    let mut events = std::collections::BTreeSet::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for event in [&line["event"]["event"], &line["event"]["said"]["event"]] {
            events.extend(event.as_str().map(str::to_owned));
        }
        if line["event"]["event"] == "run-started" {
            assert_eq!(line["event"]["schema"], 1);
        }
        walk(&line, &maps, &mut |name| {
            if !document.contains(&format!("`{name}`"))
                && !document.contains(&format!("\"{name}\""))
            {
                missing.insert(name.to_owned());
            }
        });
    }
    events.retain(|event| !document.contains(&format!("`{event}`")));
    assert!(
        missing.is_empty() && events.is_empty(),
        "{missing:?} {events:?}"
    );
}
