//! Hostile names through every call that takes a path, on every version.

use crate::tools::all;
use imgtools::tools::ToolKind;
use machine::accel::{Accel, idle_rom};
use machine::args::{Blockdev, Chardev, Drive, Incoming, NbdServer};
use machine::{
    Attached, BuildError, Deadlines, LaunchError, Monitor, Qemu, StorageDaemon, Wrapper,
};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Names that a careless caller would misinterpret or truncate.
fn hostile() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "-b",
        "--help",
        "vm 2024-05-01T10:00.qcow2",
        "json:{\"driver\":\"null-co\"}",
        "driver=null-co,size=1M,,c",
        "quotes'\"` new\nline\ttab \\ back\\slash $HOME %s *?[x]",
    ]
    .map(OsString::from)
    .to_vec();
    names.push(OsString::from_vec(b"not-\xff\xfe-utf8".to_vec()));
    names.push("n".repeat(90).into());
    names
}

/// A folder for one name, and the name in it. Its path is 300 bytes long with the last of the names.
fn place(name: &OsStr) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut path = folder.path().to_owned();
    if name.len() == 90 {
        path.push("d".repeat(210));
    }
    std::fs::create_dir_all(&path).unwrap();
    path.push(name);
    (folder, path)
}

#[tokio::test]
async fn a_monitor_can_be_anywhere() {
    for tool in all(ToolKind::StorageDaemon) {
        for name in hostile() {
            let (_folder, path) = place(&name);
            for monitor in [
                Monitor::Listen(path.clone()),
                Monitor::Connect(path.clone()),
            ] {
                let builder = StorageDaemon::builder(tool.clone()).monitor(monitor);
                let machine = builder.launch().await.unwrap();
                assert!(path.exists(), "{}", path.display());
                machine.shutdown().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_machine_that_is_left_alone_has_its_monitor_anywhere_that_a_client_reaches() {
    for tool in all(ToolKind::StorageDaemon) {
        for name in hostile() {
            let (_folder, path) = place(&name);
            let builder = StorageDaemon::builder(tool.clone());
            match builder.launch_detached(&path).await {
                Ok(detached) => {
                    assert_eq!(detached.monitor, path);
                    let attached = Attached::connect(&path, Deadlines::default()).await;
                    let attached = attached.unwrap();
                    assert_eq!(attached.pid(), detached.pid);
                    attached.shutdown().await.unwrap();
                }
                Err(LaunchError::Build { source, .. }) => {
                    assert!(matches!(*source, BuildError::SocketName { .. }));
                    assert!(path.as_os_str().len() > 107, "{}", path.display());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn sockets_and_folders_of_a_daemon_can_have_any_name() {
    for tool in all(ToolKind::StorageDaemon) {
        for name in hostile() {
            let (folder, path) = place(&name);
            // An NBD server, and character devices on both sides.
            let mut builder = StorageDaemon::builder(tool.clone());
            let near = |file: &str| path.with_file_name(file);
            let waiting = UnixListener::bind(folder.path().join("w")).unwrap();
            let short = builder.socket_path(&path);
            let (other, there) = (near(".listening"), builder.socket_path(&near(".listening")));
            let peer = folder.path().join(OsStr::from_bytes(b"p,\xff -:"));
            std::fs::rename(folder.path().join("w"), &peer).unwrap();
            let machine = builder
                .nbd_server(&NbdServer::unix(short))
                .chardev(&Chardev::listening("a", there))
                .chardev(&Chardev::connecting("b", &peer))
                .launch()
                .await
                .unwrap();
            waiting.accept().unwrap();
            for socket in [&path, &other] {
                assert!(socket.exists(), "{}", socket.display());
            }
            machine.shutdown().await.unwrap();

            // The folder that it runs in.
            std::fs::remove_file(&path).ok();
            std::fs::create_dir(&path).unwrap();
            let server = NbdServer::unix("here");
            let builder = StorageDaemon::builder(tool.clone()).current_dir(&path);
            let machine = builder.nbd_server(&server).launch().await.unwrap();
            assert!(path.join("here").exists(), "{}", path.display());
            machine.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_node_can_have_any_name_that_json_can_hold() {
    for tool in all(ToolKind::StorageDaemon) {
        for name in hostile() {
            let (_folder, path) = place(&name);
            std::fs::write(&path, [0; 4096]).unwrap();
            let file = match Blockdev::file(&path) {
                Ok(file) => file.node("file"),
                Err(error) => {
                    assert!(path.to_str().is_none());
                    assert!(error.to_string().contains("UTF-8"), "{error}");
                    continue;
                }
            };
            let builder = StorageDaemon::builder(tool.clone()).blockdev(&file);
            let machine = builder.launch().await.unwrap();
            let node = machine.node("file").await.unwrap().unwrap();
            assert_eq!(node.image.virtual_size, 4096);
            machine.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_an_emulator_opens_can_have_any_name() {
    for tool in all(ToolKind::System) {
        for name in hostile() {
            let (folder, path) = place(&name);
            std::fs::write(&path, [0; 4096]).unwrap();
            let rom = folder.path().join(OsStr::from_bytes(b"r,\xff -:"));
            std::fs::write(&rom, idle_rom()).unwrap();
            let socket = path.with_file_name(".incoming");
            // Relative names too, which is where a dash or a colon matters.
            let (dir, file) = (path.parent().unwrap(), Path::new(&name));
            for file in [path.as_path(), file] {
                let drive = Drive::new().interface("none").id("d").format("raw");
                let vm = Qemu::builder(tool.clone())
                    .accel(Accel::Tcg)
                    .machine("q35")
                    .current_dir(dir)
                    .firmware(&rom)
                    .drive(&drive.file(file))
                    .incoming(&Incoming::Unix(socket.clone()));
                let vm = vm.launch().await.unwrap();
                let block = vm.qmp().execute("query-block", ()).await.unwrap();
                assert_eq!(block[0]["inserted"]["image"]["virtual-size"], 4096);
                // Held until the end: a stream that stops is a failure.
                let _source = machine::socket::connect(&socket).unwrap();
                vm.kill().await.unwrap();
                std::fs::remove_file(&socket).ok();
            }
        }
    }
}

/// Names that would be laborious to test with QEMU or a wrapper: they appear on the command line
/// unchanged.
#[tokio::test]
async fn paths_stand_on_the_command_line_byte_for_byte() {
    for name in hostile() {
        let (_folder, path) = place(&name);
        std::fs::create_dir(&path).unwrap();
        // It prints its arguments, each with a NUL behind it, and ends.
        let script = "printf '%s\\0' \"$@\"; exit 3";
        let mut tool = crate::tools::fake(script);
        tool.kind = ToolKind::System;
        let wrapper = Wrapper::Custom(vec!["env".into(), "-C".into(), path.clone().into()]);
        let builder =
            Qemu::builder(tool).kernel(&path, "").initrd(&path).firmware(&path).wrapper(wrapper);
        let Err(LaunchError::Exited { output, .. }) = builder.launch().await else {
            panic!("it was to end");
        };
        let words: Vec<&[u8]> = output.captured.stdout.split(|byte| *byte == 0).collect();
        let times = words.iter().filter(|word| **word == path.as_os_str().as_bytes());
        assert_eq!(times.count(), 3, "{}", path.display());
        assert!(output.command.to_string().contains("env"));
        for wrapper in [
            Wrapper::Valgrind {
                options: Vec::new(),
                log_file: Some(path.clone()),
            },
            Wrapper::Strace {
                output: Some(path.clone()),
                options: Vec::new(),
            },
            Wrapper::Rr {
                output: Some(path.clone()),
            },
        ] {
            let words = wrapper.words();
            let has = |word: &OsString| word.as_bytes().ends_with(path.as_os_str().as_bytes());
            assert_eq!(words.iter().filter(|word| has(word)).count(), 1);
        }
    }
}

/// A new call that takes a path must be added to the tests above.
#[test]
fn every_call_that_takes_a_path_is_tested_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let tests = include_str!("names.rs");
    let takes = regex::Regex::new(
        r"pub (?:async )?fn (\w+)[^{;]*?: (?:impl (?:AsRef<Path>|Into<PathBuf>|Into<FileName>)|&Path)",
    )
    .unwrap();
    let holds = regex::Regex::new(r"(\w+)(?:\(PathBuf\)| \{[^{}]*?: Option<PathBuf>)").unwrap();
    let mut folders = vec![root];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let public = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let public = public.collect::<Vec<_>>().join("\n");
            let builder = path.ends_with("wrapper.rs") || path.ends_with("args/incoming.rs");
            let monitor = path.ends_with("builder/monitor.rs");
            let variants = holds.captures_iter(&public).filter(|_| builder || monitor);
            for call in takes.captures_iter(&public).chain(variants) {
                let name = &call[1];
                // It looks for the core file of a process that has dumped one.
                if name == "find_core" {
                    continue;
                }
                found += 1;
                let used = ["(", " {"].iter().any(|end| tests.contains(&format!("{name}{end}")));
                assert!(used, "{name} of {} is not tested", path.display());
            }
        }
    }
    println!("{found} calls take a path");
    assert!(found >= 16, "{found}: they are looked for in the wrong way");
}
