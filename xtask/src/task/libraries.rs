//! The libraries as external users see them: each alone, feature by feature, outside the workspace;
//! the contents of their packages; and their examples.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cargo::{self, XtaskError, cargo as call};

/// The libraries that are usable without the harness; each package is named `qemu-` plus the
/// library's name.
const LIBRARIES: [&str; 4] = ["qmp", "imgtools", "nbd", "machine"];

/// A program that a user of a library could write.
struct Example {
    library: &'static str,
    name: &'static str,
    /// The QEMU programs that it starts.
    needs: &'static [&'static str],
}

const fn example(
    library: &'static str,
    name: &'static str,
    needs: &'static [&'static str],
) -> Example {
    Example {
        library,
        name,
        needs,
    }
}

const DAEMON: &[&str] = &["qemu-storage-daemon"];

const EMULATOR: &[&str] = &["qemu-system-x86_64"];

const EXAMPLES: [Example; 13] = [
    example("qmp", "connect_and_query", DAEMON),
    example("qmp", "mirror", DAEMON),
    example("qmp", "blocking", DAEMON),
    example("qmp", "pass_fd", DAEMON),
    example("qmp", "replay_transcript", DAEMON),
    example("qmp", "migrate", EMULATOR),
    example("qmp", "guest_devices", EMULATOR),
    example("qmp", "mock_monitor", &[]),
    example("imgtools", "images", &["qemu-img", "qemu-io"]),
    example("machine", "lifecycle", EMULATOR),
    example("machine", "supervisor", DAEMON),
    example("nbd", "both_sides", &[]),
    example("nbd", "copy_on_write", &[]),
];

/// For each library and feature, checks a crate outside the workspace that depends on that library
/// with that feature alone. Nothing may be missing or unused.
pub(super) fn from_outside(target: &Path) -> Result<String, XtaskError> {
    let metadata = cargo::metadata()?;
    // The versions of the workspace, so that nothing is fetched.
    let lock = cargo::root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).map_err(XtaskError::file("read", &lock))?;
    for library in LIBRARIES {
        let package = package(&metadata, library)?;
        let folder = target.join("consumer").join(library);
        let manifest = folder.join("Cargo.toml");
        write(&folder.join("src/lib.rs"), &consumer_source(library))?;
        for feature in choices(package) {
            write(&manifest, &consumer_manifest(package, feature))?;
            // Cargo removes entries that one feature does not need but another may.
            write(&folder.join("Cargo.lock"), &lock)?;
            println!(
                "    {library} with {}",
                if feature.is_empty() {
                    "nothing"
                } else {
                    feature
                }
            );
            let mut check = call(["check", "--quiet", "--manifest-path"]);
            check.arg(&manifest);
            check.arg("--target-dir").arg(target.join("consumer/target"));
            cargo::check(check.env("RUSTFLAGS", "--deny warnings"))?;
        }
        println!("    {library} as its README says");
        as_its_readme_says(library, &lock, target)?;
    }
    Ok(String::new())
}

/// Checks the programs in a README, in a crate outside the workspace with exactly the dependencies
/// that the README names.
fn as_its_readme_says(library: &str, lock: &str, target: &Path) -> Result<(), XtaskError> {
    let path = cargo::root().join(library).join("README.md");
    let readme = std::fs::read_to_string(&path).map_err(XtaskError::file("read", &path))?;
    let folder = target.join("consumer").join(format!("{library}-readme"));
    let programs = folder.join("src/bin");
    // Programs of an earlier README, if any.
    let _ = std::fs::remove_dir_all(&programs);
    for (n, program) in blocks(&readme, "rust").iter().enumerate() {
        write(&programs.join(format!("readme_{n}.rs")), program)?;
    }
    let manifest = folder.join("Cargo.toml");
    write(&manifest, &readme_manifest(library, &readme))?;
    write(&folder.join("Cargo.lock"), lock)?;
    let mut check = call(["check", "--quiet", "--manifest-path"]);
    check.arg(&manifest);
    check.arg("--target-dir").arg(target.join("consumer/target"));
    cargo::check(check.env("RUSTFLAGS", "--deny warnings"))
}

/// The code blocks of a language in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(fence) = line.strip_prefix("```") else {
            continue;
        };
        let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if fence.split(',').next() == Some(language) {
            found.push(inside.join("\n") + "\n");
        }
    }
    found
}

