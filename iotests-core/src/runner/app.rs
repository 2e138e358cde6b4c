//! The program: from the arguments to the exit code.

mod parts;
mod reports;
mod rerun;
mod sets;
mod start;
mod time;

use std::ffi::OsString;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;

use super::cli::{Cli, ColorChoice};
use super::config::{self, Asked, Config};
use super::error::{RunError, chain, io as io_error};
use super::exit::Exit;
use super::explain::Known;
use super::list::List;
use super::places::Places;
use super::plan::{Planned, SetChoice, Wanted, names_set, plan};
use super::probe::show;
use super::recordings;
use super::records::Records;
use super::report::Palette;
use super::since::{self, Since};
use super::{console, review, signals, words};
use crate::author::golden;
use crate::case::{CASES, Registered, Registry};
use crate::provision::{self, Request};
use crate::script;

/// Runs the program with the arguments of this process.
pub(super) fn main(arguments: Vec<OsString>) -> ExitCode {
    let read = words::translate(arguments).and_then(|words| Ok(config::read(words)?));
    let (cli, config) = match read {
        Ok(read) => read,
        Err(error) => {
            let aside = console::palette(ColorChoice::Auto, &stderr());
            tell(&format!("{} failed to {error}", aside.bad("error:")));
            return error.exit().into();
        }
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
            tell(&format!("{} failed to {error}", app.aside.bad("error:")));
            error.exit().into()
        }
    }
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
        signals::bear_file_limits()?;
        self.places.check()?;
        if cli.what.review {
            let folders = match &cli.scripts.upstream {
                Some(_) => self
                    .entries()?
                    .iter()
                    .map(|one| self.goldens(one.case))
                    .collect(),
                None => CASES.iter().map(|case| self.goldens(case)).collect(),
            };
            return review::review(&folders, self.palette);
        }
        if cli.run.bless && golden::is_ci() {
            return Err(RunError::Usage(
                "--bless is refused where CI is set: goldens are reviewed by people".to_owned(),
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
        // What was named must be there.
        if let (Some(error), Some(Request::These { .. })) = (&unprovisioned, &cli.tools.provision) {
            return Err(RunError::Provision(sets::unprefixed(&chain(error))));
        }
        let sets = self.sets(&cli.tools)?;
        if let Some(error) = unprovisioned {
            self.without_provision(&error, &sets)?;
        }
        if cli.what.probe {
            self.need_tools(&sets)?;
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
                "a record of a former run could not be read: {error}"
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
            let why = "the last run has run all of these that it was to run";
            narrow(&mut planned, |one| left.contains(&one.id), why)?;
        }
        if cli.matrix.failed {
            let why = "none of these failed the last time";
            narrow(&mut planned, |one| records.failed(&one.id), why)?;
        }
        if let Some(filter) = &cli.matrix.expression {
            let why = "the expression means none of what is selected";
            narrow(
                &mut planned,
                |one| filter.means(one, &sets.able, &records),
                why,
            )?;
        }
        if let Some(since) = &since {
            let (chosen, lines) = since.choose(&planned, &sets.able, &records);
            lines.iter().for_each(|line| self.progress(line));
            let mut chosen = chosen.into_iter();
            let why = "nothing of what changed concerns any of what is selected";
            narrow(&mut planned, |_| chosen.next().unwrap_or(false), why)?;
        }
        let shard = self.partition(&mut planned, &records)?;
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
            return Ok(Exit::Passed);
        }
        self.need_tools(&sets)?;
        corrupt.iter().for_each(|warning| self.warn(warning));
        if cli.what.env {
            return self.surround(planned, &sets, &records);
        }
        self.run(planned, warnings, &sets, &mut records, shard)
    }

    /// What can run: the cases of this program, or the scripts of a tree.
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

    /// What changed, where `--since` asks for it.
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
        let source = named
            .or_else(|| cli.scripts.upstream.clone())
            .or_else(of_build);
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

/// Keeps those that are meant; `why` is said where none is left.
fn narrow(
    planned: &mut Vec<Planned>,
    is_meant: impl FnMut(&Planned) -> bool,
    why: &str,
) -> Result<(), RunError> {
    planned.retain(is_meant);
    match planned.is_empty() {
        true => Err(RunError::NothingSelected(why.to_owned())),
        false => Ok(()),
    }
}

/// To standard error; where nobody reads it any more, there is nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// To standard output, of which a person may want the head only.
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
