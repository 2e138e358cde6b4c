//! The program: from the arguments to the exit code.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Parser;
use imgtools::tools::ToolKind;
use tempfile::TempDir;

use super::cli::{Choice, Cli, ToolArgs};
use super::error::{RunError, chain, io as io_error};
use super::event::RunStarted;
use super::exit::Exit;
use super::instance::{InstanceJob, Runner, ScriptSettings, SetFiles, Settings};
use super::list::List;
use super::places::{Places, check_utf8};
use super::plan::{Able, Planned, SetChoice, Wanted, names_set, plan};
use super::probe::{Cache, Note, probe, show};
use super::record::{self, Recorder};
use super::recordings::{self, Recording};
use super::records::Records;
use super::report::{self, Palette, Terminal, Ways};
use super::run::{Job, Skips, expected, run};
use super::rundir::RunDir;
use super::schedule::{Load, available_memory};
use super::sets::{self, HOST, ToolSet, is_named};
use super::{CALLED_AS, called_as, console, imgopts, review, signals};
use crate::author::golden;
use crate::case::{
    Backend, Body, CASES, Cache as CacheMode, Capabilities, Case, Registered, Registry,
};
use crate::provision::{self, ProvisionError, Request};
use crate::script::{self, Tooling};
use crate::wire::GoldenMode;