/// The dependencies in a README. It lists a library once per choice of features, all but one as
/// comments; the programs may need any of them.
fn readme_manifest(library: &str, readme: &str) -> String {
    let block = blocks(readme, "toml").concat();
    let lines = block.lines().map(|line| {
        let choice = line.strip_prefix("# ").filter(|l| l.starts_with("qemu-"));
        choice.unwrap_or(line)
    });
    let (ours, others): (Vec<&str>, Vec<&str>) = lines.partition(|l| l.starts_with("qemu-"));
    let mut features = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for line in ours {
        let name = line.split(' ').next().unwrap_or(line);
        let list = line.split_once("features = [").map_or("", |(_, rest)| rest);
        let list = list.split(']').next().unwrap_or_default();
        let all = features.entry(name).or_default();
        all.extend(list.split(", ").filter(|feature| !feature.is_empty()));
    }
    let root = cargo::root();
    let mut manifest = format!(
        "[package]\nname = \"{library}-readme\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n{}\n",
        others.join("\n"),
    );
    for (name, features) in features {
        let folder = root.join(name.strip_prefix("qemu-").unwrap_or(name));
        let (folder, features) = (folder.display().to_string(), features.join(", "));
        manifest += &format!("{name} = {{ path = {folder:?}, features = [{features}] }}\n");
    }
    manifest
}

/// The choices of a consumer: no feature, or any one feature.
fn choices(package: &Value) -> Vec<&str> {
    let features = package["features"].as_object();
    let features = features.into_iter().flat_map(|features| features.keys());
    std::iter::once("").chain(features.map(String::as_str)).collect()
}

fn package<'m>(metadata: &'m Value, library: &str) -> Result<&'m Value, XtaskError> {
    let name = package_name(library);
    let packages = metadata["packages"].as_array();
    let mut packages = packages.into_iter().flatten();
    packages
        .find(|package| package["name"] == name)
        .ok_or_else(|| XtaskError::Metadata(format!("`cargo metadata` has no package {name}")))
}

fn package_name(library: &str) -> String {
    format!("qemu-{library}")
}

fn consumer_source(library: &str) -> String {
    format!("//! Depends on {library} alone.\npub use {library} as library;\n")
}

fn consumer_manifest(package: &Value, feature: &str) -> String {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let folder = manifest.parent().unwrap_or(manifest);
    let features = if feature.is_empty() {
        String::new()
    } else {
        format!("{feature:?}")
    };
    format!(
        "[package]\nname = \"{name}-consumer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n\
         [dependencies]\n\
         {name} = {{ path = {:?}, default-features = false, features = [{features}] }}\n",
        folder.display().to_string(),
    )
}

fn write(path: &Path, text: &str) -> Result<(), XtaskError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(XtaskError::file("write", path))
}

/// Checks what each package would contain: its sources, its licences, and nothing that only we
/// need.
pub(super) fn packages(_: &Path) -> Result<String, XtaskError> {
    for library in LIBRARIES {
        let mut list = call([
            "package",
            "--list",
            "--allow-dirty",
            "--package",
            &package_name(library),
        ]);
        let files = String::from_utf8_lossy(&cargo::read(&mut list)?).into_owned();
        let problems = package_problems(&files);
        if !problems.is_empty() {
            return Err(XtaskError::Package {
                library,
                problems: problems.join(", "),
            });
        }
    }
    Ok(String::new())
}

