//! Watching cases, stepping, wrappers, and long runs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use iotests_core::runner::event::RunEvent;
use iotests_core::wire::CaseEvent;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;

use super::bench::{Bench, events, outcomes};
use super::death::{LONG, Running};

/// With `--print`, output is shown even if a case passes, prefixed by the instance if there are
/// several.
#[test]
fn output_of_a_case_and_its_tools_is_shown_as_it_appears() {
    let bench = Bench::new();
    let shown = bench.run(&["calls_a_tool", "passes@raw", "--print"]);
    shown
        .assert_code(0)
        .assert_says("calls_a_tool@qcow2| qemu-img version 7.2.22 (a fake)\n")
        .assert_says("calls_a_tool@qcow2| it was called\n")
        .assert_says("calls_a_tool@qcow2: ── call it\n");
    let alone = bench.run(&["calls_a_tool", "--print"]);
    alone
        .assert_code(0)
        .assert_says("\nqemu-img version 7.2.22 (a fake)\n")
        .assert_says("\n── call it\n")
        .assert_does_not_say("calls_a_tool@qcow2|");
    let plain = bench.run(&["calls_a_tool"]);
    plain.assert_code(0).assert_does_not_say("it was called");
}

#[test]
fn steps_and_tool_calls_are_shown_with_their_times() {
    let bench = Bench::new();
    let ran = bench.run(&["calls_a_tool", "--debug"]);
    ran.assert_code(0).assert_says("it was called");
    let line = |what: &str| {
        let line = ran.stdout.lines().position(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("`{what}` is not in\n{}", ran.stdout))
    };
    let step = line(" s debug: ── call it");
    let call = line("qemu-img --version");
    let end = line("process ended status=\"exited with status 0\" elapsed=");
    assert!(step < call && call < end, "{}", ran.stdout);
    // Values are not formatted as Rust's debug output.
    ran.assert_does_not_say("Some(").assert_does_not_say("problem=");
}

#[test]
fn a_program_runs_under_a_wrapper_whose_file_is_kept() {
    let bench = Bench::new();
    let wrapper = bench.script(
        "wrapper",
        "#!/bin/sh\nfile=$1; shift; echo \"$@\" >> \"$file\"; exec \"$@\"\n",
    );
    let wrap = format!("qemu-img={} {{}}", wrapper.display());
    let jsonl = bench.path("wrapped").display().to_string();
    let ran = bench.run(&["calls_a_tool", "--wrap", &wrap, "--jsonl", &jsonl]);
    ran.assert_code(0).assert_says("kept in: ");
    let outcomes = outcomes(&events(&fs::read_to_string(jsonl).unwrap()));
    let kept = outcomes["verdicts::calls_a_tool@qcow2"].kept.clone().unwrap();
    let text = fs::read_to_string(kept.join("evidence/qemu-img")).unwrap();
    assert!(text.ends_with("/bin/qemu-img --version\n"), "{text}");
    bench
        .run(&["calls_a_tool", "--wrap", "no-such-program -x"])
        .assert_code(2)
        .assert_says("there is no program `no-such-program` to run QEMU's under");
    // A wrapper that cannot run a program is reported once, before the run.
    let broken = bench.script("broken", "#!/bin/sh\necho 'it is broken' >&2\nexit 3\n");
    let wrap = format!("qemu-img={} -x", broken.display());
    let ran = bench.run(&["calls_a_tool", "--wrap", &wrap]);
    ran.assert_code(4)
        .assert_says("broken -x ")
        .assert_says(
            "/bin/qemu-img --version` does not run: it exited with status 3\n  | it is broken",
        )
        .assert_does_not_say("FAIL");
    for option in ["--valgrind", "--strace", "--gdb"] {
        bench
            .run(&["calls_a_tool", option])
            .assert_code(2)
            .assert_says("to run QEMU's under; install it");
    }
}

#[test]
fn deadlines_grow_with_the_wrapper() {
    let bench = Bench::new();
    let pass = "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n";
    bench.script("bin/valgrind", pass);
    bench.run(&["calls_a_tool", "--valgrind"]).assert_code(0).assert_says("deadlines × 20");
}

#[test]
fn a_command_runs_in_the_environment_of_a_case() {
    let bench = Bench::new();
    let script = "echo $IMGFMT $QEMU_IMG_PROG; qemu-img --version; [ $TEST_DIR -ef . ] && exit 7";
    let ran = bench.run(&["env", "verdicts::passes@raw", "--", "sh", "-c", script]);
    let program = bench.path("bin/qemu-img");
    ran.assert_code(7)
        .assert_says(&format!("raw {}\n", program.display()))
        .assert_says("qemu-img version 7.2.22");
    assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
    bench
        .run(&["env", "verdicts::passes@", "--", "true"])
        .assert_code(2)
        .assert_says("2 are selected; name one by its id, such as verdicts::passes@qcow2");
    bench
        .run(&["env", "is_skipped", "--", "true"])
        .assert_code(3)
        .assert_says("it cannot run here: needs the program");
}

