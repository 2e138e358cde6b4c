//! Scripts that behave like upstream's, run from a tree; and the real ones, if `IOTESTS_UPSTREAM`
//! names a tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use iotests_core::runner::Verdict;
use iotests_core::runner::event::{Outcome, RunEvent};
use nix::sys::signal::Signal;

use super::bench::{Bench, Ran, events, outcomes, summary, verdicts};
use super::death::{Running, none_is_left};

/// A bench with a source tree in it.
struct Tree {
    bench: Bench,
}

impl Tree {
    fn new() -> Self {
        let bench = Bench::new();
        for program in [
            "bash", "env", "cat", "kill", "mkdir", "mkfifo", "mktemp", "printf", "rm", "rmdir",
        ] {
            assert!(bench.link(program), "{program} is needed");
        }
        fs::create_dir_all(bench.path("tree/tests/qemu-iotests/tests")).unwrap();
        Self { bench }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bench.path("tree/tests/qemu-iotests").join(name)
    }

    /// A script with its reference.
    fn script(&self, name: &str, text: &str, reference: &[u8]) -> &Self {
        self.text(name, &format!("#!/usr/bin/env bash\n{text}"), reference)
    }

    fn text(&self, name: &str, text: &str, reference: &[u8]) -> &Self {
        self.bench.script(&format!("tree/tests/qemu-iotests/{name}"), text);
        fs::write(self.path(&format!("{name}.out")), reference).unwrap();
        self
    }

    /// Runs scripts with these arguments.
    fn run(&self, args: &[&str]) -> (Ran, BTreeMap<String, Outcome>) {
        let jsonl = self.bench.path("jsonl").display().to_string();
        let fixed = ["--upstream", "tree", "--jsonl", &jsonl];
        let ran = self.bench.run(&[&fixed[..], args].concat());
        let text = fs::read_to_string(jsonl).unwrap_or_default();
        (ran, outcomes(&events(&text)))
    }
}

/// Declares that a script supports all generic formats.
const GENERIC: &str = "_supported_fmt() { :; }\n_supported_fmt generic\n";

/// A script that fills the disk fails with its error message, and the next one has space again.
#[test]
fn a_script_that_fills_the_disk_says_so_and_the_next_one_still_runs() {
    let tree = Tree::new();
    let fill = format!(
        "{GENERIC}trap 'rm \"$TEST_DIR/big\"' EXIT\nprintf filling\ncat /dev/zero 2>&1 >\"$TEST_DIR/big\" || exit 1\n"
    );
    tree.script("001", &fill, b"filling\n");
    tree.script("002", &format!("{GENERIC}echo two\n"), b"two\n");
    let jsonl = tree.bench.path("jsonl").display().to_string();
    let args = ["--upstream", "tree", "-f", "raw", "-j1", "--jsonl", &jsonl];
    let args = [&args[..], &["--scratch", "disk/runs"]].concat();
    let Some(ran) = tree.bench.run_beside_a_small_disk("size=8m", &args) else {
        return;
    };
    ran.assert_code(1).assert_says("No space left on device");
    let verdicts = verdicts(&events(&fs::read_to_string(jsonl).unwrap()));
    assert_eq!(verdicts["upstream::001@raw"], Verdict::Fail);
    assert_eq!(verdicts["upstream::002@raw"], Verdict::Pass);
}

#[test]
fn a_script_passes_with_the_expected_status_and_output() {
    let tree = Tree::new();
    tree.script("001", &format!("{GENERIC}echo 'one  '\n"), b"one\n");
    tree.script(
        "tests/named",
        "_supported_fmt() { :; }\n_supported_fmt raw\necho two\n",
        b"two\n",
    );
    let (ran, outcomes) = tree.run(&[]);
    // One per processor: scripts have their own time limits.
    let processors = std::thread::available_parallelism().unwrap();
    ran.assert_code(0).assert_says(&format!("at most {processors} at once"));
    let ids: Vec<&str> = outcomes.keys().map(String::as_str).collect();
    assert_eq!(
        ids,
        [
            "upstream::001@qcow2",
            "upstream::001@raw",
            "upstream::named@raw"
        ]
    );
    // Selected by number, name and id.
    for (selector, id) in [
        ("001", "upstream::001@raw"),
        ("named", "upstream::named@raw"),
    ] {
        let (_, outcomes) = tree.run(&[selector, "-f", "raw"]);
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), [id]);
        let (_, again) = tree.run(&[id]);
        assert_eq!(again.keys().collect::<Vec<_>>(), [id]);
    }
    // Nothing is written into the tree.
    let mut names: Vec<_> =
        fs::read_dir(tree.path("")).unwrap().map(|one| one.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["001", "001.out", "tests"]);
}

