//! `cargo xtask test`: the gate, step by step.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::cargo::{self, XtaskError, cargo as call};
use crate::task::fetch::Fetch;
use crate::task::{codegen, iotests, libraries, room, skips};

/// Options of the gate.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// First fetches QEMUs with emulators into the target folder, so that cases that need an
    /// emulator run too, on several versions: the oldest, the middle and the newest in Debian's
    /// archive, or a list as for `cargo xtask iotests --provision`, such as `all`.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = USUAL)]
    provision: Option<String>,
    /// Stops at the first step that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Runs only the steps whose name contains this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    step: Vec<String>,
}

/// Stable releases keep their versions; the newest is the current one.
const USUAL: &str = "7.2,10.0,newest";

struct Step {
    name: &'static str,
    elapsed: Duration,
    /// The processor time used by the step's programs, which shows its cost even beside other work.
    processors: Duration,
    /// A note in addition to its success.
    note: String,
    error: Option<XtaskError>,
}

/// Runs every step, then reports which failed.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let target = cargo::target_dir()?;
    room::check(&target)?;
    let mut done: Vec<Step> = Vec::new();
    let steps = steps(args.provision.as_deref());
    for (name, step) in chosen(steps, &args.step)? {
        println!("==> {name}");
        let (start, before) = (Instant::now(), processors());
        let (note, error) = match step(&target) {
            Ok(note) => (note, None),
            Err(error) => (String::new(), Some(error)),
        };
        if let Some(error) = &error {
            println!("==> {name}: {error}");
        }
        let failed = error.is_some();
        done.push(Step {
            name,
            elapsed: start.elapsed(),
            processors: processors().saturating_sub(before),
            note,
            error,
        });
        if failed && args.fail_fast {
            break;
        }
    }
    println!("\n{:<52} {:>8} {:>8}  result", "step", "seconds", "of CPU");
    for step in &done {
        let result =
            step.error.as_ref().map_or_else(|| format!("ok{}", step.note), ToString::to_string);
        println!(
            "{:<52} {:>8.1} {:>8.1}  {result}",
            step.name,
            step.elapsed.as_secs_f64(),
            step.processors.as_secs_f64()
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

/// The processor time of all programs that have ended so far.
fn processors() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(Duration::ZERO, |usage| {
        let sum = usage.user_time() + usage.system_time();
        Duration::from_micros(sum.num_microseconds().unsigned_abs())
    })
}

/// A step; on success it may return a note.
type Run = Box<dyn Fn(&Path) -> Result<String, XtaskError>>;

fn steps(provision: Option<&str>) -> Vec<(&'static str, Run)> {
    let mut steps: Vec<(&'static str, Run)> = vec![
        (
            "format",
            Box::new(|_| plain(&mut call(["fmt", "--all", "--check"]))),
        ),
        ("clippy", Box::new(|_| plain(&mut clippy()))),
    ];
    let provision = provision.map(|list| format!("--provision={list}"));
    let provisioned = provision.is_some();
    let fetch = Rc::new(Fetch::default());
    if let Some(list) = provision.clone() {
        let fetch = fetch.clone();
        steps.push((
            "the harness, which begins to fetch QEMUs",
            Box::new(move |_| fetch.begin(provisioning(&list)?).map(|()| String::new())),
        ));
    }
    let more: [(&'static str, Run); 5] = [
        ("documentation", Box::new(|_| plain(&mut rustdoc()))),
        (
            "the typed layer is what its facts generate",
            Box::new(|_| codegen::check().map(|()| String::new())),
        ),
        (
            "qmp from outside of the workspace",
            Box::new(|target| plain(&mut consumer(target))),
        ),
        (
            "each library from outside, feature by feature",
            Box::new(libraries::from_outside),
        ),
        (
            "what the libraries' packages hold",
            Box::new(libraries::packages),
        ),
    ];
    steps.extend(more);
    if let Some(list) = provision {
        steps.push((
            "a distribution's QEMUs in the target folder",
            Box::new(move |_| match fetch.end(&mut std::io::stdout()) {
                Some(ended) => ended.map(|()| String::new()),
                None => plain(&mut provisioning(&list)?),
            }),
        ));
    }
    steps.push((
        "the libraries' examples on every QEMU there is",
        Box::new(move |target| libraries::examples(target, &prefixes(target), provisioned)),
    ));
    steps.push((
        "unit, property and integration tests, runner self-tests",
        Box::new(move |target| {
            let (summary, result) = skips::run(&mut tests(target, provisioned));
            println!("{summary}");
            match result {
                Ok(()) => Ok(format!(", {summary}")),
                Err(source) => Err(XtaskError::Tests {
                    source: Box::new(source),
                    summary: summary.to_string(),
                }),
            }
        }),
    ));
    steps.push((
        "quick cases on every QEMU there is",
        Box::new(move |_| quick(provisioned)),
    ));
    steps
}

/// The steps that match `wanted`; all of them if it is empty.
fn chosen<S>(
    steps: Vec<(&'static str, S)>,
    wanted: &[String],
) -> Result<Vec<(&'static str, S)>, XtaskError> {
    let names: Vec<&str> = steps.iter().map(|(name, _)| *name).collect();
    if let Some(text) =
        wanted.iter().find(|text| !names.iter().any(|name| name.contains(text.as_str())))
    {
        return Err(XtaskError::NoStep {
            text: text.clone(),
            names: names.join("\n  "),
        });
    }
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|text| name.contains(text));
    Ok(steps.into_iter().filter(|(name, _)| chosen(name)).collect())
}

fn plain(command: &mut Command) -> Result<String, XtaskError> {
    cargo::check(command).map(|()| String::new())
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

/// A separate crate that depends on qmp and none of our other crates.
fn consumer(target: &Path) -> Command {
    let mut command = call(["check", "--manifest-path", "qmp/tests/consumer/Cargo.toml"]);
    // The folder and flags used for the other libraries, so that shared dependencies are compiled
    // once.
    let folder = target.join("consumer/target");
    command.arg("--target-dir").arg(folder);
    command.env("RUSTFLAGS", "--deny warnings");
    command
}

/// The variable that passes the sets of programs to the tests.
const PREFIXES: &str = "QEMU_TEST_PREFIXES";

fn tests(target: &Path, provisioned: bool) -> Command {
    let mut command = call(["test", "--workspace", "--no-fail-fast", "--"]);
    if provisioned {
        // If an emulator was promised, a test that finds none must fail instead of skipping.
        command.env("QEMU_TEST_REQUIRE", "1");
    }
    // By default the tests look only in the usual target folder.
    let prefixes = prefixes(target);
    if let (false, Ok(list)) = (prefixes.is_empty(), std::env::join_paths(&prefixes)) {
        command.env(PREFIXES, list);
    }
    command
}

/// The sets of programs in addition to those on `PATH`: those named by the environment, or else
/// those provisioned into this target folder.
fn prefixes(target: &Path) -> Vec<PathBuf> {
    match std::env::var_os(PREFIXES) {
        Some(list) => std::env::split_paths(&list).collect(),
        None => provisioned_into(target),
    }
}

fn provisioned_into(target: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(target.join("qemu")).into_iter().flatten();
    let mut prefixes: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin").is_dir())
        .collect();
    prefixes.sort();
    prefixes
}

fn provisioning(list: &str) -> Result<Command, XtaskError> {
    let mut command = iotests::command(&iotests::build()?)?;
    command.args([list, "--probe"]);
    Ok(command)
}

fn quick(provisioned: bool) -> Result<String, XtaskError> {
    let binary = iotests::build()?;
    plain(iotests::command(&binary)?.args(quick_args(provisioned)))
}

/// Every instance on every set of programs. With provisioned sets, the installed programs are left
/// out: on a new machine, they have the same version as the middle set, and no emulator.
fn quick_args(provisioned: bool) -> Vec<&'static str> {
    let mut args = vec!["--group", "quick", "--set", "all"];
    if provisioned {
        args.extend(["-E", "!set(=host)"]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_a_part_of_their_names() {
        let steps = || vec![("format", 1), ("clippy", 2), ("clippy again", 3)];
        let chosen = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let steps = super::chosen(steps(), &wanted);
            steps.map(|steps| steps.into_iter().map(|(_, it)| it).collect::<Vec<i32>>())
        };
        assert_eq!(chosen(&[]).unwrap(), [1, 2, 3]);
        assert_eq!(chosen(&["again"]).unwrap(), [3]);
        assert_eq!(chosen(&["mat", "again"]).unwrap(), [1, 3]);
        let error = chosen(&["format", "lint"]).unwrap_err().to_string();
        assert!(
            error.contains("\"lint\"") && error.contains("\n  clippy\n"),
            "{error}"
        );
    }

    /// H17, H20, H24: formatting (which includes the order of imports) and denying lints come
    /// first.
    #[test]
    fn the_gate_begins_with_the_format_and_the_lints() {
        let names: Vec<&str> = steps(None).iter().map(|(name, _)| *name).collect();
        assert!(names.starts_with(&["format", "clippy"]), "{names:?}");
        let clippy = clippy();
        let words: Vec<_> = clippy.get_args().filter_map(|word| word.to_str()).collect();
        assert!(words.contains(&"--all-targets"), "{words:?}");
        assert!(words.ends_with(&["--", "--deny", "warnings"]), "{words:?}");
    }

    #[test]
    fn the_quick_cases_run_on_the_provisioned_sets_alone_where_there_are_some() {
        let all = ["--group", "quick", "--set", "all"];
        assert_eq!(quick_args(false), all);
        let provisioned = [&all[..], &["-E", "!set(=host)"]].concat();
        assert_eq!(quick_args(true), provisioned);
    }

    #[test]
    fn what_a_program_takes_of_the_processors_is_counted() {
        let before = processors();
        let mut spin = Command::new("sh");
        spin.args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]);
        plain(&mut spin).unwrap();
        assert!(processors() > before);
    }

    #[test]
    fn the_tests_are_told_of_sets_in_any_target_folder() {
        let target = tempfile::tempdir().unwrap();
        let target = target.path();
        std::fs::create_dir_all(target.join("qemu/7.2.22/bin")).unwrap();
        std::fs::create_dir_all(target.join("qemu/.unpacking-1")).unwrap();
        assert_eq!(provisioned_into(target), [target.join("qemu/7.2.22")]);
        assert!(provisioned_into(&target.join("qemu")).is_empty());
    }
}
