//! A process as /proc shows it: states, wait channels, kernel stacks, children.
//!
//! Every read may find the process gone; missing data is omitted, never an error.

use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// One process as /proc showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessState {
    /// Process id.
    pub pid: u32,
    /// Its arguments, joined by spaces; empty for a zombie.
    pub command_line: String,
    /// The kernel's letter: R running, S sleeping, D uninterruptible, T stopped, t traced,
    /// Z zombie.
    pub state: char,
    /// Its threads.
    pub threads: Vec<ThreadState>,
    /// Its open file descriptors and their targets; empty where not permitted.
    pub fds: Vec<(i32, String)>,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ThreadState {
    /// Thread id.
    pub tid: u32,
    /// Its name, such as `qemu-system-x86` or `IO iothread0`.
    pub name: String,
    /// The kernel's letter, as in [`ProcessState::state`].
    pub state: char,
    /// The kernel function in which it waits, if it does and we are permitted to see it.
    pub wait_channel: Option<String>,
    /// Its kernel stack, which only root may read.
    pub kernel_stack: Option<String>,
}

impl ProcessState {
    /// Whether the process is stopped by a signal, so that querying it is futile. One under a
    /// tracer (`t`) may just be between two traced system calls.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    /// Whether the process has exited and is waiting to be reaped.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Reads one process; `None` if there is none.
#[must_use]
pub fn read(pid: u32) -> Option<ProcessState> {
    read_at(Path::new("/proc"), pid)
}

fn read_at(proc: &Path, pid: u32) -> Option<ProcessState> {
    let dir = proc.join(pid.to_string());
    let (_, state) = parse_stat(&fs::read(dir.join("stat")).ok()?)?;
    let mut threads: Vec<_> = numbered(&dir.join("task"))
        .into_iter()
        .filter_map(|(tid, path)| read_thread(tid, &path))
        .collect();
    threads.sort_by_key(|t| t.tid);
    let mut fds: Vec<_> = numbered(&dir.join("fd"))
        .into_iter()
        .filter_map(|(fd, path)| {
            let target = fs::read_link(path).ok()?;
            Some((
                i32::try_from(fd).ok()?,
                target.to_string_lossy().into_owned(),
            ))
        })
        .collect();
    fds.sort();
    Some(ProcessState {
        pid,
        command_line: command_line(&dir),
        state,
        threads,
        fds,
    })
}

fn command_line(dir: &Path) -> String {
    let raw = fs::read(dir.join("cmdline")).unwrap_or_default();
    let words: Vec<_> =
        raw.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    words.join(" ")
}

fn read_thread(tid: u32, dir: &Path) -> Option<ThreadState> {
    let (name, state) = parse_stat(&fs::read(dir.join("stat")).ok()?)?;
    let text = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        let text = text.trim();
        // The kernel writes "0" for "not waiting" and for "not permitted".
        (!text.is_empty() && text != "0").then(|| text.to_owned())
    };
    Some(ThreadState {
        tid,
        name,
        state,
        wait_channel: text("wchan"),
        kernel_stack: text("stack"),
    })
}

/// Name and state letter. The name is in parentheses and may itself hold any byte, so the
/// last parenthesis counts.
fn parse_stat(stat: &[u8]) -> Option<(String, char)> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let state = stat.get(close + 1..)?.iter().find(|b| !b.is_ascii_whitespace())?;
    Some((name, char::from(*state)))
}

fn numbered(dir: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|e| {
            let e = e.ok()?;
            Some((e.file_name().to_str()?.parse().ok()?, e.path()))
        })
        .collect()
}

/// The process and all its living descendants, parents first. A wrapper such as gdbserver
/// or strace is the parent of the QEMU that matters.
#[must_use]
pub fn tree(pid: u32) -> Vec<ProcessState> {
    let mut found = Vec::new();
    let mut queue = std::collections::VecDeque::from([pid]);
    while let Some(pid) = queue.pop_front() {
        let Some(process) = read(pid) else { continue };
        for thread in &process.threads {
            let path = format!("/proc/{pid}/task/{}/children", thread.tid);
            let children = fs::read_to_string(path).unwrap_or_default();
            queue.extend(children.split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
        found.push(process);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_state() {
        assert_eq!(
            parse_stat(b"12 (a) S (b)) T 1 2"),
            Some(("a) S (b)".to_owned(), 'T'))
        );
        for bad in [&b""[..], b"1 (", b"1 )(", b"1 (a)"] {
            assert_eq!(parse_stat(bad), None);
        }
    }

    #[test]
    fn this_process_is_found_with_threads_and_descriptors() {
        let me = read(std::process::id()).unwrap();
        assert!(!me.command_line.is_empty());
        assert!(me.threads.iter().any(|t| t.tid == me.pid));
        assert!(me.fds.iter().any(|(fd, _)| *fd == 1));
        assert!(!me.is_dead() && !me.is_stopped());
    }

    #[test]
    fn a_traced_process_is_not_taken_for_a_stopped_one() {
        let mut process = read(std::process::id()).unwrap();
        for (state, stopped, dead) in [
            ('T', true, false),
            ('t', false, false),
            ('D', false, false),
            ('Z', false, true),
        ] {
            process.state = state;
            assert_eq!((process.is_stopped(), process.is_dead()), (stopped, dead));
        }
    }

    #[test]
    fn a_process_that_does_not_exist_is_nothing() {
        assert_eq!(read(u32::MAX), None);
        assert!(tree(u32::MAX).is_empty());
    }
}
