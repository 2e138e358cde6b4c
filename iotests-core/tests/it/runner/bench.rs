//! An environment for the fixture program: its own build folder, temporary folder, PATH and fake
//! qemu-img.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use iotests_core::runner::Verdict;
use iotests_core::runner::event::{Outcome, RunEvent, Summary};
use iotests_core::runner::record::Record;

/// A qemu-img that has the formats of the fixture and always succeeds.
const FAKE_QEMU_IMG: &str = "#!/bin/sh
case \"$1\" in
--version) echo 'qemu-img version 7.2.22 (a fake)' ;;
--help) printf 'x\\n\\nSupported formats: raw qcow2 vmdk\\n\\nSee nothing\\n' ;;
create) [ \"$5\" != help ] || printf 'Supported options:\\n  size=<size> - Virtual size\\n' ;;
esac
exit 0
";

/// A qemu-io that does nothing.
const FAKE_QEMU_IO: &str =
    "#!/bin/sh\n[ \"$1\" = --version ] && echo 'qemu-io version 7.2.22 (a fake)'\nexit 0\n";

/// The variable that marks the processes of a bench.
const MARK: &str = "IOTESTS_SELF_TEST";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// See the module.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    mark: String,
    pub(super) has_qemu_nbd: bool,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ir").tempdir_in("/tmp").unwrap();
        for name in ["bin", "tmp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let mut bench = Self {
            folder,
            mark,
            has_qemu_nbd: false,
        };
        for program in ["sh", "sleep", "setsid", "true"] {
            assert!(bench.link(program), "{program} is needed");
        }
        bench.has_qemu_nbd = bench.link("qemu-nbd");
        bench.script("bin/qemu-img", FAKE_QEMU_IMG);
        bench.script("bin/qemu-io", FAKE_QEMU_IO);
        bench
    }

    /// Makes a program from PATH available; false if there is none.
    pub(super) fn link(&self, program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.exists());
        found.is_some_and(|file| symlink(file, self.path("bin").join(program)).is_ok())
    }

    /// Writes an executable script.
    pub(super) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        crate::script::write(&path, text);
        path
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with these arguments, and without our environment.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iotests-fixture"));
        command
            .args(args)
            .env_clear()
            .env(MARK, &self.mark)
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.path("tmp"))
            .env("IOTESTS_BUILD_DIR", self.path("build"))
            .env("FIXTURE_STATE", self.path("tmp/state"))
            .env("FIXTURE_OUTSIDE", self.path("outside"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(super) fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// Runs with a tmpfs with these options on the folder `disk`, in a mount namespace of its own.
    /// `None` if this user may not mount.
    pub(super) fn run_beside_a_small_disk(&self, options: &str, args: &[&str]) -> Option<Ran> {
        fs::create_dir(self.path("disk")).unwrap();
        let inner = self.command(args);
        let script = format!("mount -t tmpfs -o {options} none disk && exec \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["-r", "-m", "sh", "-c", &script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        let variables = inner.get_envs();
        command.env_clear().envs(variables.filter_map(|(name, value)| Some((name, value?))));
        let own = self.path("bin").display().to_string();
        command.env("PATH", format!("{own}:/usr/bin:/bin:/usr/sbin:/sbin"));
        command.current_dir(self.path(""));
        let ran = Ran::new(command.output().unwrap());
        if ran.stderr.contains("unshare:") || ran.stderr.contains("mount:") {
            println!(
                "skipped: a full disk: this user may not mount: {}",
                ran.stderr
            );
            return None;
        }
        Some(ran)
    }

    /// The living processes of this bench, whatever their parents.
    pub(super) fn processes(&self) -> Vec<u32> {
        let wanted = format!("{MARK}={}", self.mark);
        let is_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    /// The run directories and socket directories that are left.
    pub(super) fn left(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let mut left = entries(&self.path("build/iotests/runs"));
        left.retain(|path| path.is_dir());
        let sockets = entries(&self.path("tmp"));
        left.extend(sockets.into_iter().filter(|path| path.to_string_lossy().contains("/iot-")));
        left
    }
}

/// The mounts below this folder, as lines of the kernel's table.
pub(super) fn mounts_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = format!(" {}/", folder.display());
    let lines = table.lines().filter(|line| line.contains(&folder));
    lines.map(str::to_owned).collect()
}

/// How the program ended and what it printed.
pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    pub(super) fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(super) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "\n{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(super) fn assert_says(&self, text: &str) -> &Self {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        assert!(all.contains(text), "`{text}` is not in\n{all}");
        self
    }

    #[track_caller]
    pub(super) fn assert_does_not_say(&self, text: &str) -> &Self {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        assert!(!all.contains(text), "`{text}` is in\n{all}");
        self
    }
}

/// Parses the JSON lines of a run.
pub(super) fn records(jsonl: &str) -> Vec<Record> {
    jsonl
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The events among them.
pub(super) fn events(jsonl: &str) -> Vec<RunEvent> {
    let records = records(jsonl).into_iter();
    records.map(|record| record.event).collect()
}

/// The outcomes among them, by id.
pub(super) fn outcomes(events: &[RunEvent]) -> BTreeMap<String, Outcome> {
    let outcome = |event: &RunEvent| match event {
        RunEvent::InstanceFinished(outcome) => {
            Some((outcome.instance.id.clone(), (**outcome).clone()))
        }
        _ => None,
    };
    events.iter().filter_map(outcome).collect()
}

/// All verdicts, those of skipped instances included.
pub(super) fn verdicts(events: &[RunEvent]) -> BTreeMap<String, Verdict> {
    let verdict = |event: &RunEvent| match event {
        RunEvent::InstanceFinished(outcome) => Some((outcome.instance.id.clone(), outcome.verdict)),
        RunEvent::InstanceSkipped { instance, .. } => Some((instance.id.clone(), Verdict::Skip)),
        _ => None,
    };
    events.iter().filter_map(verdict).collect()
}

/// The summary at the end.
pub(super) fn summary(events: &[RunEvent]) -> Summary {
    match events.last() {
        Some(RunEvent::RunFinished(summary)) => (**summary).clone(),
        other => panic!("the last event is {other:?}"),
    }
}