#[test]
fn quiet_shows_only_failures_flaky_cases_and_the_summary() {
    let bench = Bench::new();
    let args = [
        "verdicts::passes@",
        "verdicts::fails@",
        "is_flaky",
        "is_quarantined@",
    ];
    let ran = bench.run(&[&args[..], &["-q", "--retries", "1"]].concat());
    ran.assert_code(1)
        .assert_says("FAIL")
        .assert_says("flaky")
        .assert_says("2 passed, 1 failed, 1 flaky, 1 failed in quarantine")
        .assert_does_not_say("verdicts::passes@")
        .assert_does_not_say("verdicts::is_quarantined@");
}

#[test]
fn a_case_much_slower_than_before_is_reported() {
    let bench = Bench::new();
    let run = |milliseconds: &str| {
        fs::write(bench.path("tmp/state"), milliseconds).unwrap();
        bench.run(&["takes_its_time", "-q"])
    };
    run("0").assert_code(0).assert_does_not_say("slow");
    run("0").assert_code(0);
    // More than twice the longest time plus a second, even on a slow machine.
    fs::write(bench.path("tmp/state"), "4000").unwrap();
    let reports = [
        ("--html", "slow: at most "),
        ("--junit", "name=\"slower-than\""),
        ("--tap", "slower_than_ms: "),
        ("--jsonl", "\"slower_than\":{"),
    ];
    let paths = reports.map(|(option, _)| bench.path(option).display().to_string());
    let options = reports.iter().zip(&paths);
    let options = options.flat_map(|((option, _), path)| [*option, path]);
    let options: Vec<&str> = ["takes_its_time", "-q"].into_iter().chain(options).collect();
    bench
        .run(&options)
        .assert_code(0)
        .assert_says("(slow: at most ")
        .assert_says("slow verdicts::takes_its_time@qcow2: ");
    for ((option, wanted), path) in reports.iter().zip(&paths) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(wanted), "{option}: {text}");
    }
}

#[test]
fn sigusr1_shows_the_progress_of_the_run() {
    let bench = Bench::new();
    let mut running = Running::start(&bench, &["waits_for_a_file", "verdicts::fails@", "-j2"]);
    let (mut waits, mut failed) = (false, false);
    while !(waits && failed) {
        let event = running.next().expect("the run goes on");
        let said = match &event {
            RunEvent::Case { said, .. } => Some(said),
            _ => None,
        };
        waits |= matches!(said, Some(CaseEvent::Step { text, .. }) if text == "wait");
        failed |= matches!(event, RunEvent::InstanceFinished(_));
    }
    running.signal(Signal::SIGUSR1);
    // The explanation is requested after the status is shown.
    running.wait_for_an_explanation();
    fs::write(bench.path("tmp/state"), "").unwrap();
    running
        .finish()
        .assert_code(1)
        .assert_says("1 of 2 have ended, 1 failed; running:")
        .assert_says("deaths::waits_for_a_file@qcow2: wait");
}

/// A run on a terminal, with a user.
struct AtTerminal {
    child: Child,
    terminal: File,
    shown: String,
}

impl AtTerminal {
    fn start(bench: &Bench, args: &[&str]) -> Self {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut command = bench.command(args);
        command
            .env("TERM", "xterm")
            .stdin(terminal.slave.try_clone().unwrap())
            .stdout(terminal.slave);
        let child = command.spawn().unwrap();
        Self {
            child,
            terminal: File::from(terminal.master),
            shown: String::new(),
        }
    }

    /// Reads until this text appears after the last match; false at the end of the run.
    fn shows(&mut self, text: &str) -> bool {
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return true;
            }
            let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(LONG).unwrap());
            assert_eq!(ready, Ok(1), "`{text}` does not follow {:?}", self.shown);
            let mut buffer = [0; 4096];
            match self.terminal.read(&mut buffer) {
                Ok(count @ 1..) => self.shown += &String::from_utf8_lossy(&buffer[..count]),
                // A closed terminal is a read error.
                _ => return false,
            }
        }
    }

    fn type_line(&mut self, line: &str) {
        self.terminal.write_all(line.as_bytes()).unwrap();
        self.terminal.write_all(b"\n").unwrap();
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        assert!(!self.shows("there is no such text"));
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{}", self.shown);
    }
}

