//! Launching: transports, relaunch, several at once, long paths.

use crate::tools::{LONG, all, daemon, emulator, exists, fake, idle_vm, prelude, wait_all_gone};
use imgtools::tools::ToolKind;
use machine::args::Blockdev;
use machine::{Deadlines, LaunchError, Monitor, Stage, StorageDaemon};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[tokio::test]
async fn every_storage_daemon_is_launched_and_shut_down() {
    for tool in all(ToolKind::StorageDaemon) {
        let builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("null-co").node("n-1"));
        let daemon = builder.launch().await.unwrap();
        let nodes = daemon.qmp().execute("query-named-block-nodes", ()).await.unwrap();
        assert_eq!(nodes[0]["node-name"], "n-1");
        let pid = daemon.pid();
        let exit = daemon.shutdown().await.unwrap();
        assert!(exit.status().is_success());
        assert_eq!(exit.stages.len(), 1);
        assert_eq!(exit.stages[0].stage, Stage::Quit);
        assert_eq!(exit.log(), "");
        assert!(!exists(pid));
    }
}

#[tokio::test]
async fn every_emulator_is_launched_and_shut_down() {
    for tool in all(ToolKind::System) {
        let vm = idle_vm(tool).paused(true).launch().await.unwrap();
        let status = vm.qmp().execute("query-status", ()).await.unwrap();
        assert_eq!(status["running"], false);
        let exit = vm.shutdown().await.unwrap();
        assert!(exit.status().is_success(), "{exit:?}");
    }
}

#[tokio::test]
async fn a_builder_is_launched_again_with_additions() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("null-co").node("a"));
    builder.launch().await.unwrap().shutdown().await.unwrap();
    let more = builder.clone().blockdev(&Blockdev::new("null-co").node("b"));
    let (first, second) = (
        builder.launch().await.unwrap(),
        more.launch().await.unwrap(),
    );
    let count = async |m: &machine::Machine| {
        let nodes = m.qmp().execute("query-named-block-nodes", ()).await.unwrap();
        nodes.as_array().unwrap().len()
    };
    assert_eq!((count(&first).await, count(&second).await), (1, 2));
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn several_machines_live_at_once() {
    let Some(tool) = daemon() else { return };
    let launches = (0..8).map(|i| {
        let builder = StorageDaemon::builder(tool.clone()).name(format!("daemon {i}"));
        tokio::spawn(async move { builder.launch().await.unwrap() })
    });
    let mut machines = Vec::new();
    for launch in launches.collect::<Vec<_>>() {
        machines.push(launch.await.unwrap());
    }
    let mut pids: Vec<_> = machines.iter().map(machine::Machine::pid).collect();
    pids.dedup();
    assert_eq!(pids.len(), 8);
    for machine in machines {
        machine.shutdown().await.unwrap();
    }
}

/// A directory whose path alone is longer than a socket address.
fn deep(dir: &Path) -> PathBuf {
    let deep = (0..3).fold(dir.to_owned(), |d, _| d.join("d".repeat(50)));
    std::fs::create_dir_all(&deep).unwrap();
    deep
}

#[tokio::test]
async fn the_monitor_can_listen_or_connect_at_short_and_long_paths() {
    let dir = tempfile::tempdir().unwrap();
    for tool in all(ToolKind::StorageDaemon).into_iter().chain(all(ToolKind::System)) {
        for path in [
            dir.path().join("short"),
            deep(dir.path()).join("long".repeat(20)),
        ] {
            for monitor in [
                Monitor::Listen(path.clone()),
                Monitor::Connect(path.clone()),
            ] {
                let what = format!("{monitor:?}");
                let machine = match tool.kind {
                    ToolKind::System => idle_vm(tool.clone()).monitor(monitor).launch().await,
                    _ => StorageDaemon::builder(tool.clone()).monitor(monitor).launch().await,
                };
                machine.expect(&what).shutdown().await.expect(&what);
                assert!(!path.exists(), "{what} left its socket behind");
            }
        }
    }
}

#[tokio::test]
async fn a_relative_path_of_the_monitor_is_ours_whatever_directory_qemu_runs_in() {
    let Some(tool) = daemon() else { return };
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let up = std::env::current_dir().unwrap().components().count() - 1;
    let relative: PathBuf = std::iter::repeat_n("..", up).collect();
    let relative = relative.join(ours.path().strip_prefix("/").unwrap());
    // So deep that the same way up does not lead to the root.
    let deep: PathBuf = std::iter::repeat_n("d", up).collect();
    let deep = theirs.path().join(deep);
    std::fs::create_dir_all(&deep).unwrap();
    for monitor in [
        Monitor::Listen(relative.join("s")),
        Monitor::Connect(relative.join("s")),
    ] {
        let builder = StorageDaemon::builder(tool.clone()).monitor(monitor);
        let daemon = builder.current_dir(&deep).launch().await.unwrap();
        daemon.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_of_the_callers_may_have_a_long_path() {
    let Some(tool) = daemon() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = deep(dir.path()).join("nbd.sock");
    let mut builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("null-co").node("n"));
    let short = builder.socket_path(&path);
    let daemon = builder
        .nbd_server(&machine::args::NbdServer::unix(&short))
        .export(&machine::args::Export::nbd("e", "n"))
        .launch()
        .await
        .unwrap();
    machine::socket::connect(&path).unwrap();
    daemon.shutdown().await.unwrap();
}

#[tokio::test]
async fn dropping_a_launch_kills_what_was_started() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut builder = StorageDaemon::builder(fake("exec sleep 1000"));
    // Any surviving process holds the other end.
    builder.inherit(std::os::fd::OwnedFd::from(writer));
    let launch = async { builder.launch().await.map(drop) };
    let waited = tokio::time::timeout(Duration::from_millis(300), launch).await;
    assert!(waited.is_err(), "a sleeper is no storage daemon");
    drop(builder);
    wait_all_gone(&reader);
}

