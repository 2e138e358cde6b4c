//! What the crate brings into a program that uses it.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates that are built with these features, this one among them.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "-e", "normal"]);
    cargo.args(["--prefix", "none", "--format", "{p}"]);
    cargo.args([
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    let output = cargo.args(features).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let name = |line: &str| line.split(' ').next().map(str::to_owned);
    text.lines().filter_map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_client_and_a_server_take_thirty_crates_at_most() {
    let crates = crates(&[]);
    assert!(crates.contains("tokio"), "{crates:?}");
    assert!(crates.len() <= 30, "{}: {crates:?}", crates.len());
    for of_others in ["clap", "rustls", "serde", "tempfile"] {
        assert!(!crates.contains(of_others), "{of_others}");
    }
}

#[test]
fn the_protocol_alone_takes_thiserror() {
    let none = crates(&["--no-default-features"]);
    // What a derive macro is made of is there at build time only.
    let macros = [
        "thiserror-impl",
        "proc-macro2",
        "quote",
        "syn",
        "unicode-ident",
    ];
    let rest: Vec<&str> =
        none.iter().map(|name| &**name).filter(|name| !macros.contains(name)).collect();
    assert_eq!(rest, ["qemu-nbd", "thiserror"]);
}
