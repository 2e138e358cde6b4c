//! Bad input and a bad machine: a clear error and the right exit code for each.

use std::fs;

use super::bench::{Bench, Ran};

#[test]
fn an_unknown_case_is_reported_with_similar_names() {
    let bench = Bench::new();
    bench
        .run(&["pases"])
        .assert_code(3)
        .assert_says("failed to find a case for `pases`")
        .assert_says("verdicts::passes");
    bench
        .run(&["999"])
        .assert_code(3)
        .assert_says("similar names:\n  903 (families::runs_each_row)\n  902 (verdicts::fails)\n");
    let rows = bench.run(&["runs_each_rows"]);
    rows.assert_code(3).assert_says("families::runs_each_row");
    assert_eq!(
        rows.stderr.matches("runs_each_row\n").count(),
        1,
        "{}",
        rows.stderr
    );
    // Names that are not similar do not help.
    bench
        .run(&["nosuch"])
        .assert_code(3)
        .assert_says("failed to find a case for `nosuch`\n")
        .assert_does_not_say("similar names");
    bench
        .run(&["exlpain", "901"])
        .assert_code(3)
        .assert_says("did you mean the command `iotests explain`?");
}

#[test]
fn options_may_precede_a_command_and_a_command_among_selectors_is_refused() {
    let bench = Bench::new();
    let record = bench.path("record").display().to_string();
    bench.run(&["901", "--jsonl", &record]).assert_code(0);
    let build = bench.path("build").display().to_string();
    bench
        .run(&["--build-dir", &build, "merge", &record])
        .assert_code(0)
        .assert_says("2 passed");
    bench.run(&["--set", "host", "-qj", "1", "env", "901@raw", "--", "true"]).assert_code(0);
    for word in ["explore", "merge", "new"] {
        let says =
            format!("`{word}` is a command and must precede all selectors: iotests {word} …");
        let ran = bench.run(&["901", word]);
        ran.assert_code(2).assert_says(&says);
    }
    bench
        .run(&["-j1", "completions"])
        .assert_code(2)
        .assert_says("`completions` takes no options: write iotests completions …");
}

#[test]
fn a_command_without_its_operand_says_what_it_needs() {
    let bench = Bench::new();
    for (args, says) in [
        (&["merge"][..], "`merge` needs records of runs"),
        (&["explain"], "`explain` needs a case: iotests explain 163"),
        (
            &["901@raw", "--", "ls"],
            "a command after `--` is only for iotests env CASE -- COMMAND",
        ),
    ] {
        let ran = bench.run(args);
        ran.assert_code(2).assert_says(says);
    }
}

#[test]
fn an_unknown_protocol_is_reported() {
    let bench = Bench::new();
    bench
        .run(&["-p", "nbs", "901"])
        .assert_code(2)
        .assert_says("protocol `nbs` is unknown; known: file, nbd, fuse, ssh; did you mean `nbd`?");
    bench
        .run(&["-p", "nfs", "901"])
        .assert_code(2)
        .assert_says("protocol `nfs`: no case runs on this protocol");
}

#[test]
fn an_unsupported_matrix_point_is_reported_with_the_supported_ones() {
    let bench = Bench::new();
    bench
        .run(&["901@nonsense"])
        .assert_code(2)
        .assert_says("`nonsense` is not part of an id: format `nonsense` is unknown");
    for selector in ["901@vmdk", "verdicts::passes@vmdk"] {
        bench
            .run(&[selector])
            .assert_code(3)
            .assert_says(&format!(
                "failed to select a case: `{selector}` is not in its matrix"
            ))
            .assert_says("verdicts::passes runs on raw, qcow2");
    }
    bench
        .run(&["901@raw"])
        .assert_code(0)
        .assert_says("verdicts::passes@raw")
        .assert_says("1 passed");
    bench.run(&[""]).assert_code(2).assert_says("an empty word selects nothing");
}

