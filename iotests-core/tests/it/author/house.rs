//! Rows of the contract that are about how the project is kept, not about what it does.

use std::fs;
use std::path::{Path, PathBuf};

use iotests_core::prelude::*;

use super::bench::{Bench, case};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
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

/// What cargo knows of the members.
fn members() -> Vec<serde_json::Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let call = imgtools::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root());
    let output = call.run_blocking().unwrap().check().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let members = metadata["packages"].as_array().unwrap().clone();
    assert_eq!(members.len(), MEMBERS.len(), "{metadata}");
    members
}

/// H02: what goes over a monitor is typed by `qmp` alone. What the harness hands out are its types: a
/// case passes them on to any other user of the library.
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
}

/// H14: requirements are declared, not verified by hand: a case that uses a driver without saying so
/// does not skip where the driver is missing, but fails, and says what to declare.
#[test]
fn a_driver_that_is_used_and_not_declared_fails_the_case() {
    for (set, backend) in super::bench::hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = t.host().launch().await?;
            let node = json!({"driver": "no-such-driver", "node-name": "n"});
            vm.cmd("blockdev-add", node).await?;
        }));
        let message = &run.failure().message;
        let advice = "add `Driver(\"no-such-driver\")` to its needs";
        assert!(message.contains(advice), "{message}");
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

/// H17, H19, H20, H30, H49: one edition, and with it one style of formatting and of imports, for all
/// members; each says from which toolchain on it works.
#[test]
fn all_members_have_one_edition_and_a_least_toolchain() {
    let members = members();
    for member in &members {
        let name = &member["name"];
        assert_eq!(member["edition"], members[0]["edition"], "{name}");
        assert!(member["rust_version"].is_string(), "{name}");
    }
}

/// H22: crates depend on crates by name; a member that is found by its path is a member.
#[test]
fn dependencies_are_real() {
    let members = members();
    let folder = |manifest: &serde_json::Value| {
        let manifest = Path::new(manifest.as_str().unwrap());
        manifest.parent().unwrap().to_owned()
    };
    let folders: Vec<PathBuf> = members.iter().map(|it| folder(&it["manifest_path"])).collect();
    for member in &members {
        for dependency in member["dependencies"].as_array().unwrap() {
            let Some(path) = dependency["path"].as_str() else {
                continue;
            };
            let is_member = folders.iter().any(|folder| folder == Path::new(path));
            assert!(is_member, "{} depends on {path}", member["name"]);
        }
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
