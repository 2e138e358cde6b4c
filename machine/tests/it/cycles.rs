//! Many launches in sequence: nothing fails, nothing is left behind.

use crate::tools::{all, elsewhere, idle_vm};
use imgtools::tools::ToolKind;
use machine::diagnose::procfs;
use machine::{Machine, StorageDaemon};
use std::path::Path;

/// How many descriptors and threads this process has, and which children.
#[derive(Debug, PartialEq)]
struct Holdings {
    fds: usize,
    threads: usize,
    children: Vec<u32>,
    files: usize,
}

impl Holdings {
    /// Looks when only this thread and the test harness's are left, and no task. A watcher thread
    /// publishes the end of its process a little before its own, and a task that is over holds
    /// its socket until the runtime has dropped it.
    async fn settled(dir: &Path) -> Self {
        let runtime = tokio::runtime::Handle::current().metrics();
        let settled = async {
            while runtime.num_alive_tasks() > 0 || Self::now(dir).threads > 2 {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(60);
        if tokio::time::timeout(limit, settled).await.is_err() {
            let tasks = runtime.num_alive_tasks();
            panic!("{tasks} tasks stay, and {:?}", Self::now(dir));
        }
        // Only now: what the last thread or task had is counted no more.
        Self::now(dir)
    }

    fn now(dir: &Path) -> Self {
        let me = procfs::tree(std::process::id());
        Self {
            fds: me[0].fds.len(),
            threads: me[0].threads.len(),
            children: me[1..].iter().map(|p| p.pid).collect(),
            files: std::fs::read_dir(dir).unwrap().count(),
        }
    }
}

async fn cycle(count: usize, launch: impl AsyncFn() -> Machine) {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    // The first one starts what stays, such as the runtime's own descriptors.
    launch().await.shutdown().await.unwrap();
    let before = Holdings::settled(dir.path()).await;
    let begun = std::time::Instant::now();
    for _ in 0..count {
        let machine = launch().await;
        machine.shutdown().await.unwrap();
    }
    let each = begun.elapsed() / u32::try_from(count).unwrap();
    println!("{count} cycles, {each:?} each");
    let after = Holdings::settled(dir.path()).await;
    assert_eq!(after, before);
}

#[test]
fn five_hundred_storage_daemons_live_and_die() {
    if elsewhere("cycles::five_hundred_storage_daemons_live_and_die") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tools = all(ToolKind::StorageDaemon);
    for tool in &tools {
        let builder = StorageDaemon::builder(tool.clone());
        runtime.block_on(cycle(500 / tools.len(), async || {
            builder.launch().await.unwrap()
        }));
    }
}

#[test]
fn a_hundred_emulators_live_and_die() {
    if elsewhere("cycles::a_hundred_emulators_live_and_die") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for tool in all(ToolKind::System) {
        let builder = idle_vm(tool);
        runtime.block_on(cycle(100, async || builder.launch().await.unwrap()));
    }
}
