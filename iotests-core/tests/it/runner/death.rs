//! However a run ends, it leaves neither processes nor directories.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use iotests_core::runner::event::RunEvent;
use iotests_core::wire::CaseEvent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkfifo};
use rustix::process::{PidfdFlags, pidfd_open};

use super::bench::{Bench, Ran, events, mounts_below};
use super::truth::named;

/// Longer than even a busy machine needs for something quick.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// A run whose events can be waited for.
pub(super) struct Running {
    child: Child,
    /// Its output, read continuously so that it never blocks.
    printed: [JoinHandle<Vec<u8>>; 2],
    events: BufReader<std::fs::File>,
}

impl Running {
    pub(super) fn start(bench: &Bench, args: &[&str]) -> Self {
        Self::start_command(bench, bench.command(args), || ())
    }

    /// `before_any_case` is called when the program has started but waits for a reader of its
    /// events.
    fn start_command(bench: &Bench, mut command: Command, before_any_case: impl FnOnce()) -> Self {
        let fifo = bench.path("fifo");
        let _ = std::fs::remove_file(&fifo);
        mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        command.arg("--jsonl").arg(&fifo).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let printed = [
            read_all(child.stdout.take().unwrap()),
            read_all(child.stderr.take().unwrap()),
        ];
        before_any_case();
        Self {
            child,
            printed,
            events: BufReader::new(std::fs::File::open(fifo).unwrap()),
        }
    }

    /// The next event; `None` at the end of the run.
    pub(super) fn next(&mut self) -> Option<RunEvent> {
        let mut line = String::new();
        self.events.read_line(&mut line).unwrap();
        // A killed run leaves an incomplete line.
        events(line.strip_suffix('\n')?).pop()
    }

    pub(super) fn wait_for_running_cases(&mut self, number: usize) {
        let mut seen = 0;
        while seen < number {
            let event = self.next().expect("the run goes on");
            seen += usize::from(matches!(
                event,
                RunEvent::Case {
                    said: CaseEvent::Started { .. },
                    ..
                }
            ));
        }
    }

    /// Waits until a case runs, and returns its process.
    pub(super) fn wait_for_the_case(&mut self) -> Pid {
        loop {
            let event = self.next().expect("the run goes on");
            if let RunEvent::Case {
                said: CaseEvent::Started { pid },
                ..
            } = event
            {
                return Pid::from_raw(i32::try_from(pid).unwrap());
            }
        }
    }

    pub(super) fn wait_for_a_step(&mut self) {
        let is_step = |event: &RunEvent| match event {
            RunEvent::Case { said, .. } => matches!(said, CaseEvent::Step { .. }),
            _ => false,
        };
        while !is_step(&self.next().expect("the run goes on")) {}
    }

    pub(super) fn wait_for_an_explanation(&mut self) {
        let is_explained = |event: &RunEvent| match event {
            RunEvent::Case { said, .. } => matches!(said, CaseEvent::Explained(_)),
            _ => false,
        };
        while !is_explained(&self.next().expect("the run goes on")) {}
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the runner itself is gone.
    pub(super) fn wait_for_death(&mut self) {
        self.child.wait().unwrap();
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(super) fn finish(mut self) -> Ran {
        while self.next().is_some() {}
        let status = self.child.wait().unwrap();
        let [stdout, stderr] = self.printed.map(|stream| stream.join().unwrap());
        Ran::new(Output {
            status,
            stdout,
            stderr,
        })
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits until no process of the bench is left, without polling. False after [`LONG`].
pub(super) fn none_is_left(bench: &Bench) -> bool {
    let end = Instant::now() + LONG;
    loop {
        let processes = bench.processes();
        if processes.is_empty() {
            return true;
        }
        for pid in processes {
            let Some(pid) = rustix::process::Pid::from_raw(pid as i32) else {
                continue;
            };
            let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&descriptor),
                nix::poll::PollFlags::POLLIN,
            )];
            let timeout = nix::poll::PollTimeout::try_from(left).unwrap();
            if nix::poll::poll(&mut fds, timeout) == Ok(0) {
                return false;
            }
        }
    }
}

#[test]
fn kill_9_of_the_runner_leaves_no_process_and_the_next_run_removes_the_rest() {
    let bench = Bench::new();
    // Ten moments spread over start, middle and a busy run.
    for moment in [1, 2, 3, 5, 8, 11, 14, 19, 26, 33] {
        let mut running = Running::start(
            &bench,
            &[
                "waits_with_a_tree",
                "passes",
                "leaves_a_sleeper",
                "-j4",
                "--repeat",
                "9",
            ],
        );
        for _ in 0..moment {
            // Before the last moments all slots may hang, and there is no further event.
            if running.next().is_none() {
                break;
            }
        }
        running.signal(Signal::SIGKILL);
        running.child.wait().unwrap();
        assert!(none_is_left(&bench), "at {moment}: {:?}", bench.processes());
    }
    assert_ne!(bench.left().len(), 0, "there is something to be removed");
    bench.run(&["verdicts::passes@raw"]).assert_code(0);
    assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
}

/// A run with a case that waits, and the process of its supervisor.
fn waiting(bench: &Bench) -> (Running, Pid) {
    let mut running = Running::start(bench, &["waits_with_a_tree"]);
    running.wait_for_running_cases(1);
    let supervisor = named(bench, "iot-supervisor").next().unwrap();
    (running, Pid::from_raw(supervisor.cast_signed()))
}

/// A supervisor that is stopped gets SIGHUP when the runner dies, unless a parent in the same session
/// adopts it.
#[test]
fn a_stopped_supervisor_leaves_no_process_when_the_runner_is_killed() {
    let bench = Bench::new();
    let (mut running, supervisor) = waiting(&bench);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    // It may have gone already.
    let _ = kill(supervisor, Signal::SIGCONT);
    assert!(none_is_left(&bench), "{:?}", bench.processes());
}

#[test]
fn a_supervisor_shares_the_lock_of_its_run() {
    let bench = Bench::new();
    let (mut running, supervisor) = waiting(&bench);
    let descriptors = std::fs::read_dir(format!("/proc/{supervisor}/fdinfo")).unwrap();
    let is_lock = |entry: std::io::Result<std::fs::DirEntry>| {
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        info.contains("FLOCK  ADVISORY  READ")
    };
    assert!(descriptors.into_iter().any(is_lock));
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    assert!(none_is_left(&bench), "{:?}", bench.processes());
}

#[test]
fn the_first_ctrl_c_ends_the_run_with_a_summary_and_leaves_nothing() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_with_a_tree", "-j3", "--repeat", "2"]);
    running.wait_for_running_cases(3);
    running.signal(Signal::SIGINT);
    let ran = running.finish();
    ran.assert_code(130).assert_says("3 interrupted, 3 not run").assert_says("SIGINT");
    assert_eq!(bench.processes(), [0; 0]);
    assert_eq!(bench.left().len(), 0, "{:?}", bench.left());
}