#[test]
fn unknown_formats_groups_sets_and_options_are_bad_usage() {
    let bench = Bench::new();
    bench
        .run(&["-f", "qcow3"])
        .assert_code(2)
        .assert_says("format `qcow3` is unknown; known: raw, qcow2");
    bench
        .run(&["-g", "fast"])
        .assert_code(2)
        .assert_says("group `fast` is unknown; known: rw, auto");
    bench
        .run(&["--set", "8.0"])
        .assert_code(2)
        .assert_says("set `8.0` is unknown; known: auto, all, host");
    bench.run(&["-g", "quik"]).assert_code(2).assert_says("did you mean `quick`?");
    bench.run(&["--no-such-option"]).assert_code(2);
    bench.run(&["--timeout-scale", "0"]).assert_code(2);
}

#[test]
fn image_options_unknown_to_the_format_are_one_usage_error() {
    let bench = Bench::new();
    let run = |option: &str| bench.run(&["passes@", "--imgopts", option]);
    run("sise=1M")
        .assert_code(2)
        .assert_says("has no such option for the format raw; known: size");
    run("size").assert_code(2).assert_says("NAME=VALUE");
    run("size=1M").assert_code(0);
}

#[test]
fn options_that_leave_nothing_are_distinguished_from_typing_mistakes() {
    let bench = Bench::new();
    bench
        .run(&["passes@", "-f", "vmdk"])
        .assert_code(8)
        .assert_says("1 skipped: does not run with format vmdk, only with raw, qcow2");
    bench
        .run(&["no_such_case"])
        .assert_code(3)
        .assert_says("failed to find a case for `no_such_case`");
}

#[test]
fn a_named_tool_that_is_missing_not_executable_or_not_qemu_is_an_error() {
    let bench = Bench::new();
    let run = |path: &str| bench.run(&["passes@", "--qemu-img", path]);
    run("/no/such/tool")
        .assert_code(4)
        .assert_says("qemu-img: flag: /no/such/tool does not exist");
    fs::write(bench.path("plain"), "").unwrap();
    run("plain").assert_code(4).assert_says("is not an executable file");
    bench.script("other", "#!/bin/sh\necho hello\n");
    run("other").assert_code(4).assert_says("is not this program of QEMU");
    let by_environment =
        bench.command(&["passes@"]).env("QEMU_IMG_PROG", "/no/such/tool").output().unwrap();
    Ran::new(by_environment)
        .assert_code(4)
        .assert_says("QEMU_IMG_PROG: /no/such/tool does not exist");
}

#[test]
fn missing_qemu_is_reported_with_ways_to_get_it() {
    let bench = Bench::new();
    fs::remove_file(bench.path("bin/qemu-img")).unwrap();
    fs::remove_file(bench.path("bin/qemu-io")).unwrap();
    let _ = fs::remove_file(bench.path("bin/qemu-nbd"));
    let ran = bench.run(&["passes@"]);
    ran.assert_code(4)
        .assert_says("failed to find QEMU's tools")
        .assert_says("iotests --provision");
    bench.run(&["passes@", "--list"]).assert_code(0).assert_says("needs qemu-img");
}

