//! Rows of the contract that are about how the project is kept, not about what it does.

use std::fs;
use std::path::{Path, PathBuf};

use iotests_core::author::Machine;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const MEMBERS: [&str; 8] = [
    "qmp",
    "imgtools",
    "nbd",
    "machine",
    "iotests-core",
    "iotests-core/macros",
    "iotests-cases",
    "xtask",
];

/// All Rust sources below `src` of these members.
fn sources(members: &[&str]) -> Vec<(PathBuf, String)> {
    let folders = members.iter().map(|member| root().join(member).join("src"));
    folders
        .flat_map(walkdir::WalkDir::new)
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// H02: what goes over a monitor is typed by `qmp` alone; the harness hands its types through.
#[test]
fn qmp_messages_have_one_set_of_types() {
    // These would not compile with types of the harness's own.
    async fn outcome(machine: &Machine) -> Option<qmp::CommandError> {
        machine.cmd("query-version", ()).outcome().await.ok()?.err()
    }
    fn taken(machine: &Machine) -> Vec<serde_json::Value> {
        machine.take_events(qmp::Matcher::any())
    }
    let _ = (outcome, taken);
    for (path, text) in sources(&["iotests-core", "iotests-cases"]) {
        for name in [
            "struct QmpEvent",
            "struct QmpReply",
            "enum QmpMessage",
            "\"qmp_capabilities\"",
        ] {
            assert!(!text.contains(name), "{} has {name}", path.display());
        }
    }
}

/// H12, H24: everything public is documented and the lints deny, in every member.
#[test]
fn documentation_and_lints_are_demanded_of_every_member() {
    let workspace = read("Cargo.toml");
    assert!(workspace.contains("missing_docs = \"deny\""));
    assert!(workspace.contains("all = { level = \"deny\""));
    for member in MEMBERS {
        let manifest = read(&format!("{member}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member}");
    }
}

/// H14: what checks requirements is the harness's own business; cases declare them, or `require`.
#[test]
fn there_is_no_public_helper_that_verifies_a_requirement() {
    for (path, text) in sources(&["iotests-core", "iotests-cases"]) {
        for name in [
            "pub fn verify_",
            "pub async fn verify_",
            "pub fn skip_if",
            "pub fn skip_for",
        ] {
            assert!(!text.contains(name), "{} has {name}", path.display());
        }
    }
}

/// H17, H20, H24: the gate checks the format, which includes the order of imports, and the lints.
#[test]
fn the_gate_checks_format_and_lints() {
    assert!(read(".ci/run").contains("cargo xtask test"));
    let gate: String = sources(&["xtask"])
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    for part in ["\"fmt\"", "\"--check\"", "\"clippy\"", "warnings"] {
        assert!(gate.contains(part), "{part}");
    }
}

/// H19, H30, H49: one toolchain and one edition for all, and no code for other ones.
#[test]
fn there_is_one_toolchain_and_no_shims() {
    let workspace = read("Cargo.toml");
    assert_eq!(workspace.matches("rust-version = ").count(), 1);
    assert_eq!(workspace.matches("edition = ").count(), 1);
    for member in MEMBERS {
        let manifest = read(&format!("{member}/Cargo.toml"));
        // The workspace's, or a later one where a member needs it; the lint holds both to it.
        assert!(
            manifest.contains("rust-version.workspace = true")
                || manifest.contains("rust-version = \""),
            "{member}"
        );
        assert!(manifest.contains("edition.workspace = true"), "{member}");
    }
    for (path, text) in sources(&MEMBERS) {
        assert!(!text.contains("cfg(version"), "{}", path.display());
    }
}

/// H22: crates depend on crates by name; none reaches into another one's files.
#[test]
fn dependencies_are_real_and_no_source_reaches_into_another_crate() {
    for member in MEMBERS {
        let manifest = read(&format!("{member}/Cargo.toml"));
        assert!(!manifest.contains("path = \"../"), "{member}");
    }
    for (path, text) in sources(&MEMBERS) {
        assert!(!text.contains("#[path = \"../.."), "{}", path.display());
        assert!(!text.contains("include!(\"../.."), "{}", path.display());
    }
}

/// Every link from one of our pages to a file leads to one.
#[test]
fn links_in_the_documentation_lead_somewhere() {
    let pages = walkdir::WalkDir::new(root())
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            name != "target" && !name.starts_with('.')
        })
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            seen += 1;
            let folder = page.parent().unwrap();
            assert!(
                folder.join(file).exists(),
                "{} links to {target}",
                page.display()
            );
        }
    }
    assert!(seen > 5, "only {seen} links");
}
