//! Numbers and words as people write them.

use std::time::Duration;

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

/// `12 bytes`, `3 KiB`, `1.5 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match number {
        0..KIB => format!("{number} bytes"),
        KIB..MIB => format!("{} KiB", number.div_ceil(KIB)),
        _ => format!("{:.1} MiB", number as f64 / MIB as f64),
    }
}

/// Every line of `text` with `indent` before it.
pub(crate) fn indented(text: &str, indent: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("{indent}{line}\n"))
        .collect()
}

/// What is shown of one line of output.
const LINE: usize = 300;

/// The last `lines` lines, none of them endless.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<String> = text.trim_end().lines().map(cut).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The first `lines` lines, and how many there are more.
pub(crate) fn head(text: &str, lines: usize) -> String {
    let text = text.trim_end();
    let more = text.lines().count().saturating_sub(lines);
    let mut head: Vec<String> = text.lines().take(lines).map(str::to_owned).collect();
    if more > 0 {
        head.push(format!("… {}", count(more, "more line")));
    }
    head.join("\n")
}

/// Lines of which the rest is only counted when they are endless.
pub(crate) fn cut(text: &str) -> String {
    cut_to(text, LINE)
}

/// Lines of which what follows the first `longest` characters is only counted.
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
    fn a_tail_is_the_last_lines() {
        let sizes = [7, 1025, 3 << 19].map(bytes);
        assert_eq!(sizes, ["7 bytes", "2 KiB", "1.5 MiB"]);
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
