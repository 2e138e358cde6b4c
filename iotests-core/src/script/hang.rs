//! What a script is doing: its processes, the current line of a shell script, the stacks of Python
//! and QEMU.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Language, ScriptSpec, output};
use crate::runner::supervised::{Process, send, stacks};
use crate::wire::{CaseSpec, Finding};

/// How many lines of the end of its output are shown.
const TAIL: usize = 40;

/// How long the debugger may take for all processes, before scaling. The supervisor waits longer.
const STACKS: Duration = Duration::from_secs(30);

/// How long Python may take to print its stack.
const PYTHON: Duration = Duration::from_secs(5);

/// The headline and all findings. If the case `ends`, Python is made to print its stack, which ends
/// it.
pub(crate) fn explain(spec: &CaseSpec, own: &ScriptSpec, ends: bool) -> (String, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut found = |title: String, text: String| {
        if !text.trim().is_empty() {
            findings.push(Finding { title, text });
        }
    };
    let printed = spec.test_dir.join(format!("{}.out.bad", own.script.name));
    let before = fs::read(&printed).unwrap_or_default();
    let processes = Process::descendants(std::os::unix::process::parent_id());
    let own_pid = std::process::id();
    let below: Vec<&Process> = processes.iter().filter(|one| one.pid != own_pid).collect();

    let line = below.iter().find_map(|process| line_of(process, &own.script.path));
    let leaf = below.iter().rev().find(|process| !process.is_zombie());
    let mut headline = match &line {
        Some(line) => format!("{} is at line {}", own.script.name, line.number),
        None => format!("{} goes on", own.script.name),
    };
    if let Some(leaf) = leaf {
        headline += &format!(", and {} (process {}) runs", leaf.name, leaf.pid);
    }
    if let Some(line) = line {
        found(
            "line of the script".to_owned(),
            format!("{}: {}", line.number, line.text),
        );
    }
    let mut tree = String::new();
    for process in &below {
        let _ = writeln!(tree, "{}: {}", process.pid, process.argv().join(" "));
    }
    found("processes".to_owned(), tree);
    let until = Instant::now() + spec.grace(STACKS);
    for process in below.iter().filter(|process| is_qemu(process)) {
        if let Some(text) = stacks(process, until) {
            found(format!("stacks of {}", process.name), text);
        }
    }
    if ends && own.script.language == Language::Python {
        let python = below.iter().find(|process| runs(process, &own.script.path));
        if let Some(python) = python {
            found(
                "stack of the script".to_owned(),
                python_stack(python, &printed, before.len()),
            );
        }
    }
    let shown = output::shown(&before);
    let lines: Vec<&str> = shown.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    found("end of its output".to_owned(), tail);
    (headline, findings)
}

/// The current line of a shell script.
struct Line {
    number: usize,
    text: String,
}

/// bash reads a script through its own descriptor, and before it starts a program, seeks to just
/// after the current command.
fn line_of(process: &Process, script: &Path) -> Option<Line> {
    let folder = format!("/proc/{}", process.pid);
    let links = fs::read_dir(format!("{folder}/fd")).ok()?.flatten();
    let fd = links
        .filter(|link| fs::read_link(link.path()).is_ok_and(|target| target == script))
        .map(|link| link.file_name())
        .max()?;
    let info = fs::read_to_string(format!("{folder}/fdinfo/{}", fd.to_str()?)).ok()?;
    let position = info.lines().find_map(|line| line.strip_prefix("pos:"))?;
    let position: usize = position.trim().parse().ok()?;
    let text = fs::read(script).ok()?;
    let read = text.get(..position)?;
    // At the end of a line, the command before it is running.
    let read = read.strip_suffix(b"\n").unwrap_or(read);
    let number = read.iter().filter(|byte| **byte == b'\n').count() + 1;
    let line = text.split(|byte| *byte == b'\n').nth(number - 1)?;
    Some(Line {
        number,
        text: output::shown(line).trim_end().to_owned(),
    })
}

fn is_qemu(process: &Process) -> bool {
    process.name.starts_with("qemu-") || process.name.starts_with("storage-daemon")
}

/// Whether a process is the interpreter of this script.
fn runs(process: &Process, script: &Path) -> bool {
    let script = script.to_string_lossy();
    process.argv().iter().skip(1).any(|word| *word == script)
}

/// On SIGABRT, Python prints its stack to standard error, because its environment enables that.
fn python_stack(process: &Process, printed: &Path, before: usize) -> String {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(handle) = handle else {
        return String::new();
    };
    send(process, Signal::SIGABRT);
    let mut fds = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&handle),
        nix::poll::PollFlags::POLLIN,
    )];
    let time = nix::poll::PollTimeout::try_from(PYTHON).unwrap_or(nix::poll::PollTimeout::MAX);
    let _ = nix::poll::poll(&mut fds, time);
    let after = fs::read(printed).unwrap_or_default();
    output::shown(after.get(before..).unwrap_or_default())
}
