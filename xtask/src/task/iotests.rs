//! `cargo xtask iotests`: builds the harness and executes it.

use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

use crate::cargo::{self, XtaskError};

/// Builds the binary, then replaces this process by it, so that signals, terminal and exit status
/// are the harness's own.
pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode, XtaskError> {
    let mut command = command(&build()?)?;
    command.args(args);
    let source = command.exec();
    Err(XtaskError::Start {
        program: cargo::display(&command),
        source,
    })
}

/// Builds the `iotests` binary and returns its path. Cargo shows its progress; if there was nothing
/// to build, its single line is erased.
pub(crate) fn build() -> Result<PathBuf, XtaskError> {
    build_with(&[])
}

/// The same with these options of cargo.
pub(crate) fn build_with(options: &[&str]) -> Result<PathBuf, XtaskError> {
    let usual = [
        "build",
        "--message-format=json-render-diagnostics",
        "--package",
        "iotests-cases",
        "--bin",
        BINARY,
    ];
    let messages = cargo::read(cargo::cargo(usual).args(options))?;
    if stderr().is_terminal() && is_fresh(&messages) {
        // One line up, and empty it.
        eprint!("\x1b[1A\x1b[2K");
    }
    executable(&messages)
        .ok_or_else(|| XtaskError::Build(format!("it does not say where `{BINARY}` is")))
}

const BINARY: &str = "iotests";

/// Whether nothing was compiled, and cargo reported nothing else.
fn is_fresh(messages: &[u8]) -> bool {
    parsed(messages).all(|message| match message["reason"].as_str() {
        Some("compiler-artifact") => message["fresh"] == true,
        Some("compiler-message") => false,
        _ => true,
    })
}

fn parsed(messages: &[u8]) -> impl Iterator<Item = Value> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

/// The path of the binary: a configured target or profile has its own folder.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    let paths = parsed(messages).filter_map(|message| {
        let is_ours =
            message["reason"] == "compiler-artifact" && message["target"]["name"] == BINARY;
        message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    paths.last()
}

/// The folder for the binary's own files, unless the user has set another one.
const BUILD_DIR: &str = "IOTESTS_BUILD_DIR";

/// The command to run the binary, with the folder for its files and the command that users type.
pub(crate) fn command(binary: &Path) -> Result<Command, XtaskError> {
    let named = std::env::var_os(BUILD_DIR);
    let mut command = Command::new(binary);
    command
        .env(BUILD_DIR, build_dir(named, cargo::target_dir()?))
        .env("IOTESTS_SOURCE_DIR", cargo::root())
        .env("IOTESTS_CALLED_AS", "cargo xtask iotests");
    Ok(command)
}

fn build_dir(named: Option<OsString>, target: PathBuf) -> PathBuf {
    let named = named.filter(|named| !named.is_empty());
    named.map_or(target, PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_the_user_names_comes_before_that_of_cargo() {
        let dir = |named: Option<&str>| build_dir(named.map(OsString::from), "/target".into());
        assert_eq!(dir(Some("/mine")), Path::new("/mine"));
        assert_eq!(dir(Some("")), Path::new("/target"));
        assert_eq!(dir(None), Path::new("/target"));
    }

    #[test]
    fn the_binary_is_where_cargo_says() {
        let messages = br#"
            {"reason":"compiler-artifact","target":{"name":"iotests_core"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/debug/other"}
            {"reason":"compiler-artifact","target":{"name":"iotests"},"executable":"/t/s390x/debug/iotests"}
            {"reason":"build-finished","success":true}"#;
        let found = executable(messages);
        assert_eq!(found, Some(PathBuf::from("/t/s390x/debug/iotests")));
        assert_eq!(executable(b"nothing\n{}"), None);
    }

    #[test]
    fn cargo_is_quiet_only_where_it_had_nothing_to_say() {
        let artifact =
            |fresh: bool| format!("{{\"reason\":\"compiler-artifact\",\"fresh\":{fresh}}}\n");
        assert!(is_fresh((artifact(true) + &artifact(true)).as_bytes()));
        assert!(!is_fresh((artifact(true) + &artifact(false)).as_bytes()));
        assert!(!is_fresh(
            (artifact(true) + "{\"reason\":\"compiler-message\"}").as_bytes()
        ));
    }
}
