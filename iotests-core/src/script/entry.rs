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

/// The module that scripts have in their names.
const MODULE: &str = "scripts::upstream";

/// What a script may take before the scale. `check` has no limit; the slowest takes a minute or two on an idle machine.
const BUDGET: Duration = Duration::from_secs(600);

/// Scripts that need more than their text says, and why.
struct Special {
    name: &'static str,
    lock: Option<&'static str>,
    memory: Option<u64>,
    /// It writes into the folder that it lies in.
    unconfined: bool,
}

/// What must not run beside each other, or beside much else. Found by looking through the scripts for ports, `sudo` and mounts.
const SPECIAL: &[Special] = &[
    // Both bind ports of the same range, chosen at random, and take one that is in use for a failure.
    Special::lock("147", "tcp-ports"),
    Special::lock("nbd-tls-iothread", "tcp-ports"),
    // Besides, it makes a file `42` where it lies, and removes it.
    Special {
        unconfined: true,
        ..Special::lock("162", "tcp-ports")
    },
    Special::lock("233", "tcp-ports"),
    // It makes a secret and an image where it lies, and removes them; another of it would do the same there.
    Special {
        unconfined: true,
        ..Special::lock("282", "folder-of-282")
    },
    // Loop devices and null_blk are the machine's.
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

/// The scripts of a tree as entries, as if they had been registered. They live as long as the program.
///
/// `python` says that an interpreter is named for those in Python. (One of the shell may ask for `python3` by that name.)
///
/// # Errors
/// Where there are none, or they cannot be read.
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
        memory: special
            .and_then(|special| special.memory)
            .unwrap_or(Meta::default().memory),
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

/// What is missing without these is known before the run.
fn needs(facts: &Facts) -> Vec<Requirement> {
    let mut needs = Vec::new();
    if facts.python {
        needs.push(Requirement::Program("python3"));
    }
    if facts.emulator {
        needs.push(Requirement::Emulator);
        // The options that every script gets, and every machine of a script of Python, name it. Of several accelerators
        // QEMU takes the first one that works, and does not look at the others.
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

/// The list as one that lives on. Where nothing of it is known here, all: the script says so when it runs.
fn list<T: Copy>(values: &[T], all: &'static [T]) -> &'static [T] {
    match values {
        [] => all,
        values => Vec::leak(values.to_vec()),
    }
}
