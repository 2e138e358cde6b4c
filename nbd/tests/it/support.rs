//! Which QEMU tools there are, and short paths for sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use imgtools::process::{Command, Output};
use imgtools::tools::{Finder, Tool, ToolKind};
use nbd::{QemuNbd, QemuNbdServer};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// One version of the tools.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) name: String,
    pub(crate) major: u32,
    /// Such as 7.2.
    pub(crate) release: String,
    pub(crate) img: Tool,
    pub(crate) io: Tool,
    pub(crate) nbd: Tool,
    pub(crate) qsd: Option<Tool>,
}

/// Every version at hand: the one on PATH, and those of `QEMU_TEST_PREFIXES` or `target/qemu/*`.
pub(crate) fn all_tools() -> Vec<Tools> {
    let mut found: Vec<Tools> = Finder::new()
        .find(ToolKind::Nbd)
        .ok()
        .and_then(|_| {
            let find = |kind| Finder::new().find(kind).ok();
            tools("PATH", find)
        })
        .into_iter()
        .collect();
    for prefix in prefixes() {
        let bin = prefix.join("bin");
        let find = |kind: ToolKind| {
            let path = bin.join(kind.name());
            let flagged = Finder::new().flag(kind, path.clone()).find(kind);
            flagged.ok().filter(|_| path.exists())
        };
        let name = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(tools(&name, find));
    }
    if found.is_empty() {
        assert!(
            std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|v| v != "1"),
            "QEMU_TEST_REQUIRE=1, but there is no qemu-nbd"
        );
        eprintln!("skipped: no qemu-nbd on PATH, in QEMU_TEST_PREFIXES or in target/qemu");
    }
    found
}

fn tools(name: &str, find: impl Fn(ToolKind) -> Option<Tool>) -> Option<Tools> {
    let nbd = find(ToolKind::Nbd)?;
    let version = nbd.version?;
    // A candidate counts as the release it is to become: 9.2.92 as 10.0.
    let (major, minor) = match (version.minor, version.micro) {
        (2, 90..) => (version.major + 1, 0),
        (minor, _) => (version.major, minor),
    };
    Some(Tools {
        name: name.to_owned(),
        major,
        release: format!("{major}.{minor}"),
        img: find(ToolKind::Img)?,
        io: find(ToolKind::Io)?,
        nbd,
        qsd: find(ToolKind::StorageDaemon),
    })
}

fn prefixes() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("QEMU_TEST_PREFIXES") {
        return std::env::split_paths(&list).collect();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu");
    let entries = std::fs::read_dir(target).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    found.sort();
    found
}

/// A directory with a path short enough for sockets.
pub(crate) fn short_dir() -> TempDir {
    tempfile::Builder::new().prefix("nbd").rand_bytes(6).tempdir().unwrap()
}

/// Runs qemu-img, which must succeed, and returns what it printed.
pub(crate) async fn img<S: AsRef<std::ffi::OsStr>>(
    tools: &Tools,
    args: impl IntoIterator<Item = S>,
) -> String {
    let output = tools.img.command().args(args).run().await.unwrap();
    output.check().unwrap().stdout_text().to_string()
}

/// Runs qemu-io commands on a raw image or URI; any exit status is fine.
pub(crate) async fn io(tools: &Tools, image: &str, commands: &[&str]) -> Output {
    let mut command = tools.io.command().args(["-f", "raw"]);
    for c in commands {
        command = command.args(["-c", c]);
    }
    command.arg(image).run().await.unwrap()
}

/// A multi-threaded runtime, as users have one.
pub(crate) fn block_on<F: Future>(f: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(f)
}

/// One thread: what others can do without a wait, they have done whenever this future is polled again
/// after a wait.
pub(crate) fn on_one_thread<F: Future>(f: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(f)
}

/// Time advances when all tasks are idle.
pub(crate) fn at_once<F: Future>(f: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true);
    runtime.build().unwrap().block_on(f)
}

/// An empty raw image of one MiB.
pub(crate) async fn raw(tools: &Tools, dir: &TempDir) -> String {
    let path = dir.path().join("raw").to_str().unwrap().to_owned();
    img(tools, ["create", "-q", "-f", "raw", &path, "1M"]).await;
    path
}

/// A server of such an image at `s`.
pub(crate) async fn served(tools: &Tools, dir: &TempDir) -> QemuNbdServer {
    let image = raw(tools, dir).await;
    let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
    nbd.serve_unix(image, dir.path().join("s")).await.unwrap()
}

/// Runs a test with each version of the tools, in a directory of its own.
pub(crate) fn each<F: Future<Output = ()>>(test: impl Fn(Tools, TempDir) -> F) {
    for tools in all_tools() {
        println!("{}", tools.name);
        block_on(test(tools, short_dir()));
    }
}

/// An error with all its reasons.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}

/// A program with a socket that listens before it starts, so that clients need not wait for it.
pub(crate) fn activated(program: &Path, socket: &Path) -> Command {
    let listener = UnixListener::bind(socket).unwrap();
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    let shell = Command::new("/bin/sh").fd(OwnedFd::from(listener), 3);
    shell.args(["-c", script, "sh"]).arg(program)
}

/// A program that is no part of QEMU. If it is missing, the test reports that, and the gate counts
/// it: neither is a part of QEMU's packages.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file());
    if found.is_none() {
        println!("skipped: no {name} on PATH (Debian: nbdkit, libnbd-bin)");
    }
    found
}