#[test]
fn a_case_that_ignores_ctrl_c_is_killed_by_the_second_or_after_a_grace_period() {
    for signals in [1, 2] {
        let bench = Bench::new();
        let mut running = Running::start(&bench, &["is_deaf"]);
        running.wait_for_running_cases(1);
        // Its step says that it ignores signals from now on.
        running.wait_for_a_step();
        for _ in 0..signals {
            running.signal(Signal::SIGINT);
            while !matches!(running.next(), Some(RunEvent::Stopping { .. })) {}
        }
        running.finish().assert_code(130).assert_says("1 interrupted");
        assert_eq!(bench.processes(), [0; 0]);
    }
}

#[test]
fn a_case_that_fails_because_it_is_interrupted_is_not_retried() {
    let bench = Bench::new();
    // On a busy machine, failing may take longer than the grace period.
    let args = [
        "fails_when_it_is_told_to_end",
        "--retries",
        "3",
        "--timeout-scale",
        "60",
    ];
    let mut running = Running::start(&bench, &args);
    running.wait_for_a_step();
    running.signal(Signal::SIGINT);
    let ran = running.finish();
    ran.assert_code(130).assert_says("1 failed").assert_does_not_say("retry");
}

#[test]
fn sigterm_ends_a_run_like_ctrl_c() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_with_a_tree", "-j3"]);
    running.wait_for_running_cases(3);
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(130);
    assert_eq!(bench.processes(), [0; 0]);
}

#[test]
fn a_program_replaced_during_its_run_finishes_with_the_old_build() {
    let bench = Bench::new();
    // On the program's file system, where a hard link is possible.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("iotests");
    std::fs::hard_link(env!("CARGO_BIN_EXE_iotests-fixture"), &program).unwrap();
    let like = bench.command(&["passes@"]);
    let mut command = Command::new(&program);
    let set = |(name, value)| Some((name, value?));
    command
        .args(like.get_args())
        .env_clear()
        .envs(like.get_envs().filter_map(set))
        .current_dir(bench.path(""));
    let replace = || {
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, "half a program").unwrap();
    };
    let running = Running::start_command(&bench, command, replace);
    running.finish().assert_code(0).assert_says("2 passed");
}

#[test]
fn two_runs_at_once_do_not_disturb_each_other() {
    let bench = Bench::new();
    let args = ["passes@", "runs_each_row/good", "--repeat", "5"];
    let runs = [bench.command(&args), bench.command(&args)]
        .map(|mut command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    for run in runs {
        Ran::new(run.wait_with_output().unwrap()).assert_code(0).assert_says("15 passed");
    }
    assert_eq!(bench.left().len(), 0, "{:?}", bench.left());
}

/// A bench whose cases can export over FUSE; `None` with a note if that is impossible.
fn bench_with_fuse() -> Option<Bench> {
    let bench = Bench::new();
    let daemon = bench.link("qemu-storage-daemon");
    // Needed to mount as a normal user.
    bench.link("fusermount3");
    let mut device = std::fs::File::options();
    if !daemon || device.read(true).write(true).open("/dev/fuse").is_err() {
        println!("skipped: FUSE, there is no /dev/fuse or no storage daemon");
        return None;
    }
    let skipped = bench.run(&["dies_with_a_mount", "--list"]);
    if skipped.stdout.contains("not on raw.fuse: ") {
        println!("skipped: FUSE, {}", skipped.stdout);
        return None;
    }
    Some(bench)
}

#[test]
fn a_dead_case_leaves_no_dead_mount_in_its_kept_directory() {
    let Some(bench) = bench_with_fuse() else {
        return;
    };
    bench.run(&["dies_with_a_mount"]).assert_code(1).assert_says("killed by SIGKILL");
    assert_eq!(mounts_below(&bench.path("build")), [""; 0]);
    assert_eq!(bench.left().len(), 1, "{:?}", bench.left());
}

#[test]
fn a_mount_left_by_a_dead_run_is_removed_by_the_next() {
    let Some(bench) = bench_with_fuse() else {
        return;
    };
    let mut running = Running::start(&bench, &["waits_with_a_mount"]);
    running.wait_for_a_step();
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    assert!(none_is_left(&bench), "{:?}", bench.processes());
    assert_ne!(mounts_below(&bench.path("build")), [""; 0]);
    bench.run(&["verdicts::passes@raw"]).assert_code(0);
    assert_eq!(mounts_below(&bench.path("build")), [""; 0]);
    assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
}
