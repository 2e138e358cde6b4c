//! Finds QEMU's programs and starts them with a monitor on a socket pair.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use qmp::{Client, Options};

/// A program of one QEMU version.
#[derive(Clone, Debug)]
pub(crate) struct Program(PathBuf);

impl Program {
    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

/// Folders that hold `bin/qemu-*`, or in which QEMU was built: those named by `QEMU_TEST_PREFIXES`,
/// else what the project has provisioned.
fn prefixes() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("QEMU_TEST_PREFIXES") {
        return std::env::split_paths(&list).collect();
    }
    let provisioned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu");
    let Ok(entries) = std::fs::read_dir(provisioned) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// All programs of this name: on PATH and in the prefixes.
pub(crate) fn all(name: &str) -> Vec<Program> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    // As they are installed, and as they are built.
    let places = ["bin", "", "storage-daemon"];
    let in_prefix = |prefix: PathBuf| {
        let mut files = places.iter().map(|place| prefix.join(place).join(name));
        files.find(|file| file.is_file())
    };
    let found: Vec<Program> = on_path
        .into_iter()
        .chain(prefixes().into_iter().filter_map(in_prefix))
        .map(Program)
        .collect();
    if found.is_empty() {
        missing(name);
    }
    found
}

/// Reports that a test is skipped, or fails where that is not allowed.
pub(crate) fn missing(name: &str) {
    eprintln!("skipped: {name} is neither on PATH nor in QEMU_TEST_PREFIXES");
    let required = std::env::var_os("QEMU_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(!required, "{name} is required by QEMU_TEST_REQUIRE");
}

/// A QEMU process; dropped, it is killed and reaped.
pub(crate) struct Qemu {
    pub(crate) child: Child,
    pub(crate) socket: Option<UnixStream>,
}

impl Qemu {
    /// Starts a storage daemon with a monitor.
    pub(crate) fn storage_daemon(program: &Program) -> Self {
        Self::start(
            program,
            &["--chardev", "socket,id=m,fd=0", "--monitor", "chardev=m"],
        )
    }

    /// Starts an emulator without a machine, and with a monitor.
    pub(crate) fn emulator(program: &Program) -> Self {
        Self::emulator_with(program, &[])
    }

    /// The same with further arguments.
    pub(crate) fn emulator_with(program: &Program, more: &[&str]) -> Self {
        let chardev = [
            "-chardev",
            "socket,id=m,fd=0",
            "-mon",
            "chardev=m,mode=control",
        ];
        let machine = ["-machine", "none", "-nodefaults", "-display", "none", "-S"];
        Self::start(program, &[&machine[..], &chardev[..], more].concat())
    }

    /// Starts a program whose standard input is one end of a socket pair.
    pub(crate) fn start(program: &Program, args: &[&str]) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        assert!(ours.as_raw_fd() > 2);
        let child = Command::new(&program.0)
            .args(args)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.0.display()));
        Self {
            child,
            socket: Some(ours),
        }
    }

    pub(crate) fn socket(&mut self) -> UnixStream {
        self.socket.take().expect("the socket is taken once")
    }

    pub(crate) async fn client(&mut self) -> Client {
        self.client_with(Options::default()).await
    }

    pub(crate) async fn client_with(&mut self, options: Options) -> Client {
        Client::from_fd(self.socket(), options).await.expect("a session")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
