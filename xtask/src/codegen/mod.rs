//! `cargo xtask codegen`: the typed layer of `qmp` from facts, and the facts from source trees.
//!
//! Both are committed: facts in `qmp/qapi`, output in `qmp/src/types` and `qmp/src/agent`.

mod emit;
mod facts;
mod merge;
mod names;
mod qapi;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use emit::{Emitter, Manual, Words};
use facts::{Definition, Facts};
use merge::Tree;

/// The feature of `qmp` that enables each module. Other modules are part of `types-system`.
const AREAS: &[(&str, &[&str])] = &[
    ("types-job", &["job"]),
    (
        "types-block",
        &[
            "authz",
            "block",
            "block-core",
            "block-export",
            "common",
            "crypto",
            "cryptodev",
            "qdev",
            "qom",
            "run-state",
            "sockets",
            "transaction",
            "control",
            "introspect",
            "misc",
        ],
    ),
    ("types-migration", &["migration", "yank"]),
];

const REST: &str = "types-system";

/// Definitions that are generated in another module than QAPI's. Modules may depend on each other
/// in cycles, one of which exists only because of `String`. What every manager of an emulator needs
/// is in the modules of the monitor and the run state, so that using it does not require building
/// all of `machine`.
const MOVED: &[(&str, &[&str])] = &[
    ("common", &["String"]),
    (
        "control",
        &[
            "SysEmuTarget",
            "QemuTargetInfo",
            "query-target",
            "CompatProperty",
            "MachineInfo",
            "query-machines",
        ],
    ),
    (
        "run-state",
        &["system_reset", "system_powerdown", "system_wakeup"],
    ),
];

/// The module in which a definition is generated.
fn file(definition: &Definition) -> &str {
    let moved = MOVED.iter().find(|(_, names)| names.contains(&definition.name.as_str()));
    moved.map_or(&definition.module, |(module, _)| module)
}

fn area(module: &str) -> &'static str {
    let area = AREAS.iter().find(|(_, modules)| modules.contains(&module));
    area.map_or(REST, |(name, _)| name)
}

