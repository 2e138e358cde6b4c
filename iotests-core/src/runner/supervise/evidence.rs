//! Examines a hanging case from outside: states, wait channels, and stacks if there is gdb.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::process_table::{Process, proc_file};
use super::protocol::Seen;
use super::reaper::wait_readable;

/// How much of a debugger's output to keep.
const STACK_LIMIT: u64 = 32 << 10;

impl Seen {
    /// Updates the case's state, and adds what is visible now.
    pub(super) fn look(&mut self, case: u32, processes: &[Process]) {
        let own = processes.iter().find(|process| process.pid == case);
        self.case = own.map_or_else(|| "has ended".to_owned(), state);
        let below = processes.iter().filter(|process| process.pid != case);
        for process in below.filter(|process| matches!(process.state, 'T' | 't')) {
            let stopped = format!("{} {}", named(process), state_name(process.state));
            if !self.stopped.contains(&stopped) {
                self.stopped.push(stopped);
            }
        }
        self.evidence.extend(processes.iter().map(described));
    }
}

/// A process with its state, where in the kernel it waits, its arguments and, for root, its kernel
/// stack.
fn described(process: &Process) -> String {
    let stack = fs::read_to_string(proc_file(process.pid, "stack")).unwrap_or_default();
    let stack: String = stack.lines().map(|line| format!("\n  {line}")).collect();
    format!(
        "process {} {}: {}{stack}",
        process.pid,
        state(process),
        process.argv().join(" ")
    )
}

/// Its state, and where in the kernel it waits.
fn state(process: &Process) -> String {
    let channel = fs::read_to_string(proc_file(process.pid, "wchan")).unwrap_or_default();
    let state = state_name(process.state);
    match channel.trim() {
        _ if process.state == 'T' => state.to_owned(),
        "" | "0" => state.to_owned(),
        channel => format!("{state}, in {channel}"),
    }
}

/// A process's program name and id.
fn named(process: &Process) -> String {
    let argv = process.argv();
    let program = argv.first().map(Path::new).and_then(Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy();
    format!("{program} (process {})", process.pid)
}

/// The state letter in words, as they follow a name.
pub(crate) fn state_name(letter: char) -> &'static str {
    match letter {
        'R' => "is running",
        'S' => "is sleeping",
        'D' => "is in uninterruptible sleep",
        'T' => "is stopped by a signal",
        't' => "is stopped by a debugger",
        'Z' => "is dead and not reaped",
        _ => "is in an unknown state",
    }
}

/// The stacks of all threads from gdb, as far as it gets until `until`; `None` if there is no gdb
/// or it finds nothing.
pub(crate) fn stacks(process: &Process, until: Instant) -> Option<String> {
    let mut debugger = Command::new("gdb")
        .args([
            "--nx",
            "--batch",
            "--quiet",
            "-p",
            &process.pid.to_string(),
            "-ex",
            "thread apply all backtrace 24",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = Vec::new();
    if let Some(mut output) = debugger.stdout.take() {
        let mut piece = [0; 4096];
        while (text.len() as u64) < STACK_LIMIT && wait_readable(&output, Some(until)) {
            match output.read(&mut piece) {
                Ok(count) if count > 0 => text.extend_from_slice(&piece[..count]),
                _ => break,
            }
        }
    }
    // The debugger must be gone before the process that it stopped is killed.
    let _ = debugger.kill();
    let _ = debugger.wait();
    let text = String::from_utf8_lossy(&text);
    text.contains('#')
        .then(|| format!("stacks of process {}:\n{}", process.pid, text.trim_end()))
}
