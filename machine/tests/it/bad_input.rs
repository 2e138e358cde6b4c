//! Each mistake has its own precise error.

use crate::tools::{all, daemon, elsewhere, emulator, idle_vm};
use imgtools::process::Command;
use imgtools::tools::{Tool, ToolKind};
use machine::args::{Blockdev, Device, Incoming, NbdServer};
use machine::{BuildError, LaunchError, StartFailure, StorageDaemon};
use std::path::Path;

async fn refusal(path: &Path) -> (StartFailure, String) {
    let tool = Tool::new(ToolKind::StorageDaemon, path);
    let error = StorageDaemon::builder(tool).launch().await.unwrap_err();
    let LaunchError::NotStarted { why, .. } = &error else {
        panic!("{error:?}")
    };
    (*why, error.to_string())
}

#[tokio::test]
async fn what_cannot_be_executed_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = dir.path().join(name);
        // Another process writes it: if it were open for writing in ours, a child started by
        // another test at this moment could hold it open, and running it would fail (ETXTBSY).
        let write = Command::new("sh").args(["-c", "cat > \"$1\" && chmod $2 \"$1\"", "sh"]);
        let write = write.arg(&path).arg(format!("{mode:o}"));
        let write = write.stdin_data(content).run_blocking();
        write.unwrap().check().unwrap();
        path
    };
    let (why, text) = refusal(&dir.path().join("missing")).await;
    assert_eq!(why, StartFailure::Missing);
    assert!(text.contains("missing: there is no such program"), "{text}");

    let (why, text) = refusal(dir.path()).await;
    assert_eq!(why, StartFailure::Directory);
    assert!(text.ends_with("it is a directory"), "{text}");

    let (why, _) = refusal(&file("plain", 0o644, b"#!/bin/sh\n")).await;
    assert_eq!(why, StartFailure::NotExecutable);

    // An ELF header for a 64-bit SPARC.
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 2, 1, 0];
    elf.resize(16, 0);
    elf.extend([0, 2, 0, 43, 0, 0, 0, 1]);
    elf.resize(4096, 0);
    let (why, text) = refusal(&file("sparc", 0o755, &elf)).await;
    assert_eq!(why, StartFailure::WrongFormat);
    assert!(text.contains("architecture"), "{text}");

    let script = file("script", 0o755, b"#!/no/such/interpreter\n");
    assert_eq!(refusal(&script).await.0, StartFailure::WrongFormat);

    // A program for another class of processor that runs here all the same: 32-bit x86, which exits
    // with status 1. Its own error must be reported.
    let path = file("i386", 0o755, &elf_i386());
    if Command::new(&path).run_blocking().unwrap().status.code() == Some(1) {
        let tool = Tool::new(ToolKind::StorageDaemon, path);
        let error = StorageDaemon::builder(tool).launch().await.unwrap_err();
        assert!(matches!(error, LaunchError::Exited { .. }), "{error:?}");
    }
}

/// `exit(1)` as a static program for i386: ELF header, program header, code.
fn elf_i386() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0];
    elf.resize(16, 0);
    elf.extend([2, 0, 3, 0]);
    let base = 0x0804_8000u32;
    for word in [1, base + 84, 52, 0, 0] {
        elf.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = 84 + 12;
    for word in [1, 0, base, base, size, size, 5, 0x1000] {
        elf.extend(u32::to_le_bytes(word));
    }
    // mov eax, 1; mov ebx, eax; int 0x80
    elf.extend([0xb8, 1, 0, 0, 0, 0x89, 0xc3, 0xcd, 0x80, 0xf4, 0xf4, 0xf4]);
    elf
}

#[tokio::test]
async fn a_missing_working_directory_is_not_taken_for_a_missing_program() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool).current_dir("/no/such/directory");
    let error = builder.launch().await.unwrap_err();
    let LaunchError::NotStarted { why, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*why, StartFailure::WorkingDirectory);
}

#[tokio::test]
async fn an_unknown_device_is_told_in_qemus_words() {
    let Some(tool) = emulator() else { return };
    let builder = idle_vm(tool).device(&Device::new("no-such-device"));
    let error = builder.launch().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LaunchError::Exited { .. }), "{error:?}");
    assert!(
        text.contains("'no-such-device' is not a valid device model name"),
        "{text}"
    );
    assert!(
        text.contains("-device no-such-device"),
        "the message holds the command: {text}"
    );
}

