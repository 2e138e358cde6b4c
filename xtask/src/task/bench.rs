//! `cargo xtask bench`: every benchmark of the workspace.

use std::process::ExitCode;

use crate::cargo::{self, XtaskError, cargo as call};

/// Options of the benchmarks.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs only the benchmarks of this workspace member.
    #[arg(long, value_name = "MEMBER")]
    package: Option<String>,
    /// Runs only the benchmarks whose name contains this text.
    filter: Option<String>,
}

/// Runs criterion's benchmarks; each prints which ratio it measures.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let mut command = call(["bench"]);
    match &args.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.args(["--benches", "--"]).args(args.filter);
    cargo::check(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
