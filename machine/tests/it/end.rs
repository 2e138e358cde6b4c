//! The end: its steps, crashes, drops.

use crate::tools::{
    LONG, all, daemon, emulator, exists, fake_monitor, idle_vm, impatient, prelude, wait_all_gone,
    wait_stopped,
};
use imgtools::process::Signal;
use imgtools::tools::ToolKind;
use machine::args::Blockdev;
use machine::{Deadlines, EndError, Expected, Stage, StageOutcome, StorageDaemon, Wrapper};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn a_crash_is_an_error_with_signal_and_log() {
    for tool in all(ToolKind::StorageDaemon) {
        let tool = prelude(&tool, "echo before the crash >&2");
        let daemon = StorageDaemon::builder(tool).launch().await.unwrap();
        daemon.signal(Signal::SIGSEGV);
        daemon.qmp().closed().await;
        let error = daemon.shutdown().await.unwrap_err();
        let EndError::Status { exit, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(exit.status().signal(), Some(Signal::SIGSEGV.number()));
        let text = error.to_string();
        assert!(
            text.contains("SIGSEGV") && text.contains("before the crash"),
            "{text}"
        );
        assert!(
            text.contains("--monitor"),
            "the message holds the command: {text}"
        );
    }
}

#[tokio::test]
async fn an_expected_end_is_no_error() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool);
    let daemon = builder.launch().await.unwrap();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_exit().await.unwrap().status().is_success());

    let daemon = builder.launch().await.unwrap();
    daemon.expect_exit(Expected::signal(Signal::SIGUSR2.number()));
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_exit().await.unwrap();

    let daemon = builder.launch().await.unwrap();
    daemon.signal(Signal::SIGUSR2);
    let error = daemon.wait_exit().await.unwrap_err();
    assert!(matches!(error, EndError::Status { .. }), "{error:?}");
}

#[tokio::test]
async fn shutdown_after_the_process_ended_well_is_fine() {
    let Some(tool) = emulator() else { return };
    let vm = idle_vm(tool).launch().await.unwrap();
    vm.qmp().quit().await.unwrap();
    vm.process().exited().await;
    assert!(vm.try_exit().unwrap().is_success());
    vm.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_quit_that_races_with_the_end_never_hangs() {
    for tool in all(ToolKind::StorageDaemon).into_iter().chain(all(ToolKind::System)) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL].repeat(3) {
            let mut deadlines = impatient();
            deadlines.diagnose_command = Duration::from_millis(1);
            if signal == Signal::SIGKILL {
                deadlines.quit = LONG;
            }
            let machine = match tool.kind {
                ToolKind::System => idle_vm(tool.clone()).deadlines(deadlines).launch().await,
                _ => StorageDaemon::builder(tool.clone()).deadlines(deadlines).launch().await,
            };
            let machine = machine.unwrap();
            let pid = machine.pid();
            machine.signal(signal);
            match (signal, machine.shutdown().await) {
                (Signal::SIGTERM, Ok(exit)) => assert!(exit.status().is_success()),
                // The 10.0 storage daemon hangs in monitor_cleanup() if a command arrives while it
                // exits; that is detected, diagnosed and ended.
                (Signal::SIGTERM, Err(EndError::Escalated(exit))) => {
                    assert!(exit.stages[1].has_ended(), "{exit:?}");
                }
                // And an emulator may crash there (10.0.13, once), which is its end as well.
                (Signal::SIGTERM, Err(EndError::Status { exit, .. })) => {
                    assert_eq!(exit.status().signal(), Some(11));
                }
                (Signal::SIGKILL, Err(EndError::Status { exit, .. })) => {
                    assert_eq!(exit.status().signal(), Some(9));
                }
                (_, other) => panic!("{other:?}"),
            }
            assert!(!exists(pid));
        }
    }
}

