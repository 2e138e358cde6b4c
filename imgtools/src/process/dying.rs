//! Whether a process is about to exit by itself, which must be known before killing it: otherwise
//! the kill would be mistaken for the cause.

use std::path::Path;
use std::{fs, io};

/// `PF_*` in the kernel's `sched.h`, see proc_pid_stat(5), field 9. A thread that is exiting…
const EXITING: u64 = 0x4;
/// … one that dumps core, or that was killed by a signal, which ends them all.
const KILLED: u64 = 0x200 | 0x400;

const KILL: u64 = 1 << 8;
/// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: the signals of a crash.
const CRASH: u64 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;

/// How often to look at a process of which some thread is running.
const LOOKS: u32 = 8;

/// Whether this process has exited, or is certain to. One that cannot be inspected counts as gone.
///
/// Any of its threads may take the signal that ends it. The thread carries the mark of that a few
/// instructions later, and is runnable meanwhile, so a process with such a thread is looked at
/// again.
pub(super) fn is_dying(pid: u32) -> bool {
    for _ in 0..LOOKS {
        match look(pid) {
            Ok(Look::Dying) | Err(_) => return true,
            Ok(Look::Asleep) => return false,
            Ok(Look::Running) => std::thread::yield_now(),
        }
    }
    false
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Dying,
    /// All its threads sleep.
    Asleep,
    Running,
}

fn look(pid: u32) -> io::Result<Look> {
    let process = Path::new("/proc").join(pid.to_string());
    // In this order: a signal is pending, and then the thread that takes it is marked.
    let status = fs::read_to_string(process.join("status"))?;
    let first = fs::read_to_string(process.join("stat"))?;
    let threads = fs::read_dir(process.join("task"))?.flatten();
    // A thread that has ended meanwhile has none.
    let all = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    Ok(look_at(&status, &first, all))
}

/// Its `status`, the `stat` of its first thread, and those of all.
fn look_at(status: &str, first: &str, all: impl Iterator<Item = String>) -> Look {
    let Some((state, flags)) = state_and_flags(first) else {
        return Look::Dying;
    };
    if matches!(state, 'Z' | 'X') || flags & EXITING != 0 || is_ending(status, state) {
        return Look::Dying;
    }
    let mut seen = Look::Asleep;
    for (state, flags) in all.filter_map(|stat| state_and_flags(&stat)) {
        if flags & KILLED != 0 {
            return Look::Dying;
        }
        if state == 'R' {
            seen = Look::Running;
        }
    }
    seen
}

fn state_and_flags(stat: &str) -> Option<(char, u64)> {
    // The name in parentheses may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(5)?.parse().ok()?))
}

/// Whether a signal that is pending will end it.
fn is_ending(status: &str, state: char) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    // A stopped process handles no other signal until it is continued.
    let crashes = pending & CRASH & !(mask("SigBlk:") | mask("SigIgn:") | mask("SigCgt:"));
    pending & KILL != 0 || (crashes != 0 && !matches!(state, 'T' | 't'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &str =
        "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n";

    fn stat(state: char, flags: u64) -> String {
        format!("42 (a) b (c) {state} 7 42 42 0 -1 {flags} 1 2 3")
    }

    fn look_at_one(status: &str, stat: &str) -> Look {
        look_at(status, stat, [stat.to_owned()].into_iter())
    }

    #[test]
    fn what_ends_is_told_from_what_lives() {
        assert!(!is_dying(std::process::id()));
        assert!(is_dying(u32::MAX));
        assert_eq!(look_at_one(FINE, &stat('S', 0x40_0000)), Look::Asleep);
        assert_eq!(look_at_one(FINE, &stat('R', 0x40_0000)), Look::Running);
        for (state, flags) in [('Z', 0), ('X', 0), ('R', 0x4), ('D', 0x200), ('R', 0x400)] {
            let look = look_at_one(FINE, &stat(state, flags));
            assert_eq!(look, Look::Dying, "{state} {flags:x}");
        }
    }

    #[test]
    fn any_thread_may_take_the_signal_but_may_also_end_alone() {
        let first = stat('S', 0);
        let with = |other: String| look_at(FINE, &first, [first.clone(), other].into_iter());
        for flags in [0x200, 0x400] {
            assert_eq!(with(stat('D', flags)), Look::Dying, "{flags:x}");
        }
        assert_eq!(with(stat('S', 0x4)), Look::Asleep);
        assert_eq!(with(stat('R', 0)), Look::Running);
    }

    #[test]
    fn a_signal_that_is_on_its_way_counts_unless_it_is_caught_or_has_to_wait() {
        let pending = |signal: u32, caught: bool| {
            let bit = 1_u64 << (signal - 1);
            format!(
                "SigPnd:\t0000000000000000\nShdPnd:\t{bit:016x}\nSigCgt:\t{:016x}\n",
                if caught { bit } else { 0 }
            )
        };
        let is_dying = |state, status: &str| look_at_one(status, &stat(state, 0)) == Look::Dying;
        for signal in [4, 5, 6, 7, 8, 11, 31] {
            assert!(is_dying('S', &pending(signal, false)), "{signal}");
            assert!(!is_dying('S', &pending(signal, true)), "{signal}");
            assert!(!is_dying('T', &pending(signal, false)), "{signal}");
        }
        assert!(is_dying('T', &pending(9, false)));
        assert!(
            !is_dying('S', &pending(15, false)),
            "SIGTERM may be handled"
        );
    }
}
