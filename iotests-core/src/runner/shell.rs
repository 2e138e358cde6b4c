//! What a shell and `man` want to know of the program: completions with the names of the cases, and the manual page.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Exit;
use super::cli::Cli;
use super::tasks::FIRST_WORDS;
use crate::case::Registry;

/// The first arguments that ask for them; no case can be called so.
pub(super) const COMPLETIONS: &str = "completions";
pub(super) const MAN: &str = "man";

/// The name under which a shell knows the program.
const NAME: &str = "iotests";

/// What stands in front of the script of bash: there a colon ends a word by default, and the names of cases have them.
const COLONS: &str = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n";

/// Entry of `completions SHELL`.
pub(super) fn completions(shell: Option<&str>) -> Exit {
    let shells = [Shell::Bash, Shell::Zsh, Shell::Fish];
    let known = shell.and_then(|name| Shell::from_str(name, false).ok());
    let Some(shell) = known.filter(|shell| shells.contains(shell)) else {
        eprintln!("usage: {} {COMPLETIONS} bash|zsh|fish", super::called_as());
        return Exit::Usage;
    };
    let names: BTreeSet<String> = Registry::get().map_or_else(
        |_| BTreeSet::new(),
        |registry| {
            registry
                .entries()
                .iter()
                .map(|one| one.case.name())
                .collect()
        },
    );
    let words = FIRST_WORDS.map(str::to_owned);
    let values: Vec<String> = words.into_iter().chain(names).collect();
    // An argument that is changed becomes the last one, so the one behind it has to follow.
    let mut command = Cli::command()
        .bin_name(NAME)
        .mut_arg("selectors", |one| {
            one.value_parser(PossibleValuesParser::new(values.clone()))
        })
        .mut_arg("command", |one| one);
    let mut script = Vec::new();
    if shell == Shell::Bash {
        script.extend_from_slice(COLONS.as_bytes());
    }
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    if shell == Shell::Fish {
        // What is made for it completes options only.
        script.extend_from_slice(
            format!("complete -c {NAME} -f -a '{}'\n", values.join(" ")).as_bytes(),
        );
    }
    print(&script)
}

/// Entry of `man`.
pub(super) fn man() -> Exit {
    let mut page = Vec::new();
    // The sections are made in memory, which takes all there is.
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
