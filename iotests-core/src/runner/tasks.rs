//! First words that say what to do instead of running: `iotests explain CASE`, `iotests merge FILE…`, `iotests env CASE`.

use std::ffi::OsString;

use super::{explore, new, shell};

/// All that are more than a selector where they come first.
pub(super) const FIRST_WORDS: [&str; 7] = [
    TASKS[0].0,
    TASKS[1].0,
    TASKS[2].0,
    new::NEW,
    explore::EXPLORE,
    shell::COMPLETIONS,
    shell::MAN,
];

/// A word, and the flag that it stands for; what follows it are the selectors.
const TASKS: [(&str, &str); 3] = [
    ("explain", "--explain"),
    ("merge", "--merge"),
    ("env", "--env"),
];

/// The arguments with the flag in place of the word.
pub(super) fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if let Some(first) = arguments.get_mut(1)
        && let Some((_, flag)) = TASKS.iter().find(|(word, _)| first == word)
    {
        *first = OsString::from(flag);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_word_is_one() {
        let of = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(
            of(&["iotests", "merge", "merge"]),
            ["iotests", "--merge", "merge"]
        );
        assert_eq!(of(&["iotests", "--", "merge"]), ["iotests", "--", "merge"]);
    }
}