#[test]
fn a_script_fails_by_its_output_by_its_status_and_by_a_signal() {
    let tree = Tree::new();
    tree.script("001", "echo one; echo three\n", b"one\ntwo\n");
    tree.script("002", "echo one; exit 3\n", b"one\n");
    tree.script("003", "echo one; kill -SEGV $$\n", b"one\n");
    tree.script("004", "echo more; exit 1\n", b"one\n");
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(1);
    let headline = |id: &str| {
        let outcome = &outcomes[&format!("upstream::{id}@raw")];
        assert_eq!(outcome.verdict, Verdict::Fail, "{id}");
        outcome.last().unwrap().headline.clone()
    };
    assert_eq!(
        headline("001"),
        "the output differs from 001.out: expected `two`, found `three`"
    );
    assert_eq!(headline("002"), "002 exited with status 3");
    assert_eq!(headline("003"), "003 was killed by SIGSEGV");
    assert!(headline("004").starts_with("004 exited with status 1: expected `one`, found `more`"));
    ran.assert_says("-two").assert_says("+three");
    ran.assert_says("rerun:").assert_says("--upstream");
    // Its output is kept unchanged.
    let kept = outcomes["upstream::001@raw"].kept.clone().unwrap();
    assert_eq!(
        fs::read(kept.join("test/001.out.bad")).unwrap(),
        b"one\nthree\n"
    );
}

#[test]
fn notrun_files_skip_a_script_or_a_part_of_it() {
    let tree = Tree::new();
    tree.script(
        "001",
        "echo 'no such thing here' > $TEST_DIR/001.notrun; exit 0\n",
        b"never\n",
    );
    tree.script(
        "tests/part",
        "echo '    [case not run] not this part' >> $TEST_DIR/part.casenotrun; echo done\n",
        b"done\n",
    );
    tree.script("003", "echo x > $TEST_DIR/003.notrun; exit 1\n", b"");
    tree.script("004", ": > $TEST_DIR/004.notrun\n", b"");
    tree.script("005", "mkfifo $TEST_DIR/005.notrun\n", b"");
    tree.script("006", "mkdir $TEST_DIR/006.casenotrun\n", b"");
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(1);
    let skipped = &outcomes["upstream::001@raw"];
    assert_eq!(skipped.verdict, Verdict::Skip);
    assert_eq!(skipped.skip().unwrap().to_string(), "no such thing here");
    let silent = &outcomes["upstream::004@raw"];
    assert_eq!(
        silent.skip().unwrap().to_string(),
        "its 004.notrun says nothing"
    );
    // Anything but a regular file is neither waited for nor overlooked.
    for (id, says) in [("005", "not a regular file"), ("006", "not a regular file")] {
        let odd = &outcomes[&format!("upstream::{id}@raw")];
        assert_eq!(odd.verdict, Verdict::Fail, "{id}");
        let headline = &odd.last().unwrap().headline;
        assert!(headline.contains(says), "{headline}");
    }
    let part = &outcomes["upstream::part@raw"];
    assert_eq!(
        (part.verdict, part.not_run.as_slice()),
        (Verdict::Pass, &["not this part".to_owned()][..])
    );
    ran.assert_says("not this part");
    // The exit status takes precedence.
    assert_eq!(outcomes["upstream::003@raw"].verdict, Verdict::Fail);
}

