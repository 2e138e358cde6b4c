//! What a script declares about itself, read from its text: its groups and what it supports.
//!
//! Only plain lists of words are used. Whatever a script computes is left to the script, which can
//! write `.notrun` at run time.

use std::sync::LazyLock;

use regex::Regex;

use super::{Language, output};
use crate::case::{Aio, Cache, Format, Protocol};

/// What a script declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its first comment, apart from the authors and licence.
    pub(crate) description: String,
    /// Its groups.
    pub(crate) groups: Vec<String>,
    /// The formats that it runs on; by default all generic ones.
    pub(crate) formats: Vec<Format>,
    /// The protocols that it runs on; by default all.
    pub(crate) protocols: Vec<Protocol>,
    /// The cache modes that it runs with.
    pub(crate) caches: Vec<Cache>,
    /// The aio modes that it runs with.
    pub(crate) aios: Vec<Aio>,
    /// It starts an emulator.
    pub(crate) emulator: bool,
    /// It sets its own accelerator, before the one that all scripts get.
    pub(crate) accelerator: bool,
    /// It starts a storage daemon.
    pub(crate) daemon: bool,
    /// It starts qemu-nbd.
    pub(crate) nbd: bool,
    /// It is written in Python, or calls a Python program.
    pub(crate) python: bool,
    /// It mounts, or becomes another user.
    pub(crate) privileged: bool,
}

impl Facts {
    /// Reads the text of a script.
    pub(crate) fn read(text: &str, language: Language) -> Self {
        let code = joined(text);
        let said = |shell: &str, python: &str| match language {
            Language::Shell => shell_words(&code, shell),
            Language::Python => python_list(&code, python),
        };
        let not_formats = said("_unsupported_fmt", "unsupported_fmts").unwrap_or_default();
        let not_protocols = said("_unsupported_proto", "unsupported_protocols").unwrap_or_default();
        let caches = said("_supported_cache_modes", "supported_cache_modes");
        let mentions = |pattern: &Regex| pattern.is_match(&code);
        Self {
            description: printable(&description(text)),
            groups: groups(text),
            formats: of_list(
                said("_supported_fmt", "supported_fmts"),
                &not_formats,
                Format::ALL,
                Format::GENERIC,
            ),
            protocols: of_list(
                said("_supported_proto", "supported_protocols"),
                &not_protocols,
                Protocol::ALL,
                Protocol::ALL,
            ),
            // A script that chooses its own mode, or that does not support the default one, decides
            // at run time.
            caches: caches
                .map(|words| known(&words, Cache::ALL))
                .filter(|modes| modes.contains(&Cache::Writeback))
                .unwrap_or_else(|| Cache::ALL.to_vec()),
            aios: said("_supported_aio_modes", "supported_aio_modes")
                .map(|words| known(&words, Aio::ALL))
                .filter(|modes| modes.contains(&Aio::Threads))
                .unwrap_or_else(|| Aio::ALL.to_vec()),
            emulator: mentions(match language {
                Language::Shell => &SHELL_EMULATOR,
                Language::Python => &PYTHON_EMULATOR,
            }),
            accelerator: mentions(&ACCELERATOR),
            daemon: mentions(&DAEMON),
            nbd: mentions(&NBD),
            python: language == Language::Python || mentions(&SHELL_PYTHON),
            privileged: mentions(&PRIVILEGED),
        }
    }
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("a constant"));
    };
}