/// Reports its version and accelerators, but dies at start.
const DYING_EMULATOR: &str = "#!/bin/sh
if [ \"$1\" = --version ]; then echo 'QEMU emulator version 7.2.22'; exit 0; fi
if [ \"$2\" = help ]; then printf 'Accelerators supported in QEMU binary:\ntcg\n'; exit 0; fi
echo 'out of luck' >&2
exit 7
";

#[test]
fn a_named_emulator_that_dies_at_start_ends_the_run_with_its_command_status_and_output() {
    let bench = Bench::new();
    let emulator = bench.script("emulator", DYING_EMULATOR);
    let emulator = emulator.display().to_string();
    for _ in 0..2 {
        // The second answer comes from the cache.
        bench
            .run(&["passes@", "--qemu", &emulator])
            .assert_code(4)
            .assert_says("failed to use the named program")
            .assert_says("out of luck")
            .assert_says("status 7")
            .assert_says(&format!("command: {emulator} "));
    }
    let by_environment = bench.command(&["passes@"]).env("QEMU_PROG", &emulator).output();
    Ran::new(by_environment.unwrap()).assert_code(4);
}

#[test]
fn an_emulator_in_path_that_dies_at_start_skips_its_cases_with_its_output() {
    let bench = Bench::new();
    let name = format!("bin/qemu-system-{}", std::env::consts::ARCH);
    let emulator = bench.script(&name, DYING_EMULATOR).display().to_string();
    for _ in 0..2 {
        let ran = bench.run(&["runs_on_an_emulator", "passes@"]);
        ran.assert_code(0).assert_says(&format!(
            "1 skipped: the emulator {emulator} does not start: no accelerator works"
        ));
        ran.assert_says("out of luck");
    }
}

#[test]
fn a_named_qemu_img_that_cannot_list_its_formats_ends_the_run() {
    let bench = Bench::new();
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'qemu-img version 7.2.22' && exit 0\n\
                  echo 'no formats today' >&2\nexit 9\n";
    let path = bench.script("broken-img", script).display().to_string();
    bench
        .run(&["passes@", "--qemu-img", &path])
        .assert_code(4)
        .assert_says("no formats today")
        .assert_says("--help");
}

#[test]
fn a_build_folder_without_qemu_is_an_error_and_programs_from_elsewhere_are_reported() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).unwrap();
    let ran = bench.run(&["passes@", "--qemu-build", "empty"]);
    ran.assert_code(4)
        .assert_says("failed to find QEMU's tools: there is none in --qemu-build empty")
        .assert_says("empty/qemu-img does not exist")
        .assert_says("empty/storage-daemon/qemu-storage-daemon does not exist");
    let only_img = fs::read_to_string(bench.path("bin/qemu-img")).unwrap();
    bench.script("empty/qemu-img", &only_img);
    let io = bench.path("bin/qemu-io").display().to_string();
    bench
        .run(&["passes@", "--qemu-build", "empty"])
        .assert_code(0)
        .assert_says(&format!(
            "qemu-io is not in --qemu-build empty: {io} is used"
        ))
        .assert_does_not_say("qemu-img is not in");
    bench
        .run(&["passes@", "--qemu-build", "empty", "--qemu-io", &io])
        .assert_code(0)
        .assert_does_not_say("qemu-io is not in");
}

#[test]
fn without_qemu_io_cases_are_skipped_rather_than_failed() {
    let bench = Bench::new();
    fs::remove_file(bench.path("bin/qemu-io")).unwrap();
    bench
        .run(&["passes@"])
        .assert_code(8)
        .assert_says("2 skipped: needs qemu-io")
        .assert_says("2 instances need more of QEMU's tools");
}

#[test]
fn arguments_that_are_not_utf8_are_bad_usage_or_shown_lossily() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    let with = |args: &[&str]| Ran::new(bench.command(args).arg(odd).output().unwrap());
    with(&[]).assert_code(2).assert_does_not_say("panicked");
    with(&["passes@", "--junit"]).assert_code(0).assert_says("2 passed");
}

/// A socket in it would have a path too long for the kernel.
#[test]
fn a_long_temporary_folder_is_not_used_for_sockets() {
    let bench = Bench::new();
    let long = bench.path(&format!("tmp/{}", "d".repeat(200)));
    // It does not exist, so that using it would fail.
    let mut command = bench.command(&["passes@raw"]);
    Ran::new(command.env("TMPDIR", long).output().unwrap()).assert_code(0);
}

#[test]
fn folders_whose_names_are_not_utf8_are_refused_by_name() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = bench.path("tmp").join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    let with = |option: &str| {
        let mut command = bench.command(&["passes@raw", option]);
        Ran::new(command.arg(&odd).output().unwrap())
    };
    for option in ["--build-dir", "--scratch"] {
        with(option).assert_code(2).assert_says("odd\\xFF\" has a name that is not UTF-8");
        assert!(!odd.exists());
    }
    fs::create_dir(&odd).unwrap();
    std::os::unix::fs::symlink(bench.path("bin/qemu-img"), odd.join("qemu-img")).unwrap();
    with("--qemu-build")
        .assert_code(2)
        .assert_says("the program")
        .assert_says("qemu-img\" has a name that is not UTF-8");
    // Probes use this folder, so LUKS and other features would seem not to work.
    let mut command = bench.command(&["passes@raw"]);
    Ran::new(command.env("TMPDIR", &odd).output().unwrap())
        .assert_code(2)
        .assert_says("the temporary folder (TMPDIR)")
        .assert_says("odd\\xFF\" has a name that is not UTF-8");
    let path = std::env::join_paths([&odd, &bench.path("bin")]).unwrap();
    let mut command = bench.command(&["passes@raw"]);
    Ran::new(command.env("PATH", path).output().unwrap()).assert_says("not UTF-8");
}