/// Even beyond what a report shows.
#[test]
fn the_output_is_compared_as_a_whole() {
    let tree = Tree::new();
    let long = "one and the same line\n".repeat(1 << 18);
    let print = format!("cat {}; echo two\n", tree.bench.path("long").display());
    fs::write(tree.bench.path("long"), &long).unwrap();
    tree.script("001", &print, (long.clone() + "two\n").as_bytes());
    tree.script("002", &print, (long + "three\n").as_bytes());
    let huge = "printf '%*d\n' 100000000 1\n";
    tree.script("003", huge, b"1\n");
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(1);
    assert_eq!(outcomes["upstream::001@raw"].verdict, Verdict::Pass);
    let headline = |id: &str| &outcomes[id].last().unwrap().headline;
    assert_eq!(
        headline("upstream::002@raw"),
        "the output differs from 002.out: expected `three`, found `two`"
    );
    assert!(headline("upstream::003@raw").ends_with("it has 95 MiB, and at most 64 are compared"));
}

#[test]
fn a_numbered_script_without_a_reference_is_skipped_with_that_reason() {
    let tree = Tree::new();
    tree.script("001", "echo one\n", b"one\n");
    fs::remove_file(tree.path("001.out")).unwrap();
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(8).assert_says("it has no reference output (001.out)");
    assert_eq!(outcomes["upstream::001@raw"].verdict, Verdict::Skip);
}

#[test]
fn the_reference_depends_on_the_cache_mode_or_else_the_format() {
    let tree = Tree::new();
    tree.script(
        "001",
        "echo $IMGFMT $CACHEMODE $CACHEMODE_IS_DEFAULT\n",
        b"other\n",
    );
    let file =
        |ending: &str, text: &str| fs::write(tree.path(&format!("001.out{ending}")), text).unwrap();
    file(".qcow2", "qcow2 writeback true\n");
    file("", "raw writeback true\n");
    let (ran, _) = tree.run(&["-f", "raw,qcow2"]);
    ran.assert_code(0);
    file("", "raw writeback false\n");
    let (ran, _) = tree.run(&["-f", "raw", "-c", "writeback"]);
    ran.assert_code(0);
    file(".nocache", "raw none false\n");
    let (ran, _) = tree.run(&["-f", "raw", "-c", "none"]);
    ran.assert_code(0);
}

/// The variables that `check` sets, as a script sees them.
#[test]
fn a_script_has_the_variables_of_check() {
    let tree = Tree::new();
    let shown = "for name in IMGFMT IMGPROTO IMGOPTS IMGFMT_GENERIC IMGOPTSSYNTAX IMGKEYSECRET AIOMODE QEMU_IO_OPTIONS \
                 QEMU_IO_OPTIONS_NO_FMT QEMU_OPTIONS GDB_OPTIONS VALGRIND_QEMU PRINT_QEMU; do echo \"$name=${!name-absent}\"; done\n\
                 [ \"$PWD\" -ef \"${0%/*}\" ] || echo wrong folder\n\
                 [ -d \"$TEST_DIR\" -a -d \"$SOCK_DIR\" -a -x \"$QEMU_IMG_PROG\" -a -n \"$MALLOC_PERTURB_\" ] || echo no place\n\
                 case \"$PYTHONPATH:\" in */tests/qemu-iotests:*/python:*) ;; *) echo \"$PYTHONPATH\" ;; esac\n\
                 case \"$SAMPLE_IMG_DIR\" in */sample_images) ;; *) echo no samples ;; esac\n\
                 read line && echo there is input\ntrue\n";
    let reference = "IMGFMT=vmdk\nIMGPROTO=file\nIMGOPTS=size=3,zeroed_grain=on\nIMGFMT_GENERIC=true\nIMGOPTSSYNTAX=false\n\
                     IMGKEYSECRET=absent\nAIOMODE=threads\nQEMU_IO_OPTIONS=--cache writeback --aio threads --misalign -f vmdk\n\
                     QEMU_IO_OPTIONS_NO_FMT=--cache writeback --aio threads --misalign\n\
                     QEMU_OPTIONS=-nodefaults -display none -accel qtest\nGDB_OPTIONS=localhost:7\nVALGRIND_QEMU=absent\n\
                     PRINT_QEMU=absent\n";
    tree.script("001", shown, reference.as_bytes());
    let args = [
        "-f",
        "vmdk",
        "-o",
        "size=3",
        "--misalign",
        "--gdb=localhost:7",
    ];
    let (ran, _) = tree.run(&args);
    ran.assert_code(0);
}

