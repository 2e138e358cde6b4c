//! `iotests explore`: runs the cases that depend on the seed, again and again for some time.

use std::ffi::OsString;

use crate::case::names;

/// The command word, and the group of these cases.
pub(super) const EXPLORE: &str = names::EXPLORE.0;

/// How long it runs by default.
const TIME: &str = "10m";

/// The equivalent arguments of a plain run.
pub(super) fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    arguments.remove(1);
    let has_time = arguments.iter().any(|word| {
        let word = word.to_string_lossy();
        word == "--for" || word.starts_with("--for=")
    });
    arguments.extend(["--group", EXPLORE].map(OsString::from));
    if !has_time {
        arguments.extend(["--for", TIME].map(OsString::from));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_run_of_a_group_for_some_time() {
        let of = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(
            of(&["iotests", "explore", "--seed", "7"]),
            [
                "iotests", "--seed", "7", "--group", "explore", "--for", "10m"
            ]
        );
        for time in [&["--for", "1h"][..], &["--for=1h"]] {
            let words = [&["iotests", "explore"][..], time].concat();
            let expected = [&["iotests"][..], time, &["--group", "explore"]].concat();
            assert_eq!(of(&words), expected);
        }
    }
}
