//! A script as an entry of the registry.

use std::path::Path;
use std::time::Duration;

use super::facts::Facts;
use super::tree::TreeError;
use super::{Language, Script, tree};
use crate::case::{
    Aio, Body, Cache, Case, Declaration, Format, Formats, Group, Meta, Protocol, Registered,
    Requirement, ToolKind,
};

/// The module in the names of scripts.
const MODULE: &str = "scripts::upstream";

/// The time allowed for a script, before scaling. `check` has no limit; the slowest script takes a
/// minute or two on an idle machine.
const BUDGET: Duration = Duration::from_secs(600);

/// Scripts with needs that their text does not declare, and why.
struct Special {
    name: &'static str,
    lock: Option<&'static str>,
    memory: Option<u64>,
    /// It writes to its own folder.
    unconfined: bool,
}

/// Scripts that must not run beside each other, or beside many others. Found by searching the
/// scripts for ports, `sudo` and mounts.
const SPECIAL: &[Special] = &[
    // Both bind random ports in the same range, and treat one in use as a failure.
    Special::lock("147", "tcp-ports"),
    Special::lock("nbd-tls-iothread", "tcp-ports"),
    // It also creates a file `42` in its own folder, and removes it.
    Special {
        unconfined: true,
        ..Special::lock("162", "tcp-ports")
    },
    Special::lock("233", "tcp-ports"),
    // It creates a secret and an image in its own folder, and removes them; a second instance would
    // conflict.
    Special {
        unconfined: true,
        ..Special::lock("282", "folder-of-282")
    },
    // Loop devices and null_blk are shared by the whole machine.
    Special::lock("108", "block-devices"),
    Special::lock("128", "block-devices"),
    Special::lock("149", "block-devices"),
    Special::lock("loop-create-file", "block-devices"),
    Special::lock("zoned", "block-devices"),
];

impl Special {
    const fn lock(name: &'static str, lock: &'static str) -> Self {
        Self {
            name,
            lock: Some(lock),
            memory: None,
            unconfined: false,
        }
    }
}

/// The scripts of a tree as entries, as if they had been registered. They live as long as the
/// program.
///
/// `python`: an interpreter is available for scripts in Python. (A shell script may call `python3`
/// by that name.)
///
/// # Errors
/// If there are none, or they cannot be read.
pub(crate) fn entries(tree: &Path, python: bool) -> Result<&'static [Registered], TreeError> {
    let scripts = tree::scripts(tree)?;
    let entries: Vec<Registered> = scripts
        .into_iter()
        .map(|(script, mut facts)| {
            facts.python &= !(python && script.language == Language::Python);
            entry(script, &facts)
        })
        .collect();
    Ok(Vec::leak(entries))
}

fn entry(script: Script, facts: &Facts) -> Registered {
    let special = SPECIAL.iter().find(|special| special.name == script.name);
    let meta = Meta {
        upstream: vec![script.name.clone()],
        formats: Formats::Only(list(&facts.formats, Format::ALL)),
        protocols: list(&facts.protocols, Protocol::ALL),
        caches: list(&facts.caches, Cache::ALL),
        aios: list(&facts.aios, Aio::ALL),
        groups: facts.groups.iter().map(|name| Group(text(name))).collect(),
        needs: needs(facts),
        budget: BUDGET,
        unconfined: facts.privileged || special.is_some_and(|special| special.unconfined),
        lock: special.and_then(|special| special.lock),
        memory: special.and_then(|special| special.memory).unwrap_or(Meta::default().memory),
        ..Meta::default()
    };
    let description = match facts.description.as_str() {
        "" => format!("upstream's {}", script.name),
        words => words.to_owned(),
    };
    let case = Case {
        module: MODULE,
        function: text(&script.name),
        description: text(&format!("{description} ({})", script.language.name())),
        file: text(&script.path.to_string_lossy()),
        line: 1,
        declaration: Declaration::new(),
        excluded: &[],
        body: Body::Script(script),
    };
    Registered::script(Box::leak(Box::new(case)), meta)
}

/// Needs that can be checked before the run.
fn needs(facts: &Facts) -> Vec<Requirement> {
    let mut needs = Vec::new();
    if facts.python {
        needs.push(Requirement::Program("python3"));
    }
    if facts.emulator {
        needs.push(Requirement::Emulator);
        // It is in the options that every script gets, and in every machine of a Python script.
        // QEMU uses the first accelerator that works, and ignores the others.
        if !facts.accelerator {
            needs.push(Requirement::Accelerator("qtest"));
        }
    }
    if facts.daemon {
        needs.push(Requirement::Tool(ToolKind::StorageDaemon));
    }
    if facts.nbd {
        needs.push(Requirement::Tool(ToolKind::Nbd));
    }
    needs
}

fn text(text: &str) -> &'static str {
    String::leak(text.to_owned())
}

/// The list with a static lifetime; if no item is known here, all values, and the script decides at
/// run time.
fn list<T: Copy>(values: &[T], all: &'static [T]) -> &'static [T] {
    match values {
        [] => all,
        values => Vec::leak(values.to_vec()),
    }
}