#[tokio::test]
async fn a_port_in_use_is_told_in_qemus_words() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for tool in all(ToolKind::StorageDaemon) {
        let builder = StorageDaemon::builder(tool).nbd_server(&NbdServer::inet("127.0.0.1", port));
        let error = builder.launch().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("Address already in use"), "{text}");
        assert_eq!(error.output().unwrap().status.code(), Some(1));
    }
    if let Some(tool) = emulator() {
        let from = Incoming::Uri(format!("tcp:127.0.0.1:{port}"));
        let error = idle_vm(tool).incoming(&from).launch().await.unwrap_err();
        assert!(
            error.to_string().contains("Address already in use"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_socket_of_the_monitor_in_use_is_told() {
    let Some(tool) = daemon() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let builder = StorageDaemon::builder(tool).monitor(machine::Monitor::Listen(path.clone()));
    let error = builder.launch().await.unwrap_err();
    let LaunchError::Descriptor { what, source, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(what, "the monitor's socket");
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(path.exists(), "what was there before stays");
}

#[tokio::test]
async fn mistakes_in_the_builder_are_told_by_the_launch() {
    let Some(tool) = daemon() else { return };
    let builder = StorageDaemon::builder(tool.clone());
    let error =
        builder.args(["--x"]).nbd_server(&NbdServer::unix("a\0b")).launch().await.unwrap_err();
    let LaunchError::Build { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**source, BuildError::NulByte { .. }));

    let error = StorageDaemon::builder(tool.clone()).args(["--x\0"]).launch().await.unwrap_err();
    assert!(matches!(error, LaunchError::Build { .. }), "{error:?}");

    let dir = tempfile::tempdir().unwrap();
    let mut builder = StorageDaemon::builder(tool.clone());
    builder.socket_path(&dir.path().join("s".repeat(200)));
    let error = builder.launch().await.unwrap_err();
    let LaunchError::Build { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**source, BuildError::SocketName { .. }));

    let mut builder = StorageDaemon::builder(tool);
    builder.socket_path(&dir.path().join("missing").join("s".repeat(100)));
    let error = builder.launch().await.unwrap_err();
    let LaunchError::Build { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**source, BuildError::Descriptor { .. }));
}

#[tokio::test]
async fn a_bad_node_is_told_in_qemus_words() {
    for tool in all(ToolKind::StorageDaemon) {
        let builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("no-such").node("n"));
        let error = builder.launch().await.unwrap_err();
        assert!(error.to_string().contains("no-such"), "{error}");
    }
}

#[test]
fn exhausted_descriptors_are_told() {
    let Some(tool) = daemon() else { return };
    if elsewhere("bad_input::exhausted_descriptors_are_told") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = StorageDaemon::builder(tool);
    // One descriptor fewer each time, so that each place where one is made fails once.
    let mut kinds = std::collections::BTreeSet::new();
    let mut hoard: Vec<std::fs::File> = Vec::new();
    let limit = rustix::process::Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    for free in 0.. {
        // Descriptors closed meanwhile, by the watcher thread of an earlier process, must not
        // become free either.
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let taken = hoard.len().checked_sub(free);
        hoard.truncate(taken.expect("a launch succeeds when all descriptors are free"));
        let Err(error) = runtime.block_on(builder.launch()) else {
            break;
        };
        let text = format!("{error:?}");
        match &error {
            LaunchError::Descriptor { what, source, .. } => {
                assert_eq!(source.raw_os_error(), Some(24), "{text}");
                kinds.insert(what.clone());
            }
            LaunchError::NotStarted {
                why: StartFailure::Resources,
                ..
            } => {
                kinds.insert("start".into());
            }
            LaunchError::Lost { .. } | LaunchError::Monitor { .. } => {
                assert!(text.contains("24"), "{text}");
            }
            _ => panic!("{text}"),
        }
    }
    assert!(
        kinds.contains("the monitor's socket pair") && kinds.contains("start"),
        "{kinds:?}"
    );
}
