//! Formats numbers and texts for people.

use std::time::Duration;

use crate::runner::event::Outcome;

/// `12 ms`, `3.4 s`, `2 min 05 s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// `1 case`, `2 cases`.
pub(crate) fn count(number: usize, singular: &str) -> String {
    if number == 1 {
        format!("1 {singular}")
    } else {
        format!("{number} {singular}s")
    }
}

/// The note on an instance that took much longer than before.
pub(crate) fn slow(outcome: &Outcome) -> Option<String> {
    let usual = outcome.slower_than?;
    Some(format!("slow: at most {} before", duration(usual)))
}

/// `12 bytes`, `3 KiB`, `1.5 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match number {
        0..KIB => format!("{number} bytes"),
        KIB..MIB => format!("{} KiB", number.div_ceil(KIB)),
        MIB..GIB => format!("{:.1} MiB", number as f64 / MIB as f64),
        _ => format!("{:.1} GiB", number as f64 / GIB as f64),
    }
}

/// Puts `indent` before every line of `text`.
pub(crate) fn indented(text: &str, indent: &str) -> String {
    text.trim_end().lines().map(|line| format!("{indent}{line}\n")).collect()
}

/// Most characters shown of a line of output.
const LINE: usize = 300;

/// The last `lines` lines, each truncated.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<String> = text.trim_end().lines().map(cut).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The first `lines` lines, and the number of further ones.
pub(crate) fn head(text: &str, lines: usize) -> String {
    let text = text.trim_end();
    let more = text.lines().count().saturating_sub(lines);
    let mut head: Vec<String> = text.lines().take(lines).map(str::to_owned).collect();
    if more > 0 {
        head.push(format!("… {}", count(more, "more line")));
    }
    head.join("\n")
}

/// Truncates very long lines, noting their length.
pub(crate) fn cut(text: &str) -> String {
    cut_to(text, LINE)
}

/// Truncates lines longer than `longest` characters, noting their length.
pub(crate) fn cut_to(text: &str, longest: usize) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.char_indices().nth(longest) {
            Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
            None => line.to_owned(),
        })
        .collect();
    lines.join("\n")
}

/// Cuts the middle out of a long text: keeps at most `most` bytes, half from the start and half
/// from the end, with the number of missing bytes in between.
pub(crate) fn middle_cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(most / 2);
    let tail = text.ceil_char_boundary(text.len() - most / 2);
    let gap = if head == 0 { "" } else { "\n" };
    let missing = tail - head;
    format!(
        "{}{gap}[{missing} bytes left out]\n{}",
        &text[..head],
        &text[tail..]
    )
}

/// Makes output safe to show: characters that control a terminal or change the writing direction
/// are replaced by visible ones.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\0'..='\u{1f}' => shown.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => shown.push('\u{2421}'),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                shown += &format!("<U+{:04X}>", u32::from(c));
            }
            _ => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        assert_eq!(duration(Duration::from_millis(12)), "12 ms");
        assert_eq!(duration(Duration::from_millis(3440)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn a_text_cut_in_the_middle_says_so_and_keeps_both_ends() {
        assert_eq!(middle_cut("abc", 3), "abc");
        assert_eq!(middle_cut("aaxxxbb", 4), "aa\n[3 bytes left out]\nbb");
        assert_eq!(middle_cut("ééé", 2), "[6 bytes left out]\n");
        assert_eq!(middle_cut("abc", 0), "[3 bytes left out]\n");
    }

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(
            visible("a\u{1b}[31m\r\n\tb\u{7f}\u{202e}"),
            "a␛[31m␍\n\tb␡<U+202E>"
        );
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let sizes = [7, 1025, 3 << 19, 5 << 29].map(bytes);
        assert_eq!(sizes, ["7 bytes", "2 KiB", "1.5 MiB", "2.5 GiB"]);
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\n", 2), "a");
        assert_eq!(head("a\nb\nc\nd\n", 2), "a\nb\n… 2 more lines");
        assert_eq!(head("a\nb\n", 2), "a\nb");
        assert_eq!(
            tail(&"x".repeat(1000), 2),
            format!("{}… (1000 bytes)", "x".repeat(LINE))
        );
        assert_eq!(count(1, "case") + &count(2, "case"), "1 case2 cases");
        assert_eq!(indented("a\nb", "  "), "  a\n  b\n");
    }
}
