//! The kernel's process table, as far as a supervisor needs it: descendants and their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// The state letter of proc_pid_stat(5): R, S, D, T, Z…
    pub(crate) state: char,
    /// In clock ticks since boot. Together with the pid, it identifies a process uniquely.
    pub(crate) start_time: u64,
    /// The CPU time of children it has waited for, in clock ticks.
    pub(crate) ran_below: u64,
    /// The name of the executable, at most 15 bytes.
    pub(crate) name: String,
}

impl Process {
    /// The process with this pid, if it exists.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        parse_stat(&fs::read_to_string(proc_file(pid, "stat")).ok()?)
    }

    /// All processes below `root`, parents before their children.
    pub(crate) fn descendants(root: u32) -> Vec<Self> {
        descendants_in(table(), root)
    }

    /// Its arguments, or its name in brackets if it has none (a zombie).
    pub(crate) fn argv(&self) -> Vec<String> {
        let bytes = fs::read(proc_file(self.pid, "cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let arguments: Vec<String> =
            text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        if text.is_empty() {
            vec![format!("[{}]", self.name)]
        } else {
            arguments
        }
    }

    /// Whether it is dead but not reaped by its parent.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Whether this process has a handler for this signal.
pub(crate) fn catches(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(proc_file(pid, "status")).unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// Whether this process is stopped by a signal.
pub(crate) fn is_stopped(pid: u32) -> bool {
    Process::of(pid).is_some_and(|process| process.state == 'T')
}

pub(crate) fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn table() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .collect()
}

fn descendants_in(table: Vec<Process>, root: u32) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in table {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = children.remove(&root).unwrap_or_default();
    let mut seen: BTreeSet<u32> = [root].into();
    let mut next = 0;
    while let Some(pid) = found.get(next).map(|process| process.pid) {
        next += 1;
        if seen.insert(pid) {
            found.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    found
}

/// Parses `/proc/PID/stat`. The name is in parentheses and may contain spaces and parentheses.
fn parse_stat(text: &str) -> Option<Process> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        ran_below: fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        Process {
            pid,
            parent,
            state: 'S',
            start_time: 0,
            ran_below: 0,
            name: String::new(),
        }
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse_the_fields() {
        let line = "42 (a) b (c) T 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2";
        let parsed = parse_stat(line).unwrap();
        assert_eq!(
            parsed,
            Process {
                pid: 42,
                parent: 7,
                state: 'T',
                start_time: 9876,
                ran_below: 7 + 8,
                name: "a) b (c".to_owned()
            }
        );
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_strangers_are_not() {
        let table = vec![
            process(5, 4),
            process(2, 1),
            process(4, 2),
            process(3, 2),
            process(9, 8),
        ];
        let pids: Vec<u32> = descendants_in(table, 2).iter().map(|process| process.pid).collect();
        assert_eq!(pids, [4, 3, 5]);
    }

    #[test]
    fn this_process_is_in_the_table_with_its_arguments() {
        let me = Process::of(std::process::id()).unwrap();
        assert_eq!(me.argv().len(), std::env::args().count());
        assert!(!me.is_zombie());
    }
}
