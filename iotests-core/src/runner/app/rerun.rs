//! The command that repeats one instance.

use std::borrow::Cow;
use std::env;
use std::path::Path;

use imgtools::tools::ToolKind;

use super::App;
use crate::case::Cache;
use crate::runner::cli::Choice;
use crate::runner::{CALLED_AS, called_as};

impl App {
    /// The command for a rerun: the program with all options and variables that affect an instance,
    /// except its seed.
    pub(super) fn rerun(&self) -> String {
        let cli = &self.cli;
        let mut words = Vec::new();
        // Variables that name programs and their options; not all of them have a flag.
        for kind in ToolKind::ALL {
            for name in [kind.program_variable(), kind.options_variable()] {
                if let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) {
                    let value = value.to_string_lossy();
                    let path = Path::new(&*value);
                    let is_path = name == kind.program_variable() && path.components().count() > 1;
                    let value = match is_path {
                        true => absolute(path),
                        false => value.into_owned(),
                    };
                    words.push(format!("{name}={}", quoted(&value)));
                }
            }
        }
        words.push(program());
        let mut option =
            |name: &str, value: String| words.extend([name.to_owned(), quoted(&value)]);
        let paths = [
            ("--qemu-build", &cli.tools.qemu_build),
            ("--qemu", &cli.tools.qemu),
            ("--qemu-img", &cli.tools.qemu_img),
            ("--qemu-io", &cli.tools.qemu_io),
            ("--qemu-nbd", &cli.tools.qemu_nbd),
            ("--qsd", &cli.tools.qsd),
            ("--scratch", &cli.run.scratch),
            ("--upstream", &cli.scripts.upstream),
            ("--python", &cli.scripts.python),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                option(name, absolute(path));
            }
        }
        // `cargo xtask iotests` passes its own.
        if let Some(folder) = &cli.run.build_dir
            && env::var_os(CALLED_AS).is_none()
        {
            option("--build-dir", absolute(folder));
        }
        for path in self.config.paths() {
            option("--config", absolute(path));
        }
        if cli.tools.set != "auto" && cli.tools.set != "all" {
            option("--set", cli.tools.set.clone());
        }
        if !cli.matrix.imgopts.is_empty() {
            option("-o", cli.matrix.imgopts.join(","));
        }
        if cli.run.timeout_scale != 1.0 {
            option("--timeout-scale", cli.run.timeout_scale.to_string());
        }
        // A script may choose its own mode unless writeback was requested explicitly.
        if cli.scripts.upstream.is_some()
            && cli.matrix.caches.contains(&Choice::One(Cache::Writeback))
        {
            words.extend(["-c", Cache::Writeback.name()].map(str::to_owned));
        }
        if let Some(gdb) = &cli.debug.gdb {
            words.push(format!("--gdb={}", quoted(gdb)));
        }
        for wrap in &cli.debug.wrap {
            words.extend(["--wrap".to_owned(), quoted(wrap)]);
        }
        for (is_given, name) in [
            (cli.debug.valgrind, "--valgrind"),
            (cli.debug.strace, "--strace"),
            (cli.scripts.misalign, "--misalign"),
        ] {
            words.extend(is_given.then(|| name.to_owned()));
        }
        if cli.run.no_confine {
            words.push("--no-confine".to_owned());
        }
        words.join(" ")
    }
}

/// The program as a user can start it from any directory.
fn program() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let path = Path::new(&called);
    match env::var(CALLED_AS) {
        Ok(name) => name,
        // A bare name was found in PATH.
        Err(_) if path.components().count() > 1 => quoted(&absolute(path)),
        Err(_) => called_as(),
    }
}

fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Quotes a word for the shell. Arguments and variables contain no NUL, so this always works.
fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_if_the_shell_needs_it() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted(""), "''");
        for word in ["it's", "a b", "$(a)", "a\nb", "\"'\\"] {
            assert_eq!(shlex::split(&quoted(word)), Some(vec![word.to_owned()]));
        }
    }
}
