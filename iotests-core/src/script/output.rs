//! Compares a script's output with its reference.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::ScriptSpec;
use crate::author::Difference;
use crate::author::golden::{Style, diff};
use crate::case::Cache;
use crate::wire::CaseSpec;

/// The reference for this point of the matrix: the most specific one that exists, or else the plain
/// one, even if it does not exist.
pub(super) fn reference(spec: &CaseSpec, own: &ScriptSpec) -> PathBuf {
    let path = |ending: &str| {
        let mut path = own.script.path.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    };
    let mut variants = Vec::new();
    if spec.cache == Cache::None {
        variants.push(path(".out.nocache"));
    }
    variants.push(path(&format!(".out.{}", spec.format)));
    variants.push(path(&format!(".{}.out", own.default_machine)));
    let found = variants.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| path(".out"))
}

/// How much of a text a report shows.
const SHOWN: usize = 4 << 20;

/// How many lines before the first difference are shown if a text is too long.
const BEFORE: usize = 3;

/// The lines in which both differ; `None` if they are equal apart from white space at the ends of
/// lines.
pub(super) fn difference(expected: &[u8], found: &[u8]) -> Option<Difference> {
    if lines(expected).eq(lines(found)) {
        return None;
    }
    let from = before_difference(expected, found);
    let shown = |bytes| shown(cut(bytes, from));
    let (expected, found) = (shown(expected), shown(found));
    let text = diff(&expected, &found, Style::Plain);
    let diff = match text.is_empty() {
        // For example an escape character, and the same one written out.
        true => "they differ in bytes that look the same when they are written out\n".to_owned(),
        false => text,
    };
    Some(Difference {
        expected,
        found,
        diff: Some(diff),
    })
}

/// Where to begin if not everything can be shown: a little before the first line that differs.
fn before_difference(expected: &[u8], found: &[u8]) -> usize {
    if expected.len().max(found.len()) <= SHOWN {
        return 0;
    }
    let pairs = lines(expected).zip(lines(found));
    let same = pairs.take_while(|(one, other)| one == other).count();
    same.saturating_sub(BEFORE)
}

/// The part of a text that a report shows, from this line on.
pub(super) fn cut(bytes: &[u8], from: usize) -> &[u8] {
    let mut rest = bytes.splitn(from + 1, |byte| *byte == b'\n');
    let rest = rest.nth(from).unwrap_or_default();
    rest.get(..SHOWN).unwrap_or(rest)
}

/// Lines without trailing white space, which is ignored.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_empty = bytes.is_empty();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    lines.take(if is_empty { 0 } else { usize::MAX })
}

/// Text that is safe to show: control characters and invalid UTF-8 are written out.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for line in lines(bytes) {
        for chunk in line.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\t' => text.push(c),
                    c if c.is_control() => text.extend(c.escape_default()),
                    c => text.push(c),
                }
            }
            for byte in chunk.invalid() {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_at_the_ends_of_lines_does_not_count_and_all_other_does() {
        let same = |a: &[u8], b: &[u8]| difference(a, b).is_none();
        assert!(same(b"a\nb\n", b"a  \nb\t\r\n"));
        assert!(same(b"a\n", b"a") && same(b"", b""));
        let found = difference(b"a\n", b" a\n").unwrap().diff.unwrap();
        assert!(found.contains("+ a"));
        for (a, b) in [("a\n", "a\n\n"), ("", "\n"), ("", "x\n"), ("a\nb\n", "a\n")] {
            assert!(!same(a.as_bytes(), b.as_bytes()) && !same(b.as_bytes(), a.as_bytes()));
        }
    }

    /// The same search as `check`'s.
    #[test]
    fn of_several_references_that_of_the_cache_mode_comes_first_then_of_the_format_then_of_the_machine()
     {
        let folder = tempfile::tempdir().unwrap();
        let own = ScriptSpec::of(&folder.path().join("001"));
        let name = |cache| {
            let spec = CaseSpec {
                cache,
                ..crate::author::mocked::spec()
            };
            let path = reference(&spec, &own);
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(Cache::None), "001.out");
        for file in [
            "001.out",
            "001.q35.out",
            "001.pc.out",
            "001.out.raw",
            "001.out.qcow2",
        ] {
            std::fs::write(folder.path().join(file), "").unwrap();
            let expected = match file {
                "001.q35.out" => "001.out",
                "001.out.qcow2" => "001.out.raw",
                file => file,
            };
            assert_eq!(name(Cache::Writeback), expected);
        }
        std::fs::write(folder.path().join("001.out.nocache"), "").unwrap();
        assert_eq!(name(Cache::None), "001.out.nocache");
        assert_eq!(name(Cache::Writeback), "001.out.raw");
    }

    #[test]
    fn escapes_and_bytes_that_are_no_text_are_written_out() {
        let text = shown(b"a\x1b[31mred\x07 \xff\xfe \xc3\xa9\n");
        assert_eq!(text, "a\\u{1b}[31mred\\u{7} \\xff\\xfe \u{e9}\n");
        let escapes = difference(b"\x1b[2J", b"\x1b[3J\xff").unwrap();
        let escapes = escapes.diff.unwrap();
        assert!(!escapes.contains('\x1b') && escapes.contains("[3J\\xff"));
        // Bytes that are written out alike still differ.
        assert!(difference(b"\\u{1b}", b"\x1b").is_some());
    }

    #[test]
    fn of_what_is_too_long_the_first_difference_is_shown() {
        let same = "same line\n".repeat(SHOWN / 8);
        let text = |end: &str| format!("{same}{end}\n").into_bytes();
        assert!(difference(&text("a"), &text("a ")).is_none());
        let found = difference(&text("a"), &text("b")).unwrap();
        assert_eq!(found.found, "same line\nsame line\nsame line\nb\n");
        assert!(found.diff.unwrap().ends_with("-a\n+b\n"));
        let found = difference(b"a\n", &text("b")).unwrap();
        assert!(found.found.len() <= SHOWN + 1 && found.expected == "a\n");
    }
}
