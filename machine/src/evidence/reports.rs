//! Reports of memory errors in a process's output.

use regex::Regex;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The source of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FindingKind {
    /// AddressSanitizer, LeakSanitizer, ThreadSanitizer or MemorySanitizer.
    Sanitizer,
    /// UndefinedBehaviorSanitizer, which continues after a report.
    UndefinedBehavior,
    /// Valgrind's memcheck, helgrind or drd.
    Valgrind,
    /// A failed assertion, or an abort of the C library or GLib.
    Assertion,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The source of a report.
    pub kind: FindingKind,
    /// Its first line.
    pub summary: String,
    /// Its lines, the first one included, up to a limit.
    pub text: String,
}

/// The longest excerpt of one report, in lines.
const EXCERPT: usize = 60;

/// Patterns for the first line of a report; the first match wins.
const FIRST_LINES: [(FindingKind, &str); 4] = [
    (
        FindingKind::Sanitizer,
        r"(?:ERROR|WARNING): (?:Address|Leak|Thread|Memory)Sanitizer|^(?:Address|Leak|Thread|Memory)Sanitizer:DEADLYSIGNAL",
    ),
    (
        FindingKind::UndefinedBehavior,
        r"^\S+:\d+:\d+: runtime error: ",
    ),
    (
        FindingKind::Valgrind,
        r"^==\d+== (?:Invalid (?:read|write|free)|Conditional jump or move depends|Use of uninitialised|Syscall param .* (?:uninitialised|unaddressable)|Mismatched free|Source and destination overlap|Jump to the invalid address|Process terminating with default action of signal (?:4|6|7|8|11) |Possible data race|.* definitely lost in loss record|Argument .* of function .* has a fishy)",
    ),
    (
        FindingKind::Assertion,
        r"Assertion `.*' failed\.|^ERROR:\S+:\d+:.*: (?:assertion failed|code should not be reached)|GLib\S*-(?:ERROR|CRITICAL) \*\*|^(?:double free or corruption|free\(\): |malloc\(\): |corrupted |munmap_chunk\(\)|\*\*\* stack smashing|\*\*\* buffer overflow)",
    ),
];

static PATTERNS: LazyLock<Vec<(FindingKind, Regex)>> = LazyLock::new(|| {
    let compile = |(kind, text): &(FindingKind, &str)| Some((*kind, Regex::new(text).ok()?));
    FIRST_LINES.iter().filter_map(compile).collect()
});

/// Every line that a pattern matches contains one of these. Most logs have no such line, and then
/// no pattern is even compiled, which costs more than all else that is done with a short log.
const WORDS: [&str; 10] = [
    "Sanitizer",
    "runtime error: ",
    "==",
    "ERROR:",
    "Assertion",
    "GLib",
    "corrupt",
    "): ",
    "munmap_chunk",
    "*** ",
];

fn kind_of(line: &str) -> Option<FindingKind> {
    if !WORDS.iter().any(|word| line.contains(word)) {
        return None;
    }
    PATTERNS.iter().find(|(_, regex)| regex.is_match(line)).map(|(kind, _)| *kind)
}

/// Whether the current report continues with this line.
fn continues(kind: FindingKind, line: &str) -> bool {
    match kind {
        FindingKind::Sanitizer => !line.starts_with("==") || line.contains("==ABORTING"),
        FindingKind::UndefinedBehavior => line.starts_with(' '),
        FindingKind::Valgrind => line.starts_with("==") && !line.trim_end().ends_with("=="),
        FindingKind::Assertion => false,
    }
}

