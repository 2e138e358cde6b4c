//! Stack traces, by whichever tool the host has.

use imgtools::process::{Command, ProcessError};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// The tools in order of preference, with their arguments for one process.
fn commands(pid: u32) -> [Command; 2] {
    let pid = pid.to_string();
    let gdb = Command::new("gdb").args([
        "-nx",
        "-batch",
        // Downloading symbols may take minutes.
        "-iex",
        "set debuginfod enabled off",
        "-ex",
        "set pagination off",
        "-ex",
        "thread apply all bt",
        "-p",
        &pid,
    ]);
    [gdb, Command::new("eu-stack").args(["-p", &pid])]
}

/// The stacks of one process, or why there are none. Output that a tool printed before its deadline
/// is used.
pub(super) async fn take(pid: u32, deadline: Duration) -> Result<String, String> {
    let mut reasons = Vec::new();
    for command in commands(pid) {
        let program = command.command_line().program().into_owned();
        let grace = deadline.min(Duration::from_secs(1));
        let (output, reason) = match command.deadline(deadline).grace(grace).run().await {
            Ok(output) => {
                let why = format!("{program} {}{}", output.status, output.tail());
                (Some(output), why)
            }
            Err(error @ ProcessError::Spawn { .. }) => {
                tracing::debug!(%error, "no backtrace tool");
                reasons.push(format!("{program} cannot be started"));
                continue;
            }
            Err(error) => (error.output().cloned(), error.to_string()),
        };
        let text = output.map(|o| o.captured.stdout_text().trim().to_owned()).unwrap_or_default();
        // Both tools number the frames they print.
        if text.contains("#0") {
            return Ok(text);
        }
        reasons.push(reason);
    }
    Err(reasons.join("; "))
}

/// Continues a process that a tool may have left stopped: tools attach by stopping it, and one that
/// is killed before it has done so no longer continues it.
pub(super) fn undo(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended.
        let _ = kill_process(pid, Signal::CONT);
    }
}