#[test]
fn an_unwritable_scratch_folder_is_reported() {
    let bench = Bench::new();
    let ran = bench.run(&["passes@", "--scratch", "/proc/no-such-place"]);
    ran.assert_code(5)
        .assert_says("failed to create the scratch folder /proc/no-such-place");
    fs::write(bench.path("file"), "").unwrap();
    bench.run(&["passes@", "--scratch", "file/below"]).assert_code(5);
}

/// The error also says how to change it.
#[test]
fn an_unusable_build_or_temporary_folder_is_reported_by_name() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "").unwrap();
    bench
        .run(&["passes@", "--build-dir", "file/below"])
        .assert_code(5)
        .assert_says("; name another folder with --build-dir");
    let mut command = bench.command(&["passes@raw"]);
    let ran = Ran::new(command.env("TMPDIR", "/no-such").output().unwrap());
    ran.assert_code(5)
        .assert_says("in the temporary folder (TMPDIR) /no-such: No such file or directory")
        .assert_does_not_say("at path");
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_after_the_run() {
    let bench = Bench::new();
    bench
        .run(&["passes@", "--junit", "/no/such/folder/x"])
        .assert_code(5)
        .assert_says("failed to create the report");
    let full = bench.run(&["passes@", "--jsonl", "/dev/full"]);
    full.assert_code(5).assert_says("No space left on device").assert_says("2 passed");
}

#[test]
fn a_full_disk_is_reported() {
    let bench = Bench::new();
    let args = ["passes@", "--scratch", "disk/runs", "-j1", "--repeat", "50"];
    let args = [&args[..], &["--keep"]].concat();
    if let Some(ran) = bench.run_beside_a_small_disk("size=120k,nr_inodes=200", &args) {
        ran.assert_code(5).assert_says("No space left on device");
    }
}

#[test]
fn a_corrupt_probe_cache_or_record_file_is_ignored_with_a_warning_and_rewritten() {
    let bench = Bench::new();
    bench.run(&["passes@"]).assert_code(0);
    for entry in fs::read_dir(bench.path("build/iotests/probes")).unwrap() {
        fs::write(entry.unwrap().path(), "{\"broken").unwrap();
    }
    fs::write(bench.path("build/iotests/records.json"), "\0").unwrap();
    let warned = bench.run(&["passes@"]);
    warned
        .assert_code(0)
        .assert_says("probe cache")
        .assert_says("the records in")
        .assert_says("ignored");
    bench.run(&["passes@"]).assert_code(0).assert_does_not_say("ignored");
}

#[test]
fn a_cache_or_records_that_cannot_be_written_are_a_warning() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("build/iotests/records.json")).unwrap();
    fs::write(bench.path("build/iotests/probes"), "").unwrap();
    bench
        .run(&["passes@"])
        .assert_code(0)
        .assert_says("2 passed")
        .assert_says("warning: the results are not cached, so the next run probes again")
        .assert_says("warning: the times and verdicts of this run could not be recorded");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

/// H07, H43: programs are probed once, whatever the number of cases and runs.
#[test]
fn a_program_is_probed_only_once() {
    let bench = Bench::new();
    let real = bench.path("bin/qemu-img");
    let asked = bench.path("asked");
    fs::rename(&real, bench.path("qemu-img")).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$1\" >>{}\nexec {} \"$@\"\n",
        asked.display(),
        bench.path("qemu-img").display()
    );
    bench.script("bin/qemu-img", &script);
    for _ in 0..2 {
        bench.run(&["passes@"]).assert_code(0).assert_says("2 passed");
    }
    let asked = fs::read_to_string(asked).unwrap();
    let times = asked.lines().filter(|word| *word == "--help").count();
    assert_eq!(times, 1, "{asked}");
}

