//! The trait, on every emulator and storage daemon.

use crate::tools::{all, daemon, idle_vm};
use async_trait::async_trait;
use imgtools::tools::ToolKind;
use machine::args::{Export, Object};
use machine::host::{BlockHost, IoError, IoTarget, NodeIo};
use machine::{Machine, StorageDaemon};
use serde_json::{Value, json};
use std::sync::Arc;

async fn each() -> Vec<Machine> {
    let mut found = Vec::new();
    for tool in all(ToolKind::StorageDaemon)
        .into_iter()
        .chain(all(ToolKind::System))
    {
        found.push(match tool.kind {
            ToolKind::System => idle_vm(tool).launch().await.unwrap(),
            _ => StorageDaemon::builder(tool).launch().await.unwrap(),
        });
    }
    found
}

#[tokio::test]
async fn nodes_come_change_and_go_on_every_host() {
    for machine in each().await {
        let host: &dyn BlockHost = &machine;
        let null = |name: &str| json!({"driver": "null-co", "node-name": name, "size": 65536});
        host.blockdev_add(null("base")).await.unwrap();
        let raw = |ro: bool| json!({"driver": "raw", "node-name": "top", "file": "base", "read-only": ro});
        host.blockdev_add(raw(false)).await.unwrap();
        assert_eq!(host.nodes().await.unwrap().len(), 2);
        assert_eq!(host.node("top").await.unwrap().unwrap()["ro"], false);
        host.blockdev_reopen(vec![raw(true)]).await.unwrap();
        assert_eq!(host.node("top").await.unwrap().unwrap()["ro"], true);
        let graph = host.graph().await.unwrap();
        assert_eq!(graph.at_path("top", "file").unwrap().name, "base");
        assert!(host.blockdev_del("base").await.is_err(), "it is in use");
        host.blockdev_del("top").await.unwrap();
        host.blockdev_del("base").await.unwrap();
        assert!(host.nodes().await.unwrap().is_empty());
        assert_eq!(host.node("top").await.unwrap(), None);
        machine.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn jobs_and_exports_run_on_every_host() {
    let dir = tempfile::tempdir().unwrap();
    for (i, machine) in each().await.into_iter().enumerate() {
        let host: &dyn BlockHost = &machine;
        for name in ["a", "b"] {
            let node = json!({"driver": "null-co", "node-name": name, "size": 1 << 20, "read-zeroes": true});
            host.blockdev_add(node).await.unwrap();
        }
        let mut job = host.qmp().job("j");
        let Value::Object(args) =
            json!({"device": "a", "target": "b", "sync": "full", "auto-dismiss": false})
        else {
            unreachable!()
        };
        host.start_job("blockdev-backup", "j", args).await.unwrap();
        job.wait_status("concluded").await.unwrap();
        assert_eq!(host.jobs().await.unwrap()[0]["id"], "j");
        assert_eq!(host.block_jobs().await.unwrap()[0]["device"], "j");
        job.dismiss().await.unwrap();
        assert!(host.jobs().await.unwrap().is_empty());

        let path = dir.path().join(i.to_string());
        let address = json!({"type": "unix", "data": {"path": path}});
        host.nbd_server_start(address).await.unwrap();
        host.export_add(Export::nbd("e", "a").writable(true).to_value())
            .await
            .unwrap();
        assert_eq!(host.exports().await.unwrap()[0]["id"], "e");
        let deleted = host.qmp().subscribe("BLOCK_EXPORT_DELETED");
        host.export_del("e", true).await.unwrap();
        { deleted }.recv().await.unwrap();
        host.nbd_server_stop().await.unwrap();

        host.object_add(Object::throttle_group("tg").to_value())
            .await
            .unwrap();
        host.object_del("tg").await.unwrap();
        assert!(host.object_del("tg").await.is_err());
        machine.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn io_goes_by_hmp_where_there_is_one_and_prints_into_the_log() {
    for tool in all(ToolKind::System) {
        let vm = idle_vm(tool).launch().await.unwrap();
        assert!(vm.has_hmp() && vm.has_backends());
        let node = json!({"driver": "null-co", "node-name": "n", "size": 65536});
        vm.blockdev_add(node).await.unwrap();
        assert_eq!(
            vm.io(&IoTarget::node("n"), "write -P 0x11 0 4k")
                .await
                .unwrap(),
            ""
        );
        // It goes to QEMU's own output, line by line, not at the end.
        let printed = vm.process().until(|view| {
            let text = view.from(imgtools::process::Stream::Stdout, 0);
            text.starts_with(b"wrote 4096/4096 bytes").then_some(())
        });
        assert_eq!(printed.await, Some(()));
        assert_eq!(vm.try_exit(), None);
        let error = vm
            .io(&IoTarget::node("nope"), "read 0 512")
            .await
            .unwrap_err();
        assert!(matches!(error, IoError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("nope"), "{error}");
        let error = vm
            .io(&IoTarget::Qdev("nodev".into()), "read 0 512")
            .await
            .unwrap_err();
        assert!(matches!(error, IoError::Refused { .. }), "{error}");
        let exit = vm.shutdown().await.unwrap();
        assert!(
            exit.log().contains("wrote 4096/4096 bytes at offset 0"),
            "{}",
            exit.log()
        );
    }
}

#[derive(Debug)]
struct Recorder;

#[async_trait]
impl NodeIo for Recorder {
    async fn io(
        &self,
        host: &dyn BlockHost,
        target: &IoTarget,
        command: &str,
    ) -> Result<String, IoError> {
        let nodes = host.nodes().await.unwrap().len();
        Ok(format!("{command} on {target}, {nodes} nodes"))
    }
}

#[tokio::test]
async fn io_on_a_storage_daemon_goes_by_what_is_plugged_in() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool);
    let mut machine = builder.launch().await.unwrap();
    let error = machine
        .io(&IoTarget::node("n"), "read 0 512")
        .await
        .unwrap_err();
    assert!(matches!(error, IoError::NoWay { .. }), "{error}");
    machine.set_node_io(Arc::new(Recorder));
    let text = machine
        .io(&IoTarget::node("n"), "read 0 512")
        .await
        .unwrap();
    assert_eq!(text, "read 0 512 on node n, 0 nodes");
    machine.shutdown().await.unwrap();
    let machine = builder.node_io(Arc::new(Recorder)).launch().await.unwrap();
    assert!(machine.io(&IoTarget::node("n"), "x").await.is_ok());
    machine.shutdown().await.unwrap();
}
