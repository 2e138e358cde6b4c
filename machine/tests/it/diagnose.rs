//! Diagnosing machines that answer, hang, are stopped, or are dead.

use crate::tools::{LONG, all, daemon, emulator, exists, idle_vm, prelude, wait_stopped};
use imgtools::process::Signal;
use imgtools::tools::ToolKind;
use machine::args::Blockdev;
use machine::{Deadlines, StorageDaemon};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_living_machine_tells_jobs_graph_and_threads() {
    for tool in all(ToolKind::StorageDaemon) {
        let slow = |n: &str| {
            Blockdev::new("null-co").node(n).set("size", 1 << 30).set("read-zeroes", true)
        };
        let tool = prelude(&tool, "echo a warning >&2");
        let mut deadlines = Deadlines::default();
        deadlines.diagnose_command = LONG;
        deadlines.diagnose_backtrace = Duration::from_millis(1);
        let builder = StorageDaemon::builder(tool).blockdev(&slow("a")).blockdev(&slow("b"));
        let builder = builder.deadlines(deadlines);
        let daemon = builder.launch().await.unwrap();
        let args = json!({"job-id": "j", "device": "a", "target": "b", "sync": "full", "speed": 1});
        daemon.qmp().execute("blockdev-mirror", args).await.unwrap();
        let diagnosis = daemon.diagnose().await;
        assert_eq!(diagnosis.answer("query-jobs").unwrap()[0]["id"], "j");
        let graph = diagnosis.answer("x-debug-query-block-graph").unwrap().to_string();
        assert!(
            graph.contains("\"a\"") && graph.contains("\"b\""),
            "{graph}"
        );
        assert!(!diagnosis.processes[0].threads.is_empty());
        let text = diagnosis.to_string();
        for part in [
            "blockdev-mirror",
            "a warning",
            "last QMP lines",
            "thread ",
            "command: ",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        // As data for a report.
        assert!(serde_json::to_value(&diagnosis).unwrap()["qmp"].is_array());
        daemon.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_stopped_machine_is_explained_within_bounds_and_stays_stopped() {
    for tool in all(ToolKind::System).into_iter().chain(all(ToolKind::StorageDaemon)) {
        // If it were queried over QMP, the wait would be this long.
        let mut deadlines = Deadlines::default();
        deadlines.diagnose_command = LONG;
        let machine = match tool.kind {
            ToolKind::System => idle_vm(tool).deadlines(deadlines).launch().await,
            _ => StorageDaemon::builder(tool).deadlines(deadlines).launch().await,
        };
        let machine = machine.unwrap();
        machine.signal(Signal::SIGSTOP);
        wait_stopped(machine.pid());
        let begun = Instant::now();
        let diagnosis = machine.diagnose().await;
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        assert!(diagnosis.processes[0].is_stopped());
        let qmp = &diagnosis.qmp[0];
        assert_eq!(qmp.answer, Err("the process is stopped".to_owned()));
        assert!(
            diagnosis.processes[0].threads[0].wait_channel.is_some()
                || !rustix::process::getuid().is_root()
        );
        let pid = machine.pid();
        machine.kill().await.unwrap();
        assert!(!exists(pid));
    }
}

#[tokio::test]
async fn a_machine_with_a_silent_monitor_is_asked_once() {
    let Some(tool) = daemon() else { return };
    let mut deadlines = Deadlines::default();
    deadlines.diagnose_command = Duration::from_millis(100);
    let daemon = StorageDaemon::builder(tool).deadlines(deadlines).launch().await.unwrap();
    let diagnoser = daemon.diagnoser();
    // Its reply does not come, and in-band commands queue up behind it.
    let node = json!({
        "driver": "nbd", "node-name": "n", "open-timeout": 1000,
        "server": {"type": "unix", "path": "/no/such/socket"}
    });
    let hang = daemon.qmp().execute("blockdev-add", node).deadline(Duration::from_millis(100));
    assert!(hang.await.unwrap_err().is_timeout());
    let diagnosis = diagnoser.collect().await;
    assert_eq!(diagnosis.qmp.len(), 1);
    assert_eq!(
        diagnosis.qmp[0].answer,
        Err("the monitor is silent".to_owned())
    );
    assert!(diagnosis.transcript.iter().any(|l| l.contains("blockdev-add")));
    daemon.kill().await.unwrap();
}

#[tokio::test]
async fn a_dead_machine_is_explained_after_its_end() {
    let Some(tool) = emulator() else { return };
    let vm = idle_vm(tool).launch().await.unwrap();
    let diagnoser = vm.diagnoser();
    vm.shutdown().await.unwrap();
    let diagnosis = diagnoser.collect().await;
    assert!(diagnosis.ended.unwrap().is_success());
    assert!(diagnosis.processes.is_empty() && diagnosis.backtraces.is_empty());
    assert!(diagnosis.to_string().contains("has ended"), "{diagnosis}");
    assert!(diagnosis.transcript.iter().any(|l| l.contains("quit")));
}

#[tokio::test]
async fn stacks_are_taken_where_a_debugger_is() {
    let Some(tool) = daemon() else { return };
    let mut deadlines = Deadlines::default();
    deadlines.diagnose_command = LONG;
    deadlines.diagnose_backtrace = LONG;
    let builder = StorageDaemon::builder(tool).deadlines(deadlines);
    let daemon = builder.launch().await.unwrap();
    let diagnosis = daemon.diagnose().await;
    match &diagnosis.backtraces[0].text {
        Ok(text) => assert!(text.contains("poll") && text.contains("#0"), "{text}"),
        Err(why) => assert!(why.contains("gdb") && why.contains("eu-stack"), "{why}"),
    }
    // It was let go again.
    daemon.shutdown().await.unwrap();
}

/// A tool that is killed while it attaches would leave the process stopped, which then misses
/// every signal but SIGKILL.
#[tokio::test]
async fn a_backtrace_that_is_cut_short_leaves_no_process_stopped() {
    let Some(tool) = daemon() else { return };
    for microseconds in (0..40).map(|turn| 500 * turn) {
        let mut deadlines = Deadlines::default();
        deadlines.diagnose_backtrace = Duration::from_micros(microseconds);
        let builder = StorageDaemon::builder(tool.clone()).deadlines(deadlines);
        let daemon = builder.launch().await.unwrap();
        daemon.diagnose().await;
        daemon.shutdown().await.unwrap();
    }
}