/// Runs the program with the arguments of this process.
pub(super) fn main(arguments: Vec<OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    let color = cli.report.color;
    let app = App {
        places: Places::new(cli.run.build_dir.as_deref()),
        cli,
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
    places: Places,
    /// The colours of standard output.
    palette: Palette,
    /// The colours of standard error.
    aside: Palette,
}

/// The sets, and what each can do.
struct Sets {
    able: Vec<Able>,
    files: Vec<SetFiles>,
    found: Vec<ToolSet>,
    /// Answers that are not in the cache live as long as the run.
    _spares: Vec<TempDir>,
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
        if !cli.what.from_record.is_empty() {
            return self.report_on_records();
        }
        let entries = self.entries()?;
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
            return Err(RunError::Provision(unprefixed(&chain(error))));
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
        let wanted = Wanted {
            selectors: &cli.selectors,
            matrix: &cli.matrix,
            sets: SetChoice::new(choice, &sets.able)?,
        };
        let mut planned = plan(entries, &wanted, &sets.able)?;
        let (mut records, corrupt) = Records::read(&self.places.records());
        if let Err(error) = recordings::tidy(&self.places.recordings(), &mut records) {
            self.warn(&format!(
                "a record of a former run could not be read: {error}"
            ));
        }
        if cli.matrix.failed {
            planned.retain(|one| records.failed(&one.id));
            if planned.is_empty() {
                return Err(RunError::NothingSelected(
                    "none of these failed the last time".to_owned(),
                ));
            }
        }
        if let Some(filter) = &cli.matrix.expression {
            planned.retain(|one| filter.means(one, &sets.able, &records));
            if planned.is_empty() {
                return Err(RunError::NothingSelected(
                    "the expression means none of what is selected".to_owned(),
                ));
            }
        }
        if let Some(how) = cli.what.list {
            let list = List {
                planned: &planned,
                sets: &sets.able,
                records: &records,
            };
            print(&list.print(how, self.palette)?)?;
            return Ok(Exit::Passed);
        }
        self.need_tools(&sets)?;
        corrupt.iter().for_each(|warning| self.warn(warning));
        self.run(planned, &sets, &mut records)
    }

    /// What can run: the cases of this program, or the scripts of a tree.
    fn entries(&self) -> Result<&'static [Registered], RunError> {
        match &self.cli.scripts.upstream {
            Some(tree) => Ok(script::entries(tree)?),
            None => match Registry::get() {
                Ok(registry) => Ok(registry.entries()),
                Err(problems) => Err(RunError::Declarations(problems.clone())),
            },
        }
    }

    /// Where the goldens of a case, or the references of a script, wait for review.
    fn goldens(&self, case: &Case) -> PathBuf {
        match &case.body {
            Body::Script(script) => script.folder.clone(),
            Body::Single(_) | Body::Rows { .. } => self.places.goldens(case.file),
        }
    }

    /// What holds for all scripts of this run.
    fn scripts(&self) -> Result<ScriptSettings, RunError> {
        let args = &self.cli.scripts;
        if args.upstream.is_none() {
            return Ok(ScriptSettings::default());
        }
        let bytecode = self.places.bytecode();
        std::fs::create_dir_all(&bytecode).map_err(io_error("create the folder", &bytecode))?;
        Ok(ScriptSettings {
            python: script::python(args.python.as_deref(), self.cli.tools.qemu_build.as_deref())?,
            bytecode,
            cache_is_default: self.cli.matrix.caches.is_empty(),
            tooling: Tooling {
                valgrind: args.valgrind,
                gdb: args.gdb.clone(),
                misalign: args.misalign,
            },
        })
    }

    fn warn(&self, text: &str) {
        tell(&format!("{} {text}", self.aside.warn("warning:")));
    }

    fn progress(&self, text: &str) {
        tell(&self.aside.dim(text));
    }

    /// `--provision=list`.
    fn provisioned(&self) -> Result<Exit, RunError> {
        let mut note = |text: &str| self.progress(text);
        match provision::overview(&self.places.prefixes(), &mut note) {
            Ok(text) => print(&text).map(|()| Exit::Passed),
            Err(error) => Err(RunError::Provision(unprefixed(&chain(&error)))),
        }
    }

    fn need_tools(&self, sets: &Sets) -> Result<(), RunError> {
        if sets.found.iter().any(|set| !set.tools.is_empty()) {
            return Ok(());
        }
        Err(RunError::NoQemu(format!(
            "there are none in PATH, and no prefix is provisioned. Either\n  {}\nor\n  {} --provision",
            provision::install_command(),
            called_as(),
        )))
    }

    /// Where an emulator is there anyhow, that none could be provisioned is no more than a note.
    fn without_provision(&self, error: &ProvisionError, sets: &Sets) -> Result<(), RunError> {
        let why = chain(error);
        let has_emulator = |set: &&Able| set.capabilities.host(Backend::System).is_some();
        if let Some(set) = sets.able.iter().find(has_emulator) {
            let why: Vec<&str> = why.split_whitespace().collect();
            self.progress(&format!(
                "note: the emulator of the set `{}` is used, for none could be provisioned: {}",
                set.name,
                why.join(" ")
            ));
            return Ok(());
        }
        let mut text = unprefixed(&why);
        let command = provision::install_command();
        if !text.contains(command) {
            text += &format!("\nor install QEMU with\n  {command}");
        }
        Err(RunError::Provision(text))
    }

    fn sets(&self, args: &ToolArgs) -> Result<Sets, RunError> {
        let cache = Cache::new(self.places.probes());
        let (versions, corrupt) = cache.versions();
        if let Some(warning) = &corrupt {
            self.warn(warning);
        }
        let found = sets::find(args, &self.places.prefixes(), &versions, &mut |text| {
            self.warn(text)
        })?;
        let (mut able, mut files, mut spares) = (Vec::new(), Vec::new(), Vec::new());
        for set in &found {
            if let Some(mixed) = set.mixed() {
                self.warn(&mixed);
            }
            let known = probe(set, &cache, args.reprobe, &mut |note| match note {
                Note::Progress(text) => self.progress(&text),
                Note::Warning(text) => self.warn(&text),
            })?;
            if set.name == HOST {
                named_tools_work(args, &known.capabilities)?;
            }
            let accelerators = known
                .capabilities
                .host(Backend::System)
                .map(|facts| facts.usable_accelerators());
            if let (true, Err(error)) = (corrupt.is_some(), cache.keep_versions(set)) {
                self.warn(&format!("failed to {error}"));
            }
            spares.extend(known.spare);
            let default_machine = known
                .capabilities
                .host(Backend::System)
                .and_then(|facts| facts.default_machine())
                .map(|machine| {
                    machine
                        .alias
                        .clone()
                        .unwrap_or_else(|| machine.name.clone())
                });
            files.push(SetFiles {
                default_machine: default_machine.unwrap_or_default(),
                tools: set.tools.clone(),
                capabilities: known.file,
                accelerators: accelerators
                    .unwrap_or_default()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            });
            able.push(Able {
                name: set.name.clone(),
                capabilities: known.capabilities,
            });
        }
        Ok(Sets {
            able,
            files,
            found,
            _spares: spares,
        })
    }

    fn run(
        &self,
        mut planned: Vec<Planned>,
        sets: &Sets,
        records: &mut Records,
    ) -> Result<Exit, RunError> {
        let cli = &self.cli;
        imgopts::check(&cli.matrix.imgopts, &mut planned, &sets.files)?;
        // Before anything else that may take its time: a signal from here on ends the run in order.
        signals::block()?;
        // When a supervisor is killed, what was below it comes to us, and we can end it.
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| RunError::System {
            doing: "become a sub-reaper",
            source: error.into(),
        })?;
        let scratch = match &cli.run.scratch {
            Some(folder) => std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
            None => self.places.scratch(),
        };
        check_utf8("the scratch folder", &scratch)?;
        let reports = self.reports();
        for (_, path) in &reports {
            report::check(path).map_err(io_error("create the report", path))?;
        }
        let recording = Recording::create(&self.places.recordings())?;
        let mut files = vec![recording.file()?];
        if let Some(path) = &cli.report.jsonl {
            files.push(File::create(path).map_err(io_error("create the record", path))?);
        }
        let mut recorder = Recorder::new(files);
        let mut terminal = self.terminal(&sets.able);
        let run_dir = RunDir::create(&scratch)?;
        let seed = cli.run.seed.unwrap_or_else(draw_seed);
        let job = self.job(planned, sets, records, seed, run_dir.path());
        let settings = Settings {
            sets: sets.files.clone(),
            imgopts: cli.matrix.imgopts.clone(),
            scale: cli.run.timeout_scale,
            keep: cli.run.keep,
            goldens: if cli.run.bless {
                GoldenMode::Pending
            } else {
                GoldenMode::Compare
            },
            seed,
            print: cli.run.print,
            debug: cli.run.debug,
            confine: !cli.run.no_confine,
            retries: cli.run.retries,
            rerun: self.rerun(),
            today: today(),
            scripts: self.scripts()?,
        };
        let runner = Arc::new(Runner::new(run_dir, settings));
        let path = recording.path().to_owned();
        let write_reports = || self.write_reports(&reports, std::slice::from_ref(&path));
        let skips = match (cli.run.deny_skips, cli.run.allow_all_skipped) {
            (true, _) => Skips::Denied,
            (false, true) => Skips::Allowed,
            (false, false) => Skips::Some,
        };
        let result = run(
            job,
            Arc::clone(&runner),
            &mut recorder,
            &mut terminal,
            // In a hurry: what cannot be written is not.
            &|| drop(write_reports()),
            skips,
        );
        // The threads of the instances gave theirs back before they told their end, so this is the last.
        if let Some(runner) = Arc::into_inner(runner) {
            runner.finish();
        }
        let reported = write_reports();
        match record::read(&path) {
            Ok(events) => records.learn(events),
            Err(error) => self.warn(&format!("the record cannot be read: {error}")),
        }
        match records.write() {
            Ok(()) => recording.finish(),
            Err(error) => self.warn(&format!(
                "the times and verdicts of this run could not be recorded: {error}"
            )),
        }
        let exit = result?;
        reported.map(|()| exit)
    }

    /// The reports that are files, with where they go.
    fn reports(&self) -> Vec<(report::Kind, PathBuf)> {
        let paths = &self.cli.report;
        let all = [
            (report::Kind::Tap, &paths.tap),
            (report::Kind::Junit, &paths.junit),
            (report::Kind::Html, &paths.html),
        ];
        all.into_iter()
            .filter_map(|(kind, path)| Some((kind, path.clone()?)))
            .collect()
    }

    /// Writes them from these records.
    fn write_reports(
        &self,
        reports: &[(report::Kind, PathBuf)],
        records: &[PathBuf],
    ) -> Result<(), RunError> {
        if reports.is_empty() {
            return Ok(());
        }
        let mut events = Vec::new();
        for path in records {
            events.push(record::read(path).map_err(io_error("read the record", path))?);
        }
        let story: report::Story = events.into_iter().flatten().collect();
        for (kind, path) in reports {
            let written = kind.of(&story).and_then(|text| report::write(path, &text));
            written.map_err(io_error("write the report", path))?;
        }
        Ok(())
    }

    /// `--from-record`: the reports on runs of which only the records are there.
    fn report_on_records(&self) -> Result<Exit, RunError> {
        let paths = &self.cli.what.from_record;
        let mut terminal = self.terminal(&[]);
        let shown = |source| RunError::System {
            doing: "write to standard output",
            source,
        };
        let mut failed = false;
        for path in paths {
            let mut events = record::read(path)
                .map_err(io_error("read the record", path))?
                .peekable();
            if events.peek().is_none() {
                return Err(RunError::Usage(format!(
                    "{} holds no event: it is no record of a run, or its run was killed before it began",
                    path.display()
                )));
            }
            let story: report::Story = events.collect();
            failed |= story.summary.failures() > 0;
            terminal.story(&story).map_err(shown)?;
        }
        self.write_reports(&self.reports(), paths)?;
        Ok(if failed { Exit::Failed } else { Exit::Passed })
    }

    fn terminal(&self, sets: &[Able]) -> Terminal {
        let with_emulator = sets
            .iter()
            .find(|set| set.capabilities.host(Backend::System).is_some());
        let set = &self.cli.tools.set;
        let ways = Ways {
            called_as: called_as(),
            emulator_in: with_emulator.map(|set| set.name.clone()),
            only_set: (!["auto", "all"].contains(&set.as_str())).then(|| set.clone()),
        };
        let moving = console::can_move(&stdout());
        Terminal::new(self.palette, ways, moving, self.cli.run.print)
    }

    fn job(
        &self,
        planned: Vec<Planned>,
        sets: &Sets,
        records: &Records,
        seed: u64,
        run_dir: &Path,
    ) -> Job {
        let cli = &self.cli;
        let (skipped, runnable): (Vec<Planned>, Vec<Planned>) =
            planned.into_iter().partition(|one| one.skip.is_some());
        let mut instances = Vec::new();
        for one in &runnable {
            let meta = one.instance.meta;
            let load = Load {
                failed: records.failed(&one.id),
                expected: expected(records, &one.id),
                exclusive: meta.exclusive,
                lock: meta.lock,
                memory: meta.memory,
            };
            for repetition in 0..cli.run.repeat {
                let mut info = one.info(&sets.able);
                if cli.run.repeat > 1 {
                    info.id += &format!("#{}", repetition + 1);
                }
                let goldens_dir = self.goldens(one.instance.case);
                let job = InstanceJob {
                    info,
                    instance: one.instance,
                    set: one.set,
                    known: one.known.clone(),
                    goldens_dir,
                    repetition,
                };
                instances.push((load, job));
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let system = nix::sys::utsname::uname().map(|name| {
            let parts = [name.sysname(), name.release(), name.machine()];
            parts
                .map(|part| part.to_string_lossy().into_owned())
                .join(" ")
        });
        let started = RunStarted {
            command: env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            sets: sets.found.iter().map(ToolSet::info).collect(),
            system: system.unwrap_or_default(),
            seed,
            jobs: cli.run.jobs.map_or(processors, |jobs| jobs as usize),
            scale: cli.run.timeout_scale,
            run_dir: run_dir.to_owned(),
            planned: instances.len(),
            skipped: skipped.len(),
            expected: instances
                .iter()
                .filter_map(|(load, one)| Some((one.info.id.clone(), load.expected?)))
                .collect(),
            started: since_epoch(),
        };
        let skipped = skipped
            .into_iter()
            .map(|one| (one.info(&sets.able), one))
            .collect();
        let max_fail = cli.run.max_fail.map(|limit| limit as usize);
        Job {
            started,
            skipped,
            instances,
            memory: available_memory(),
            max_fail,
            time: cli.run.time,
        }
    }

    /// The command that a rerun repeats: the program, and all options and variables that change what an instance does, but its seed.
    fn rerun(&self) -> String {
        let cli = &self.cli;
        let mut words = Vec::new();
        // What names programs and their options, and has no flag that says the same.
        for kind in ToolKind::ALL {
            for name in [kind.program_variable(), kind.options_variable()] {
                if let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) {
                    let value = value.to_string_lossy();
                    let path = Path::new(&*value);
                    let is_path = name == kind.program_variable() && path.components().count() > 1;
                    let value = match is_path {
                        true => absolute(path),
                        false => value.into_owned(),
                    };
                    words.push(format!("{name}={}", quoted(&value)));
                }
            }
        }
        words.push(program());
        let mut option =
            |name: &str, value: String| words.extend([name.to_owned(), quoted(&value)]);
        let paths = [
            ("--qemu-build", &cli.tools.qemu_build),
            ("--qemu", &cli.tools.qemu),
            ("--qemu-img", &cli.tools.qemu_img),
            ("--qemu-io", &cli.tools.qemu_io),
            ("--qemu-nbd", &cli.tools.qemu_nbd),
            ("--qsd", &cli.tools.qsd),
            ("--scratch", &cli.run.scratch),
            ("--upstream", &cli.scripts.upstream),
            ("--python", &cli.scripts.python),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                option(name, absolute(path));
            }
        }
        // `cargo xtask iotests` names its own.
        if let Some(folder) = &cli.run.build_dir
            && env::var_os(CALLED_AS).is_none()
        {
            option("--build-dir", absolute(folder));
        }
        if cli.tools.set != "auto" && cli.tools.set != "all" {
            option("--set", cli.tools.set.clone());
        }
        if !cli.matrix.imgopts.is_empty() {
            option("-o", cli.matrix.imgopts.join(","));
        }
        if cli.run.timeout_scale != 1.0 {
            option("--timeout-scale", cli.run.timeout_scale.to_string());
        }
        // A script may choose another mode, unless this one was asked for.
        if cli.scripts.upstream.is_some()
            && cli
                .matrix
                .caches
                .contains(&Choice::One(CacheMode::Writeback))
        {
            words.extend(["-c", CacheMode::Writeback.name()].map(str::to_owned));
        }
        if let Some(gdb) = &cli.scripts.gdb {
            words.push(format!("--gdb={}", quoted(gdb)));
        }
        for (is_given, name) in [
            (cli.scripts.valgrind, "--valgrind"),
            (cli.scripts.misalign, "--misalign"),
        ] {
            words.extend(is_given.then(|| name.to_owned()));
        }
        if cli.run.no_confine {
            words.push("--no-confine".to_owned());
        }
        words.join(" ")
    }
}

