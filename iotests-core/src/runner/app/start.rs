//! A run: from the plan to the exit code.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::App;
use super::sets::Sets;
use super::time::{draw_seed, since_epoch, today};
use crate::case::{Body, Case};
use crate::runner::cli::MAX_SCALE;
use crate::runner::error::{RunError, io as io_error};
use crate::runner::event::{RunStarted, SCHEMA};
use crate::runner::host::HostInfo;
use crate::runner::instance::{InstanceJob, Runner, ScriptSettings, Settings};
use crate::runner::jobs::{AdaptiveJobs, Jobs};
use crate::runner::partition::Shard;
use crate::runner::places::check_utf8;
use crate::runner::plan::Planned;
use crate::runner::record::{self, Recorder};
use crate::runner::recordings::Recording;
use crate::runner::records::{History, Records};
use crate::runner::report;
use crate::runner::run::{Job, expected, run};
use crate::runner::rundir::RunDir;
use crate::runner::schedule::{Load, available_memory};
use crate::runner::sums::Sums;
use crate::runner::wrap::Wrap;
use crate::runner::{Exit, imgopts, signals, typed};
use crate::script::{self, Tooling};
use crate::wire::GoldenMode;

/// The only selected instance that can run, for commands that take exactly one.
fn only_runnable<'p>(what: &str, planned: &'p [Planned]) -> Result<&'p Planned, RunError> {
    let mut runnable = planned.iter().filter(|one| one.skip.is_none());
    match (runnable.next(), runnable.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(_)) => {
            let more = runnable.count() + 2;
            Err(RunError::Usage(format!(
                "`{what}` is for one instance, and {more} are selected; name one by its id, such as {}",
                one.id
            )))
        }
        (None, _) => {
            let skip = planned.first().and_then(|one| one.skip.as_ref());
            let why = skip.map(ToString::to_string).unwrap_or_default();
            Err(RunError::NothingSelected(format!(
                "it cannot run here: {why}"
            )))
        }
    }
}

impl App {
    /// The folder in which new goldens of a case, or references of a script, wait for review.
    pub(super) fn goldens(&self, case: &Case) -> PathBuf {
        match &case.body {
            Body::Script(script) => script.folder.clone(),
            Body::Single(_) | Body::Rows { .. } => self.places.goldens(case.file),
        }
    }

