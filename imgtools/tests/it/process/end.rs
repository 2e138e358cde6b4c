//! How a process ends: by itself, at its deadline, with its group, by a signal.

use std::time::{Duration, Instant};

use imgtools::process::{Command, Convention, ProcessError, Status, Stream};

use super::{LONG, mark, sh, with_argument};

#[tokio::test]
async fn a_tool_that_never_ends_is_terminated_at_its_deadline() {
    let deadline = Duration::from_millis(100);
    let child = sh("echo here; while :; do read x < /dev/zero; done").spawn().unwrap();
    // However busy the machine is, it has begun before the deadline passes.
    child.until(|view| (view.end(Stream::Stdout) > 0).then_some(())).await.unwrap();
    child.set_deadline(Some(deadline));
    let error = child.wait().await.unwrap_err();
    assert!(
        matches!(&error, ProcessError::Deadline { exited: false, .. }),
        "{error}"
    );
    let output = error.output().unwrap();
    assert_eq!(
        output.status,
        Status::Signaled {
            signal: 15,
            core: false
        }
    );
    assert!(output.elapsed >= deadline);
    let message = error.to_string();
    assert!(
        message.contains("failed to finish within 100 ms: `sh -c "),
        "{message}"
    );
    assert!(
        message.ends_with("was still running, and was killed by signal 15 (SIGTERM)\n  | here")
    );
}

#[test]
fn a_tool_that_ignores_sigterm_is_killed_after_the_grace() {
    let tool = sh("trap '' TERM; echo ready; while :; do sleep 1000 & wait; done");
    let child = tool.grace(Duration::from_millis(50)).spawn().unwrap();
    // The trap must be set before the deadline passes.
    let ready = child.until_blocking(|view| (view.end(Stream::Stdout) > 0).then_some(()));
    assert_eq!(ready, Some(()));
    child.set_deadline(Some(Duration::from_millis(20)));
    let error = child.wait_blocking().unwrap_err();
    assert_eq!(
        error.status(),
        Some(Status::Signaled {
            signal: 9,
            core: false
        }),
        "{error}"
    );
}

#[test]
fn a_grace_beyond_all_time_is_none() {
    let child = sh("sleep 1000").grace(Duration::MAX).spawn().unwrap();
    child.set_deadline(Some(Duration::ZERO));
    let error = child.wait_blocking().unwrap_err();
    let status = error.status().and_then(|status| status.signal());
    assert_eq!(status, Some(15), "{error}");
    let child = sh("sleep 1000").grace(Duration::MAX).spawn().unwrap();
    child.kill();
    assert_eq!(child.wait_blocking().unwrap().status.signal(), Some(9));
}

#[test]
fn a_deadline_ends_the_whole_group() {
    let mark = mark("31415");
    let tool = sh(&format!("sleep {mark} & sleep {mark} & echo; wait"));
    let child = tool.grace(Duration::from_millis(100)).spawn().unwrap();
    child.until_blocking(|view| (view.end(Stream::Stdout) > 0).then_some(())).unwrap();
    child.set_deadline(Some(Duration::from_millis(1)));
    child.wait_blocking().unwrap_err();
    drop(child);
    assert_eq!(with_argument(&mark), Vec::<String>::new());
}

/// H09: a parent whose daemon keeps stderr open does not hang the caller.
#[test]
fn a_daemon_that_keeps_stderr_open_holds_up_only_those_who_ask_for_the_end_of_the_output() {
    // The daemon leaves the group, as daemons do, and ends when its input does.
    let (hold, release) = std::io::pipe().unwrap();
    let daemon = "setsid sh -c 'read x <&5; echo late >&2' & echo started; echo warned >&2; exit 1";
    let child = sh(daemon).until_exit().fd(hold.try_clone().unwrap(), 5).spawn().unwrap();
    let output = child.wait_blocking().unwrap();
    assert_eq!(output.status, Status::Exited(1));
    assert_eq!(
        (&*output.stdout_text(), &*output.stderr_text()),
        ("started\n", "warned\n")
    );

    let child = sh(daemon).fd(hold, 5).spawn().unwrap();
    assert_eq!(child.exited_blocking(), Some(Status::Exited(1)));
    assert_eq!(
        child.output().stderr,
        b"warned\n",
        "all that it wrote is seen with its exit"
    );
    drop(release);
    let output = child.wait_blocking().unwrap();
    assert_eq!(output.stderr_text(), "warned\nlate\n");
}

