//! Translates options of upstream's `check` and of nextest into ours, or says what to use instead.

use std::env;
use std::ffi::OsString;

use super::error::RunError;
use crate::case::{Format, Protocol};

/// What a word of `check` means here.
enum Meaning {
    /// The same as this word.
    Is(String),
    /// Nothing; this is what to do instead.
    Instead(&'static str),
}

/// Protocols of `check` that need a separate server.
const ELSEWHERE: [&str; 5] = ["-gluster", "-nfs", "-rbd", "-sheepdog", "-vxhs"];

const UNSUPPORTED: &str = "no case runs on this protocol; -p takes file, nbd, fuse, ssh";

fn meaning(word: &str) -> Option<Meaning> {
    let name = word.strip_prefix('-').unwrap_or_default();
    if Format::ALL.iter().any(|format| format.name() == name) {
        return Some(Meaning::Is(format!("--format={name}")));
    }
    if Protocol::ALL.iter().any(|protocol| protocol.name() == name) {
        return Some(Meaning::Is(format!("--protocol={name}")));
    }
    if ELSEWHERE.contains(&word) {
        return Some(Meaning::Instead(UNSUPPORTED));
    }
    Some(match word {
        "-nocache" => Meaning::Is("--cache=none".to_owned()),
        "-n" | "--dry-run" => Meaning::Is("--list".to_owned()),
        "-d" => Meaning::Is("--debug".to_owned()),
        "-i" => Meaning::Is("--aio".to_owned()),
        "-gdb" | "-valgrind" | "-misalign" => Meaning::Is(format!("-{word}")),
        "-T" => Meaning::Instead(
            "each line has the time of its instance; the record (--jsonl FILE) has it for every event",
        ),
        "-v" => {
            Meaning::Instead("--print shows what cases log and print, --debug everything they do")
        }
        "-xdiff" => {
            Meaning::Instead("differences are shown unchanged; --html FILE has them in colour")
        }
        "-tap" => Meaning::Instead("write --tap FILE"),
        "-s" | "-r" => Meaning::Instead("--failed runs what failed, --unfinished what was not run"),
        "--stress-count" => {
            Meaning::Instead("write --repeat N; with --max-fail 1, until the first failure")
        }
        "--stress-duration" => {
            Meaning::Instead("write --for TIME; with --max-fail 1, until the first failure")
        }
        "--source-iotests" => Meaning::Instead("write --upstream DIR"),
        _ => return None,
    })
}

/// The command line with our options.
pub(super) fn translate(arguments: Vec<OsString>) -> Result<Vec<OsString>, RunError> {
    let mut translated = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter().peekable();
    while let Some(word) = rest.next() {
        if word == "--" {
            translated.push(word);
            translated.extend(rest);
            break;
        }
        let next = rest.peek().and_then(|next| next.to_str());
        match word.to_str().and_then(meaning) {
            Some(Meaning::Is(ours)) => translated.push(ours.into()),
            Some(Meaning::Instead(what)) => {
                let word = word.to_string_lossy();
                return Err(RunError::Usage(format!(
                    "`{word}` is an option of another runner: {what}"
                )));
            }
            None if word == "-p" && !next.is_some_and(may_be_protocols) => {
                return Err(RunError::Usage(
                    "`-p` needs a protocol here, such as `-p nbd`; to see what cases print, write --print"
                        .to_owned(),
                ));
            }
            None if word == "-p"
                && let Some(name) = next.and_then(elsewhere) =>
            {
                return Err(RunError::Usage(format!("protocol `{name}`: {UNSUPPORTED}")));
            }
            None => translated.push(word),
        }
    }
    Ok(translated)
}

/// Whether this may be a list of protocols, rather than an option or an upstream test. Unknown
/// names are reported later, with the known ones.
fn may_be_protocols(words: &str) -> bool {
    let is_name = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    words.split(',').all(is_name) && !words.contains("::")
}

/// The first of these protocols that only `check` has.
fn elsewhere(words: &str) -> Option<&str> {
    let is_one = |word: &&str| ELSEWHERE.iter().any(|known| known.strip_prefix('-') == Some(*word));
    words.split(',').find(is_one)
}

/// Variables of `check`, and what to use instead.
const VARIABLES: [(&str, &str); 10] = [
    ("IMGFMT", "write -f FORMAT"),
    ("IMGPROTO", "write -p PROTOCOL"),
    ("IMGOPTS", "write -o OPTIONS"),
    ("CACHEMODE", "write -c MODE"),
    ("AIOMODE", "write --aio MODE"),
    ("TEST_DIR", "write --scratch DIR"),
    (
        "SOCK_DIR",
        "each instance has a short folder of its own for sockets",
    ),
    ("VALGRIND_QEMU", "write --valgrind"),
    ("GDB_OPTIONS", "write --gdb"),
    ("QEMU_IOTESTS_REGEN", "write --bless, and then --review"),
];

/// Warnings about variables that are set but have no effect.
pub(super) fn ignored() -> Vec<String> {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let set = VARIABLES.iter().filter(|(name, _)| is_set(name));
    set.map(|(name, instead)| format!("{name} is set and has no effect here: {instead}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(line: &str) -> Result<String, String> {
        let words = line.split_whitespace().map(OsString::from).collect();
        let translated = translate(words).map_err(|error| error.to_string())?;
        let words: Vec<String> =
            translated.into_iter().map(|word| word.into_string().unwrap()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn options_of_check_are_translated_or_refused_with_advice() {
        for (line, expected) in [
            ("x -qcow2 -nbd 040", "x --format=qcow2 --protocol=nbd 040"),
            (
                "x -raw -luks -fuse",
                "x --format=raw --format=luks --protocol=fuse",
            ),
            (
                "x -nocache -n -d -i native",
                "x --cache=none --list --debug --aio native",
            ),
            (
                "x -gdb -valgrind -misalign",
                "x --gdb --valgrind --misalign",
            ),
            (
                "x -p nbd,fuse -f qcow2 -- -n",
                "x -p nbd,fuse -f qcow2 -- -n",
            ),
            ("x -p nbs", "x -p nbs"),
            ("x -g rw -x quick -j 4", "x -g rw -x quick -j 4"),
        ] {
            assert_eq!(ours(line).as_deref(), Ok(expected));
        }
        for (line, wanted) in [
            ("x -T", "`-T` is an option of another runner"),
            ("x -rbd", "no case runs on this protocol"),
            ("x -tap", "--tap FILE"),
            ("x -p 040", "write --print"),
            ("x -p", "write --print"),
            ("x -p -raw", "write --print"),
            ("x -p nfs", "protocol `nfs`: no case runs on this protocol"),
            ("x -v", "--debug"),
            ("x --stress-duration 1h", "write --for TIME"),
        ] {
            let error = ours(line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
