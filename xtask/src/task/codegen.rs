//! `cargo xtask codegen`: see [`crate::codegen`].

use std::process::ExitCode;

use crate::cargo::{self, XtaskError};
use crate::codegen;

/// Options of the generator.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only checks: reports differences from the data, and fails if there are any.
    #[arg(long, conflicts_with = "read")]
    check: bool,
    /// First rereads the data from these QEMU source trees; all must be given.
    #[arg(long, value_name = "VERSION=FOLDER", num_args = 1..)]
    read: Vec<String>,
}

/// Reads facts if source trees are given, then generates.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let root = cargo::root();
    if !args.read.is_empty() {
        codegen::read(&root, &args.read).map_err(XtaskError::Codegen)?;
    }
    codegen::generate(&root, args.check).map_err(XtaskError::Codegen)?;
    Ok(ExitCode::SUCCESS)
}

/// The step of the gate.
pub(crate) fn check() -> Result<(), XtaskError> {
    codegen::generate(&cargo::root(), true).map_err(XtaskError::Codegen)
}
