//! Processes of a case that end by themselves.
//!
//! QEMU's end is noticed twice: when its monitor closes, at once, and by its exit status, a moment
//! later. Only the second is reported, so code that notices the first waits for the second
//! ([`imgtools::process::Child::ended`]).

use std::path::Path;

use imgtools::process::{CommandLine, Output, Status};
use machine::evidence::find_reports;
use nix::sys::signal::Signal;

use super::filter::text::qemu_io;
use super::shared::Shared;
use crate::wire::Death;

/// The longest line that is quoted.
const WORDS: usize = 300;

/// A process that was found dead.
pub(crate) struct Found<'a> {
    pub(crate) name: &'a str,
    pub(crate) status: Status,
    pub(crate) command: &'a CommandLine,
    /// Its whole output, or the end of it.
    pub(crate) printed: &'a str,
    pub(crate) core: Option<&'a Path>,
}

impl Shared {
    /// Records the outcome of a program that has ended; if a signal ended it, it has died.
    pub(crate) fn note_output(&self, output: &Output) {
        let printed = output.combined_text();
        let (command, status) = (&output.command, output.status);
        self.append_evidence("tools", &format!("$ {command}\nit {status}\n{printed}\n"));
        if status.signal().is_some() {
            let name = command.program();
            let name = Path::new(&*name).file_name().unwrap_or_default();
            let found = Found {
                name: &name.to_string_lossy(),
                status,
                command,
                printed: &printed,
                core: None,
            };
            self.death(found.death(self));
        }
    }
}

impl Found<'_> {
    /// The entry for reports.
    pub(crate) fn death(&self, shared: &Shared) -> Death {
        let hint = matches!(self.status, Status::Signaled { signal, .. } if signal == Signal::SIGKILL as i32)
            .then(|| hint_at_kill(shared.out_of_memory_kills, out_of_memory_kills()));
        Death {
            name: self.name.to_owned(),
            status: status(self.status),
            signal: self.status.signal(),
            words: shared.directories.redact(&last_words(self.printed)),
            hint,
            step: shared.current_step().map(|(step, _)| step),
            program: self.command.program().into_owned(),
            core: self.core.map(Path::to_path_buf),
            backtrace: String::new(),
        }
    }
}

/// A status as a phrase that follows a name.
pub(crate) fn status(status: Status) -> String {
    match status {
        Status::Exited(code) => format!("exited with status {code}"),
        Status::Signaled { signal, core } => {
            let name = Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |name| name.to_string());
            let core = if core { ", core dumped" } else { "" };
            format!("died of {name}{core}")
        }
    }
}

/// A process's last words: an assertion, a sanitizer's report, or else its last line.
fn last_words(printed: &str) -> String {
    let report = find_reports(printed).into_iter().next_back();
    let line = match &report {
        Some(report) => report.summary.as_str(),
        None => {
            let mut lines = printed.lines().rev();
            lines.find(|line| !line.trim().is_empty() && !is_success(line)).unwrap_or_default()
        }
    };
    short(line.trim())
}

/// Whether a line is what a successful qemu-io command prints, which says nothing about a later
/// death.
fn is_success(line: &str) -> bool {
    let verbs = ["read ", "wrote ", "discard "];
    let has_begun = verbs.iter().any(|verb| line.starts_with(verb));
    has_begun && line.contains(" bytes at offset ") || qemu_io(line) != line
}

/// How much of a machine's output a report contains; all of it is kept in a file.
const TAIL: usize = 16 << 10;

/// The end of a process's output.
pub(crate) fn tail(printed: &str) -> String {
    let start = printed.ceil_char_boundary(printed.len().saturating_sub(TAIL));
    printed[start..].to_owned()
}

/// Shortens a line to at most [`WORDS`] characters.
pub(crate) fn short(line: &str) -> String {
    match line.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
        None => line.to_owned(),
    }
}

/// How often the kernel has killed a process on this computer because memory ran out; 0 if it keeps
/// no count.
pub(crate) fn out_of_memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn hint_at_kill(before: u64, now: u64) -> String {
    match now.saturating_sub(before) {
        0 => {
            "nothing in the case sent it; the kernel's OOM killer did not run meanwhile".to_owned()
        }
        _ => "the kernel's OOM killer ran meanwhile: out of memory".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_assertion_or_the_last_line() {
        let assertion = "qemu: x.c:1: f: Assertion `y' failed.";
        for (printed, words) in [
            (
                format!("warning: a\n{assertion}\nunder the last line\n"),
                assertion,
            ),
            ("warning: a\ncannot go on\n\n".to_owned(), "cannot go on"),
            (String::new(), ""),
            (
                "so it goes\nwrote 512/512 bytes at offset 0\n512 bytes, 1 ops; 00.00 sec (1 MiB/sec and 2 ops/sec)\n"
                    .to_owned(),
                "so it goes",
            ),
        ] {
            assert_eq!(last_words(&printed), words);
        }
        let long = last_words(&"é".repeat(3 << 20));
        assert!(
            long.len() < 1000 && long.ends_with("bytes)"),
            "{}",
            long.len()
        );
    }

    #[test]
    fn a_status_reads_after_a_name() {
        let signaled = |signal, core| status(Status::Signaled { signal, core });
        assert_eq!(signaled(6, true), "died of SIGABRT, core dumped");
        assert_eq!(signaled(63, false), "died of signal 63");
        assert_eq!(status(Status::Exited(1)), "exited with status 1");
    }

    #[test]
    fn a_kill_names_the_oom_killer_where_it_was_at_work() {
        assert!(hint_at_kill(3, 4).contains("out of memory"));
        assert!(hint_at_kill(3, 3).contains("did not run"));
    }
}