#[test]
fn files_kept_for_later_runs_are_readable_by_everybody() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |file: &std::path::Path| fs::metadata(file).unwrap().permissions().mode();
    let bench = Bench::new();
    // With the mode that this process's umask allows.
    let ours = bench.path("ours");
    fs::write(&ours, "").unwrap();
    bench.run(&["passes@"]).assert_code(0);
    let probes = fs::read_dir(bench.path("build/iotests/probes")).unwrap();
    let mut files: Vec<_> = probes.map(|entry| entry.unwrap().path()).collect();
    files.push(bench.path("build/iotests/records.json"));
    for file in files {
        assert_eq!(mode(&file), mode(&ours), "{}", file.display());
    }
}

#[test]
fn a_corrupt_versions_file_is_reported_once_and_rewritten() {
    let bench = Bench::new();
    bench.run(&["passes@"]).assert_code(0);
    fs::write(bench.path("build/iotests/probes/versions.json"), "{").unwrap();
    bench
        .run(&["passes@"])
        .assert_code(0)
        .assert_says("versions.json is ignored")
        .assert_does_not_say("probing the programs");
    bench.run(&["passes@"]).assert_code(0).assert_does_not_say("ignored");
}

#[test]
fn an_emulator_that_can_be_neither_found_nor_provisioned_is_reported_with_the_install_command() {
    // The bench has no package manager in its PATH.
    let bench = Bench::new();
    bench
        .run(&["passes@", "--provision"])
        .assert_code(4)
        .assert_says(iotests_core::provision::install_command())
        .assert_does_not_say("failed to provision an emulator: failed to");
}

#[test]
fn a_closed_output_does_not_cause_a_panic() {
    let bench = Bench::new();
    let with = |args: &[&str]| {
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        };
        let mut command = bench.command(args);
        let told = command.stdout(closed()).output().unwrap();
        let unheard = command.stdout(closed()).stderr(closed()).status().unwrap();
        (Ran::new(told), unheard.code())
    };
    for args in [
        &["passes@raw"][..],
        &["--list"],
        &["--probe"],
        &["--review"],
    ] {
        let (ran, unheard) = with(args);
        ran.assert_code(0).assert_does_not_say("panicked");
        assert_eq!(unheard, Some(0), "{args:?}");
    }
    assert_eq!(with(&["no-such-case"]).1, Some(3));
    // A long run ends if its output is not read, unless it writes a report.
    let both = ["passes@raw", "waits_for_a_file", "-j2"];
    let (ran, _) = with(&both);
    ran.assert_code(130)
        .assert_says("note: nobody reads standard output any more, so the run ends");
    fs::write(bench.path("tmp/state"), "").unwrap();
    let junit = bench.path("junit").display().to_string();
    let (ran, _) = with(&[&both[..], &["--junit", &junit]].concat());
    ran.assert_code(0).assert_does_not_say("nobody reads");
    // A full standard output is reported as such, not as an error of the record.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = Ran::new(bench.command(&["passes@raw"]).stdout(full).output().unwrap());
    ran.assert_code(5)
        .assert_says("failed to write to standard output: No space left on device");
}

#[test]
fn denied_skips_fail_the_run() {
    let bench = Bench::new();
    bench.run(&["verdicts::is_skipped"]).assert_code(8);
    bench.run(&["verdicts::is_skipped", "--deny-skips"]).assert_code(6);
    bench.run(&["verdicts::skips", "--deny-skips"]).assert_code(6);
}

#[test]
fn blessing_is_refused_in_ci() {
    let bench = Bench::new();
    let ran = Ran::new(bench.command(&["passes@", "--bless"]).env("CI", "true").output().unwrap());
    ran.assert_code(2).assert_says("--bless is refused if CI is set");
}