/// In the way of `check`, for the helpers of the scripts.
#[test]
fn a_script_gets_valgrind_by_variable_and_longer_deadlines() {
    let tree = Tree::new();
    tree.script(
        "001",
        "echo \"$VALGRIND_QEMU ${GDB_OPTIONS-absent}\"\n",
        b"y absent\n",
    );
    let (ran, _) = tree.run(&["-f", "raw", "--valgrind"]);
    ran.assert_code(0).assert_says("deadlines × 20");
}

#[test]
fn scripts_are_partitioned_and_merged_like_cases() {
    let tree = Tree::new();
    for name in ["001", "002", "003"] {
        tree.script(name, "echo one\n", b"one\n");
    }
    let mut all = Vec::new();
    let parts = ["1/2", "2/2"].map(|part| {
        let (ran, outcomes) = tree.run(&["-f", "raw", "--partition", part]);
        ran.assert_code(0);
        assert!(!outcomes.is_empty() && outcomes.len() < 3, "{outcomes:?}");
        all.extend(outcomes.into_keys());
        let to = tree.bench.path(&part.replace('/', "-"));
        fs::rename(tree.bench.path("jsonl"), &to).unwrap();
        to.display().to_string()
    });
    all.sort();
    assert_eq!(
        all,
        ["001", "002", "003"].map(|name| format!("upstream::{name}@raw"))
    );
    let merged = tree.bench.run(&["merge", &parts[0], &parts[1]]);
    merged.assert_code(0).assert_says("3 passed");
    let half = tree.bench.run(&["merge", &parts[0]]);
    half.assert_code(1).assert_says("2 of 2");
}

/// Upstream's 197 and 215 skip themselves if there are other characters in the path.
#[test]
fn a_script_has_a_plain_path_wherever_the_scratch_folder_is() {
    let tree = Tree::new();
    let text = "case $TEST_DIR in *[!-_a-zA-Z0-9/]*) echo \"$TEST_DIR\" ;; esac\n\
                echo x > $TEST_DIR/image; echo done; exit $(($seq))\n";
    for (name, status) in [("001", 0), ("002", 1)] {
        tree.script(name, &text.replace("$seq", &status.to_string()), b"done\n");
    }
    let scratch = tree.bench.path("a .b");
    let args = ["-f", "raw", "--scratch", scratch.to_str().unwrap()];
    let (ran, outcomes) = tree.run(&args);
    ran.assert_code(1);
    assert_eq!(outcomes["upstream::001@raw"].verdict, Verdict::Pass);
    let failed = &outcomes["upstream::002@raw"];
    assert_eq!(failed.last().unwrap().headline, "002 exited with status 1");
    let kept = failed.kept.clone().unwrap();
    assert!(kept.starts_with(&scratch) && kept.join("test/image").exists());
}

/// Upstream's tests 162 and 282 do.
#[test]
fn only_known_scripts_may_write_beside_themselves() {
    let tree = Tree::new();
    for name in ["162", "282"] {
        let writes = format!("echo x > of-{name} && rm of-{name} && echo one\n");
        tree.script(name, &writes, b"one\n");
    }
    let (ran, _) = tree.run(&["-f", "raw"]);
    ran.assert_code(0);
}

