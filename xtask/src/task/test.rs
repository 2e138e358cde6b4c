//! `cargo xtask test`: the gate, step by step.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::cargo::{self, XtaskError, cargo as call};
use crate::task::iotests;

/// Options of the gate.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fetches a distribution's QEMU with its emulator into the target folder first, so that
    /// everything which needs an emulator runs as well.
    #[arg(long)]
    provision: bool,
    /// Stops at the first step that fails.
    #[arg(long)]
    fail_fast: bool,
}

struct Step {
    name: &'static str,
    elapsed: Duration,
    error: Option<XtaskError>,
}

/// Runs every step, then says which failed.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let target = cargo::target_dir()?;
    let mut done: Vec<Step> = Vec::new();
    for (name, step) in steps(args.provision) {
        println!("==> {name}");
        let start = Instant::now();
        let error = step(&target).err();
        if let Some(error) = &error {
            println!("==> {name}: {error}");
        }
        let failed = error.is_some();
        done.push(Step {
            name,
            elapsed: start.elapsed(),
            error,
        });
        if failed && args.fail_fast {
            break;
        }
    }
    println!("\n{:<52} {:>8}  result", "step", "seconds");
    for step in &done {
        let result = step
            .error
            .as_ref()
            .map_or_else(|| "ok".to_owned(), ToString::to_string);
        println!(
            "{:<52} {:>8.1}  {result}",
            step.name,
            step.elapsed.as_secs_f64()
        );
    }
    let failed = done.iter().filter(|step| step.error.is_some()).count();
    println!("steps: {} passed, {failed} failed", done.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

type Run = Box<dyn Fn(&Path) -> Result<(), XtaskError>>;

fn steps(provision: bool) -> Vec<(&'static str, Run)> {
    let mut steps: Vec<(&'static str, Run)> = vec![
        (
            "format",
            Box::new(|_| cargo::check(&mut call(["fmt", "--all", "--check"]))),
        ),
        ("clippy", Box::new(|_| cargo::check(&mut clippy()))),
        ("documentation", Box::new(|_| cargo::check(&mut rustdoc()))),
        (
            "qmp alone, without its features",
            Box::new(|_| cargo::check(&mut bare("qmp"))),
        ),
        (
            "qmp from outside of the workspace",
            Box::new(|target| cargo::check(&mut consumer(target))),
        ),
        (
            "nbd alone, without its features",
            Box::new(|_| cargo::check(&mut bare("nbd"))),
        ),
    ];
    if provision {
        steps.push((
            "a distribution's emulator in the target folder",
            Box::new(provision_step),
        ));
    }
    steps.push((
        "unit, property and integration tests, runner self-tests",
        Box::new(move |_| cargo::check(&mut tests(provision))),
    ));
    // Every instance on every set of programs: the installed ones and the provisioned ones.
    steps.push((
        "quick cases on every QEMU there is",
        Box::new(|_| quick(&["--set", "all"])),
    ));
    steps
}

fn clippy() -> Command {
    call([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ])
}

fn rustdoc() -> Command {
    let mut command = call(["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "--deny warnings");
    command
}

fn bare(package: &str) -> Command {
    call(["check", "--package", package, "--no-default-features"])
}

/// A crate of its own that depends on qmp and on nothing else of ours.
fn consumer(target: &Path) -> Command {
    let mut command = call(["check", "--manifest-path", "qmp/tests/consumer/Cargo.toml"]);
    command.arg("--target-dir").arg(target.join("consumer"));
    command
}

fn tests(provisioned: bool) -> Command {
    let mut command = call(["test", "--workspace", "--no-fail-fast"]);
    if provisioned {
        // With an emulator promised, a test that finds none must fail instead of skipping.
        command.env("QEMU_TEST_REQUIRE", "1");
    }
    command
}

fn provision_step(_: &Path) -> Result<(), XtaskError> {
    let binary = iotests::build()?;
    cargo::check(iotests::command(&binary)?.args(["--provision", "--probe"]))
}

fn quick(args: &[&str]) -> Result<(), XtaskError> {
    let binary = iotests::build()?;
    cargo::check(
        iotests::command(&binary)?
            .args(["--group", "quick"])
            .args(args),
    )
}