/// Reads source trees, each given as `VERSION=FOLDER`, into the facts.
pub(crate) fn read(root: &Path, trees: &[String]) -> Result<(), String> {
    for (facts, schema) in [
        ("qmp.facts", "qapi/qapi-schema.json"),
        ("agent.facts", "qga/qapi-schema.json"),
    ] {
        let mut found = Vec::new();
        for tree in trees {
            let (version, folder) = tree.split_once('=').ok_or("expected VERSION=FOLDER")?;
            let tree = Tree {
                release: facts::release(version)?,
                root: Path::new(folder).join(schema),
            };
            found.push(tree);
        }
        found.sort_by_key(|tree| tree.release);
        let path = root.join("qmp/qapi").join(facts);
        let mut merged = merge::merge(&found)?;
        if facts == "qmp.facts" {
            let additions = load(&root.join("qmp/qapi/additions.facts"))?;
            merge::add(&mut merged, Facts::parse(&additions)?)?;
        }
        std::fs::write(&path, merged.to_string())
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Writes the typed layer, or with `check` reports what differs.
pub(crate) fn generate(root: &Path, check: bool) -> Result<(), String> {
    let mut wanted = BTreeMap::new();
    let words = words(&load(&root.join("qmp/qapi/words.txt"))?)?;
    let mut monitor = Facts::parse(&load(&root.join("qmp/qapi/qmp.facts"))?)?;
    for name in MOVED.iter().flat_map(|(_, names)| *names) {
        if !monitor.definitions.iter().any(|d| d.name == *name) {
            return Err(format!(
                "{name} is to move to another module, and does not exist"
            ));
        }
    }
    monitor.definitions.sort_by(|a, b| file(a).cmp(file(b)));
    let agent = Facts::parse(&load(&root.join("qmp/qapi/agent.facts"))?)?;
    for word in words.keys() {
        let (name, member) = word.split_once('.').unwrap_or((word, ""));
        let all = monitor.definitions.iter().chain(&agent.definitions);
        let known = all
            .filter(|d| d.name == name)
            .any(|d| member.is_empty() || d.members.iter().any(|m| m.name == member));
        if !known {
            return Err(format!(
                "qmp/qapi/words.txt has words about {word}, which does not exist"
            ));
        }
    }
    let emitter = Emitter::new(&monitor, &words, Manual::Monitor);
    check_areas(&emitter)?;
    for (module, text) in emitter.files() {
        wanted.insert(
            root.join("qmp/src/types").join(format!("{}.rs", rust_module(&module))),
            text,
        );
    }
    wanted.insert(
        root.join("qmp/src/types/areas.rs"),
        areas(&emitter, &monitor),
    );
    let emitter = Emitter::new(&agent, &words, Manual::Agent);
    for text in emitter.files().into_values() {
        wanted.insert(root.join("qmp/src/agent/types.rs"), text);
    }
    let mut differing = Vec::new();
    for (path, text) in wanted {
        let text = format_rust(&text)?;
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            differing.push(path.display().to_string());
        } else {
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    if differing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not what `cargo xtask codegen` generates: {}",
        differing.join(", ")
    ))
}

/// Everything that a module needs must be in its own area or in one that is enabled with it.
fn check_areas(emitter: &Emitter<'_>) -> Result<(), String> {
    let order = ["types-job", "types-block", "types-migration", REST];
    let rank = |module: &str| order.iter().position(|name| *name == area(module));
    for (module, needs) in emitter.needs() {
        for need in needs {
            let (own, other) = (rank(module), rank(need));
            if other > own {
                return Err(format!(
                    "module {module} needs {need}, which is in a later area"
                ));
            }
        }
    }
    Ok(())
}

fn rust_module(module: &str) -> String {
    module.replace('-', "_")
}

/// The list of modules, and one enumeration of the events of all modules.
fn areas(emitter: &Emitter<'_>, facts: &Facts) -> String {
    let mut modules: Vec<&str> = facts.definitions.iter().map(file).collect();
    modules.dedup();
    let mut out = "//! The modules of QAPI by area, and all events.\n// Generated by `cargo xtask codegen` from the facts in qmp/qapi: do not edit.\n\n".to_owned();
    for module in modules {
        let (name, area) = (rust_module(module), area(module));
        let _ = writeln!(
            out,
            "#[cfg(feature = {area:?})]\n#[path = \"{name}.rs\"]\nmod {name};\n#[cfg(feature = {area:?})]\npub use {name}::*;"
        );
    }
    out.push_str("\nuse crate::types::prelude::*;\n\n/// An event with typed data, as far as its area's feature is on.\n#[derive(Clone, Debug, PartialEq)]\n#[non_exhaustive]\npub enum TypedEvent {\n");
    for (name, ty, module) in emitter.events() {
        let _ = writeln!(
            out,
            "    /// `{name}`\n    #[cfg(feature = {:?})]\n    {ty}(Box<{ty}>),",
            area(&module)
        );
    }
    out.push_str("    /// An event that this crate does not know.\n    Other(crate::Event),\n}\n\nimpl TypedEvent {\n    /// Gives an event's data its type.\n    ///\n    /// # Errors\n    /// When the event is known and its data does not have the known form.\n    pub fn decode(event: &crate::Event) -> Result<Self, crate::decode::DecodeError> {\n        match event.name.as_str() {\n");
    for (name, ty, module) in emitter.events() {
        let _ = writeln!(
            out,
            "            #[cfg(feature = {:?})]\n            {name:?} => data(event).map(|data| Self::{ty}(Box::new(data))),",
            area(&module)
        );
    }
    out.push_str("            _ => Ok(Self::Other(event.clone())),\n        }\n    }\n}\n");
    out
}

fn load(path: &PathBuf) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// `name: words` and `name.member: words`, one per line.
fn words(text: &str) -> Result<Words, String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, words) = line.split_once(": ").ok_or_else(|| format!("no name: {line}"))?;
            Ok((name.to_owned(), words.to_owned()))
        })
        .collect()
}

fn format_rust(text: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("rustfmt: {error}");
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // It prints nothing until it has read everything.
    let mut stdin = rustfmt.stdin.take().ok_or("rustfmt: no input")?;
    stdin.write_all(text.as_bytes()).map_err(failed)?;
    drop(stdin);
    let output = rustfmt.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err("rustfmt cannot read what was generated".into());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