    /// The settings common to all scripts of this run.
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
                valgrind: self.cli.debug.valgrind,
                gdb: self.cli.debug.gdb.clone(),
                misalign: args.misalign,
            },
        })
    }

    pub(super) fn run(
        &self,
        mut planned: Vec<Planned>,
        warnings: Vec<String>,
        sets: &Sets,
        records: &mut Records,
        shard: Option<Shard>,
    ) -> Result<Exit, RunError> {
        let cli = &self.cli;
        if cli.debug.step {
            self.can_step(&planned)?;
        }
        imgopts::check(&cli.matrix.imgopts, &mut planned, &sets.files)?;
        // Before anything slow: from here on, a signal ends the run in order.
        signals::block()?;
        // If a supervisor is killed, we inherit its descendants and can kill them.
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| RunError::System {
            doing: "become a sub-reaper",
            source: error.into(),
        })?;
        let scratch = self.scratch()?;
        let seed = cli.run.seed.unwrap_or_else(draw_seed);
        // Report mistakes on the command line before creating anything.
        let settings = self.settings(sets, seed)?;
        let reports = self.reports();
        for (_, path) in &reports {
            report::check(path).map_err(io_error("create the report", path))?;
        }
        let recording = Recording::create(&self.places.recordings())?;
        let mut files = vec![recording.file()?];
        if let Some(path) = &cli.report.jsonl {
            files.push(report::create(path).map_err(io_error("create the record", path))?);
        }
        let mut recorder = Recorder::new(files);
        let mut display = self.display(&sets.able)?;
        let run_dir = RunDir::create(&scratch)?;
        let mut job = Job {
            warnings,
            ..self.job(planned, sets, records, seed, run_dir.path(), shard)
        };
        job.started.scale = settings.scale;
        let runner = Arc::new(Runner::new(run_dir, settings));
        let path = recording.path().to_owned();
        let write_reports = || self.write_reports(&reports, std::slice::from_ref(&path));
        let result = run(
            job,
            Arc::clone(&runner),
            &mut recorder,
            display.as_mut(),
            // The process is about to exit: there is nobody to report an error to.
            &|| drop(write_reports()),
            self.skips(),
        );
        // The instances' threads drop their references before they report, so this is the last one.
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

    /// The settings common to all instances.
    fn settings(&self, sets: &Sets, seed: u64) -> Result<Settings, RunError> {
        let cli = &self.cli;
        let wrap = Wrap::of(&cli.debug, cli.scripts.upstream.is_some())?;
        Ok(Settings {
            sets: sets.files.clone(),
            imgopts: cli.matrix.imgopts.clone(),
            scale: (cli.run.timeout_scale * wrap.slowdown).min(MAX_SCALE),
            keep: cli.run.keep || !wrap.is_empty(),
            wrap,
            goldens: if cli.run.bless {
                GoldenMode::Pending
            } else {
                GoldenMode::Compare
            },
            seed,
            // The user needs the address on which gdbserver listens.
            print: cli.debug.print
                || cli.debug.step
                || (cli.debug.gdb.is_some() && cli.scripts.upstream.is_none()),
            debug: cli.debug.debug,
            step: cli.debug.step,
            confine: !cli.run.no_confine,
            retries: cli.run.retries,
            rerun: self.rerun(),
            today: today(),
            scripts: self.scripts()?,
        })
    }

    /// Runs a command in the environment of the one selected instance, then exits with its status.
    pub(super) fn surround(
        &self,
        planned: Vec<Planned>,
        sets: &Sets,
        records: &Records,
    ) -> Result<Exit, RunError> {
        let one = only_runnable("env", &planned)?.clone();
        let outlive = signals::Outlive::new()?;
        let run_dir = RunDir::create(&self.scratch()?)?;
        let seed = self.cli.run.seed.unwrap_or_else(draw_seed);
        let mut job = self.job(vec![one], sets, records, seed, run_dir.path(), None);
        let runner = Runner::new(run_dir, self.settings(sets, seed)?);
        let Some((_, job)) = job.instances.pop() else {
            return Ok(Exit::NothingSelected);
        };
        let status = runner.surround(&job, &self.cli.command, outlive);
        runner.finish();
        let status = status?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let code = status.code().or(signal.map(|signal| 128 + signal));
        std::process::exit(code.unwrap_or(1))
    }

    /// Checks that there is one instance and a terminal on which a user can step through it.
    fn can_step(&self, planned: &[Planned]) -> Result<(), RunError> {
        let why = if self.cli.scripts.upstream.is_some() {
            "a script has no steps"
        } else if !typed::can_type() || self.on_stdout()?.is_some() {
            "it needs a terminal to ask on"
        } else {
            return only_runnable("--step", planned).map(drop);
        };
        Err(RunError::Usage(format!("--step: {why}")))
    }

    /// Where run directories are created.
    fn scratch(&self) -> Result<PathBuf, RunError> {
        let scratch = match &self.cli.run.scratch {
            Some(folder) => std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
            None => self.places.scratch(),
        };
        check_utf8("the scratch folder", &scratch)?;
        Ok(scratch)
    }

    /// The configuration files and profile in use, for the report's header.
    fn configuration(&self) -> Vec<String> {
        let files = self.config.paths().map(|path| path.display().to_string());
        let profile = self.cli.config.profile.iter().map(|name| format!("profile {name}"));
        files.chain(profile).collect()
    }

    fn job(
        &self,
        planned: Vec<Planned>,
        sets: &Sets,
        records: &Records,
        seed: u64,
        run_dir: &Path,
        shard: Option<Shard>,
    ) -> Job {
        let cli = &self.cli;
        let concerned: BTreeSet<usize> = planned.iter().map(|one| one.set).collect();
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
                cpus: meta.cpus,
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
                    usual: (records.get(&one.id).filter(|_| !self.cli.debug.is_watched()))
                        .and_then(History::longest),
                    goldens_dir,
                    repetition,
                };
                instances.push((load, job));
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = cli.run.jobs.unwrap_or(if cli.debug.gdb.is_some() {
            Jobs::Number(1)
        } else if cli.scripts.upstream.is_some() {
            // Some scripts fail on a busy machine.
            Jobs::Number(processors)
        } else {
            Jobs::Auto
        });
        let system = nix::sys::utsname::uname().map(|name| {
            let parts = [name.sysname(), name.release(), name.machine()];
            parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
        });
        let mut sums = Sums::read(self.places.sums());
        let started = RunStarted {
            schema: SCHEMA,
            host: HostInfo::here(run_dir),
            shard,
            folder: self.places.own(),
            command: env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            // Unused sets are not worth reporting, nor their programs' checksums worth computing.
            sets: concerned
                .iter()
                .filter_map(|&index| Some(sets.found.get(index)?.info(&mut sums)))
                .collect(),
            system: system.unwrap_or_default(),
            seed,
            jobs: match jobs {
                Jobs::Number(jobs) => jobs,
                Jobs::Auto => AdaptiveJobs::max(processors),
            },
            scale: cli.run.timeout_scale,
            run_dir: run_dir.to_owned(),
            planned: instances.len(),
            skipped: skipped.len(),
            config: self.configuration(),
            selected: runnable.iter().map(|one| one.id.clone()).collect(),
            expected: instances
                .iter()
                .filter_map(|(load, one)| Some((one.info.id.clone(), load.expected?)))
                .collect(),
            started: since_epoch(),
            watched: cli.debug.is_watched(),
        };
        sums.write();
        let skipped = skipped.into_iter().map(|one| (one.info(&sets.able), one)).collect();
        let max_fail = cli.run.max_fail.map(|limit| limit as usize);
        Job {
            started,
            warnings: Vec::new(),
            skipped,
            instances,
            memory: available_memory(),
            max_fail,
            time: cli.run.time,
            adaptive: (jobs == Jobs::Auto).then(|| AdaptiveJobs::new(processors)),
            step: cli.debug.step,
            only_shows: self.only_shows(),
        }
    }

    /// Whether no report is written to a file.
    fn only_shows(&self) -> bool {
        let paths = &self.cli.report;
        let all = [&paths.tap, &paths.junit, &paths.html, &paths.jsonl];
        let mut files = all.into_iter().flatten();
        files.all(|path| report::is_stdout(path))
    }
}