/// As a person starts this program again, from wherever.
fn program() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let path = Path::new(&called);
    match env::var(CALLED_AS) {
        Ok(name) => name,
        // A bare name is one of PATH.
        Err(_) if path.components().count() > 1 => quoted(&absolute(path)),
        Err(_) => called_as(),
    }
}

fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// Who named a program does not want to be told by skips that it cannot be used.
fn named_tools_work(args: &ToolArgs, capabilities: &Capabilities) -> Result<(), RunError> {
    let mut broken = capabilities.broken.iter();
    match broken.find(|(kind, _)| is_named(**kind, args)) {
        Some((_, broken)) => Err(RunError::NamedTool(format!(
            "{} does not work: {}",
            broken.path.display(),
            broken.told
        ))),
        None => Ok(()),
    }
}

/// The program says "failed to" itself.
fn unprefixed(text: &str) -> String {
    text.strip_prefix("failed to ").unwrap_or(text).to_owned()
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

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=,:@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn since_epoch() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Any number does that the next run does not have as well; five digits are easily typed.
fn draw_seed() -> u64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    u64::from(nanos ^ std::process::id()) % 100_000
}

/// Today in UTC, `YYYY-MM-DD`.
fn today() -> String {
    date(since_epoch() / 86400)
}

/// The date of a day since 1970-01-01 in the Gregorian calendar.
fn date(days: u64) -> String {
    // Years begin in March here, so that the leap day is the last of a year; 719468 days lie between that era's begin and 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11016, "2000-02-29"),
            (11017, "2000-03-01"),
            (20453, "2025-12-31"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn a_word_for_the_shell_is_quoted_when_it_must_be() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