#[test]
fn escapes_and_invalid_utf8_are_harmless_in_every_report() {
    let tree = Tree::new();
    tree.script("001", "printf 'a\\033[2Jb \\377\\n'\nexit 1\n", b"a\n");
    tree.script(
        "002",
        "printf 'why \\033[2J \\377\\n' > $TEST_DIR/002.notrun\n",
        b"",
    );
    tree.script("tests/named\x1b[2J", "echo one\n", b"one\n");
    tree.script(
        "003",
        "# group: \x1b[2J\n#\n# It \x1b[2J is\necho one\n",
        b"one\n",
    );
    let (list, _) = tree.run(&["--list", "-f", "raw"]);
    list.assert_code(0).assert_says("It \\u{1b}[2J is");
    list.assert_does_not_say("\x1b").assert_does_not_say("named");
    let reports = ["junit", "tap", "html"].map(|name| tree.bench.path(name));
    let paths = reports.each_ref().map(|path| path.display().to_string());
    let (ran, _) = tree.run(&[
        "-f", "raw", "--junit", &paths[0], "--tap", &paths[1], "--html", &paths[2],
    ]);
    ran.assert_code(1).assert_says("\\u{1b}[2Jb \\xff");
    ran.assert_does_not_say("\x1b");
    for report in reports {
        let text = fs::read_to_string(&report).unwrap();
        assert!(
            !text.contains('\x1b') && text.contains("[2J"),
            "{}: {text}",
            report.display()
        );
    }
}

#[test]
fn a_process_left_by_a_script_is_a_leak_with_its_name() {
    let tree = Tree::new();
    tree.script(
        "001",
        "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &\necho one\n",
        b"one\n",
    );
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(1);
    let outcome = &outcomes["upstream::001@raw"];
    assert_eq!(outcome.verdict, Verdict::Leak);
    assert!(outcome.last().unwrap().headline.contains("sleep 1000"));
    assert_eq!(tree.bench.processes(), [0_u32; 0]);
}

#[test]
fn a_process_that_exits_soon_after_a_script_is_not_a_leak() {
    let tree = Tree::new();
    // Longer than processes of a case may take to exit.
    tree.script(
        "001",
        "(sleep 1; :) > /dev/null 2>&1 < /dev/null &\necho one\n",
        b"one\n",
    );
    tree.run(&["-f", "raw"]).0.assert_code(0);
}

#[test]
fn nothing_of_a_script_outlives_its_run_however_that_ends() {
    let tree = Tree::new();
    let fifo = tree.bench.path("ready");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = format!(
        "setsid sleep 1000 > /dev/null 2>&1 &\n: > {}\nwait\n",
        fifo.display()
    );
    tree.script("001", &text, b"");
    let args = ["--upstream", "tree", "-f", "raw", "--no-confine"];
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut running = Running::start(&tree.bench, &args);
        fs::read(&fifo).unwrap();
        running.signal(signal);
        if signal == Signal::SIGINT {
            let ran = running.finish();
            ran.assert_code(130).assert_says("1 interrupted");
        } else {
            running.wait_for_death();
        }
        assert!(none_is_left(&tree.bench), "{:?}", tree.bench.processes());
    }
    assert_ne!(tree.bench.left().len(), 0, "the killed run left its folder");
    tree.script("001", "true\n", b"");
    tree.run(&["-f", "raw"]).0.assert_code(0);
    assert!(tree.bench.left().is_empty(), "{:?}", tree.bench.left());
}

/// Upstream's 147 and 233 use ports from the same range.
#[test]
fn scripts_that_share_a_resource_do_not_run_at_the_same_time() {
    let tree = Tree::new();
    for name in ["001", "147", "233"] {
        tree.script(name, "true\n", b"");
    }
    let at_once = |selected: &[&str]| {
        tree.run(&[&["-f", "raw", "-j2"], selected].concat()).0.assert_code(0);
        let events = events(&fs::read_to_string(tree.bench.path("jsonl")).unwrap());
        let (mut running, mut most) = (0, 0);
        for event in events {
            match event {
                RunEvent::InstanceStarted { .. } => running += 1,
                RunEvent::InstanceFinished { .. } => running -= 1,
                _ => {}
            }
            most = most.max(running);
        }
        most
    };
    assert_eq!(at_once(&["001", "147"]), 2);
    assert_eq!(at_once(&["147", "233"]), 1);
}

#[test]
fn an_expectation_applies_to_a_script() {
    let tree = Tree::new();
    tree.script("001", "echo two\n", b"one\n");
    let file = tree.bench.path("mine.toml");
    let text =
        "[[expect]]\nselect = \"upstream::001\"\noutcome = \"quarantine\"\nreason = \"bug 1\"\n";
    fs::write(&file, text).unwrap();
    let (ran, outcomes) = tree.run(&["-f", "raw", "--config", file.to_str().unwrap()]);
    ran.assert_code(0).assert_says("bug 1");
    assert_eq!(outcomes["upstream::001@raw"].verdict, Verdict::Quarantined);
}

