//! Starting processes, and leaving none behind.

use std::time::Instant;

use imgtools::process::{Command, ProcessError, Signal, Status, Stream};

use super::{LONG, exists, mark, sh, with_argument};

#[test]
fn a_program_that_is_not_there_is_a_spawn_error() {
    let error = Command::new("/nowhere/no tool").arg("x").run_blocking().unwrap_err();
    assert!(matches!(error, ProcessError::Spawn { .. }));
    assert_eq!(error.to_string(), "failed to start `'/nowhere/no tool' x`");
    // The reason is in the source, and only there.
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.starts_with("No such file"), "{why}");
}

#[test]
fn dropping_a_handle_kills_and_reaps_before_it_returns() {
    let child = sh("trap '' TERM INT; sleep 1000 & wait; wait").spawn().unwrap();
    let pid = child.pid();
    assert!(exists(pid));
    drop(child);
    assert!(!exists(pid));
}

#[tokio::test]
async fn dropping_the_future_of_a_run_kills_it() {
    let mark = mark("27182");
    let mut run = Box::pin(sh(&format!("exec sleep {mark}")).run());
    let running = async {
        while with_argument(&mark).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut run => panic!("it does not end"),
        () = running => {}
    }
    drop(run);
    assert_eq!(with_argument(&mark), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_is_dropped_while_it_starts_is_killed_as_well() {
    let (mark, before) = (mark("27183"), Instant::now());
    for _ in 0..50 {
        let run = sh(&format!("exec sleep {mark}")).grace(LONG).run();
        tokio::select! {
            biased;
            _ = run => panic!("it does not end"),
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(with_argument(&mark), Vec::<String>::new());
    assert!(before.elapsed() < LONG / 2);
}

#[test]
fn a_process_outlives_the_thread_that_asked_for_it() {
    let child = std::thread::spawn(|| sh("read x; echo $x").stdin_piped().spawn().unwrap());
    let child = child.join().unwrap();
    child.write("alive\n");
    let output = child.wait_blocking().unwrap();
    assert_eq!(
        (output.status, &*output.stdout_text()),
        (Status::Exited(0), "alive\n")
    );
}

#[test]
fn a_process_dies_with_us() {
    // The middle process is this test again, which starts a child and is killed.
    if std::env::var_os("IMGTOOLS_TEST_MIDDLE").is_some() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        eprintln!("pid {}", child.pid());
        child.wait_blocking().unwrap();
        return;
    }
    let middle = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "process::life::a_process_dies_with_us",
            "--nocapture",
        ])
        .env("IMGTOOLS_TEST_MIDDLE", "1")
        .deadline(LONG)
        .spawn()
        .unwrap();
    let child = middle.until_blocking(|view| {
        let text = String::from_utf8_lossy(view.from(Stream::Stderr, 0)).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("pid ").map(str::to_owned));
        line.filter(|_| text.ends_with('\n'))?.parse::<i32>().ok()
    });
    let child = rustix::process::Pid::from_raw(child.unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty()).unwrap();
    // Only the middle process itself, not its group.
    assert!(middle.signal(Signal::SIGKILL));
    let mut fds = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let long = rustix::event::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&long)).unwrap(),
        1,
        "the child is still there"
    );
}

#[test]
fn a_run_sees_the_environment_and_directory_that_it_was_given() {
    let command =
        sh("echo $A ${HOME-none}; pwd").env("A", "a b").env_remove("HOME").current_dir("/");
    let shown = command.command_line().to_string();
    assert!(shown.starts_with("cd / && A='a b' sh -c "), "{shown}");
    assert_eq!(
        command.run_blocking().unwrap().stdout_text(),
        "a b none\n/\n"
    );
}

#[test]
fn a_thousand_runs_leave_no_descriptors_and_no_threads_behind() {
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let run = || drop(Command::new("true").run_blocking().unwrap());
    run();
    let fds = count("fd");
    (0..1000).for_each(|_| run());
    // Other tests run beside this one; a leak would count in the thousands.
    assert!(count("fd") < fds + 100);
    assert!(count("task") < 100);
}