#[tokio::test]
async fn a_stopped_process_is_killed_when_nothing_else_helps_and_explained() {
    for tool in all(ToolKind::StorageDaemon).into_iter().chain(all(ToolKind::System)) {
        let mut deadlines = impatient();
        deadlines.terminate = Duration::from_millis(200);
        deadlines.diagnose_command = LONG;
        let machine = match tool.kind {
            ToolKind::System => idle_vm(tool).deadlines(deadlines).launch().await.unwrap(),
            _ => StorageDaemon::builder(tool).deadlines(deadlines).launch().await.unwrap(),
        };
        let pid = machine.pid();
        machine.signal(Signal::SIGSTOP);
        wait_stopped(pid);
        let error = machine.shutdown().await.unwrap_err();
        let EndError::Escalated(exit) = &error else {
            panic!("{error:?}")
        };
        let stages: Vec<_> = exit.stages.iter().map(|s| (s.stage, s.outcome.clone())).collect();
        assert_eq!(
            stages,
            [
                (Stage::Quit, StageOutcome::TimedOut),
                (Stage::Terminate, StageOutcome::TimedOut),
                (Stage::Kill, StageOutcome::Ended)
            ]
        );
        assert_eq!(exit.status().signal(), Some(9));
        let diagnosis = exit.diagnosis.as_ref().unwrap();
        assert_eq!(diagnosis.processes[0].state, 'T');
        assert!(!exists(pid));
    }
}

#[tokio::test]
async fn a_process_that_does_not_end_by_itself_is_terminated() {
    let Some(tool) = daemon() else { return };
    let daemon = StorageDaemon::builder(tool).deadlines(impatient()).launch().await.unwrap();
    let error = daemon.end_within(Duration::from_millis(200)).await.unwrap_err();
    let EndError::Escalated(exit) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(exit.stages[0].stage, Stage::Wait);
    assert_eq!(exit.stages[0].outcome, StageOutcome::TimedOut);
    assert_eq!(exit.stages[1].outcome, StageOutcome::Ended);
    assert!(exit.status().is_success(), "SIGTERM ends it in order");
}

#[tokio::test]
async fn a_process_that_misses_one_sigterm_gets_another() {
    let Some(tool) = daemon() else { return };
    // The daemon is in another group, and ends with the third.
    let script = "setsid \"$@\" & \
        trap 'n=x$n; [ $n = xxx ] && kill $! && exit 0' TERM; \
        while :; do wait $!; done";
    let wrapper = Wrapper::Custom(["sh", "-c", script, "sh"].map(Into::into).to_vec());
    let mut deadlines = impatient();
    deadlines.terminate = Duration::from_secs(10);
    let builder = StorageDaemon::builder(tool).wrapper(wrapper).deadlines(deadlines);
    let daemon = builder.launch().await.unwrap();
    let error = daemon.end_within(Duration::from_millis(200)).await.unwrap_err();
    let EndError::Escalated(exit) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(exit.stages[1].outcome, StageOutcome::Ended);
    assert!(exit.status().is_success(), "{}", exit.status());
}

#[tokio::test]
async fn a_killed_machine_is_fine_unless_it_had_crashed() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool);
    let exit = builder.launch().await.unwrap().kill().await.unwrap();
    assert_eq!(exit.status().signal(), Some(9));

    let daemon = builder.launch().await.unwrap();
    daemon.signal(Signal::SIGABRT);
    daemon.process().exited().await;
    let error = daemon.kill().await.unwrap_err();
    assert!(matches!(error, EndError::Status { .. }), "{error:?}");
}

#[tokio::test]
async fn reports_of_memory_errors_in_the_log_are_errors() {
    let Some(tool) = daemon() else { return };
    let report = "echo '==1==ERROR: AddressSanitizer: heap-use-after-free on address 0x1' >&2";
    let daemon = StorageDaemon::builder(prelude(&tool, report))
        .findings_are_errors(true)
        .launch()
        .await
        .unwrap();
    let error = daemon.shutdown().await.unwrap_err();
    let EndError::Findings(exit) = &error else {
        panic!("{error:?}")
    };
    assert!(exit.status().is_success());
    assert!(error.to_string().contains("heap-use-after-free"), "{error}");
}

