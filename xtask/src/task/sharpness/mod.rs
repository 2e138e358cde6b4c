//! `cargo xtask sharpness`: re-creates bugs in a QEMU, and reports which cases detect them.

mod bugs;
mod cases;
mod child;
mod report;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use self::bugs::{Bug, Selection};
use self::cases::{Harness, Ran};
use self::child::{End, Stop};
use self::report::{Outcome, Report, Row};
use self::tree::{Change, Tree, TreeError};
use super::iotests;
use crate::cargo::{self, XtaskError};

/// What to measure, and with what.
///
/// Each bug in the list is reintroduced into the source tree, by a patch or by reverting its fix.
/// Then the programs are built, and the cases listed for the bug run on them. First, all cases run
/// without any bug: those that fail then show nothing. The result is a table of bugs, cases that
/// found them, and times, as Markdown and JSON.
///
/// The tree must be clean, and is restored: files are copied into the build folder before they are
/// patched, and put back after the bug, on Ctrl-C and SIGTERM, and after a killed run at the start
/// of the next.
///
/// The list is a TOML file, described in docs/sharpness.md.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// QEMU's source tree, into which the bugs are reintroduced
    #[arg(long, value_name = "DIR")]
    qemu_source: PathBuf,
    /// Its build folder. Default: `build` in the source tree
    #[arg(long, value_name = "DIR")]
    qemu_build: Option<PathBuf>,
    /// The list of bugs
    #[arg(long, value_name = "FILE")]
    bugs: PathBuf,
    /// Only the bug with this id; may be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Where to write `sharpness.md`, `sharpness.json` and the records of the runs. Default:
    /// `sharpness` in cargo's target folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many instances run at once. Default: one per processor
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// The build program
    #[arg(long, value_name = "PROGRAM", default_value = "ninja")]
    ninja: PathBuf,
    /// The harness to use. Default: built from this workspace
    #[arg(long, value_name = "PROGRAM")]
    iotests: Option<PathBuf>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharpnessError {
    /// The list cannot be used.
    #[error("failed to use the list of bugs {path}: {why}", path = path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Some bugs cannot be measured, so nothing was built.
    #[error("failed to prepare these bugs, so that nothing was built\n{0}")]
    Bugs(String),
    /// The programs do not build without any bug.
    #[error("failed to build {build} without any bug\n{output}", build = build.display())]
    Build {
        /// The build folder.
        build: PathBuf,
        /// The end of the build's output.
        output: String,
    },
    /// The tree cannot be used.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// This program does not understand the harness's output.
    #[error("failed to read what `{command}` says: {why}")]
    Harness {
        /// The command line.
        command: String,
        /// What is wrong.
        why: String,
    },
    /// A signal came before there was anything to report.
    #[error("stopped; the sources are as they were")]
    Stopped,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let program = match &args.iotests {
        Some(program) => program.clone(),
        None => iotests::build()?,
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => cargo::target_dir()?.join("sharpness"),
    };
    let report = measure(args, program, &out, &Stop::by_signals()?)?;
    println!("{}", out.join("sharpness.md").display());
    print!("{}", report.summary());
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything except the setup. The measurements before a signal are also reported.
fn measure(args: Args, program: PathBuf, out: &Path, stop: &Stop) -> Result<Report, XtaskError> {
    let folder = args.qemu_build.unwrap_or(args.qemu_source.join("build"));
    let tree = Tree::open(&args.qemu_source, &folder).map_err(SharpnessError::from)?;
    let bugs = bugs::read(&args.bugs, &args.only)?;
    for part in ["records", "logs"] {
        let part = out.join(part);
        fs::create_dir_all(&part).map_err(XtaskError::file("create", &part))?;
    }
    let out = &fs::canonicalize(out).map_err(XtaskError::file("find", out))?;
    let mut harness = Harness::new(program, tree.build(), out, args.jobs);
    let mut build = Build {
        ninja: args.ninja,
        tree: &tree,
        stop,
    };

    eprintln!("building without any bug");
    match build.run()? {
        Built::Yes => {}
        Built::No(output) => {
            let build = tree.build().to_owned();
            return Err(SharpnessError::Build { build, output }.into());
        }
        Built::Stopped => return Err(SharpnessError::Stopped.into()),
    }
    let changes = prepare(&bugs, &tree, &mut harness)?;
    let mut report = Report::default();
    let Some(baseline) = baseline(&bugs, &harness, stop, &mut report)? else {
        return Err(SharpnessError::Stopped.into());
    };

    let mut order: Vec<usize> = (0..bugs.len()).collect();
    // Bugs in the same patch, selected by a variable, share the cost of building it.
    order.sort_by_key(|bug| changes.iter().position(|change| *change == changes[*bug]));
    for group in order.chunk_by(|a, b| changes[*a] == changes[*b]) {
        let applied = tree.apply(&changes[group[0]]).map_err(SharpnessError::from)?;
        eprintln!("building {}", bugs[group[0]].id);
        let started = Instant::now();
        let built = build.run()?;
        for bug in group.iter().map(|bug| &bugs[*bug]) {
            let outcome = match &built {
                Built::Yes => cases_find(bug, &harness, stop, &baseline)?,
                Built::No(output) => Outcome::NotBuilt(output.clone()),
                Built::Stopped => Outcome::Stopped,
            };
            let row = Row::new(bug, started.elapsed(), outcome);
            eprintln!("{}: {}", bug.id, row.in_a_word());
            report.add(row);
            report.write(out)?;
        }
        applied.restore().map_err(SharpnessError::from)?;
        if report.is_stopped() {
            eprintln!("stopped: the sources are as they were; `ninja` makes the programs so");
            return Ok(report);
        }
    }
    eprintln!("building without any bug again");
    build.run()?;
    report.write(out)?;
    Ok(report)
}

/// The change of each bug. Before anything is built, checks that each applies and selects cases,
/// and reports all problems at once.
fn prepare(bugs: &[Bug], tree: &Tree, harness: &mut Harness) -> Result<Vec<Change>, XtaskError> {
    let mut changes = Vec::new();
    let mut wrong = Vec::new();
    for bug in bugs {
        match tree.change(bug) {
            Ok(change) => changes.push(change),
            Err(error) => wrong.push(format!("  {}: {error}", bug.id)),
        }
        if harness.count(&bug.selection)? == 0 {
            wrong.push(format!(
                "  {}: no case that can run here is selected by {}",
                bug.id, bug.selection
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(changes);
    }
    Err(SharpnessError::Bugs(wrong.join("\n")).into())
}

/// How each instance selected by any bug ends without a bug. `None` after a signal.
fn baseline(
    bugs: &[Bug],
    harness: &Harness,
    stop: &Stop,
    report: &mut Report,
) -> Result<Option<BTreeMap<String, String>>, XtaskError> {
    let mut verdicts = BTreeMap::new();
    let selections: BTreeSet<Selection> = Selection::together(bugs.iter().map(|b| &b.selection));
    for (number, selection) in selections.iter().enumerate() {
        eprintln!("running {selection} without any bug");
        let name = format!("without-{number}");
        let time = Duration::from_secs(24 * 3600);
        let run = harness.run(&name, selection, &BTreeMap::new(), time, stop)?;
        if run.end == End::Stopped {
            return Ok(None);
        }
        for ran in run.instances {
            if ran.is_red() {
                report.red_without_any_bug(&ran);
            }
            verdicts.insert(ran.id, ran.verdict);
        }
    }
    Ok(Some(verdicts))
}

/// Runs the cases of a bug that has been built.
fn cases_find(
    bug: &Bug,
    harness: &Harness,
    stop: &Stop,
    baseline: &BTreeMap<String, String>,
) -> Result<Outcome, XtaskError> {
    let time = Duration::from_secs(bug.timeout);
    let run = harness.run(&bug.id, &bug.selection, &bug.env, time, stop)?;
    if run.end == End::Stopped {
        return Ok(Outcome::Stopped);
    }
    let green = |ran: &Ran| baseline.get(&ran.id).is_some_and(|verdict| verdict == "pass");
    let useful: Vec<Ran> = run.instances.into_iter().filter(green).collect();
    let ran = useful.len();
    let found: Vec<Ran> = useful.into_iter().filter(Ran::is_red).collect();
    let late = run.end == End::Late;
    Ok(match (found.is_empty(), ran) {
        (false, _) => Outcome::Found { found, ran },
        (true, _) if late => Outcome::Unfinished(bug.timeout),
        (true, 0) => Outcome::NothingGreen,
        (true, ran) => Outcome::Missed { ran },
    })
}

struct Build<'a> {
    ninja: PathBuf,
    tree: &'a Tree,
    stop: &'a Stop,
}

enum Built {
    Yes,
    /// The end of the output.
    No(String),
    Stopped,
}

impl Build<'_> {
    /// Builds the programs that already exist in the build folder.
    fn run(&mut self) -> Result<Built, XtaskError> {
        let mut command = Command::new(&self.ninja);
        command.current_dir(self.tree.build());
        let log = self.tree.build().join("sharpness.log");
        let time = Duration::from_secs(24 * 3600);
        let end = child::run(command.args(self.tree.programs()?), &log, time, self.stop)?;
        Ok(match end {
            End::Exited(status) if status.success() => Built::Yes,
            End::Exited(_) | End::Late => {
                let text = fs::read(&log).map_err(XtaskError::file("read", &log))?;
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                Built::No(lines[lines.len().saturating_sub(20)..].join("\n"))
            }
            End::Stopped => Built::Stopped,
        })
    }
}

#[cfg(test)]
mod tests;
