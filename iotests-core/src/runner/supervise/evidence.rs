//! What can be seen of a hanging case from outside: states, wait channels, and stacks where gdb is there.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::process_table::{Process, proc_file};
use super::reaper::wait_readable;

/// How much of a debugger's output is worth a report.
const STACK_LIMIT: u64 = 32 << 10;

/// For every process: what it is, its state, where in the kernel it waits, and for root the kernel's stack.
pub(super) fn states(processes: &[Process]) -> Vec<String> {
    processes
        .iter()
        .map(|process| {
            let read =
                |name: &str| fs::read_to_string(proc_file(process.pid, name)).unwrap_or_default();
            let channel = match read("wchan").trim() {
                "" | "0" => String::new(),
                channel => format!(", waits in {channel}"),
            };
            let state = state_name(process.state);
            let stack: String = read("stack")
                .lines()
                .map(|line| format!("\n  {line}"))
                .collect();
            format!(
                "process {} is {state}{channel}: {}{stack}",
                process.pid,
                process.argv().join(" ")
            )
        })
        .collect()
}

/// The state letter in words.
fn state_name(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "in uninterruptible sleep",
        'T' => "stopped",
        't' => "stopped by a debugger",
        'Z' => "dead and not reaped",
        _ => "in an unknown state",
    }
}

/// The stacks of all threads by gdb, as far as it gets until `until`; `None` where there is no gdb or it says nothing.
pub(super) fn stacks(process: &Process, until: Instant) -> Option<String> {
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
    // Out of time or not, the debugger must be gone before the process it holds is killed.
    let _ = debugger.kill();
    let _ = debugger.wait();
    let text = String::from_utf8_lossy(&text);
    text.contains('#')
        .then(|| format!("stacks of process {}:\n{}", process.pid, text.trim_end()))
}