#[test]
fn a_drop_kills_and_reaps_on_any_thread_without_a_runtime() {
    let Some(tool) = emulator() else { return };
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let builder = idle_vm(tool).name("lost").on_drop(move |report| {
        notes.lock().unwrap().push((report.name.clone(), report.pid, report.status));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let machine = runtime.block_on(builder.launch()).unwrap();
    let pid = machine.pid();
    drop(runtime);
    std::thread::spawn(move || drop(machine)).join().unwrap();
    assert!(!exists(pid), "it is reaped when the drop returns");
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0.as_str(), told[0].1), ("lost", pid));
    assert_eq!(told[0].2.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn an_explicit_end_is_no_lost_machine() {
    let Some(tool) = daemon() else { return };
    let told = Arc::new(Mutex::new(0));
    let count = Arc::clone(&told);
    let builder = StorageDaemon::builder(tool).on_drop(move |_| *count.lock().unwrap() += 1);
    builder.launch().await.unwrap().shutdown().await.unwrap();
    builder.launch().await.unwrap().kill().await.unwrap();
    assert_eq!(*told.lock().unwrap(), 0);
    drop(builder.launch().await.unwrap());
    assert_eq!(*told.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_shutdown_leaves_the_machine_to_its_owner() {
    let Some(tool) = daemon() else { return };
    let daemon = StorageDaemon::builder(tool).launch().await.unwrap();
    let pid = daemon.pid();
    daemon.signal(Signal::SIGSTOP);
    wait_stopped(pid);
    let shutdown = daemon.shutdown();
    assert!(tokio::time::timeout(Duration::from_millis(50), shutdown).await.is_err());
    assert!(exists(pid));
    drop(daemon);
    assert!(!exists(pid));
}

#[tokio::test]
async fn the_whole_group_ends_with_the_machine() {
    let Some(tool) = daemon() else { return };
    let (reader, writer) = std::io::pipe().unwrap();
    // A grandchild that holds the pipe, as a wrapper's or script's helper might.
    let mut builder = StorageDaemon::builder(prelude(&tool, "sleep 1000 &"));
    builder.inherit(std::os::fd::OwnedFd::from(writer));
    let machine = builder.launch().await.unwrap();
    drop(builder);
    drop(machine);
    wait_all_gone(&reader);
}

#[tokio::test]
async fn what_it_started_ends_with_it_however_it_ends() {
    let Some(tool) = daemon() else { return };
    let helper = StorageDaemon::builder(prelude(&tool, "sleep 1000 >&- 2>&- &"));
    // A wrapper that dies leaves QEMU itself.
    let script = "\"$@\"; exit $?";
    let wrapper = Wrapper::Custom(["sh", "-c", script, "sh"].map(Into::into).to_vec());
    let wrapped = StorageDaemon::builder(tool).wrapper(wrapper);
    for (builder, signal) in [
        (&helper, None),
        (&helper, Some(Signal::SIGTERM)),
        (&helper, Some(Signal::SIGSEGV)),
        (&wrapped, Some(Signal::SIGSEGV)),
    ] {
        let (lifeline, held) = std::io::pipe().unwrap();
        let mut builder = builder.clone().expect_exit(Expected::anything());
        builder.inherit(std::os::fd::OwnedFd::from(held));
        let machine = builder.launch().await.unwrap();
        drop(builder);
        match signal {
            None => machine.shutdown().await.unwrap(),
            Some(signal) => {
                machine.signal(signal);
                machine.wait_exit().await.unwrap()
            }
        };
        wait_all_gone(&lifeline);
    }
}

#[tokio::test]
async fn a_drop_reaps_also_while_somebody_could_still_diagnose() {
    let Some(tool) = daemon() else { return };
    for _ in 0..50 {
        let builder = StorageDaemon::builder(tool.clone());
        let reaped = Arc::new(Mutex::new(None));
        let note = Arc::clone(&reaped);
        let builder = builder.on_drop(move |r| *note.lock().unwrap() = Some(!exists(r.pid)));
        let machine = builder.launch().await.unwrap();
        let (pid, _diagnoser) = (machine.pid(), machine.diagnoser());
        drop(machine);
        assert!(!exists(pid));
        assert_eq!(
            *reaped.lock().unwrap(),
            Some(true),
            "it was reported too early"
        );
    }
}

#[tokio::test]
async fn an_end_says_what_brought_it_about() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool);
    let exit = builder.launch().await.unwrap().shutdown().await.unwrap();
    let told = exit.stages[0].to_string();
    assert!(told.starts_with("quit ended it after "), "{told}");

    // The crash must not be attributed to a quit that was never sent.
    let daemon = builder.launch().await.unwrap();
    daemon.signal(Signal::SIGSEGV);
    daemon.process().exited().await;
    let error = daemon.shutdown().await.unwrap_err();
    assert_eq!(
        error.exit().unwrap().stages[0].outcome,
        StageOutcome::HadEnded
    );
    assert!(!error.to_string().contains("quit ended it"), "{error}");

    // Nor can a quit be sent to one that has disconnected.
    let daemon = builder.launch().await.unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.qmp().closed().await;
    let exit = daemon.shutdown().await.unwrap();
    assert_eq!(exit.stages[0].stage, Stage::Wait);
    let told = exit.stages[0].to_string();
    assert!(told.contains("ended by itself"), "{told}");

    let exit = builder.launch().await.unwrap().kill().await.unwrap();
    let told = exit.stages[0].to_string();
    assert!(told.starts_with("SIGKILL ended it after "), "{told}");
}

#[test]
fn a_session_that_ended_with_its_runtime_does_not_hold_up_the_end() {
    let Some(tool) = daemon() else { return };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut deadlines = impatient();
    deadlines.quit = LONG;
    let builder = StorageDaemon::builder(tool).deadlines(deadlines);
    let daemon = runtime().block_on(builder.launch()).unwrap();
    let error = runtime().block_on(daemon.shutdown()).unwrap_err();
    let EndError::Escalated(exit) = &error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(exit.stages[0].outcome, StageOutcome::Failed(_)),
        "{:?}",
        exit.stages
    );
    assert_eq!(exit.stages[1].outcome, StageOutcome::Ended);
}

#[tokio::test]
async fn a_refused_quit_goes_on_to_the_next_rung() {
    let refuse = r#""error": {"class": "CommandNotFound", "desc": "no"}"#;
    let mut deadlines = Deadlines::default();
    deadlines.terminate = LONG;
    let machine = StorageDaemon::builder(fake_monitor(refuse, ":"))
        .blockdev(&Blockdev::new("null-co").node("n"))
        .deadlines(deadlines)
        .launch()
        .await
        .unwrap();
    let error = machine.shutdown().await.unwrap_err();
    let EndError::Escalated(exit) = &error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(exit.stages[0].outcome, StageOutcome::Failed(_)),
        "{:?}",
        exit.stages
    );
    assert_eq!(exit.status().signal(), Some(15));
}

#[tokio::test]
async fn the_core_file_of_a_crash_is_found_where_the_host_writes_one() {
    use machine::evidence::CorePattern;
    let Some(tool) = daemon() else { return };
    match CorePattern::of_host() {
        CorePattern::File { pattern, .. } if !pattern.contains('/') => {}
        other => {
            eprintln!("note: this host leaves no core in the working directory: {other:?}");
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = StorageDaemon::builder(prelude(&tool, "ulimit -c unlimited"))
        .current_dir(dir.path())
        .launch()
        .await
        .unwrap();
    daemon.signal(Signal::SIGABRT);
    daemon.process().exited().await;
    let error = daemon.wait_exit().await.unwrap_err();
    let core = error.exit().unwrap().core.clone().expect("a core file");
    assert!(core.starts_with(dir.path()) && core.exists());
    assert!(error.to_string().contains("core file: "), "{error}");
}