/// In the way of `check`.
#[test]
fn a_script_gets_print_debug_and_the_options_of_the_user() {
    let tree = Tree::new();
    tree.script(
        "001",
        "echo \"$PRINT_QEMU $1 $QEMU_NBD_OPTIONS\"\n",
        b"y -d -v\n",
    );
    let mut command = tree.bench.command(&["--upstream", "tree", "-f", "raw"]);
    command.args(["--print", "--debug"]).env("QEMU_NBD_OPTIONS", "-v");
    Ran::new(command.output().unwrap()).assert_code(0);
}

/// Makes the real Python available in the bench; `python3` may be a wrapper that needs more than
/// the bench has.
fn link_python(tree: &Tree) -> bool {
    let mut python = std::process::Command::new("python3");
    python.args(["-c", "import sys; print(sys.executable)"]);
    let ran = python.output().ok().filter(|ran| ran.status.success());
    let Some(ran) = ran else {
        println!("skipped: there is no python3 here");
        return false;
    };
    let path = String::from_utf8(ran.stdout).unwrap();
    std::os::unix::fs::symlink(path.trim(), tree.bench.path("bin/python3")).is_ok()
}

/// Otherwise each script would recompile everything it imports, including Python's library, which
/// takes a second of CPU time.
#[test]
fn compiled_python_is_kept_outside_the_tree_whatever_the_environment_says() {
    let tree = Tree::new();
    if !link_python(&tree) {
        return;
    }
    tree.text("001", "#!/usr/bin/env python3\nimport helper\n", b"one\n");
    fs::write(tree.path("helper.py"), "print('one')\n").unwrap();
    let args = ["--upstream", "tree", "-f", "raw"];
    let mut command = tree.bench.command(&args);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ran::new(command.output().unwrap()).assert_code(0);
    let kept = tree.bench.path("build/iotests/bytecode");
    let kept = kept.join(tree.path("").strip_prefix("/").unwrap());
    let names = fs::read_dir(kept).unwrap();
    let names: Vec<_> = names.map(|one| one.unwrap().file_name()).collect();
    assert!(
        names.len() == 1 && names[0].to_str().unwrap().starts_with("helper."),
        "{names:?}"
    );
    assert!(!tree.path("__pycache__").exists());
}

#[test]
fn a_hanging_python_script_is_shown_with_its_stack() {
    let tree = Tree::new();
    if !link_python(&tree) {
        return;
    }
    let fifo = tree.bench.path("ready");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = format!(
        "#!/usr/bin/env python3\nimport signal\ndef waits_for_ever():\n    open('{}', 'w').close()\n    signal.pause()\n\
         waits_for_ever()\n",
        fifo.display()
    );
    tree.text("001", &text, b"");
    let args = ["--upstream", "tree", "-f", "raw", "--no-confine"];
    let mut running = Running::start(&tree.bench, &args);
    let case = running.wait_for_the_case();
    fs::read(&fifo).unwrap();
    nix::sys::signal::kill(case, Signal::SIGABRT).unwrap();
    let ran = running.finish();
    ran.assert_code(1).assert_says("line 5 in waits_for_ever");
    assert_eq!(tree.bench.processes(), [0_u32; 0]);
}

#[test]
fn a_hanging_script_is_shown_with_its_line_and_its_processes() {
    let tree = Tree::new();
    let fifo = tree.bench.path("ready");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = format!(
        "echo begun\ntrue\nsh -c 'echo > {}; exec sleep 1000'\necho end\n",
        fifo.display()
    );
    tree.script("001", &text, b"begun\nend\n");
    let args = ["--upstream", "tree", "-f", "raw", "--no-confine"];
    let mut running = Running::start(&tree.bench, &args);
    let case = running.wait_for_the_case();
    // Once it has written, it is in its third command.
    assert_eq!(fs::read(&fifo).unwrap(), b"\n");
    // As the supervisor does when the time is up.
    nix::sys::signal::kill(case, Signal::SIGABRT).unwrap();
    let ran = running.finish();
    ran.assert_code(1)
        .assert_says("TIMEOUT upstream::001@raw")
        .assert_says("001 is at line 4")
        .assert_says("sleep 1000")
        .assert_says("begun");
    assert_eq!(tree.bench.processes(), [0_u32; 0]);
}

