//! Groups failures that probably have the same cause: those with the same headline but for numbers
//! and file names.

use std::collections::BTreeMap;

use crate::runner::event::Outcome;

/// Failures with a common headline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cause<T> {
    /// The headline of the first.
    pub(crate) headline: String,
    /// The failures, in their order.
    pub(crate) failed: Vec<T>,
}

/// Groups failures by headline, largest group first; groups of the same size stay in order.
pub(crate) fn causes<'o, T>(failed: impl Iterator<Item = (T, &'o Outcome)>) -> Vec<Cause<T>> {
    let mut causes: Vec<Cause<T>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (which, outcome) in failed {
        let headline = headline(outcome);
        let key = format!("{} {}", outcome.verdict, essence(headline));
        let index = *known.entry(key).or_insert(causes.len());
        if index == causes.len() {
            causes.push(Cause {
                headline: headline.to_owned(),
                failed: Vec::new(),
            });
        }
        causes[index].failed.push(which);
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.failed.len()));
    causes
}

/// A failure in one line.
pub(crate) fn headline(outcome: &Outcome) -> &str {
    match outcome.last() {
        Some(last) if !last.headline.is_empty() => &last.headline,
        _ => outcome.note.as_deref().unwrap_or_default(),
    }
}

/// A headline with placeholders for what differs between instances: numbers, and paths, recognized
/// by a slash.
fn essence(headline: &str) -> String {
    let words = headline.split_whitespace().map(|word| {
        if word.contains('/') {
            return "PATH".to_owned();
        }
        let mut text = String::new();
        let mut chars = word.chars().peekable();
        while let Some(c) = chars.next() {
            if !c.is_ascii_digit() {
                text.push(c);
                continue;
            }
            // Both 0x1f and 12.
            while chars.next_if(|c| c.is_ascii_hexdigit() || *c == 'x').is_some() {}
            text.push('N');
        }
        text
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::event::InstanceInfo;
    use crate::runner::verdict::{Attempt, Verdict};

    fn failed(verdict: Verdict, headline: &str) -> Outcome {
        let attempt = Attempt {
            headline: headline.to_owned(),
            ..Attempt::default()
        };
        Outcome::new(InstanceInfo::default(), verdict, attempt)
    }

    #[test]
    fn failures_that_differ_in_numbers_and_paths_have_one_cause() {
        use Verdict::*;
        let outcomes = [
            failed(Timeout, "vm does not answer"),
            failed(Fail, "/tmp/a/disk does not hold 0x11 in 0..65536"),
            failed(Fail, "TEST_DIR/other does not hold 0xfe in 512..1024"),
            failed(Fail, "the disk does not hold 0x11 in 0..65536"),
            failed(Crash, "vm does not answer"),
        ];
        let causes = causes(outcomes.iter().enumerate());
        let groups: Vec<&[usize]> = causes.iter().map(|cause| &cause.failed[..]).collect();
        assert_eq!(groups, [&[1, 2][..], &[0], &[3], &[4]]);
        assert_eq!(
            causes[0].headline,
            "/tmp/a/disk does not hold 0x11 in 0..65536"
        );
    }
}
