//! The process runner, with small shell scripts as the tools.

mod descriptors;
mod end;
mod input;
mod life;
mod output;
mod shown;

use std::time::Duration;

use imgtools::process::Command;

/// Far more than any of this takes, so that a hang becomes a failure.
const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script, "sh"]).deadline(LONG)
}

/// Whether a process with this PID exists, even as a zombie.
fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// A time to sleep by which the processes of this run of the tests are known, and no others.
fn mark(seconds: &str) -> String {
    format!("{seconds}.{}", std::process::id())
}

/// The processes that have this text in their arguments.
fn with_argument(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && entry.file_name() != *std::process::id().to_string() {
            found.push(format!("{}: {line}", entry.file_name().to_string_lossy()));
        }
    }
    found
}
