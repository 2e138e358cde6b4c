//! Talking: HMP, descriptors, secrets, console, qtest, output.

use crate::tools::{LONG, all, daemon, emulator, fake_monitor, idle_vm, prelude};
use imgtools::probe::NO_CPU_TIME;
use imgtools::tools::ToolKind;
use machine::accel::Accel;
use machine::args::{Blockdev, Object};
use machine::qmp::JobOutcome;
use machine::qtest::{QtestError, Width};
use machine::{Deadlines, Qemu, StorageDaemon};
use serde_json::json;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

#[tokio::test]
async fn hmp_commands_run_over_qmp() {
    let Some(tool) = emulator() else { return };
    let vm = idle_vm(tool).launch().await.unwrap();
    assert!(vm.hmp("info status").await.unwrap().starts_with("VM status: running"));
    assert!(vm.hmp("no-such").await.unwrap().contains("unknown command"));
    vm.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_storage_daemon_refuses_hmp() {
    let Some(tool) = daemon() else { return };
    let daemon = StorageDaemon::builder(tool).launch().await.unwrap();
    let error = daemon.hmp("info status").await.unwrap_err();
    assert!(
        error.to_string().contains("human-monitor-command"),
        "{error}"
    );
    daemon.shutdown().await.unwrap();
}

/// A descriptor for reading; QEMU refuses one with another access mode than it asks for.
fn file_with(text: &str) -> OwnedFd {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::File::open(file.path()).unwrap().into()
}

#[tokio::test]
async fn descriptors_are_passed_on_the_command_line_and_over_qmp() {
    let Some(tool) = emulator() else { return };
    let image = || file_with(&"x".repeat(4096));
    let builder = idle_vm(tool).add_fd(1, image(), Some("a,b")).blockdev(
        &Blockdev::new("file").node("n1").set("filename", "/dev/fdset/1").set("read-only", true),
    );
    // Twice, as the descriptors belong to the builder.
    builder.launch().await.unwrap().shutdown().await.unwrap();
    let vm = builder.launch().await.unwrap();
    let sets = vm.qmp().execute("query-fdsets", ()).await.unwrap();
    assert_eq!(sets[0]["fds"][0]["opaque"], "a,b");

    let set = vm.add_fd(None, image()).await.unwrap();
    let name = format!("/dev/fdset/{set}");
    let node = json!({"driver": "file", "node-name": "n2", "filename": name, "read-only": true});
    vm.qmp().execute("blockdev-add", node).await.unwrap();
    assert_eq!(vm.add_fd(Some(set), image()).await.unwrap(), set);

    let (ours, theirs) = UnixStream::pair().unwrap();
    vm.getfd("sock", theirs.into()).await.unwrap();
    vm.qmp().execute("closefd", json!({"fdname": "sock"})).await.unwrap();
    let mut end = Vec::new();
    std::io::Read::read_to_end(&mut &ours, &mut end).unwrap();
    vm.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_fd_set_without_a_number_is_an_error() {
    let builder = StorageDaemon::builder(fake_monitor(r#""return": {}"#, ":"));
    let machine = builder.launch().await.unwrap();
    let error = machine.add_fd(None, file_with("")).await.unwrap_err();
    assert!(error.to_string().contains("add-fd"), "{error}");
    machine.kill().await.unwrap();
}

#[tokio::test]
async fn a_secret_stands_neither_in_arguments_nor_in_messages() {
    for tool in all(ToolKind::StorageDaemon) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i.luks");
        std::fs::write(&path, "").unwrap();
        let daemon = StorageDaemon::builder(tool)
            .secret("sec0", "s3cr3t-phrase")
            .object(&Object::iothread("io0"))
            .blockdev(&Blockdev::new("file").node("f").set("filename", path.to_str().unwrap()))
            .launch()
            .await
            .unwrap();
        let seen = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&seen).contains("s3cr3t"));
        assert!(!daemon.command_line().to_string().contains("s3cr3t"));
        // It works as a key all the same.
        let options = json!({"driver": "luks", "file": "f", "key-secret": "sec0", "size": 0, "iter-time": 10});
        let create = json!({"job-id": "c", "options": options});
        for tries_left in (0..20).rev() {
            let mut job = daemon.qmp().job("c");
            let started = daemon.qmp().execute("blockdev-create", &create).await;
            started.unwrap();
            let end = job.wait_end().await.unwrap();
            job.dismiss().await.unwrap();
            match end {
                // On a busy machine; to try again is all that helps.
                JobOutcome::Failed(error) if error.contains(NO_CPU_TIME) && tries_left > 0 => {}
                end => {
                    assert_eq!(end, JobOutcome::Completed);
                    break;
                }
            }
        }
        let node = json!({"driver": "luks", "node-name": "l", "file": "f", "key-secret": "sec0"});
        daemon.qmp().execute("blockdev-add", node).await.unwrap();
        daemon.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn the_guests_console_is_logged_from_the_start() {
    let Some(tool) = emulator() else { return };
    let vm = Qemu::builder(tool).accel(Accel::Tcg).machine("isapc").console().paused(true).qtest();
    let vm = vm.launch().await.unwrap();
    let console = vm.console().unwrap();
    // Typed into the UART by hand, as a guest would: 0x3f8 is COM1.
    let qtest = vm.qtest().unwrap();
    for byte in b"hello\n" {
        qtest.port_out(Width::Byte, 0x3f8, u64::from(*byte)).await.unwrap();
    }
    let text = console.wait_for("hello\n", LONG).await.unwrap();
    assert_eq!(text, "hello\n");
    let log = console.clone();
    vm.shutdown().await.unwrap();
    assert_eq!(log.log(), b"hello\n");
    assert!(log.wait_for("more", LONG).await.is_err());
}

#[tokio::test]
async fn the_console_is_whole_after_the_end() {
    // So much that it cannot be read in one go when the end is seen.
    let last_words = "head -c 2000000 /dev/zero >&4; exit 0";
    let mut tool = fake_monitor(r#""return": {}"#, last_words);
    tool.kind = ToolKind::System;
    let mut deadlines = Deadlines::default();
    (deadlines.quit, deadlines.terminate) = (LONG, LONG);
    let builder = Qemu::builder(tool).console().deadlines(deadlines);
    let vm = builder.launch().await.unwrap();
    let console = vm.console().unwrap().clone();
    vm.shutdown().await.unwrap();
    assert_eq!(console.log().len(), 2_000_000);
}

#[tokio::test]
async fn qtest_reads_and_writes_but_has_no_clock_under_another_accelerator() {
    let Some(tool) = emulator() else { return };
    let vm = Qemu::builder(tool).accel(Accel::Tcg).machine("q35").paused(true).qtest();
    let vm = vm.launch().await.unwrap();
    let qtest = vm.qtest().unwrap();
    qtest.write_bytes(0x1000, b"abc\0\xff").await.unwrap();
    assert_eq!(qtest.read_bytes(0x1000, 5).await.unwrap(), b"abc\0\xff");
    assert_eq!(qtest.read(Width::Word, 0x1000).await.unwrap(), 0x6261);
    qtest.write(Width::Quad, 0x1000, u64::MAX).await.unwrap();
    assert_eq!(qtest.read(Width::Quad, 0x1000).await.unwrap(), u64::MAX);
    // QEMU refuses or aborts if it is asked for nothing; so it is not asked.
    qtest.write_bytes(0x1000, b"").await.unwrap();
    assert_eq!(qtest.read_bytes(0x1000, 0).await.unwrap(), b"");
    let error = qtest.clock_step(1).await.unwrap_err();
    assert!(
        matches!(error, QtestError::NoVirtualClock { .. }),
        "{error}"
    );
    assert!(qtest.take_irqs().await.is_empty());
    let exit = vm.shutdown().await.unwrap();
    assert_eq!(exit.log(), "", "the qtest log does not go to stderr");
}

#[tokio::test]
async fn output_is_kept_in_order_and_can_be_waited_for() {
    let Some(tool) = daemon() else { return };
    let script = "echo one; echo two >&2; echo three";
    let daemon = StorageDaemon::builder(prelude(&tool, script)).print(true).launch().await.unwrap();
    let all = daemon.process().until(|v| {
        let seen = v.from(imgtools::process::Stream::Stdout, 0);
        seen.ends_with(b"three\n").then(|| seen.to_vec())
    });
    assert_eq!(all.await.unwrap(), b"one\nthree\n");
    assert_eq!(daemon.output().stderr_text(), "two\n");
    let exit = daemon.shutdown().await.unwrap();
    assert_eq!(exit.output.captured.combined_text().lines().count(), 3);
}

#[tokio::test]
async fn no_descriptor_of_ours_leaks_into_the_process() {
    let Some(tool) = daemon() else { return };
    // Carelessly inheritable descriptors would show up here; none of ours does.
    let _ours: Vec<_> = (0..20).map(|_| tempfile::tempfile().unwrap()).collect();
    let other = StorageDaemon::builder(tool.clone()).launch().await.unwrap();
    let extra = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
    let mut builder = StorageDaemon::builder(tool);
    let number = builder.inherit(Arc::clone(&extra));
    let daemon = builder.launch().await.unwrap();
    let state = machine::diagnose::procfs::read(daemon.pid()).unwrap();
    let inherited: Vec<_> = state
        .fds
        .iter()
        .filter(|(_, t)| t.starts_with("/") && !t.starts_with("/dev/"))
        .collect();
    assert_eq!(inherited.len(), 1, "{:?}", state.fds);
    assert_eq!(inherited[0].0, number);
    // The other daemon's sockets and pipes are not here either: sockets are the monitor.
    let sockets = state.fds.iter().filter(|(_, t)| t.starts_with("socket:")).count();
    assert_eq!(sockets, 1, "{:?}", state.fds);
    daemon.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}
