//! A stand-in for QEMU: a repository with one source file, a `ninja` that copies it, and a harness
//! whose cases look for the word BUG.

use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use super::*;

/// Builds by copying, unless the source is wrong.
const NINJA: &str = r#"#!/bin/sh
echo "building $*" >> "$PWD/../built"
if grep -q SYNTAX ../source/block.c; then echo "block.c: that is no C"; exit 1; fi
cp ../source/block.c qemu-img
cat ../source/new.c >> qemu-img 2> /dev/null
exit 0
"#;

/// `good` fails if the program has a bug or the variable requests it, `red` always, `blind` never;
/// `late` waits until it is stopped.
const IOTESTS: &str = r#"#!/bin/sh
build=; record=; list=; cases=
while [ $# -gt 0 ]; do
  case "$1" in
    --qemu-build) build=$2; shift;;
    --build-dir) shift;;
    --jsonl) record=$2; shift;;
    --list=ids) list=1;;
    -*) ;;
    *) cases="$cases $1";;
  esac
  shift
done
[ -z "${cases##* none*}" ] && exit 3
if [ -n "$list" ]; then for case in $cases; do echo "$case@qcow2"; done; exit 0; fi
for case in $cases; do
  verdict=pass
  case $case in
    red) verdict=fail;;
    good) if grep -q BUG "$build/qemu-img" || [ -n "$SWITCH" ]; then verdict=crash; fi;;
    late)
      if grep -q BUG "$build/qemu-img"; then sleep 1000 & echo $! > "$build/pid"; echo waits > "$build/waits"; wait; fi;;
  esac
  echo '{"elapsed":{"secs":1,"nanos":500000000},"event":{"event":"instance-finished","instance":{"id":"'$case'@qcow2","case":"'$case'"},"verdict":"'$verdict'","attempts":[{"headline":"why"}]}}' >> "$record"
done
"#;

const LIST: &str = r#"
[[bug]]
id = "patched"
what = "a check | is gone"
patch = "bug.patch"
cases = ["good", "blind"]
formats = ["qcow2"]
"#;

