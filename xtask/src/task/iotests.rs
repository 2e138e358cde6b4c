//! `cargo xtask iotests`: builds the harness and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

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

/// Builds the `iotests` binary and says where it is.
pub(crate) fn build() -> Result<PathBuf, XtaskError> {
    cargo::check(&mut cargo::cargo([
        "build",
        "--quiet",
        "--package",
        "iotests-cases",
        "--bin",
        "iotests",
    ]))?;
    Ok(cargo::target_dir()?.join("debug").join("iotests"))
}

/// The binary, told where it may keep its own things and how a person calls it.
pub(crate) fn command(binary: &Path) -> Result<Command, XtaskError> {
    let mut command = Command::new(binary);
    command
        .env("IOTESTS_BUILD_DIR", cargo::target_dir()?)
        .env("IOTESTS_SOURCE_DIR", cargo::root())
        .env("IOTESTS_CALLED_AS", "cargo xtask iotests");
    Ok(command)
}