pattern!(
    SHELL_EMULATOR,
    r"\$\{?QEMU(_PROG)?\b|\b_launch_qemu\b|\b_require_devices\b|\b_require_one_device_of\b"
);
pattern!(
    PYTHON_EMULATOR,
    r"\bVM\(|\bQEMUMachine\(|\bqemu_prog\b|\bqemu_pipe\(|\bQMPTestCase\b"
);
pattern!(ACCELERATOR, r#"-accel\b['",\s]+(tcg|kvm)\b"#);
pattern!(
    DAEMON,
    r"\$\{?(QSD|QSD_PROG)\b|\bQemuStorageDaemon\b|\bqsd_prog\b|\bqsd_create\b|'fuse'"
);
pattern!(
    NBD,
    r"\$\{?QEMU_NBD(_PROG)?\b|\bqemu_nbd\w*\(|\bqemu_nbd_prog\b|\bnbd_server_start_\w+"
);
pattern!(SHELL_PYTHON, r"(?m)\$\{?PYTHON\b|(^|[;&|(])\s*python3?\s");
pattern!(
    PRIVILEGED,
    r"\bsudo\b|type=fuse|'fuse'|\bmount\b.*\bfuse|\blosetup\b|\bmodprobe\b"
);
pattern!(GROUPS, r"(?m)^# group: (.*)$");

/// Removes comments and joins continued lines.
fn joined(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut code = String::with_capacity(text.len());
    for line in lines {
        match line.strip_suffix('\\') {
            Some(line) => {
                code.push_str(line);
                code.push(' ');
            }
            None => {
                code.push_str(line);
                code.push('\n');
            }
        }
    }
    code
}

fn groups(text: &str) -> Vec<String> {
    let line = GROUPS.captures(text).and_then(|found| found.get(1));
    let words = line.map(|line| line.as_str().split_whitespace());
    let words = words.into_iter().flatten();
    words.map(printable).collect()
}

/// Makes text safe for a terminal.
fn printable(text: &str) -> String {
    output::shown(text.as_bytes()).trim_end().to_owned()
}

/// The first comment of several words after the line with the groups: upstream describes the test
/// there.
fn description(text: &str) -> String {
    let comments = text
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('#') || line.trim().is_empty())
        .filter(|line| !line.starts_with("# group:"));
    let mut words = String::new();
    for line in comments {
        let line = line.trim_start_matches('#').trim();
        let legal = ["copyright", "spdx", "this program is free"];
        let is_legal = legal.iter().any(|start| line.to_lowercase().starts_with(start));
        match line {
            "" if words.is_empty() => {}
            "" => break,
            _ if is_legal => break,
            line if words.is_empty() => words.push_str(line),
            line => {
                words.push(' ');
                words.push_str(line);
            }
        }
    }
    words
}

/// The words of all calls of a shell function; `None` if one of them is computed, or there is no
/// call.
fn shell_words(code: &str, function: &str) -> Option<Vec<String>> {
    let mut words = None;
    for line in code.lines() {
        let line = line.trim();
        let Some(rest) = line.strip_prefix(function) else {
            continue;
        };
        if !rest.starts_with([' ', '\t']) {
            continue;
        }
        let rest = rest.split(['#', ';', '&', '|']).next().unwrap_or_default();
        let given = shlex::split(rest)?;
        if given.iter().any(|word| word.contains(['$', '`'])) {
            return None;
        }
        words.get_or_insert_with(Vec::new).extend(given);
    }
    words
}

/// The strings of a list passed to a parameter of this name.
fn python_list(code: &str, parameter: &str) -> Option<Vec<String>> {
    let pattern = format!(r"\b{parameter}\s*=\s*[\[(]([^\])]*)[\])]");
    let list = Regex::new(&pattern).ok()?.captures(code)?.get(1)?;
    let items = list.as_str().split(',').map(str::trim);
    let mut words = Vec::new();
    for item in items.filter(|item| !item.is_empty()) {
        let bare = item.trim_matches(['\'', '"']);
        // An item that is not a string literal is computed.
        if bare.len() + 2 != item.len() {
            return None;
        }
        words.push(bare.to_owned());
    }
    Some(words)
}

/// Evaluates a list of words, without the excluded ones. If no word is known here, the script
/// decides at run time.
fn of_list<T: Copy + PartialEq + ToString>(
    said: Option<Vec<String>>,
    except: &[String],
    all: &[T],
    generic: &[T],
) -> Vec<T> {
    let said = said.filter(|words| !words.is_empty());
    let is_generic = said.as_ref().is_none_or(|words| words.iter().any(|word| word == "generic"));
    let mut values: Vec<T> = match is_generic {
        true => generic.to_vec(),
        false => Vec::new(),
    };
    for value in known(&said.unwrap_or_default(), all) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values.retain(|value| !except.contains(&value.to_string()));
    values
}

