//! Devices plugged and unplugged, the power button, migrations and snapshots.

use crate::tools::{LONG, all, emulator};
use imgtools::process::Signal;
use imgtools::tools::{Tool, ToolKind};
use machine::accel::Accel;
use machine::args::{Blockdev, Device, Incoming};
use machine::{
    Builder, EndError, Expected, MigrationError, Qemu, SnapshotError, Stage, UnplugError,
};
use qmp::types::{
    EventData as _, MigrateSetCapabilities, MigrateSetParameters, Migration, MigrationCapability,
    MigrationCapabilityStatus, MigrationStatus,
};
use std::time::Duration;

fn board(tool: &Tool) -> Builder<Qemu> {
    Qemu::builder(tool.clone()).accel(Accel::Tcg).machine("q35").paused(true)
}

fn null(name: &str) -> Blockdev {
    Blockdev::new("null-co").node(name)
}

#[tokio::test]
async fn a_device_is_plugged_and_unplugged_while_the_machine_runs() {
    for tool in all(ToolKind::System) {
        let vm = board(&tool)
            .device(&Device::new("virtio-scsi-pci").id("scsi0"))
            .blockdev(&null("n"))
            .launch()
            .await
            .unwrap();
        // A bus that does not ask the guest.
        let disk = Device::new("scsi-hd").id("disk").drive("n");
        vm.plug(&disk).await.unwrap();
        let twice = vm.plug(&disk).await.unwrap_err();
        assert!(twice.to_string().contains("device_add"), "{twice}");
        vm.unplug("disk", LONG).await.unwrap();
        let error = vm.unplug("disk", LONG).await.unwrap_err();
        assert!(matches!(error, UnplugError::Qmp { .. }), "{error}");
        vm.plug(&disk).await.unwrap();
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_does_not_run_releases_no_device() {
    for tool in all(ToolKind::System) {
        let port = Device::new("pcie-root-port").id("port0").set("slot", 1);
        let disk = Device::new("virtio-blk-pci").id("disk").drive("n");
        let vm = board(&tool)
            .device(&port)
            .blockdev(&null("n"))
            .device(&disk.set("bus", "port0"))
            .launch()
            .await
            .unwrap();
        let error = vm.unplug("disk", Duration::from_millis(20)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, UnplugError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("\"disk\""), "{error}");
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_ignores_the_power_button_is_terminated() {
    let Some(tool) = emulator() else { return };
    let vm = board(&tool).launch().await.unwrap();
    let error = vm.powerdown(Duration::from_millis(20)).await.unwrap_err();
    let EndError::Escalated(exit) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(exit.stages[0].stage, Stage::Powerdown);
    assert_eq!(exit.stages[1].stage, Stage::Terminate);
    assert!(error.to_string().contains("the power button"), "{error}");
}

#[tokio::test]
async fn a_list_is_a_property_like_others() {
    let mut tried = false;
    for tool in all(ToolKind::System) {
        let probed = machine::probe::probe(&tool, machine::Deadlines::default()).await;
        // Since 9.0.
        if probed.unwrap().capabilities.version.major < 9 {
            continue;
        }
        tried = true;
        let mapping = serde_json::json!([{"iothread": "io0"}, {"iothread": "io1"}]);
        let disk = Device::new("virtio-blk-pci").drive("n").set("num-queues", 2);
        let vm = board(&tool)
            .object(&machine::args::Object::iothread("io0"))
            .object(&machine::args::Object::iothread("io1"))
            .blockdev(&null("n"))
            .device(&disk.set("iothread-vq-mapping", mapping))
            .launch()
            .await
            .unwrap();
        vm.shutdown().await.unwrap();
    }
    if !tried {
        println!("skipped: no emulator here is of 9.0 or later");
    }
}

#[tokio::test]
async fn a_machine_migrates_to_another_of_this_host() {
    for tool in all(ToolKind::System) {
        let source = board(&tool).memory(16 << 20).name("source").launch().await.unwrap();
        let target = board(&tool).memory(16 << 20).name("target").incoming(&Incoming::Defer);
        let target = target.launch().await.unwrap();
        let migration = source.migrate_to(&target).await.unwrap();
        let end = migration.wait().await.unwrap();
        assert_eq!(end.status, MigrationStatus::Completed);
        assert!(end.transferred > 0 && end.total >= 16 << 20, "{end:?}");
        assert_eq!(end.remaining, 0);
        let state = source.qmp().execute("query-status", ()).await.unwrap();
        assert_eq!(state["status"], "postmigrate");
        source.shutdown().await.unwrap();
        target.shutdown().await.unwrap();
    }
}

/// The source sends next to nothing before the switch, so the target fetches what it misses.
#[tokio::test]
async fn a_migration_switches_to_postcopy_where_the_kernel_allows_it() {
    for tool in all(ToolKind::System) {
        let capability = MigrationCapabilityStatus::new(MigrationCapability::PostcopyRam, true);
        let postcopy = MigrateSetCapabilities::new([capability]);
        let vm = board(&tool).memory(64 << 20);
        let target = vm.clone().incoming(&Incoming::Defer).launch().await;
        let (source, target) = (vm.launch().await.unwrap(), target.unwrap());
        if let Err(error) = target.qmp().call(postcopy.clone()).await {
            let why = error.desc().unwrap_or_default();
            assert!(why.to_lowercase().contains("postcopy"), "{error}");
            println!("skipped: {why}");
            continue;
        }
        source.qmp().call(postcopy).await.unwrap();
        let slowly = MigrateSetParameters::new().max_bandwidth(1024u64);
        source.qmp().call(slowly).await.unwrap();
        let mut changes = source.qmp().subscribe(Migration::NAME);
        let migration = source.migrate_to(&target).await.unwrap();
        migration.start_postcopy().await.unwrap();
        let end = migration.wait().await.unwrap();
        assert_eq!(end.status, MigrationStatus::Completed);
        let mut statuses = Vec::new();
        while let Ok(Some(event)) = changes.try_recv() {
            statuses.push(Migration::from_event(&event).unwrap().unwrap().status);
        }
        assert!(
            statuses.contains(&MigrationStatus::PostcopyActive),
            "{statuses:?}"
        );
        source.shutdown().await.unwrap();
        target.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_fails_or_is_cancelled_leaves_the_guest_at_its_source() {
    let Some(tool) = emulator() else { return };
    let vm = board(&tool).launch().await.unwrap();
    // What reads the stream ends at once.
    let failed = vm.migrate("exec:exit 1").await.unwrap().wait().await;
    let error = failed.unwrap_err();
    assert!(matches!(error, MigrationError::Failed { .. }), "{error}");

    // Nothing accepts the connection and reads the stream, so it cannot finish before it is
    // cancelled.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let uri = format!("unix:{}", path.display());
    let stuck = vm.migrate(&uri).await.unwrap();
    assert_ne!(
        stuck.progress().await.unwrap().status,
        MigrationStatus::Completed
    );
    stuck.cancel().await.unwrap();
    let error = stuck.wait().await.unwrap_err();
    assert!(matches!(error, MigrationError::Cancelled { .. }), "{error}");
    let state = vm.qmp().execute("query-status", ()).await.unwrap();
    assert_eq!(state["status"], "prelaunch");
    vm.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_saved_loaded_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    for (number, tool) in all(ToolKind::System).into_iter().enumerate() {
        let file = dir.path().join(format!("{number}.qcow2"));
        let image = imgtools::tools::Finder::new().find(ToolKind::Img).unwrap();
        let create = ["create", "-q", "-f", "qcow2", file.to_str().unwrap(), "64M"];
        let made = image.command().args(create).run().await.unwrap();
        assert!(made.status.is_success());
        let disk = Blockdev::new("qcow2").node("disk");
        let file = serde_json::json!({"driver": "file", "filename": file});
        let vm = board(&tool)
            .memory(16 << 20)
            .blockdev(&disk.set("file", file))
            .device(&Device::new("virtio-blk-pci").drive("disk"))
            .launch()
            .await
            .unwrap();
        // No id of a job could be like this.
        let tag = "before: an update, \"1\"";
        vm.save_snapshot(tag, "disk", &["disk"]).await.unwrap();
        vm.load_snapshot(tag, "disk", &["disk"]).await.unwrap();
        let error = vm.load_snapshot("other", "disk", &["disk"]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, SnapshotError::Job { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("to load the snapshot \"other\" of "),
            "{text}"
        );
        assert!(text.contains("other' "), "QEMU's words: {text}");
        let refused = vm.save_snapshot("s", "nobody", &["nobody"]).await;
        assert!(refused.unwrap_err().to_string().contains("save"));
        vm.delete_snapshot(tag, &["disk"]).await.unwrap();
        assert!(vm.load_snapshot(tag, "disk", &["disk"]).await.is_err());
        let jobs = vm.qmp().execute("query-jobs", ()).await.unwrap();
        assert_eq!(jobs, serde_json::json!([]));
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn hmp_reports_errors_when_it_is_to_be_checked() {
    for tool in all(ToolKind::System) {
        let vm = board(&tool).launch().await.unwrap();
        let status = vm.hmp_checked("info status").await.unwrap();
        assert!(status.contains("paused"), "{status}");
        for wrong in [
            "nonsense",
            "device_del nobody",
            "stop stop stop",
            "drive_del",
        ] {
            let error = vm.hmp_checked(wrong).await;
            let error = error.expect_err(wrong);
            assert!(error.to_string().contains(wrong), "{error}");
            assert!(vm.hmp(wrong).await.is_ok());
        }
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_abort_that_was_expected_is_no_error_with_its_assertion() {
    let Some(daemon) = crate::tools::daemon() else {
        return;
    };
    let dies = "echo \"x: ../block.c:1: f: Assertion \\`x' failed.\" >&2";
    let tool = crate::tools::prelude(&daemon, dies);
    let builder = machine::StorageDaemon::builder(tool).findings_are_errors(true);
    let abort = Expected::signal(Signal::SIGABRT.number());
    let machine = builder.clone().expect_exit(abort).launch().await.unwrap();
    machine.signal(Signal::SIGABRT);
    let exit = machine.wait_exit().await.unwrap();
    assert_eq!(exit.findings.len(), 1);
    // If findings count, they turn a successful exit into an error.
    let error = builder.launch().await.unwrap().shutdown().await.unwrap_err();
    assert!(matches!(error, EndError::Findings(_)), "{error}");
    let careless = builder.findings_are_errors(false).launch().await.unwrap();
    assert_eq!(careless.shutdown().await.unwrap().findings.len(), 1);
}
