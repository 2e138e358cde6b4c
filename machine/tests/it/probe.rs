//! Probing the binaries.

use crate::tools::{all, daemon, elsewhere, emulator, fake};
use imgtools::tools::{Tool, ToolKind};
use machine::Deadlines;
use machine::accel::Accel;
use machine::probe::{Capabilities, ProbeError, Program, probe};

#[tokio::test]
async fn an_emulator_tells_version_devices_machines_and_accelerators() {
    for tool in all(ToolKind::System) {
        let found = probe(&tool, Deadlines::default()).await.unwrap();
        let it = &found.capabilities;
        assert_eq!(it.program, Program::Emulator);
        assert!(it.version.major >= 6, "{}", it.version);
        assert_eq!(it.target.as_deref(), Some("x86_64"));
        assert!(it.has_device("virtio-blk") && it.has_device("virtio-blk-pci"));
        assert!(!it.has_device("no-such"));
        assert!(it.has_machine("q35") && it.has_machine("none"));
        assert!(it.default_machine().is_some());
        assert!(it.can_write("qcow2") && it.has_driver("blkdebug"));
        assert!(it.has_command("device_add") && it.has_command("human-monitor-command"));
        assert!(it.objects.iter().any(|o| o == "throttle-group"));
        assert!(it.exports.iter().any(|e| e == "nbd"));
        // qtest was tried though no help lists it, and the outcome is reported.
        assert_eq!(it.accelerators[0].accel, Accel::Qtest);
        assert!(
            it.usable_accelerators().contains(&Accel::Tcg),
            "{:?}",
            it.accelerators
        );
        let schema = qmp_schema(&found.schema);
        assert!(schema.contains("blockdev-add"));

        let text = serde_json::to_string(it).unwrap();
        assert!(text.len() < 60_000, "{} bytes", text.len());
        assert_eq!(&serde_json::from_str::<Capabilities>(&text).unwrap(), it);
    }
}

fn qmp_schema(schema: &serde_json::Value) -> String {
    assert!(schema.as_array().is_some_and(|entries| entries.len() > 500));
    schema.to_string()
}

#[tokio::test]
async fn a_storage_daemon_tells_version_drivers_and_commands() {
    for tool in all(ToolKind::StorageDaemon) {
        let found = probe(&tool, Deadlines::default()).await.unwrap();
        let it = &found.capabilities;
        assert_eq!(it.program, Program::StorageDaemon);
        assert!(it.has_driver("qcow2") && it.can_write("qcow2") && !it.can_write("no-such"));
        assert!(it.has_command("block-export-add") && !it.has_command("device_add"));
        assert!(it.accelerators.is_empty() && it.devices.is_empty() && it.target.is_none());
        assert!(it.exports.iter().any(|e| e == "nbd"), "{:?}", it.exports);
    }
}

#[tokio::test]
async fn a_tool_without_a_monitor_cannot_be_probed() {
    let error =
        probe(&Tool::new(ToolKind::Img, "qemu-img"), Deadlines::default()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Kind { .. }), "{error:?}");
    assert!(error.to_string().contains("qemu-img"), "{error}");
}

#[tokio::test]
async fn a_binary_that_does_not_start_is_told() {
    let tool = fake("echo broken library >&2; exit 127");
    let error = probe(&tool, Deadlines::default()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Launch(_)), "{error:?}");
    let mut tool = fake("echo broken library >&2; exit 127");
    tool.kind = ToolKind::System;
    let error = probe(&tool, Deadlines::default()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Help(_)), "{error:?}");
    assert!(format!("{error:?}").contains("broken library"), "{error:?}");
}

#[tokio::test]
async fn an_emulator_without_any_accelerator_says_what_was_tried() {
    // It lists one accelerator, and refuses all.
    let mut tool = fake(
        r#"case "$*" in *"-accel help"*) printf 'Accelerators supported in QEMU binary:\nkvm\n' ;;
        *) echo "fake: -accel x: invalid accelerator" >&2; exit 1 ;; esac"#,
    );
    tool.kind = ToolKind::System;
    let error = probe(&tool, Deadlines::default()).await.unwrap_err();
    let ProbeError::NoAccelerator { trials, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(trials.len(), 2);
    assert!(
        error.to_string().contains("kvm: -accel x: invalid accelerator"),
        "{error}"
    );
}

#[test]
fn a_probe_leaves_no_process() {
    // The trials of other tests would be children of this process as well.
    if elsewhere("probe::a_probe_leaves_no_process") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for tool in [daemon(), emulator()].into_iter().flatten() {
        runtime.block_on(probe(&tool, Deadlines::default())).unwrap();
        let processes = machine::diagnose::procfs::tree(std::process::id());
        assert_eq!(processes.len(), 1, "{processes:?}");
    }
}
