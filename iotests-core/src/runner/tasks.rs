//! Command words: `iotests explain CASE`, `iotests merge FILE…`, `iotests env CASE`.
//!
//! Options may come before them.

use std::ffi::OsString;

use clap::{Arg, ArgAction, CommandFactory};

use super::cli::Cli;
use super::error::RunError;
use super::{called_as, explore, new, shell};

/// All command words.
pub(super) const FIRST_WORDS: [&str; 7] = [
    TASKS[0].0,
    TASKS[1].0,
    TASKS[2].0,
    new::NEW,
    explore::EXPLORE,
    shell::COMPLETIONS,
    shell::MAN,
];

/// A word, and the flag that it stands for; the selectors follow it.
const TASKS: [(&str, &str); 3] = [
    ("explain", "--explain"),
    (MERGE, "--merge"),
    ("env", "--env"),
];

/// Takes file names, which may be anything.
const MERGE: &str = "merge";

/// The words that take no options.
const WITHOUT_OPTIONS: [&str; 3] = [new::NEW, shell::COMPLETIONS, shell::MAN];

/// Moves the command word to the front if it follows options. A command word among the selectors is
/// refused: as part of a name it would select cases the user did not mean.
pub(super) fn command_first(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, RunError> {
    let mut places = words(&arguments).into_iter();
    let word_at = |place: usize| {
        let word = arguments.get(place).and_then(|word| word.to_str());
        FIRST_WORDS.into_iter().find(|known| word == Some(*known))
    };
    let Some(first) = places.next() else {
        return Ok(arguments);
    };
    let command = word_at(first);
    if command != Some(MERGE)
        && !command.is_some_and(|word| WITHOUT_OPTIONS.contains(&word))
        && let Some(word) = places.find_map(word_at)
    {
        return Err(RunError::Usage(as_selector(word)));
    }
    match command {
        Some(word) if first > 1 && WITHOUT_OPTIONS.contains(&word) => Err(RunError::Usage(
            format!("`{word}` takes no options: write {} {word} …", called_as()),
        )),
        Some(_) => {
            let word = arguments.remove(first);
            arguments.insert(1, word);
            Ok(arguments)
        }
        None => Ok(arguments),
    }
}

/// The error about a command word in the place of a selector.
pub(super) fn as_selector(word: &str) -> String {
    format!(
        "`{word}` is a command and must precede all selectors: {} {word} …; to select names with it, write '*{word}*'",
        called_as()
    )
}

/// Replaces the word by its flag.
pub(super) fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if let Some(first) = arguments.get_mut(1)
        && let Some((_, flag)) = TASKS.iter().find(|(word, _)| first == word)
    {
        *first = OsString::from(flag);
    }
    arguments
}

/// The positions of words that are neither an option nor the value of one.
fn words(arguments: &[OsString]) -> Vec<usize> {
    let command = Cli::command();
    let options: Vec<&Arg> = command.get_arguments().collect();
    let takes = |arg: &Arg| {
        let least = arg.get_num_args().map_or(1, |count| count.min_values());
        matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && least > 0
    };
    let mut all = Vec::new();
    let mut is_value = false;
    for (place, word) in arguments.iter().enumerate().skip(1) {
        let word = word.to_string_lossy();
        if std::mem::take(&mut is_value) {
            continue;
        }
        if word == "--" {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let of = options.iter().find(|arg| arg.get_long() == Some(long));
            is_value = of.is_some_and(|arg| takes(arg));
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            // The last of several short options may have its value in the next word.
            let of = |c: char| options.iter().find(|arg| arg.get_short() == Some(c));
            let first = short.char_indices().find_map(|(at, c)| {
                let arg = of(c).filter(|arg| takes(arg))?;
                Some((at + c.len_utf8(), arg))
            });
            is_value = first.is_some_and(|(end, _)| end == short.len());
        } else {
            all.push(place);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn only_the_first_word_is_a_command() {
        let of = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(
            of(&["iotests", "merge", "merge"]),
            ["iotests", "--merge", "merge"]
        );
        assert_eq!(of(&["iotests", "--", "merge"]), ["iotests", "--", "merge"]);
    }

    #[test]
    fn options_may_precede_a_command_and_a_command_is_not_a_selector() {
        for (line, expected) in [
            ("i merge new merge", "i merge new merge"),
            ("i --build-dir X merge a", "i merge --build-dir X a"),
            (
                "i --build-dir=X -qj 4 env a -- merge",
                "i env --build-dir=X -qj 4 a -- merge",
            ),
            (
                "i -j4 -fraw --list explain a",
                "i explain -j4 -fraw --list a",
            ),
            ("i --group new a", "i --group new a"),
            ("i -x env", "i -x env"),
            ("i --provision explore", "i explore --provision"),
            ("i new man", "i new man"),
            ("i a -- env", "i a -- env"),
            ("i", "i"),
        ] {
            let read = command_first(words_of(line)).unwrap();
            assert_eq!(read, words_of(expected), "{line}");
        }
        for (line, wanted) in [
            ("i a merge", "`merge` is a command"),
            ("i explain new", "to select names with it, write '*new*'"),
            ("i --build-dir X new a", "`new` takes no options"),
            ("i -j1 man", "`man` takes no options"),
        ] {
            let why = command_first(words_of(line)).unwrap_err().to_string();
            assert!(why.contains(wanted), "{line}: {why}");
        }
    }
}
