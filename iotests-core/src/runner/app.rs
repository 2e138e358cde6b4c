//! The program: from the arguments to the exit code.

mod parts;
mod reports;
mod rerun;
mod sets;
mod start;
mod time;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

use super::cli::{Cli, ColorChoice, ListHow};
use super::config::{self, Asked, Config};
use super::error::{RunError, chain, io as io_error};
use super::exit::Exit;
use super::explain::Known;
use super::filter::Existing;
use super::list::List;
use super::places::Places;
use super::plan::{Planned, SetChoice, Wanted, names_set, plan};
use super::probe::show;
use super::recordings;
use super::records::Records;
use super::report::Palette;
use super::since::{self, Since};
use super::wrap::Wrap;
use super::{called_as, console, review, signals, words};
use crate::author::golden;
use crate::case::{CASES, Registered, Registry};
use crate::provision::{self, Request};
use crate::script;
use sets::Sets;

/// Runs the program with the arguments of this process.
pub(super) fn main(arguments: Vec<OsString>) -> ExitCode {
    let read = words::translate(arguments).and_then(|words| Ok(config::read(words)?));
    let (cli, config) = match read {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let color = cli.report.color;
    let app = App {
        places: Places::new(cli.run.build_dir.as_deref()),
        cli,
        config,
        palette: console::palette(color, &stdout()),
        aside: console::palette(color, &stderr()),
    };
    match app.main() {
        Ok(exit) => exit.into(),
        Err(error) => {
            tell(&format!(
                "{} failed to {error}{}",
                app.aside.bad("error:"),
                app.hint(&error)
            ));
            error.exit().into()
        }
    }
}

/// Reports what is wrong with the arguments.
pub(super) fn refuse(error: &RunError) -> ExitCode {
    let aside = console::palette(ColorChoice::Auto, &stderr());
    tell(&format!("{} failed to {error}", aside.bad("error:")));
    error.exit().into()
}

struct App {
    cli: Cli,
    config: Config,
    places: Places,
    /// The colours of standard output.
    palette: Palette,
    /// The colours of standard error.
    aside: Palette,
}

impl App {
    fn main(&self) -> Result<Exit, RunError> {
        let cli = &self.cli;
        signals::block_file_size_signal()?;
        self.check_operands()?;
        self.places.check()?;
        if cli.what.review {
            let folders = match &cli.scripts.upstream {
                Some(_) => self.entries()?.iter().map(|one| self.goldens(one.case)).collect(),
                None => CASES.iter().map(|case| self.goldens(case)).collect(),
            };
            return review::review(&folders, self.palette);
        }
        if cli.run.bless && golden::is_ci() {
            return Err(RunError::Usage(
                "--bless is refused if CI is set: goldens must be reviewed by people".to_owned(),
            ));
        }
        if cli.what.merge || !cli.what.from_record.is_empty() {
            return self.report_on_records();
        }
        let rules = self.config.rules()?;
        let entries = self.entries()?;
        words::ignored().iter().for_each(|text| self.warn(text));
        let unprovisioned = match &cli.tools.provision {
            None => None,
            Some(Request::List) => return self.provisioned(),
            Some(request) => {
                let mut note = |text: &str| self.progress(text);
                provision::provision(&self.places.prefixes(), request, &mut note).err()
            }
        };
        // A version that was asked for by name must be there.
        if let (Some(error), Some(Request::These { .. })) = (&unprovisioned, &cli.tools.provision) {
            return Err(RunError::Provision(sets::unprefixed(&chain(error))));
        }
        let sets = self.sets(&cli.tools)?;
        if let Some(error) = unprovisioned {
            self.without_provision(&error, &sets)?;
        }
        if cli.what.probe {
            self.require_tools(&sets)?;
            for (set, able) in sets.found.iter().zip(&sets.able) {
                print(&show(set, &able.capabilities))?;
            }
            return Ok(Exit::Passed);
        }
        let choice = if names_set(&cli.selectors) && cli.tools.set == "auto" {
            "all"
        } else {
            &cli.tools.set
        };
        let since = self.since()?;
        let wanted = Wanted {
            selectors: &cli.selectors,
            matrix: &cli.matrix,
            sets: SetChoice::new(choice, &sets.able)?,
            more: since.as_ref().map(Since::points).unwrap_or_default(),
        };
        let mut planned = plan(entries, &wanted, &sets.able)?;
        let (mut records, corrupt) = Records::read(&self.places.records());
        if let Err(error) = recordings::tidy(&self.places.recordings(), &mut records) {
            self.warn(&format!(
                "a record of an earlier run could not be read: {error}"
            ));
        }
        let asked = Asked {
            entries,
            sets: &sets.able,
            records: &records,
            today: &time::today(),
        };
        let warnings = rules.apply(&mut planned, &asked);
        if cli.matrix.unfinished {
            let folder = self.places.recordings();
            let left =
                recordings::unfinished(&folder).map_err(io_error("read the records in", folder))?;
            let why = "the last run completed all of these";
            narrow(&mut planned, |one| left.contains(&one.id), why)?;
        }
        if cli.matrix.failed {
            let why = "none of these failed the last time";
            narrow(&mut planned, |one| records.failed(&one.id), why)?;
        }
        if let Some(filter) = &cli.matrix.expression {
            let existing = Existing {
                entries,
                sets: &sets.able,
            };
            filter.check(&existing).map_err(|error| RunError::Usage(format!("-E: {error}")))?;
            let mut why = "the expression matches none of the selected instances".to_owned();
            if let Some(hint) = filter.missing_points(&planned) {
                why += &format!("; {hint}");
            }
            narrow(
                &mut planned,
                |one| filter.matches(one, &sets.able, &records),
                &why,
            )?;
        }
        if let Some(since) = &since {
            let (chosen, lines) = since.choose(&planned, &sets.able, &records);
            lines.iter().for_each(|line| self.progress(line));
            let mut chosen = chosen.into_iter();
            planned.retain(|_| chosen.next().unwrap_or(false));
            if planned.is_empty() {
                self.progress("the change affects none of the selected instances, so nothing runs");
            }
        }
        let whole_runs = planned.iter().any(|one| one.skip.is_none());
        let shard = self.partition(&mut planned, &records)?;
        // It is no failure if everything is in other parts or untouched by the change.
        let may_be_nothing = planned.is_empty() || (shard.is_some() && whole_runs);
        if cli.what.explain {
            let known = Known {
                planned: &planned,
                sets: &sets.able,
                records: &records,
            };
            print(&known.explain(self.palette))?;
            return Ok(Exit::Passed);
        }
        if let Some(how) = cli.what.list {
            let list = List {
                planned: &planned,
                sets: &sets.able,
                records: &records,
            };
            warnings.iter().for_each(|text| self.warn(text));
            print(&list.print(how, self.palette)?)?;
            if how == ListHow::Ids
                && let Some(why) = list.why_empty()
            {
                self.warn(&why);
            }
            return Ok(Exit::Passed);
        }
        self.require_tools(&sets)?;
        corrupt.iter().for_each(|warning| self.warn(warning));
        if cli.what.env {
            return self.surround(planned, &sets, &records);
        }
        self.try_wrappers(&planned, &sets)?;
        match self.run(planned, warnings, &sets, &mut records, shard)? {
            Exit::NothingRan if may_be_nothing => Ok(Exit::Passed),
            exit => Ok(exit),
        }
    }

    /// Checks that the programs of the sets in use run under their wrappers.
    fn try_wrappers(&self, planned: &[Planned], sets: &Sets) -> Result<(), RunError> {
        let cli = &self.cli;
        let wrap = Wrap::of(&cli.debug, cli.scripts.upstream.is_some())?;
        let runnable = planned.iter().filter(|one| one.skip.is_none());
        let concerned: BTreeSet<usize> = runnable.map(|one| one.set).collect();
        let files = concerned.iter().filter_map(|&index| sets.files.get(index));
        wrap.try_out(files.map(|files| &files.tools))
    }

    /// Checks that command words have their operands.
    fn check_operands(&self) -> Result<(), RunError> {
        let cli = &self.cli;
        let program = called_as();
        let why = if !cli.what.env && !cli.command.is_empty() {
            format!("a command after `--` is only for {program} env CASE -- COMMAND")
        } else if cli.what.merge && cli.selectors.is_empty() {
            format!(
                "`merge` needs records of runs (written by --jsonl), or a folder of them: {program} merge FILE…"
            )
        } else if cli.what.explain && cli.selectors.is_empty() {
            format!("`explain` needs a case: {program} explain 163")
        } else {
            return Ok(());
        };
        Err(RunError::Usage(why))
    }

    /// Advice to append to an error message.
    fn hint(&self, error: &RunError) -> &'static str {
        match error {
            RunError::Io { path, source, .. }
                if self.places.have(path)
                    && matches!(
                        source.kind(),
                        ErrorKind::PermissionDenied
                            | ErrorKind::ReadOnlyFilesystem
                            | ErrorKind::NotADirectory
                    ) =>
            {
                "; name another folder with --build-dir"
            }
            _ => "",
        }
    }

    /// Everything that can run: the cases of this program, or the scripts of a tree.
    fn entries(&self) -> Result<&'static [Registered], RunError> {
        let args = &self.cli.scripts;
        match &args.upstream {
            Some(tree) => Ok(script::entries(tree, args.python.is_some())?),
            None => match Registry::get() {
                Ok(registry) => Ok(registry.entries()),
                Err(problems) => Err(RunError::Declarations(problems.clone())),
            },
        }
    }

    /// The change that `--since` names, if given.
    fn since(&self) -> Result<Option<Since>, RunError> {
        let cli = &self.cli;
        let Some(revision) = &cli.matrix.since else {
            return Ok(None);
        };
        let of_build = || {
            let build = cli.tools.qemu_build.as_deref()?;
            since::source_of_build(build)
        };
        let named = cli.matrix.qemu_source.clone();
        let source = named.or_else(|| cli.scripts.upstream.clone()).or_else(of_build);
        let Some(source) = source else {
            return Err(RunError::Usage(
                "--since needs QEMU's sources: name the clone with --qemu-source".to_owned(),
            ));
        };
        Since::new(revision, &source).map(Some)
    }

    fn warn(&self, text: &str) {
        tell(&format!("{} {text}", self.aside.warn("warning:")));
    }

    fn progress(&self, text: &str) {
        tell(&self.aside.dim(text));
    }
}

/// Keeps the instances that match; `why` is the error if none is left.
fn narrow(
    planned: &mut Vec<Planned>,
    keep: impl FnMut(&Planned) -> bool,
    why: &str,
) -> Result<(), RunError> {
    planned.retain(keep);
    match planned.is_empty() {
        true => Err(RunError::NothingSelected(why.to_owned())),
        false => Ok(()),
    }
}

/// Prints to standard error. Errors are ignored: if nobody reads it, there is nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// Prints to standard output. A closed pipe is no error: the user may want only the head.
fn print(text: &str) -> Result<(), RunError> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => Err(RunError::System {
            doing: "write to standard output",
            source,
        }),
        _ => Ok(()),
    }
}
