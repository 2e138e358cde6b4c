//! The libraries as strangers meet them: each alone, feature by feature, outside of the workspace;
//! what their packages hold; and their examples.

use std::path::Path;

use serde_json::Value;

use crate::cargo::{self, XtaskError, cargo as call};

/// The libraries that others can use without the harness; the package of each is `qemu-` and its name.
const LIBRARIES: [&str; 4] = ["qmp", "imgtools", "nbd", "machine"];

/// The examples that run by themselves where QEMU's tools are installed.
const EXAMPLES: [(&str, &str); 2] = [("imgtools", "images"), ("nbd", "both_sides")];

/// Checks a crate outside of the workspace that depends on one library with one feature, for each.
/// Nothing may be missing then, and nothing unused.
pub(super) fn from_outside(target: &Path) -> Result<String, XtaskError> {
    let metadata = cargo::metadata()?;
    for library in LIBRARIES {
        let package = package(&metadata, library)?;
        for feature in choices(package) {
            let folder = target.join("consumer").join(library);
            let manifest = folder.join("Cargo.toml");
            write(&folder.join("src/lib.rs"), &consumer_source(library))?;
            write(&manifest, &consumer_manifest(package, feature))?;
            // The versions of the workspace, so that nothing is fetched.
            let lock = cargo::root().join("Cargo.lock");
            let lock = std::fs::read_to_string(&lock).map_err(|source| XtaskError::File {
                verb: "read",
                path: lock,
                source,
            })?;
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
            check
                .arg("--target-dir")
                .arg(target.join("consumer/target"));
            cargo::check(check.env("RUSTFLAGS", "--deny warnings"))?;
        }
    }
    Ok(String::new())
}

/// What a consumer may choose: nothing, or one of the features that there are.
fn choices(package: &Value) -> Vec<&str> {
    let features = package["features"].as_object();
    let features = features.into_iter().flat_map(|features| features.keys());
    std::iter::once("")
        .chain(features.map(String::as_str))
        .collect()
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
        .map_err(|source| XtaskError::File {
            verb: "write",
            path: path.to_owned(),
            source,
        })
}

/// What each package would hold: its sources, its licences, and nothing that only we need.
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
            ["tests/", "benches/", "fuzz/"]
                .iter()
                .any(|folder| file.starts_with(folder))
        })
        .map(|file| format!("{file} is for us alone"));
    missing.chain(needless).collect()
}

/// Runs the examples.
pub(super) fn examples(_: &Path) -> Result<String, XtaskError> {
    for (library, example) in EXAMPLES {
        cargo::check(&mut call([
            "run",
            "--quiet",
            "--package",
            &package_name(library),
            "--example",
            example,
        ]))?;
    }
    Ok(String::new())
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

    /// The registry's `qmp`, `nbd` and `machine` are other programs.
    #[test]
    fn no_readme_names_a_package_of_the_registry_as_ours() {
        for library in LIBRARIES {
            let path = cargo::root().join(library).join("README.md");
            let text = std::fs::read_to_string(&path).unwrap();
            let names = LIBRARIES.map(package_name);
            let names = LIBRARIES
                .into_iter()
                .chain(names.iter().map(String::as_str));
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
