//! Incoming migration, over a path and over descriptors.

use crate::tools::{LONG, emulator, idle_vm};
use machine::Machine;
use machine::args::Incoming;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

async fn migrate(source: &Machine, destination: &Machine, uri: &str) {
    for vm in [source, destination] {
        let on = json!({"capabilities": [{"capability": "events", "state": true}]});
        vm.qmp().execute("migrate-set-capabilities", on).await.unwrap();
    }
    let completed = json!({"status": "completed"});
    let matcher = qmp::Matcher::event("MIGRATION").data(completed);
    let there = destination.qmp().subscribe(matcher.clone());
    source.qmp().execute("migrate", json!({"uri": uri})).and_event(matcher).await.unwrap();
    { there }.recv().await.unwrap();
    // The event comes from the migration thread, which enters the run state only afterwards.
    let moved = async {
        loop {
            let state = source.qmp().execute("query-status", ()).await.unwrap();
            match state["status"].as_str() {
                Some("finish-migrate") => tokio::task::yield_now().await,
                other => break assert_eq!(other, Some("postmigrate")),
            }
        }
    };
    tokio::time::timeout(LONG, moved).await.unwrap();
}

#[tokio::test]
async fn a_machine_migrates_over_a_socket_at_any_path() {
    let Some(tool) = emulator() else { return };
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..3).fold(dir.path().to_owned(), |d, _| d.join("d".repeat(50)));
    std::fs::create_dir_all(&deep).unwrap();
    for path in [dir.path().join("s"), deep.join("s")] {
        let source = idle_vm(tool.clone()).name("source").launch().await.unwrap();
        let incoming = Incoming::Unix(path.clone());
        let target = idle_vm(tool.clone()).incoming(&incoming).launch().await.unwrap();
        let short = machine::socket::ShortPath::open(&path).unwrap().path();
        if machine::socket::fits(&path) {
            migrate(&source, &target, &format!("unix:{}", path.display())).await;
        } else {
            // The source is another process, so the socket is connected here and passed.
            let stream =
                UnixStream::connect(machine::socket::ShortPath::open(&path).unwrap().path());
            source.getfd("m", stream.unwrap().into()).await.unwrap();
            drop(short);
            migrate(&source, &target, "fd:m").await;
        }
        source.shutdown().await.unwrap();
        target.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_migrates_over_inherited_descriptors() {
    let Some(tool) = emulator() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let source = idle_vm(tool.clone()).launch().await.unwrap();
    let incoming = Incoming::Fd(Arc::new(OwnedFd::from(theirs)));
    let target = idle_vm(tool).incoming(&incoming).launch().await.unwrap();
    source.getfd("m", ours.into()).await.unwrap();
    migrate(&source, &target, "fd:m").await;
    source.shutdown().await.unwrap();
    target.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_incoming_machine_can_decide_later() {
    let Some(tool) = emulator() else { return };
    let dir = tempfile::tempdir().unwrap();
    let target = idle_vm(tool.clone()).incoming(&Incoming::Defer).launch().await.unwrap();
    let state = target.qmp().execute("query-status", ()).await.unwrap();
    assert_eq!(state["status"], "inmigrate");
    let uri = format!("unix:{}", dir.path().join("s").display());
    target.qmp().execute("migrate-incoming", json!({"uri": uri})).await.unwrap();
    let source = idle_vm(tool).launch().await.unwrap();
    migrate(&source, &target, &uri).await;
    source.shutdown().await.unwrap();
    target.shutdown().await.unwrap();
}