#[tokio::test]
async fn a_silent_process_meets_the_launch_deadline_and_is_explained() {
    let mut deadlines = Deadlines::default();
    deadlines.launch = Duration::from_millis(100);
    deadlines.diagnose_command = LONG;
    let builder = StorageDaemon::builder(fake("echo not yet; exec sleep 1000"));
    let error = loop {
        let error = builder.clone().deadlines(deadlines).launch().await;
        match error.unwrap_err() {
            // On a busy machine it had not even begun.
            LaunchError::TimedOut { output, .. } if output.captured.stdout.is_empty() => {
                assert!(
                    deadlines.launch < Duration::from_secs(60),
                    "it prints nothing"
                );
                deadlines.launch *= 2;
            }
            error => break error,
        }
    };
    let LaunchError::TimedOut {
        output, diagnosis, ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(output.captured.stdout_text(), "not yet\n");
    assert!(diagnosis.processes[0].command_line.contains("sleep 1000"));
    assert!(error.to_string().contains("not yet"), "{error}");
    assert!(!exists(diagnosis.pid));
}

#[tokio::test]
async fn a_launch_that_is_held_up_beyond_all_deadlines_tells_of_its_own() {
    let mut deadlines = Deadlines::default();
    deadlines.launch = Duration::from_millis(5);
    deadlines.diagnose_backtrace = Duration::from_millis(1);
    let builder = StorageDaemon::builder(fake("exec sleep 1000")).deadlines(deadlines);
    // Another task that keeps the thread to itself.
    let hog = async {
        loop {
            let begun = Instant::now();
            while begun.elapsed() < deadlines.launch * 4 {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::select! {
        launched = builder.launch() => launched.unwrap_err(),
        () = hog => unreachable!(),
    };
    assert!(matches!(error, LaunchError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_monitor_that_closes_before_the_process_ends_is_no_launch() {
    let mut deadlines = Deadlines::default();
    deadlines.terminate = Duration::from_millis(100);
    let builder = StorageDaemon::builder(fake("echo closes; exec 3>&-; exec sleep 1000"));
    let error = builder.deadlines(deadlines).launch().await.unwrap_err();
    let LaunchError::Monitor { output, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(output.captured.stdout_text(), "closes\n");
    assert_eq!(output.status.signal(), Some(9));
}

#[tokio::test]
async fn a_monitor_that_refuses_the_negotiation_is_no_launch() {
    let script = r#"printf '%s\n' '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}}' >&3
read -r line <&3
id=$(printf '%s' "$line" | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
printf '{"error": {"class": "GenericError", "desc": "not today"}, "id": "%s"}\n' "$id" >&3
exec sleep 1000"#;
    let mut deadlines = Deadlines::default();
    deadlines.terminate = Duration::from_millis(100);
    let builder = StorageDaemon::builder(fake(script)).deadlines(deadlines);
    let error = builder.launch().await.unwrap_err();
    assert!(matches!(error, LaunchError::Monitor { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("not today"), "{error:?}");
}

#[tokio::test]
async fn the_exit_is_the_error_though_the_monitor_closed_long_before() {
    let mut deadlines = Deadlines::default();
    deadlines.terminate = LONG;
    let builder = StorageDaemon::builder(fake("exec 3>&-; echo last words >&2; exit 7"));
    let error = builder.deadlines(deadlines).launch().await.unwrap_err();
    let LaunchError::Exited { output, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(output.status.code(), Some(7));
    assert!(error.to_string().contains("last words"), "{error}");
}

#[tokio::test]
async fn a_crash_at_the_start_tells_its_signal_and_command() {
    let script = "echo last words >&2; kill -SEGV $$";
    let error = StorageDaemon::builder(fake(script)).launch().await;
    let text = error.unwrap_err().to_string();
    for part in ["SIGSEGV", "last words", "command: ", "--monitor"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test]
async fn a_mebibyte_of_stderr_stops_nothing_and_is_kept() {
    for tool in all(ToolKind::StorageDaemon) {
        let noisy = prelude(
            &tool,
            "head -c 1048576 /dev/zero | tr '\\0' x >&2; echo out",
        );
        let daemon = StorageDaemon::builder(noisy).launch().await.unwrap();
        let exit = daemon.shutdown().await.unwrap();
        assert_eq!(exit.output.captured.stderr.len(), 1 << 20);
        assert_eq!(exit.output.captured.stdout_text(), "out\n");
        assert_eq!(exit.log().len(), (1 << 20) + 4);
    }
}

#[tokio::test]
async fn the_command_line_can_be_pasted() {
    let Some(tool) = emulator() else { return };
    let vm = idle_vm(tool.clone())
        .env("SOME", "a b")
        .blockdev(&Blockdev::new("null-co").node("n"))
        .launch()
        .await
        .unwrap();
    let line = vm.command_line().to_string();
    assert!(line.starts_with("SOME='a b' "), "{line}");
    assert!(line.contains(&tool.path.display().to_string()), "{line}");
    assert!(
        line.contains(r#"-blockdev '{"driver":"null-co","node-name":"n"}'"#),
        "{line}"
    );
    vm.shutdown().await.unwrap();
}
