//! Machines that outlive their launcher, and machines that are shared.

use crate::tools::{LONG, all, daemon, exists, idle_vm};
use imgtools::process::Signal;
use imgtools::tools::ToolKind;
use machine::args::Blockdev;
use machine::{AttachError, Attached, Deadlines, Detached, DetachedEndError, StorageDaemon};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Kills what a failed test would leave behind.
struct Ended(u32);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn each(dir: &Path) -> Vec<(Detached, Ended)> {
    let mut found = Vec::new();
    let kinds = [ToolKind::StorageDaemon, ToolKind::System];
    for tool in kinds.into_iter().flat_map(all) {
        let monitor = dir.join(found.len().to_string());
        let node = Blockdev::new("null-co").node("disk");
        let detached = match tool.kind {
            ToolKind::System => idle_vm(tool).blockdev(&node).launch_detached(&monitor).await,
            _ => StorageDaemon::builder(tool).blockdev(&node).launch_detached(&monitor).await,
        };
        let detached = detached.unwrap();
        let guard = Ended(detached.pid);
        found.push((detached, guard));
    }
    found
}

#[tokio::test]
async fn a_detached_machine_is_attached_to_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    for (detached, _guard) in each(dir.path()).await {
        assert!(exists(detached.pid));
        for _ in 0..2 {
            let attached = Attached::connect(&detached.monitor, Deadlines::default());
            let attached = attached.await.unwrap();
            assert_eq!(attached.pid(), detached.pid);
            let nodes = attached.qmp().execute("query-named-block-nodes", ()).await;
            assert_eq!(nodes.unwrap()[0]["node-name"], "disk");
            // Dropped, it leaves the process alone.
        }
        let attached = Attached::connect(&detached.monitor, Deadlines::default());
        attached.await.unwrap().shutdown().await.unwrap();
        let gone = Attached::connect(&detached.monitor, Deadlines::default()).await;
        assert!(matches!(gone, Err(AttachError::Connect { .. })), "{gone:?}");
    }
}

#[tokio::test]
async fn an_attached_machine_that_hangs_is_killed_and_its_end_can_be_awaited() {
    let dir = tempfile::tempdir().unwrap();
    for (detached, _guard) in each(dir.path()).await {
        let mut deadlines = Deadlines::default();
        deadlines.quit = Duration::from_millis(20);
        deadlines.terminate = Duration::from_millis(20);
        let attached = Attached::connect(&detached.monitor, deadlines).await.unwrap();
        let pid = i32::try_from(detached.pid).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(5), attached.wait_exit());
        assert!(waiting.await.is_err(), "it lives");
        let error = attached.shutdown().await.unwrap_err();
        let killed = matches!(error, DetachedEndError::Escalated { signal, .. } if signal == Signal::SIGKILL);
        assert!(killed, "{error}");
    }
}

#[tokio::test]
async fn a_detached_launch_that_fails_says_what_qemu_said() {
    let Some(tool) = daemon() else { return };
    let dir = tempfile::tempdir().unwrap();
    let builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("nonsense").node("n"));
    let error = builder.launch_detached(&dir.path().join("m")).await.unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
    let long = dir.path().join("m".repeat(120));
    let error = builder.launch_detached(&long).await.unwrap_err();
    assert!(error.to_string().contains("failed to build"), "{error}");
}

#[tokio::test]
async fn a_shared_machine_is_watched_by_one_task_and_ended_by_another() {
    let Some(tool) = daemon() else { return };
    let machine = Arc::new(StorageDaemon::builder(tool).launch().await.unwrap());
    let watched = Arc::clone(&machine);
    let watcher = tokio::spawn(async move { watched.wait_exit().await });
    let ended = machine.shutdown().await.unwrap();
    let seen = tokio::time::timeout(LONG, watcher).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (seen.status(), ended.status().is_success()),
        (ended.status(), true)
    );
    // Again, afterwards.
    assert_eq!(machine.wait_exit().await.unwrap().status(), ended.status());
    assert_eq!(machine.kill().await.unwrap().status(), ended.status());
}