#[test]
fn a_kill_is_not_held_up_by_a_daemon_where_only_the_exit_counts() {
    let (hold, _release) = std::io::pipe().unwrap();
    let daemon = "setsid sh -c 'echo away; read x <&5' & exec sleep 1000";
    let child = sh(daemon).grace(LONG).until_exit().fd(hold, 5);
    let child = child.spawn().unwrap();
    child.until_blocking(|view| (view.end(Stream::Stdout) > 0).then_some(())).unwrap();
    let begun = Instant::now();
    child.kill();
    assert_eq!(child.wait_blocking().unwrap().status.signal(), Some(9));
    assert!(begun.elapsed() < LONG, "it waited for the daemon");
}

#[test]
fn what_is_left_of_a_group_ends_with_its_leader_where_that_is_wanted() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    for leader in ["exit 0", "exit 3", "kill -SEGV $$"] {
        let (lifeline, held) = std::io::pipe().unwrap();
        let script = format!("sleep 1000 >&- 2>&- & {leader}");
        let child = sh(&script).end_group().fd(held, 5).spawn().unwrap();
        child.wait_blocking().unwrap();
        let mut fds = [PollFd::new(&lifeline, PollFlags::HUP)];
        let limit = Timespec::try_from(LONG).unwrap();
        let closed = poll(&mut fds, Some(&limit)).unwrap();
        assert_eq!(closed, 1, "the sleeper outlives {leader:?}");
    }
}

#[test]
fn a_deadline_that_only_a_daemon_misses_says_so() {
    let (hold, release) = std::io::pipe().unwrap();
    let tool = sh("setsid sh -c 'echo away; read x <&5' & exit 0").fd(hold, 5);
    let child = tool.grace(Duration::from_millis(50)).spawn().unwrap();
    // The daemon has left the group, and its parent has ended, before the deadline passes.
    child.until_blocking(|view| (view.end(Stream::Stdout) > 0).then_some(())).unwrap();
    assert_eq!(child.exited_blocking(), Some(Status::Exited(0)));
    child.set_deadline(Some(Duration::from_millis(50)));
    let error = child.wait_blocking().unwrap_err();
    assert!(
        matches!(error, ProcessError::Deadline { exited: true, .. }),
        "{error}"
    );
    let said = "exited with status 0, but another process still held its output open\n  | away";
    assert!(error.to_string().ends_with(said), "{error}");
    drop(release);
}

#[test]
fn a_death_by_signal_is_an_error_whatever_exit_status_was_expected() {
    let output = sh("echo last words; kill -SEGV $$").run_blocking().unwrap();
    assert_eq!(output.status.signal(), Some(11));
    let error = output.check_code(|_| true).unwrap_err();
    assert!(matches!(error, ProcessError::Signal(_)));
    let message = error.to_string();
    assert!(
        message.contains("was killed by signal 11 (SIGSEGV)"),
        "{message}"
    );
    assert!(message.ends_with("\n  | last words"), "{message}");
}

#[test]
fn a_signal_behind_a_shell_is_still_a_signal() {
    let output = sh("sh -c 'kill -ABRT $$'; exit $?").convention(Convention::Shell);
    let output = output.run_blocking().unwrap();
    assert_eq!(
        output.status,
        Status::Signaled {
            signal: 6,
            core: false
        }
    );
}

#[test]
fn errors_that_valgrind_finds_are_errors_whatever_exit_status_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let valgrind = folder.path().join("valgrind");
    std::os::unix::fs::symlink("/bin/sh", &valgrind).unwrap();
    let run =
        || Command::new("99").wrapper([valgrind.as_os_str(), "-c".as_ref(), "exit $0".as_ref()]);
    let output = run().run_blocking().unwrap();
    assert!(output.valgrind_found_errors());
    assert!(matches!(
        output.check_code(|_| true),
        Err(ProcessError::Valgrind(_))
    ));
    let output = run().convention(Convention::Direct).run_blocking().unwrap();
    assert_eq!(
        output.check_code(|code| code == 99).unwrap().status,
        Status::Exited(99)
    );
}

#[test]
fn a_process_that_is_killed_is_seen_to_be_with_its_signal() {
    let child = sh("read x; kill -9 $$").stdin_piped().spawn().unwrap();
    child.write("\n");
    let killed = Status::Signaled {
        signal: 9,
        core: false,
    };
    assert_eq!(child.exited_blocking(), Some(killed));
}
