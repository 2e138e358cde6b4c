//! Development tasks: `cargo xtask <task>`.
//!
//! Everything that depends on the workspace (cargo, the target folder, the gate's order) is here;
//! everything about QEMU and cases is in the `iotests` binary, to which `cargo xtask iotests`
//! forwards its arguments unchanged.

#[cfg(test)]
mod arrows;
mod cargo;
mod codegen;
mod task;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds `iotests` and runs it with the remaining arguments (see
    /// `cargo xtask iotests --help`).
    #[command(disable_help_flag = true)]
    Iotests {
        /// Arguments for `iotests`, passed on unchanged.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Runs all checks: format, lints, docs, all tests, and the quick cases on every QEMU
    /// available.
    Test(task::test::Args),
    /// Runs the benchmarks; each result is a ratio measured within one run.
    Bench(task::bench::Args),
    /// Generates COVERAGE.md (which upstream tests are ported, and where they ran) and
    /// docs/versions.md.
    Coverage(task::coverage::Args),
    /// Packs the program with its manual page, completions and documentation, for machines without
    /// the sources.
    Dist(task::dist::Args),
    /// Reintroduces bugs into a QEMU build, and reports which cases catch them.
    Sharpness(task::sharpness::Args),
    /// Generates the typed layer of qmp from the data in qmp/qapi.
    Codegen(task::codegen::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Iotests { args } => task::iotests::run(args),
        Task::Test(args) => task::test::run(args),
        Task::Bench(args) => task::bench::run(args),
        Task::Coverage(args) => task::coverage::run(args),
        Task::Dist(args) => task::dist::run(args),
        Task::Sharpness(args) => task::sharpness::run(args),
        Task::Codegen(args) => task::codegen::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  caused by: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}