struct Qemu {
    place: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// One test at a time: a child that another thread is just starting holds our lock of the tree
/// until it executes its program.
static ALONE: Mutex<()> = Mutex::new(());

impl Qemu {
    fn new(list: &str) -> Qemu {
        let qemu = Qemu {
            place: tempfile::tempdir().unwrap(),
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        for folder in ["source", "build", "out"] {
            fs::create_dir(qemu.path(folder)).unwrap();
        }
        qemu.program("ninja", NINJA);
        qemu.program("iotests", IOTESTS);
        qemu.write("build/qemu-img", "");
        qemu.git(&["init", "-q", "-b", "main"]);
        qemu.write("source/block.c", "first\nBUG\nlast\n");
        qemu.commit("all of it");
        qemu.write("source/block.c", "first\nlast\n");
        qemu.commit("mended");
        let patch = "--- a/block.c\n+++ b/block.c\n@@ -1,2 +1,3 @@\n first\n+BUG\n last\n";
        qemu.write("bug.patch", patch);
        qemu.write("bugs.toml", list);
        qemu
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Another process writes the program: ours may be forking for another test at this moment, and
    /// a file that is open for writing cannot be executed.
    fn program(&self, name: &str, text: &str) {
        let script = format!("{name}.sh");
        self.write(&script, text);
        let mut install = Command::new("install");
        install.arg("-m755").args([self.path(&script), self.path(name)]);
        assert!(install.status().unwrap().success());
    }

    fn git(&self, args: &[&str]) -> String {
        let who = ["-c", "user.name=n", "-c", "user.email=e@e", "-C"];
        let mut git = Command::new("git");
        git.args(who).arg(self.path("source")).args(args);
        let output = git.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", message]);
    }

    fn measure(&self) -> Result<Report, String> {
        self.measure_until(&Stop::default())
    }

    fn measure_until(&self, stop: &Stop) -> Result<Report, String> {
        let args = Args {
            qemu_source: self.path("source"),
            qemu_build: Some(self.path("build")),
            bugs: self.path("bugs.toml"),
            only: Vec::new(),
            out: None,
            jobs: Some(1),
            ninja: self.path("ninja"),
            iotests: None,
        };
        let measured = measure(args, self.path("iotests"), &self.path("out"), stop);
        measured.map_err(|error| error.to_string())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.read("out/sharpness.json")).unwrap()
    }

    fn builds(&self) -> usize {
        self.read("built").lines().count()
    }

    /// Asserts that the sources are those of the last commit, and that nothing else exists.
    fn assert_restored(&self) {
        assert_eq!(self.git(&["status", "--porcelain"]), "");
        assert_eq!(self.read("source/block.c"), "first\nlast\n");
        assert!(!self.path("build/sharpness.undo").exists());
    }
}

#[test]
fn a_bug_is_found_by_the_case_that_fails_only_with_it() {
    let qemu = Qemu::new(LIST);
    let report = qemu.measure().unwrap();
    assert!(report.is_complete(), "{}", report.summary());
    assert_eq!(report.summary(), "1 of 1 found, 0 missed\n");
    let table = qemu.read("out/sharpness.md");
    let row = "| patched | a check \\| is gone | `good` (1, crash) | 1.5 s |";
    assert!(table.contains(row), "{table}");
    let bug = &qemu.json()["bugs"][0];
    assert_eq!(bug["outcome"], "found");
    assert_eq!(bug["found"][0]["id"], "good@qcow2");
    assert_eq!(bug["ran"], 2);
    qemu.assert_restored();
    // The programs are built from the original sources again.
    assert_eq!(qemu.read("build/qemu-img"), "first\nlast\n");
}

#[test]
fn a_fix_is_taken_out_again_and_what_no_case_notices_is_missed() {
    let qemu = Qemu::new("");
    let commit = qemu.git(&["rev-parse", "HEAD"]);
    for (case, outcome) in [("good", "found"), ("blind", "missed")] {
        let list = format!(
            "[[bug]]\nid = 'fix'\nwhat = ''\nrevert = '{commit}'\nfiles = ['block.c']\ncases = ['{case}']"
        );
        qemu.write("bugs.toml", &list);
        assert!(qemu.measure().unwrap().is_complete());
        assert_eq!(qemu.json()["bugs"][0]["outcome"], outcome);
        qemu.assert_restored();
    }
    let list = "[[bug]]\nid = 'fix'\nwhat = ''\nrevert = 'f00'\ncases = ['good']";
    qemu.write("bugs.toml", list);
    let error = qemu.measure().unwrap_err();
    assert!(error.contains("fix: failed to take f00 out: "), "{error}");
}

#[test]
fn bugs_of_one_patch_are_built_once_and_chosen_by_a_variable() {
    let bug = |id: &str, patch: &str, env: &str| {
        format!(
            "[[bug]]\nid = '{id}'\nwhat = ''\npatch = '{patch}'\ncases = ['good']\nenv = {{ {env} }}\n"
        )
    };
    let list = bug("one", "new.patch", "SWITCH = '1'")
        + &bug("other", "bug.patch", "")
        + &bug("off", "new.patch", "");
    let qemu = Qemu::new(&list);
    let patch = "--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+switches\n";
    qemu.write("new.patch", patch);
    qemu.measure().unwrap();
    let json = qemu.json();
    let outcomes: Vec<(&str, &str)> = json["bugs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bug| {
            (
                bug["id"].as_str().unwrap(),
                bug["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [("one", "found"), ("off", "missed"), ("other", "found")];
    assert_eq!(outcomes, expected);
    // Without a bug, with two patches, and without a bug again.
    assert_eq!(qemu.builds(), 4);
    qemu.assert_restored();
}

#[test]
fn all_that_is_wrong_with_bugs_is_said_before_anything_is_built_for_one() {
    let list = LIST.to_owned()
        + "[[bug]]\nid = 'old'\nwhat = ''\npatch = 'old.patch'\ncases = ['good']\n\
           [[bug]]\nid = 'empty'\nwhat = ''\npatch = 'bug.patch'\ncases = ['none']\n";
    let qemu = Qemu::new(&list);
    let patch = "--- a/block.c\n+++ b/block.c\n@@ -1 +1 @@\n-second\n+BUG\n";
    qemu.write("old.patch", patch);
    let error = qemu.measure().unwrap_err();
    assert!(error.contains("old: failed to apply "), "{error}");
    assert!(error.contains("patch does not apply"), "{error}");
    let empty = "empty: no case that can run here is selected by none";
    assert!(error.contains(empty), "{error}");
    assert!(!error.contains("patched"), "{error}");
    assert_eq!(qemu.builds(), 1);
    qemu.assert_restored();
}

#[test]
fn a_bug_that_does_not_build_is_reported_and_the_next_one_measured() {
    let broken = "[[bug]]\nid = 'broken'\nwhat = ''\npatch = 'broken.patch'\ncases = ['good']\n";
    let qemu = Qemu::new(&(broken.to_owned() + LIST));
    let patch = "--- a/block.c\n+++ b/block.c\n@@ -1,2 +1,3 @@\n first\n+SYNTAX\n last\n";
    qemu.write("broken.patch", patch);
    let report = qemu.measure().unwrap();
    assert!(!report.is_complete());
    let summary = report.summary();
    assert!(
        summary.contains("1 of 2 found, 0 missed, 1 not measured"),
        "{summary}"
    );
    assert!(
        summary.contains("broken does not build:\nblock.c: that is no C"),
        "{summary}"
    );
    qemu.assert_restored();
}

#[test]
fn a_tree_that_is_not_clean_or_does_not_build_is_refused() {
    let qemu = Qemu::new(LIST);
    qemu.write("source/block.c", "first\nmine\nlast\n");
    let error = qemu.measure().unwrap_err();
    assert!(
        error.contains("clean: put aside what is changed in it\n M block.c"),
        "{error}"
    );
    assert_eq!(qemu.read("source/block.c"), "first\nmine\nlast\n");
    qemu.write("source/block.c", "SYNTAX\n");
    qemu.commit("broken");
    let error = qemu.measure().unwrap_err();
    assert!(
        error.contains("without any bug\nblock.c: that is no C"),
        "{error}"
    );
    fs::remove_file(qemu.path("build/qemu-img")).unwrap();
    let error = qemu.measure().unwrap_err();
    assert!(error.contains("build it once"), "{error}");
}

#[test]
fn what_is_red_without_the_bug_shows_nothing() {
    let list = LIST.replace("\"good\", \"blind\"", "\"red\"");
    let qemu = Qemu::new(&list);
    let report = qemu.measure().unwrap();
    assert!(!report.is_complete());
    let said = "red without any bug, and so not counted: red@qcow2: why";
    assert!(report.summary().contains(said), "{}", report.summary());
    assert_eq!(qemu.json()["bugs"][0]["outcome"], "nothing-green");
}

#[test]
fn a_signal_ends_the_run_and_the_sources_are_as_they_were() {
    let list = LIST.replace("\"good\", \"blind\"", "\"blind\", \"late\"");
    let qemu = Qemu::new(&list);
    let waits = qemu.path("build/waits");
    nix::unistd::mkfifo(&waits, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stop = Stop::default();
    let later = stop.clone();
    let signal = thread::spawn(move || {
        let mut text = String::new();
        File::open(waits).unwrap().read_to_string(&mut text).unwrap();
        later.now();
    });
    let report = qemu.measure_until(&stop).unwrap();
    signal.join().unwrap();
    // Nor does any process that a wrapper started remain.
    let left = fs::read_to_string(qemu.path("build/pid")).unwrap();
    assert!(!Path::new("/proc").join(left.trim()).join("exe").exists());
    assert!(report.is_stopped() && !report.is_complete());
    assert_eq!(qemu.json()["bugs"][0]["outcome"], "stopped");
    qemu.assert_restored();
}

#[test]
fn cases_that_take_too_long_are_ended() {
    let list = LIST.replace("\"good\", \"blind\"", "\"blind\", \"late\"");
    let qemu = Qemu::new(&format!("timeout = 0\n{list}"));
    let waits = qemu.path("build/waits");
    nix::unistd::mkfifo(&waits, nix::sys::stat::Mode::S_IRWXU).unwrap();
    qemu.measure().unwrap();
    assert_eq!(qemu.json()["bugs"][0]["outcome"], "unfinished");
    qemu.assert_restored();
}

#[test]
fn a_run_puts_back_what_one_that_was_killed_has_left() {
    let qemu = Qemu::new(LIST);
    {
        let tree = Tree::open(&qemu.path("source"), &qemu.path("build")).unwrap();
        let bugs = bugs::read(&qemu.path("bugs.toml"), &[]).unwrap();
        let change = tree.change(&bugs[0]).unwrap();
        std::mem::forget(tree.apply(&change).unwrap());
        let other = Tree::open(&qemu.path("source"), &qemu.path("build")).err();
        assert!(other.unwrap().to_string().contains("another run works in it"));
    }
    assert!(qemu.read("source/block.c").contains("BUG"));
    assert!(qemu.measure().unwrap().is_complete());
    qemu.assert_restored();
}

#[test]
fn a_list_that_cannot_be_used_says_why() {
    let qemu = Qemu::new("");
    let bug = |more: &str| format!("[[bug]]\nid = 'b'\nwhat = ''\ncases = ['good']\n{more}\n");
    for (list, why) in [
        (String::new(), "there is no bug in it"),
        (bug(""), "bug `b`: it has neither `patch` nor `revert`"),
        (
            bug("patch = 'p'\nrevert = 'r'"),
            "it has `patch` and `revert`",
        ),
        (bug("patch = 'p'\nfiles = ['f']"), "`files` limits `revert`"),
        (bug("patch = 'p'\ncolour = 1"), "unknown field `colour`"),
        (
            bug("patch = 'p'").replace("'good'", ""),
            "`cases` names none",
        ),
        (
            bug("patch = 'p'").replace("'b'", "'../b'"),
            "an id names files",
        ),
        (bug("patch = 'p'").repeat(2), "there are two bugs `b`"),
    ] {
        qemu.write("bugs.toml", &list);
        let error = qemu.measure().unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(error.contains("bugs.toml"), "{error}");
    }
    let error = bugs::read(&qemu.path("bugs.toml"), &["c".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("two bugs"), "{error}");
    qemu.write("bugs.toml", &bug("patch = 'p'"));
    let error = bugs::read(&qemu.path("bugs.toml"), &["c".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("there is no bug `c`"), "{error}");
}