/// Finds the reports in a log, in order.
///
/// Anything that is not an error (valgrind's banner, blocks still reachable at exit) is not
/// reported.
#[must_use]
pub fn find_reports(log: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    let mut open = None;
    for line in log.lines() {
        if let Some(kind) = kind_of(line) {
            // A sanitizer may repeat itself ("DEADLYSIGNAL", then "ERROR"): one report.
            if open != Some(kind) || kind != FindingKind::Sanitizer {
                found.push(Finding {
                    kind,
                    summary: line.trim().to_owned(),
                    text: String::new(),
                });
            }
            open = Some(kind);
        } else if open.is_some_and(|kind| !continues(kind, line)) {
            open = None;
        }
        if open.is_some()
            && let Some(finding) = found.last_mut()
            && finding.text.lines().count() < EXCERPT
        {
            finding.text.push_str(line);
            finding.text.push('\n');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds(log: &str) -> Vec<FindingKind> {
        find_reports(log).into_iter().map(|f| f.kind).collect()
    }

    proptest! {
        #[test]
        fn every_first_line_contains_one_of_the_words(line in FIRST_LINES.map(|(_, text)| {
            let text = text.replace('^', "").replace(".*", "[a-z ]{0,9}").replace(r"\S", "[!-~]");
            proptest::string::string_regex(&text).expect("a pattern without anchors").boxed()
        }).into_iter().reduce(|one, other| one.prop_union(other).boxed()).expect("some patterns")) {
            prop_assert!(WORDS.iter().any(|word| line.contains(word)), "{}", line);
        }
    }

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(PATTERNS.len(), FIRST_LINES.len());
    }

    #[test]
    fn an_address_sanitizer_report_is_found_with_its_stack() {
        let log = "qemu: harmless\n===========\n==123==ERROR: AddressSanitizer: heap-use-after-free on address 0x60\nREAD of size 4\n    #0 0x1 in bdrv_close block.c:1\n\nSUMMARY: AddressSanitizer: heap-use-after-free\n==123==ABORTING\n";
        let found = find_reports(log);
        assert_eq!(found.len(), 1);
        assert!(found[0].summary.contains("heap-use-after-free"));
        assert!(found[0].text.contains("bdrv_close"));
        assert!(!found[0].text.contains("harmless"));
    }

    #[test]
    fn a_leak_report_is_found() {
        let log = "==9==ERROR: LeakSanitizer: detected memory leaks\n\nDirect leak of 8 byte(s)\n";
        assert_eq!(kinds(log), [FindingKind::Sanitizer]);
    }

    #[test]
    fn each_undefined_behaviour_is_a_report_of_its_own() {
        let log = "../block/x.c:10:5: runtime error: signed integer overflow\n    #0 0x1 in f\n../block/y.c:1:2: runtime error: null pointer\nfine\n";
        let found = find_reports(log);
        assert_eq!(found.len(), 2);
        assert!(found[0].text.contains("#0 0x1"));
        assert!(!found[1].text.contains("fine"));
    }

    #[test]
    fn valgrind_errors_count_but_its_banner_does_not() {
        let banner = "==7== Memcheck, a memory error detector\n==7== Command: qemu\n==7== \n==7== HEAP SUMMARY:\n==7==   still reachable: 3,000 bytes in 2 blocks\n==7== ERROR SUMMARY: 0 errors from 0 contexts (suppressed: 0 from 0)\n";
        assert!(find_reports(banner).is_empty());
        let log = format!(
            "{banner}==7== Invalid read of size 8\n==7==    at 0x1: f (x.c:1)\n==7== \n==7== Conditional jump or move depends on uninitialised value(s)\n==7==    at 0x2: g\n"
        );
        let found = find_reports(&log);
        assert_eq!(found.len(), 2);
        assert!(found[0].text.contains("f (x.c:1)"));
        assert!(!found[0].text.contains("Conditional"));
    }

    #[test]
    fn failed_assertions_of_c_and_glib_are_found() {
        let log = "qemu-system-x86_64: ../block.c:5: bdrv_x: Assertion `bs->refcnt' failed.\n**\nERROR:../block.c:9:bdrv_y: assertion failed: (x)\ndouble free or corruption (out)\n";
        assert_eq!(kinds(log), [FindingKind::Assertion; 3]);
    }

    #[test]
    fn ordinary_words_are_no_reports() {
        let log = "qemu-system: warning: Assertion is a word\nread failed: Input/output error\nruntime error of mine\n** (process:1): WARNING **: x\n";
        assert!(find_reports(log).is_empty());
    }

    proptest! {
        #[test]
        fn no_log_makes_it_panic(log in "(?s).{0,200}") {
            let _ = find_reports(&log);
        }
    }
}
