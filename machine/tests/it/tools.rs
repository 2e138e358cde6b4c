//! Which binaries the tests run on, and what many tests need.

use imgtools::tools::{Finder, Tool, ToolKind};
use machine::accel::Accel;
use machine::{Builder, Deadlines, Qemu};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folders with sets of tools.
fn prefixes() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("QEMU_TEST_PREFIXES") {
        return std::env::split_paths(&list).collect();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu");
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    found.sort();
    found
}

/// Reports that a test could not run, or fails it where that is not allowed.
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
    eprintln!("skipped: {why}");
    assert!(
        std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
        "QEMU_TEST_REQUIRE is 1, but {why}"
    );
}

/// All tools of a kind: the one on PATH, and one of each prefix.
pub(crate) fn all(kind: ToolKind) -> Vec<Tool> {
    let mut found: Vec<Tool> = Finder::new().find(kind).into_iter().collect();
    for prefix in prefixes() {
        let path = ["", "-x86_64"].iter().map(|a| prefix.join(format!("bin/{}{a}", kind.name())));
        found.extend(path.filter(|p| p.exists()).map(|p| Tool::new(kind, p)));
    }
    if found.is_empty() {
        skip(&format!("there is no {kind}"));
    }
    found
}

/// One storage daemon.
pub(crate) fn daemon() -> Option<Tool> {
    all(ToolKind::StorageDaemon).into_iter().next()
}

/// One emulator for x86.
pub(crate) fn emulator() -> Option<Tool> {
    all(ToolKind::System).into_iter().next()
}

/// An emulator without a board, which does nothing.
pub(crate) fn idle_vm(tool: Tool) -> Builder<Qemu> {
    Qemu::builder(tool).accel(Accel::Tcg).machine("none")
}

/// A fake storage daemon, implemented by this `sh` script. The script is an argument, so nothing is
/// executed that was just written.
pub(crate) fn fake(script: &str) -> Tool {
    Tool::new(ToolKind::StorageDaemon, "/bin/sh")
        .with_option("-c")
        .with_option(script)
        .with_option("fake")
}

/// A monitor that negotiates, answers all else with this member (`"return": {}`), and then does
/// this.
pub(crate) fn fake_monitor(answer: &str, then: &str) -> Tool {
    let version = r#"{"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}"#;
    fake(&format!(
        r#"say() {{ printf '%s\r\n' "$1" >&3; }}
say '{{"QMP": {{"version": {version}, "capabilities": []}}}}'
while read -r line <&3; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
  case $line in
    *qmp_capabilities*) say '{{"return": {{}}, "id": "'$id'"}}' ;;
    *) say '{{{answer}, "id": "'$id'"}}'; {then} ;;
  esac
done"#
    ))
}

/// A script that runs a real storage daemon after its own part.
pub(crate) fn prelude(tool: &Tool, script: &str) -> Tool {
    fake(&format!("{script}\nexec {} \"$@\"", tool.path.display()))
}

/// Far more than anything takes, even on the busiest machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Budgets for a test in which the first deadline passes: for `quit` or for an end
/// without being asked. There is much time for what comes after.
pub(crate) fn impatient() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.quit = Duration::from_millis(200);
    deadlines.terminate = LONG;
    deadlines.diagnose_backtrace = Duration::from_millis(1);
    deadlines
}

/// Waits until the process is stopped by a signal. We are its parent.
pub(crate) fn wait_stopped(pid: u32) {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT,
    )
    .unwrap();
}

/// Whether a process exists.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Runs this test in a process of its own, so that what it counts or limits there is its own.
/// Returns false in the process that is to do the work.
pub(crate) fn elsewhere(test: &str) -> bool {
    if std::env::var_os("MACHINE_TEST_ALONE").is_some() {
        return false;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("MACHINE_TEST_ALONE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    println!("{text}");
    true
}

/// Waits until the other end of the pipe is closed everywhere: all processes that held it are dead.
pub(crate) fn wait_all_gone(reader: &std::io::PipeReader) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(reader, PollFlags::HUP)];
    let timeout = Timespec::try_from(LONG).unwrap();
    assert_eq!(
        poll(&mut fds, Some(&timeout)).unwrap(),
        1,
        "somebody lives after {LONG:?}"
    );
}