#[test]
fn only_python_scripts_need_python() {
    let tree = Tree::new();
    tree.script("001", "echo one\n", b"one\n");
    tree.text(
        "002",
        "#!/usr/bin/env python3\necho by $IT\n",
        b"by python\n",
    );
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(0).assert_says("needs the program `python3`");
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["upstream::001@raw"]);
    let python =
        "#!/bin/sh\n[ \"$1\" = -c ] && { echo \"$0\"; exit; }\nIT=python exec bash \"$@\"\n";
    tree.bench.script("named", python);
    let named = tree.bench.path("named").display().to_string();
    let (ran, outcomes) = tree.run(&["-f", "raw", "--python", &named]);
    ran.assert_code(0);
    assert_eq!(outcomes.len(), 2);
    tree.bench.script("bin/python3", python);
    let (ran, outcomes) = tree.run(&["-f", "raw"]);
    ran.assert_code(0);
    assert_eq!(outcomes.len(), 2);
    // A named interpreter that does not work is an error, not a reason to skip.
    let bad = tree.bench.path("bin/false").display().to_string();
    let (ran, _) = tree.run(&["--python", &bad]);
    ran.assert_code(2).assert_says("use the Python");
}

#[test]
fn the_list_shows_what_the_scripts_declare() {
    let tree = Tree::new();
    let text = "# group: rw strange\n#\n# Reads what it wrote\n#\n# Copyright (C) nobody\n#\n_supported_fmt() { :; }\n_supported_proto() { :; }\n_supported_fmt qcow2 raw\n_supported_proto file nbd\n";
    tree.script("001", text, b"");
    tree.script("002", "# group: disabled\n", b"");
    tree.script("003", "_supported_fmt vmdk\n$QEMU -version\n", b"");
    fs::write(tree.path("group.local"), "# mine\n1 local\n").unwrap();
    let (ran, _) = tree.run(&["--list", "-f", "raw"]);
    ran.assert_code(0)
        .assert_says("Reads what it wrote (bash)")
        .assert_says(
            "formats: raw qcow2; protocols: file nbd; groups: rw strange local; upstream: 001",
        )
        .assert_says("does not run with format raw, only with vmdk")
        .assert_does_not_say("002");
    let (ran, outcomes) = tree.run(&["-g", "strange", "-x", "auto", "-f", "raw"]);
    ran.assert_code(0);
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["upstream::001@raw"]);
    // Disabled scripts run if they are named.
    for args in [["002", "-f", "raw"], ["-gdisabled", "-f", "raw"]] {
        assert_eq!(
            tree.run(&args).1.keys().collect::<Vec<_>>(),
            ["upstream::002@raw"]
        );
    }
    tree.run(&["-g", "nonsense"]).0.assert_code(2);
    fs::remove_file(tree.path("002")).unwrap();
    let (_, outcomes) = tree.run(&["001", "-x", "disabled", "-f", "raw"]);
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["upstream::001@raw"]);
    let (ran, _) = tree.run(&["--list", "003", "-f", "vmdk"]);
    ran.assert_says("needs an emulator");
    fs::write(tree.path("group.local"), "777 local\n").unwrap();
    tree.run(&["--list"]).0.assert_code(2).assert_says("there is no test `777`");
}