fn package_problems(files: &str) -> Vec<String> {
    let missing = ["Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "src/lib.rs"]
        .into_iter()
        .filter(|needed| !files.lines().any(|file| file == *needed))
        .map(|needed| format!("{needed} is missing"));
    let needless = files
        .lines()
        .filter(|file| {
            ["tests/", "benches/", "fuzz/"].iter().any(|folder| file.starts_with(folder))
        })
        .map(|file| format!("{file} is for us alone"));
    missing.chain(needless).collect()
}

/// Runs the examples on every set of QEMU programs that has what they need: those on `PATH`, and
/// those in the prefixes. With `required`, each must have run.
pub(super) fn examples(
    target: &Path,
    prefixes: &[PathBuf],
    required: bool,
) -> Result<String, XtaskError> {
    // With the same features as the tests, so that nothing is built twice.
    cargo::check(&mut call(["build", "--quiet", "--workspace", "--examples"]))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut sets = vec![usual.clone()];
    for prefix in prefixes {
        let own = std::iter::once(prefix.join("bin"));
        sets.push(own.chain(usual.clone()).collect());
    }
    let mut skipped = Vec::new();
    for example in &EXAMPLES {
        let usable = usable(&sets, example.needs);
        if usable.is_empty() {
            let (name, programs) = (example.name, example.needs.join(", "));
            skipped.push(format!("{} {name} (no {programs})", example.library));
        }
        for set in usable {
            println!("    {} {}", example.library, example.name);
            let program = target.join("debug/examples").join(example.name);
            let mut command = Command::new(program);
            let path = std::env::join_paths(set);
            command.env("PATH", path.unwrap_or_default());
            cargo::check(&mut command)?;
        }
    }
    match skipped.is_empty() {
        true => Ok(String::new()),
        false if required => Err(XtaskError::Examples(skipped.join(", "))),
        false => Ok(format!(
            ", {} skipped: {}",
            skipped.len(),
            skipped.join(", ")
        )),
    }
}

/// The sets that have these programs, without duplicates; the first set if none is needed.
fn usable<'s>(sets: &'s [Vec<PathBuf>], needs: &[&str]) -> Vec<&'s Vec<PathBuf>> {
    let find = |set: &[PathBuf], program: &&str| {
        let mut files = set.iter().map(|folder| folder.join(program));
        files.find(|file| file.is_file())
    };
    let mut known: Vec<Vec<PathBuf>> = Vec::new();
    sets.iter()
        .filter(|set| {
            let found: Option<Vec<PathBuf>> = needs.iter().map(|need| find(set, need)).collect();
            let is_new = found.as_ref().is_some_and(|found| !known.contains(found));
            known.extend(found.filter(|_| is_new));
            is_new
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn packages_are_a_family_that_is_not_published_and_libraries_have_short_names() {
        let metadata = cargo::metadata().unwrap();
        for library in LIBRARIES {
            let package = package(&metadata, library).unwrap();
            assert_eq!(package["publish"], json!([]), "{library}");
            let targets = package["targets"].as_array().unwrap();
            let lib = targets.iter().find(|target| target["kind"][0] == "lib");
            assert_eq!(lib.unwrap()["name"], library);
        }
    }

    /// On the registry, `qmp`, `nbd` and `machine` are different crates.
    #[test]
    fn no_readme_names_a_package_of_the_registry_as_ours() {
        for library in LIBRARIES {
            let path = cargo::root().join(library).join("README.md");
            let text = std::fs::read_to_string(&path).unwrap();
            let names = LIBRARIES.map(package_name);
            let names = LIBRARIES.into_iter().chain(names.iter().map(String::as_str));
            for name in names {
                let name = format!("{name} = ");
                let mut lines = text.lines().map(|line| line.trim_start_matches("# "));
                let bad = lines.find(|line| line.starts_with(&name) && !line.contains("path = "));
                assert_eq!(bad, None, "{}", path.display());
            }
            assert!(text.contains(&format!("\n{} = {{ path = ", package_name(library))));
        }
    }

    #[test]
    fn a_readme_says_what_its_programs_need() {
        let page = "```toml\n[dependencies]\n# Not on a registry.\nqemu-nbd = { path = \"…/nbd\" }  # both\n\
            # qemu-nbd = { path = \"…/nbd\", features = [\"a\", \"b\"] }  # more\n\
            # qemu-imgtools = { path = \"…/imgtools\" }\ntokio = \"1\"\n```\n\
            ```rust,no_run\nfn main() {}\n```\n```text\nno program\n```\n```rust\nfn main() {}\n```\n";
        assert_eq!(blocks(page, "rust"), ["fn main() {}\n"; 2]);
        let manifest = readme_manifest("nbd", page);
        let root = cargo::root().display().to_string();
        let ours = format!(
            "[dependencies]\n# Not on a registry.\ntokio = \"1\"\n\
             qemu-imgtools = {{ path = \"{root}/imgtools\", features = [] }}\n\
             qemu-nbd = {{ path = \"{root}/nbd\", features = [\"a\", \"b\"] }}\n"
        );
        assert!(manifest.ends_with(&ours), "{manifest}");
    }

    /// A version such as 1.88 or 1.88.0.
    fn version(text: &str) -> (u32, u32) {
        let mut parts = text.split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap_or(0))
    }

    /// Clippy checks our own code against `rust-version`; this checks its dependencies.
    #[test]
    fn no_dependency_of_a_library_needs_a_newer_rust_than_it_says() {
        let host = [
            "--all-features",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ];
        let metadata = cargo::metadata_with(&host).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        for library in LIBRARIES {
            let own = package(&metadata, library).unwrap();
            let promised = version(own["rust_version"].as_str().unwrap());
            let mut queue = vec![&own["id"]];
            let mut seen = std::collections::BTreeSet::new();
            while let Some(id) = queue.pop() {
                if !seen.insert(id.as_str().unwrap()) {
                    continue;
                }
                let it = packages.iter().find(|package| package["id"] == *id).unwrap();
                if let Some(needed) = it["rust_version"].as_str() {
                    assert!(
                        version(needed) <= promised,
                        "{library}: {} needs {needed}",
                        it["name"]
                    );
                }
                let node = nodes.iter().find(|node| node["id"] == *id).unwrap();
                for dependency in node["deps"].as_array().unwrap() {
                    let kinds = dependency["dep_kinds"].as_array().unwrap();
                    if kinds.iter().any(|kind| kind["kind"] != "dev") {
                        queue.push(&dependency["pkg"]);
                    }
                }
            }
            assert!(seen.len() > 3, "{seen:?}");
        }
    }

    #[test]
    fn a_consumer_chooses_nothing_or_a_feature_that_there_is() {
        assert_eq!(choices(&json!({"features": {}})), [""]);
        let package = json!({"features": {"default": ["a"], "a": []}});
        assert_eq!(choices(&package).len(), 3);
        assert!(choices(&package).contains(&"default"));
    }

    #[test]
    fn a_consumer_depends_on_one_library_with_one_feature() {
        let package = json!({"name": "qemu-qmp", "manifest_path": "/w/qmp/Cargo.toml"});
        let expected =
            "qemu-qmp = { path = \"/w/qmp\", default-features = false, features = [\"typed\"] }\n";
        assert!(consumer_manifest(&package, "typed").ends_with(expected));
        assert!(consumer_manifest(&package, "").ends_with("features = [] }\n"));
    }

    #[test]
    fn an_example_runs_on_each_set_that_has_its_programs() {
        let folder = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = ["a", "b"].map(|name| folder.path().join(name)).into();
        for at in &folders {
            std::fs::create_dir(at).unwrap();
            std::fs::write(at.join("qemu-img"), "").unwrap();
        }
        std::fs::write(folders[1].join("qemu-io"), "").unwrap();
        let sets = [
            vec![folders[0].clone()],
            vec![folders[1].clone(), folders[0].clone()],
            vec![folders[0].clone(), folders[1].clone()],
        ];
        assert_eq!(usable(&sets, &[]).len(), 1);
        assert_eq!(usable(&sets, &["qemu-img"]), [&sets[0], &sets[1]]);
        let both = usable(&sets, &["qemu-img", "qemu-io"]);
        assert_eq!(both, [&sets[1], &sets[2]]);
        assert!(usable(&sets, &["qemu-nbd"]).is_empty());
    }

    #[test]
    fn every_example_of_a_library_is_run_or_needs_arguments() {
        // It waits for a guest agent; qmp's tests run it.
        let by_hand = ["guest_exec"];
        for library in LIBRARIES {
            let entries = std::fs::read_dir(cargo::root().join(library).join("examples"));
            for file in entries.unwrap().map(|entry| entry.unwrap().path()) {
                let name = file.file_stem().unwrap().to_str().unwrap();
                let listed = EXAMPLES
                    .iter()
                    .any(|example| example.library == library && example.name == name);
                assert!(
                    listed || file.is_dir() || by_hand.contains(&name),
                    "{library}: {name} is not run"
                );
            }
        }
    }

    #[test]
    fn a_package_without_its_licences_or_with_tests_is_not_clean() {
        let clean = "Cargo.toml\nLICENSE-APACHE\nLICENSE-MIT\nsrc/lib.rs\n";
        assert_eq!(package_problems(clean), [""; 0]);
        let found = package_problems("Cargo.toml\nLICENSE-MIT\nsrc/lib.rs\ntests/it/main.rs\n");
        assert_eq!(
            found,
            [
                "LICENSE-APACHE is missing",
                "tests/it/main.rs is for us alone"
            ]
        );
    }
}
