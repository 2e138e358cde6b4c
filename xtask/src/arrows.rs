//! The architecture's dependency arrows, as data and as a check.

use serde_json::Value;

/// The members on which a member may depend, with any kind of dependency.
///
/// `iotests-macros` contains the registering attribute and is part of `iotests-core`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("qemu-qmp", &[]),
    ("qemu-imgtools", &[]),
    ("qemu-nbd", &["qemu-imgtools"]),
    ("qemu-machine", &["qemu-qmp", "qemu-imgtools"]),
    ("iotests-macros", &[]),
    (
        "iotests-core",
        &[
            "qemu-qmp",
            "qemu-imgtools",
            "qemu-nbd",
            "qemu-machine",
            "iotests-macros",
        ],
    ),
    (
        "iotests-cases",
        &[
            "iotests-core",
            "qemu-qmp",
            "qemu-imgtools",
            "qemu-nbd",
            "qemu-machine",
        ],
    ),
    ("xtask", &[]),
];

/// Every dependency in the output of `cargo metadata` that the architecture does not allow.
pub(crate) fn forbidden(metadata: &Value) -> Vec<String> {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let members: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut found = Vec::new();
    for package in packages {
        let Some(name) = package["name"].as_str() else {
            continue;
        };
        let Some((_, allowed)) = MAY_USE.iter().find(|(member, _)| *member == name) else {
            found.push(format!(
                "{name} is a member that the table of arrows does not know"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let Some(target) = dependency["name"].as_str() else {
                continue;
            };
            // A member's tests may enable its own features.
            let itself = target == name;
            if members.contains(&target) && !itself && !allowed.contains(&target) {
                found.push(format!("{name} -> {target}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_workspace_has_only_the_arrows_of_the_architecture() {
        let metadata = crate::cargo::metadata().unwrap();
        assert!(metadata["packages"].as_array().is_some_and(|p| p.len() >= MAY_USE.len()));
        assert_eq!(forbidden(&metadata), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found_even_when_only_tests_use_it() {
        let metadata = json!({"packages": [
            {"name": "qemu-qmp", "dependencies": [
                {"name": "serde"}, {"name": "qemu-qmp", "kind": "dev"}, {"name": "qemu-imgtools", "kind": "dev"},
            ]},
            {"name": "qemu-imgtools", "dependencies": []},
        ]});
        assert_eq!(forbidden(&metadata), ["qemu-qmp -> qemu-imgtools"]);
    }

    #[test]
    fn a_member_without_a_row_is_found() {
        let metadata = json!({"packages": [{"name": "extra", "dependencies": []}]});
        assert_eq!(
            forbidden(&metadata),
            ["extra is a member that the table of arrows does not know"]
        );
    }
}