#[test]
fn a_tree_is_found_by_its_root_its_tests_or_a_build_folder_with_a_link() {
    let tree = Tree::new();
    tree.script("001", "echo one\n", b"one\n");
    fs::write(tree.path("check"), "").unwrap();
    fs::create_dir_all(tree.bench.path("built/tests/qemu-iotests")).unwrap();
    let link = tree.bench.path("built/tests/qemu-iotests/check");
    std::os::unix::fs::symlink(tree.path("check"), link).unwrap();
    for given in [
        "tree",
        "tree/tests/qemu-iotests",
        "built",
        "built/tests/qemu-iotests",
    ] {
        tree.bench.run(&["--upstream", given, "-f", "raw"]).assert_code(0);
    }
    tree.script("tests/001", "echo other\n", b"other\n");
    let twice = tree.bench.run(&["--upstream", "tree"]);
    twice.assert_code(2).assert_says("tests/001").assert_says("rename one");
    for (given, says) in [
        ("bin", "there is neither a test"),
        ("nowhere", "No such file"),
    ] {
        let ran = tree.bench.run(&["--upstream", given]);
        ran.assert_code(2).assert_says(given).assert_says(says);
    }
}

#[test]
fn a_reference_is_blessed_for_review_and_never_changed() {
    let tree = Tree::new();
    tree.script("001", "echo new  \necho\n", b"old\n");
    let (ran, outcomes) = tree.run(&["-f", "raw", "--bless"]);
    ran.assert_code(0);
    assert_eq!(
        outcomes["upstream::001@raw"].pending_goldens,
        [tree.path("001.out.pending")]
    );
    assert_eq!(fs::read(tree.path("001.out")).unwrap(), b"old\n");
    let pending = fs::read_to_string(tree.path("001.out.pending")).unwrap();
    // Unchanged, as when upstream writes references.
    assert!(pending.ends_with("\nnew\n\n"), "{pending:?}");
    let review = tree.bench.run(&["--upstream", "tree", "--review"]);
    review
        .assert_code(0)
        .assert_says("001.out changes")
        .assert_says("-old")
        .assert_says("1 left");
}

#[test]
fn records_retries_and_failed_work_for_scripts_as_for_cases() {
    let tree = Tree::new();
    let second = "[ -e $FIXTURE_STATE ] && { echo one; exit; }\necho x > $FIXTURE_STATE; exit 1\n";
    tree.script("001", second, b"one\n")
        .script("002", "exit 1\n", b"")
        .script("003", "true\n", b"");
    let (ran, outcomes) = tree.run(&["-f", "raw", "--retries", "1", "--no-confine"]);
    ran.assert_code(1);
    assert_eq!(outcomes["upstream::001@raw"].verdict, Verdict::Flaky);
    let (_, outcomes) = tree.run(&["-f", "raw", "--failed"]);
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["upstream::002@raw"]);
    let (_, outcomes) = tree.run(&["003", "-f", "raw", "--repeat", "2"]);
    assert_eq!(
        outcomes.keys().collect::<Vec<_>>(),
        ["upstream::003@raw#1", "upstream::003@raw#2"]
    );
}

#[test]
fn a_script_cannot_write_into_the_tree() {
    let tree = Tree::new();
    tree.script(
        "001",
        "echo x 2> /dev/null > stray && echo written\ntrue\n",
        b"",
    );
    // Upstream's machines use this folder.
    tree.script(
        "002",
        "folder=$(mktemp -d /var/tmp/iotests-XXXXXX) && echo written && rmdir $folder\n",
        b"written\n",
    );
    tree.run(&["-f", "raw"]).0.assert_code(0);
    assert!(!tree.path("stray").exists());
}

/// Some real scripts that are quick and need no emulator, with the programs in PATH.
#[test]
fn real_scripts_run_if_a_tree_is_given() {
    let Some(real) = std::env::var_os("IOTESTS_UPSTREAM") else {
        return;
    };
    let tree = Tree::new();
    let jsonl = tree.bench.path("jsonl").display().to_string();
    let mut command = tree.bench.command(&[
        "001",
        "002",
        "-f",
        "raw,qcow2",
        "--set",
        "host",
        "--jsonl",
        &jsonl,
    ]);
    let output = command
        .arg("--upstream")
        .arg(real)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .unwrap();
    Ran::new(output).assert_code(0);
    let events = events(&fs::read_to_string(jsonl).unwrap());
    assert_eq!(verdicts(&events).len(), 4);
    assert_eq!(summary(&events).count(Verdict::Pass), 4);
}
