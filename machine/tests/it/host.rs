//! Monitor operations, on every emulator and storage daemon.

use crate::tools::{all, daemon, idle_vm};
use imgtools::tools::ToolKind;
use machine::host::{IoError, IoTarget};
use machine::{Machine, StorageDaemon};
use serde_json::json;

async fn each() -> Vec<Machine> {
    let mut found = Vec::new();
    for tool in all(ToolKind::StorageDaemon).into_iter().chain(all(ToolKind::System)) {
        found.push(match tool.kind {
            ToolKind::System => idle_vm(tool).launch().await.unwrap(),
            _ => StorageDaemon::builder(tool).launch().await.unwrap(),
        });
    }
    found
}

#[tokio::test]
async fn the_block_graph_is_read_on_every_host() {
    for machine in each().await {
        let null = json!({"driver": "null-co", "node-name": "base", "size": 65536});
        let raw = json!({"driver": "raw", "node-name": "top", "file": "base"});
        for node in [null, raw] {
            machine.qmp().execute("blockdev-add", node).await.unwrap();
        }
        let graph = machine.graph().await.unwrap();
        assert_eq!(graph.at_path("top", "file").unwrap().name, "base");
        let node = machine.node("top").await.unwrap().unwrap();
        assert_eq!(node.drv, "raw");
        assert_eq!(machine.node("nobody").await.unwrap(), None);
        machine.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn io_goes_by_hmp_where_there_is_one_and_prints_into_the_log() {
    for tool in all(ToolKind::System) {
        let vm = idle_vm(tool).launch().await.unwrap();
        let node = json!({"driver": "null-co", "node-name": "n", "size": 65536});
        vm.qmp().execute("blockdev-add", node).await.unwrap();
        assert_eq!(
            vm.io(&IoTarget::node("n"), "write -P 0x11 0 4k").await.unwrap(),
            ""
        );
        // It goes to QEMU's own output, line by line, not at the end.
        let printed = vm.process().until(|view| {
            let text = view.from(imgtools::process::Stream::Stdout, 0);
            text.starts_with(b"wrote 4096/4096 bytes").then_some(())
        });
        assert_eq!(printed.await, Some(()));
        assert_eq!(vm.try_exit(), None);
        let error = vm.io(&IoTarget::node("nope"), "read 0 512").await.unwrap_err();
        assert!(matches!(error, IoError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("nope"), "{error}");
        let error = vm.io(&IoTarget::Qdev("nodev".into()), "read 0 512").await.unwrap_err();
        assert!(matches!(error, IoError::Refused { .. }), "{error}");
        let exit = vm.shutdown().await.unwrap();
        assert!(
            exit.log().contains("wrote 4096/4096 bytes at offset 0"),
            "{}",
            exit.log()
        );
    }
}

#[tokio::test]
async fn a_storage_daemon_has_no_hmp_to_do_io_by() {
    let Some(tool) = daemon() else { return };
    let machine = StorageDaemon::builder(tool).launch().await.unwrap();
    let error = machine.io(&IoTarget::node("n"), "read 0 512").await;
    let error = error.unwrap_err();
    assert!(matches!(error, IoError::NoHmp { .. }), "{error}");
    machine.shutdown().await.unwrap();
}