#[test]
fn a_case_stops_at_each_step_until_the_user_continues_it() {
    let bench = Bench::new();
    let two_steps = ["verdicts::fails@qcow2", "--step"];
    let prompt = "stopped: Enter runs to the next step";
    let mut run = AtTerminal::start(&bench, &two_steps);
    assert!(run.shows("── first") && run.shows(prompt));
    run.type_line("what?");
    assert!(run.shows(prompt));
    run.type_line("");
    assert!(run.shows("── second") && run.shows(prompt));
    run.type_line("");
    assert!(run.shows("the <answer> & the question differ"));
    run.ends_with(1);
    // Runs to the end without another stop.
    let mut run = AtTerminal::start(&bench, &two_steps);
    assert!(run.shows(prompt));
    run.type_line("c");
    assert!(run.shows("the <answer> & the question differ"));
    assert!(!run.shown.contains(prompt));
    run.ends_with(1);
    // It had stopped, so that it ends before the failure.
    let mut run = AtTerminal::start(&bench, &two_steps);
    assert!(run.shows(prompt));
    run.type_line("q");
    assert!(run.shows("1 interrupted"));
    run.ends_with(130);
    assert!(bench.processes().is_empty());
}

#[test]
fn step_needs_one_instance_and_a_terminal() {
    let bench = Bench::new();
    bench
        .run(&["verdicts::fails@", "--step"])
        .assert_code(2)
        .assert_says("--step: it needs a terminal to ask on");
    let mut run = AtTerminal::start(&bench, &["verdicts::passes@", "--step"]);
    assert!(!run.shows("running"));
    assert_eq!(run.child.wait().unwrap().code(), Some(2));
}

#[test]
fn enter_shows_the_progress_and_the_terminal_mode_is_unchanged() {
    let bench = Bench::new();
    let mut run = AtTerminal::start(&bench, &["waits_for_a_file"]);
    let before = tcgetattr(&run.terminal).unwrap();
    assert!(run.shows("waits_for_a_file@qcow2: wait"));
    assert_eq!(tcgetattr(&run.terminal).unwrap(), before);
    run.type_line("");
    assert!(run.shows("0 of 1 have ended, 0 failed; running:"));
    assert!(run.shows("waits_for_a_file@qcow2: wait"));
    fs::write(bench.path("tmp/state"), "").unwrap();
    run.ends_with(0);
}

/// By Ctrl-C, and by `kill`.
#[test]
fn an_interrupted_env_command_leaves_nothing() {
    for (signal, to_all) in [
        (Signal::SIGINT, true),
        (Signal::SIGINT, false),
        (Signal::SIGTERM, false),
    ] {
        let bench = Bench::new();
        let script = "sleep 1000 & setsid sleep 1000 & echo started; exec sleep 1000";
        let mut command = bench.command(&["env", "verdicts::passes@raw", "--", "sh", "-c", script]);
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut started = [0; 8];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut started).unwrap();
        assert_ne!(bench.left().len(), 0);
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        match to_all {
            true => killpg(pid, signal).unwrap(),
            false => kill(pid, signal).unwrap(),
        }
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32), "{signal}");
        assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
        assert_eq!(bench.processes(), [0; 0]);
    }
}

#[test]
fn processes_left_by_an_env_command_are_killed_and_reported() {
    let bench = Bench::new();
    let script = "setsid sleep 1000 & (sleep 1000 & sleep 1000 &) ; exit 5";
    let mut command = bench.command(&["env", "verdicts::passes@raw", "--", "sh", "-c", script]);
    let errors = File::create(bench.path("errors")).unwrap();
    // No pipes: the remaining processes would hold them open.
    let status = command.stdout(Stdio::null()).stderr(errors).status();
    assert_eq!(status.unwrap().code(), Some(5));
    let said = fs::read_to_string(bench.path("errors")).unwrap();
    assert!(
        said.contains("left 3 processes, which were killed"),
        "{said}"
    );
    assert_eq!(bench.processes(), [0; 0]);
    assert_eq!(bench.left(), [""; 0].map(std::path::PathBuf::from));
}

/// The first signal is passed on to the command.
#[test]
fn an_env_command_that_ignores_a_signal_is_killed_by_the_second() {
    let bench = Bench::new();
    let script = "trap 'echo heard' TERM; echo started; while :; do sleep 1000 & wait; done";
    let mut command = bench.command(&["env", "verdicts::passes@raw", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    for said in ["started\n", "heard\n"] {
        let mut read = vec![0; said.len()];
        out.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), said);
        kill(pid, Signal::SIGTERM).unwrap();
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + Signal::SIGKILL as i32));
    assert_eq!(bench.processes(), [0; 0]);
}

#[test]
fn jobs_auto_runs_up_to_four_per_processor() {
    let bench = Bench::new();
    let processors = std::thread::available_parallelism().unwrap().get();
    let most = format!("running 2 instances, at most {} at once", processors * 4);
    let ran = bench.run(&["verdicts::passes@", "-j", "auto"]);
    ran.assert_code(0).assert_says(&most);
    bench.run(&["verdicts::passes@"]).assert_says(&most);
    let config = |jobs| {
        let text = format!("[defaults]\njobs = {jobs}\n");
        fs::write(bench.path("iotests.toml"), text).unwrap();
        bench.run(&["verdicts::passes@"])
    };
    config("3").assert_says("running 2 instances, at most 3 at once");
    config("\"auto\"").assert_says(&most);
}
