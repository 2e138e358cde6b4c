//! Which module may use which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules, each listed above those that it may use.
const ORDER: [&str; 20] = [
    "cause",
    "deadlines",
    "program",
    "wrapper",
    "accel",
    "args",
    "qtest",
    "console",
    "evidence",
    "diagnose",
    "error",
    "end",
    "builder",
    "machine",
    "launch",
    "attach",
    "guest",
    "host",
    "probe",
    "lib",
];

fn rank(module: &str) -> usize {
    let found = ORDER.iter().position(|known| *known == module);
    found.unwrap_or_else(|| panic!("{module} has no place in the order"))
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

/// The names that a `use crate::…` or another path from the root begins with, outside of comments and
/// unit tests.
fn used(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let code = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1)).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn no_module_uses_one_that_is_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    // What the root re-exports belongs to its module.
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for line in root.split("pub use ").skip(1) {
        let line = &line[..line.find(';').unwrap()];
        if let Some((module, names)) = line.split_once("::") {
            let names = names.trim_matches(['{', '}']).split(',').map(str::trim);
            owners.extend(names.map(|name| (name, module)));
        }
    }
    let mut arrows = 0;
    for file in files(&source) {
        let inside = file.strip_prefix(&source).unwrap();
        let first = inside.components().next().unwrap();
        let module = Path::new(first.as_os_str()).file_stem().unwrap();
        let module = module.to_str().unwrap();
        if ["messages", "order"].contains(&module) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for name in used(&text) {
            let used = owners.get(name).copied().unwrap_or(name);
            // Other crates that the root re-exports.
            if ["qmp", "imgtools", "socket"].contains(&used) || used == module {
                continue;
            }
            arrows += 1;
            assert!(
                rank(used) < rank(module),
                "{module} uses {used} ({})",
                file.display()
            );
        }
    }
    assert!(
        arrows > 30,
        "{arrows}: they are looked for in the wrong way"
    );
}
