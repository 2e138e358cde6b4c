//! Whether a process is about to exit by itself, which must be known before killing it: otherwise
//! the kill would be mistaken for the cause.

use std::fs;

/// proc_pid_stat(5), field 9: it is exiting, dumping core, or was killed by a signal (`PF_*` in the kernel's `sched.h`).
const LEAVING: u64 = 0x4 | 0x200 | 0x400;

const KILL: u64 = 1 << 8;
/// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: the signals of a crash.
const CRASH: u64 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30;

/// Whether this process has exited, or is certain to. One that cannot be inspected counts as gone.
pub(super) fn is_dying(pid: u32) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else {
        return true;
    };
    is_dying_by(&stat, &status)
}

fn is_dying_by(stat: &str, status: &str) -> bool {
    // The name in parentheses may contain anything.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let Some(state) = fields.first() else {
        return true;
    };
    let flags: u64 = fields.get(6).and_then(|field| field.parse().ok()).unwrap_or(0);
    if matches!(*state, "Z" | "X") || flags & LEAVING != 0 {
        return true;
    }
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    // A stopped process handles no other signal until it is continued.
    let crashes = pending & CRASH & !(mask("SigBlk:") | mask("SigIgn:") | mask("SigCgt:"));
    pending & KILL != 0 || (crashes != 0 && !matches!(*state, "T" | "t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &str =
        "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n";

    fn stat(state: char, flags: u64) -> String {
        format!("42 (a) b (c) {state} 7 42 42 0 -1 {flags} 1 2 3")
    }

    #[test]
    fn what_ends_is_told_from_what_lives() {
        assert!(!is_dying(std::process::id()));
        assert!(is_dying(u32::MAX));
        assert!(!is_dying_by(&stat('S', 0x40_0000), FINE));
        for (state, flags) in [('Z', 0), ('X', 0), ('R', 0x4), ('D', 0x200), ('R', 0x400)] {
            assert!(is_dying_by(&stat(state, flags), FINE), "{state} {flags:x}");
        }
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
        for signal in [4, 5, 6, 7, 8, 11, 31] {
            assert!(
                is_dying_by(&stat('S', 0), &pending(signal, false)),
                "{signal}"
            );
            assert!(
                !is_dying_by(&stat('S', 0), &pending(signal, true)),
                "{signal}"
            );
            assert!(
                !is_dying_by(&stat('T', 0), &pending(signal, false)),
                "{signal}"
            );
        }
        assert!(is_dying_by(&stat('T', 0), &pending(9, false)));
        assert!(
            !is_dying_by(&stat('S', 0), &pending(15, false)),
            "SIGTERM may be handled"
        );
    }
}