fn known<T: Copy + ToString>(words: &[String], all: &[T]) -> Vec<T> {
    let is_named = |value: &&T| words.contains(&value.to_string());
    all.iter().filter(is_named).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(body: &str) -> Facts {
        Facts::read(&format!("#!/usr/bin/env bash\n{body}"), Language::Shell)
    }

    fn python(body: &str) -> Facts {
        Facts::read(&format!("#!/usr/bin/env python3\n{body}"), Language::Python)
    }

    #[test]
    fn groups_and_description_are_read_from_the_comments() {
        let facts =
            shell("# group: rw auto quick\n#\n# A write is\n# read again\n#\n# Copyright (C)\n");
        assert_eq!(facts.groups, ["rw", "auto", "quick"]);
        assert_eq!(facts.description, "A write is read again");
        assert_eq!(shell("# Copyright (C) somebody\n").description, "");
    }

    #[test]
    fn a_script_of_the_shell_says_what_it_supports() {
        let facts = shell(
            "_supported_fmt raw qcow2 nothing\n_supported_proto file \\\n    fuse # both\n_supported_os Linux\n",
        );
        assert_eq!(facts.formats, [Format::Raw, Format::Qcow2]);
        assert_eq!(facts.protocols, [Protocol::File, Protocol::Fuse]);
        let generic = shell(
            "_supported_fmt generic bochs\n_unsupported_fmt vpc raw\n_supported_proto generic\n",
        );
        assert!(
            generic.formats.contains(&Format::Bochs) && generic.formats.contains(&Format::Vmdk)
        );
        assert!(![Format::Vpc, Format::Raw].iter().any(|no| generic.formats.contains(no)));
        assert_eq!(generic.protocols, Protocol::ALL);
    }

    #[test]
    fn a_script_of_python_says_what_it_supports() {
        let facts = python(
            "iotests.main(supported_fmts=['qcow2',\n  \"qed\"],\n  unsupported_fmts=['qed'],\n  supported_protocols=('nbd',))\n",
        );
        assert_eq!(facts.formats, [Format::Qcow2]);
        assert_eq!(facts.protocols, [Protocol::Nbd]);
        assert_eq!(python("iotests.main()\n").formats, Format::GENERIC);
    }

    #[test]
    fn what_is_computed_is_left_to_the_script() {
        assert_eq!(shell("_supported_fmt $FORMATS\n").formats, Format::GENERIC);
        assert_eq!(
            python("iotests.main(supported_fmts=[fmt])\n").formats,
            Format::GENERIC
        );
        // A mode that the script chooses itself is not known in advance.
        let modes = shell("_default_cache_mode none\n_supported_cache_modes none directsync\n");
        assert_eq!(modes.caches, Cache::ALL);
        assert_eq!(
            shell("_supported_cache_modes writeback none\n").caches,
            [Cache::Writeback, Cache::None]
        );
    }

    #[test]
    fn the_programs_that_it_starts_are_known() {
        let tools = shell("$QEMU_IMG create x\n$QEMU_IO -c quit\n");
        assert!(!tools.emulator && !tools.daemon && !tools.nbd && !tools.python);
        assert!(shell("_launch_qemu -nodefaults\n").emulator);
        assert!(shell("$QEMU -version\n").emulator);
        assert!(shell("$PYTHON helper.py\n").python && shell("true | python3 -c x\n").python);
        assert!(shell("nbd_server_start_unix_socket x\n").nbd);
        assert!(shell("$QSD --version\n").daemon);
        assert!(shell("sudo -n losetup\n").privileged);
        assert!(python("vm = iotests.VM()\n").emulator);
        assert!(!python("iotests.qemu_img('create')\n").emulator);
        assert!(!shell("# $QEMU in a comment\n").emulator);
        assert!(shell("$QEMU -accel tcg\n").accelerator);
        assert!(python("args = ['-accel', 'tcg']\n").accelerator);
        assert!(!python("args = ['-accel', 'qtest']\n").accelerator);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,400}") {
            let _ = Facts::read(&text, Language::Shell);
            let _ = Facts::read(&text, Language::Python);
        }
    }
}
