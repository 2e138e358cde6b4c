//! Shell completions, which know the names of the cases, and the manual page.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::{env, fs};

use clap::builder::PossibleValuesParser;
use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Exit;
use super::cli::Cli;
use super::places::Places;
use super::plan;
use super::sets::HOST;
use super::tasks::FIRST_WORDS;
use crate::case::{Aio, Cache, Format, Protocol, Registered, Registry};

/// The command words.
pub(super) const COMPLETIONS: &str = "completions";
pub(super) const MAN: &str = "man";

/// The name under which a shell knows the program.
const NAME: &str = "iotests";

/// The function that bash calls. Names of cases contain colons, at which bash splits words by
/// default, and changing that would affect the whole shell. So this function completes the whole
/// word, then strips from the answers what precedes bash's part of it.
const WITH_COLONS: &str = r#"
_iotests_with_colons() {
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} before
    local -a COMP_WORDS
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *[[:space:]] ]] && COMP_WORDS+=("")
    local COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    local word=${COMP_WORDS[COMP_CWORD]}
    _iotests "$1" "$word" "${COMP_WORDS[COMP_CWORD - 1]}"
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        before=${word%"${word##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}
"#;

/// Entry point of `completions SHELL`.
pub(super) fn completions(shell: Option<&str>) -> Exit {
    let shells = [Shell::Bash, Shell::Zsh, Shell::Fish];
    let known = shell.and_then(|name| Shell::from_str(name, false).ok());
    let Some(shell) = known.filter(|shell| shells.contains(shell)) else {
        eprintln!("usage: {} {COMPLETIONS} bash|zsh|fish", super::called_as());
        return Exit::Usage;
    };
    let entries = Registry::get().map_or(&[][..], |registry| registry.entries());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(entries), NAME, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => {
            script = script.replace("complete -F _iotests ", "complete -F _iotests_with_colons ");
            script.insert_str(0, WITH_COLONS.trim_start());
        }
        // What is generated for fish completes only options.
        Shell::Fish => {
            let words = selectors(entries).join(" ");
            script += &format!("complete -c {NAME} -f -a '{words}'\n");
        }
        _ => {}
    }
    print(script.as_bytes())
}

/// What can be completed: the visible options, and their values if known.
fn command(entries: &[Registered]) -> Command {
    let all = Cli::command();
    let shown = all.get_arguments().filter(|one| !one.is_hide_set()).cloned();
    let args = shown.map(|one| match values(one.get_id().as_str(), entries) {
        Some(values) => one.value_parser(PossibleValuesParser::new(values)),
        None => one,
    });
    let version = env!("CARGO_PKG_VERSION");
    Command::new(NAME).bin_name(NAME).version(version).args(args)
}

fn selectors(entries: &[Registered]) -> Vec<String> {
    let names: BTreeSet<String> = entries.iter().map(|one| one.case.name()).collect();
    let words = FIRST_WORDS.map(str::to_owned);
    words.into_iter().chain(names).collect()
}

/// The values of an argument, if only this program knows them.
fn values(argument: &str, entries: &[Registered]) -> Option<Vec<String>> {
    Some(match argument {
        "selectors" => selectors(entries),
        "formats" => axis(Format::ALL),
        "protocols" => axis(Protocol::ALL),
        "caches" => axis(Cache::ALL),
        "aios" => axis(Aio::ALL),
        "groups" | "exclude_groups" => plan::groups(entries),
        "set" => {
            let build_dir = env::var_os("IOTESTS_BUILD_DIR").map(PathBuf::from);
            let prefixes = Places::new(build_dir.as_deref()).prefixes();
            let found = fs::read_dir(prefixes).into_iter().flatten().flatten();
            let mut found: Vec<String> = found
                .filter(|one| one.path().is_dir())
                .filter_map(|one| one.file_name().into_string().ok())
                .collect();
            found.sort();
            let fixed = ["auto", "all", HOST].map(str::to_owned);
            fixed.into_iter().chain(found).collect()
        }
        _ => return None,
    })
}

fn axis<T: ToString>(values: &[T]) -> Vec<String> {
    let values = values.iter().map(ToString::to_string);
    values.chain(["all".to_owned()]).collect()
}

/// Entry point of `man`.
pub(super) fn man() -> Exit {
    let mut page = Vec::new();
    // Writes to memory, which does not fail.
    match Man::new(Cli::command().bin_name(NAME)).render(&mut page) {
        Ok(()) => print(&page),
        Err(_) => Exit::Environment,
    }
}

fn print(text: &[u8]) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!(
                "{}: failed to write to standard output: {error}",
                super::called_as()
            );
            Exit::Environment
        }
        _ => Exit::Passed,
    }
}
