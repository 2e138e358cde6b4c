//! Readable diffs of two texts.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anstyle::AnsiColor;
use similar::{ChangeTag, TextDiff};

/// Whether terminal colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone: for files, and for output that is not a terminal.
    Plain,
    /// Red and green, with the words that changed inside a line in bold.
    Coloured,
}

/// How many unchanged lines are shown around a change.
const CONTEXT: usize = 3;

/// How long to search for the smallest diff. Texts of tens of thousands of lines without anything
/// in common would take minutes; after this time the rest counts as entirely changed.
const EFFORT: Duration = Duration::from_secs(1);

/// The lines in which the texts differ, with some context; empty if they are equal.
///
/// `-` marks expected lines, `+` actual ones. White space at the end of a changed line is made
/// visible, because it could be the only difference.
#[must_use]
pub fn diff(expected: &str, found: &str, style: Style) -> String {
    let plain = anstyle::Style::new();
    let [red, green, bold, dim] = match style {
        Style::Plain => [plain; 4],
        Style::Coloured => [
            AnsiColor::Red.on_default(),
            AnsiColor::Green.on_default(),
            plain.bold().underline(),
            plain.dimmed(),
        ],
    };
    let mut out = String::new();
    if expected == found {
        return out;
    }
    let until = Instant::now() + EFFORT;
    let diff = TextDiff::configure().deadline(until).diff_lines(expected, found);
    for group in diff.grouped_ops(CONTEXT) {
        if let (Some(first), Some(last)) = (group.first(), group.last()) {
            let old = first.old_range().start + 1..last.old_range().end;
            let _ = writeln!(
                out,
                "{dim}@@ expected lines {}-{}{dim:#}",
                old.start, old.end
            );
        }
        for op in &group {
            for change in diff.iter_inline_changes_deadline(op, Some(until)) {
                let (sign, colour) = match change.tag() {
                    ChangeTag::Delete => ('-', red),
                    ChangeTag::Insert => ('+', green),
                    ChangeTag::Equal => (' ', plain),
                };
                let _ = write!(out, "{colour}{sign}");
                let mut line = String::new();
                for (emphasised, part) in change.iter_strings_lossy() {
                    let part = part.trim_end_matches(['\n', '\r']);
                    if emphasised && !part.is_empty() && style == Style::Coloured {
                        let _ = write!(line, "{bold}{part}{bold:#}{colour}");
                    } else {
                        line.push_str(part);
                    }
                }
                if change.tag() != ChangeTag::Equal {
                    let blank = line.len() - line.trim_end_matches([' ', '\t']).len();
                    let shown = "·".repeat(blank);
                    line.truncate(line.len() - blank);
                    line.push_str(&shown);
                }
                out.push_str(&line);
                let _ = write!(out, "{colour:#}");
                out.push('\n');
                if change.missing_newline() {
                    out.push_str("\\ no line feed at the end\n");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_shown_with_a_little_context() {
        let expected = "1\n2\n3\n4\n5\n6\n7\n8\n";
        let found = expected.replace("5", "five");
        assert_eq!(
            diff(expected, &found, Style::Plain),
            "@@ expected lines 2-8\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
        assert_eq!(diff(expected, expected, Style::Plain), "");
    }

    #[test]
    fn white_space_at_the_end_of_a_line_is_seen() {
        assert!(diff("a\n", "a  \n", Style::Plain).contains("+a··\n"));
    }

    #[test]
    fn a_missing_last_line_feed_is_told() {
        assert!(diff("a\n", "a", Style::Plain).contains("no line feed"));
    }

    /// Without the limit these take minutes.
    #[test]
    fn long_texts_with_nothing_in_common_have_a_difference_soon() {
        let text = |salt: u32| -> String {
            (0..40_000_u32).map(|n| format!("{} {salt}\n", n.wrapping_mul(2_654_435_761))).collect()
        };
        let shown = diff(&text(1), &text(2), Style::Plain);
        let lines = |sign: char| shown.lines().filter(|line| line.starts_with(sign)).count();
        assert_eq!((lines('-'), lines('+')), (40_000, 40_000));
    }

    #[test]
    fn colours_are_used_only_when_asked_for() {
        assert!(!diff("a b\n", "a c\n", Style::Plain).contains('\x1b'));
        let coloured = diff("one two\n", "one three\n", Style::Coloured);
        assert!(
            coloured.contains("\x1b[31m-") && coloured.contains("\x1b[32m+"),
            "{coloured:?}"
        );
    }
}
