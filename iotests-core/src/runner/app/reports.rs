//! The reports of a run, and reports from the records of finished runs.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use super::App;
use crate::runner::error::{RunError, io as io_error};
use crate::runner::event::{InstanceInfo, Outcome, RunEvent, RunStarted};
use crate::runner::plan::Able;
use crate::runner::record::Record;
use crate::runner::records::Records;
use crate::runner::report::{self, Kind, Show, Silent, Story, Tap, Terminal, Ways};
use crate::runner::run::Skips;
use crate::runner::verdict::{Attempt, Verdict};
use crate::runner::{Exit, console, partition, record};

/// A record of a run, and its first event.
struct Recorded {
    path: PathBuf,
    begun: Option<RunStarted>,
}

impl Recorded {
    /// `None` if the file holds no event.
    fn read(path: &Path) -> Result<Option<Self>, RunError> {
        let mut events = record::read(path).map_err(io_error("read the record", path))?;
        let begun = match events.next() {
            Some(Record {
                event: RunEvent::RunStarted(run),
                ..
            }) => Some(*run),
            Some(_) => None,
            None => return Ok(None),
        };
        let path = path.to_owned();
        Ok(Some(Self { path, begun }))
    }

    /// The sort key: the part's number, then the start time.
    fn order(&self) -> (u32, u64) {
        let begun = self.begun.as_ref();
        let number = begun.and_then(|run| run.shard.as_ref()).map_or(0, |shard| shard.number);
        (number, begun.map_or(0, |run| run.started))
    }

    /// Whether both ran the same part of the same plan.
    fn is_same_part(&self, other: &Self) -> bool {
        let shard = |one: &Self| one.begun.as_ref().and_then(|run| run.shard.clone());
        shard(self).is_some_and(|this| shard(other) == Some(this))
    }
}

impl App {
    /// The reports to write at the end of the run, with their paths.
    pub(super) fn reports(&self) -> Vec<(Kind, PathBuf)> {
        let paths = &self.cli.report;
        let all = [
            (Kind::Tap(paths.tap_version), &paths.tap),
            (Kind::Junit, &paths.junit),
            (Kind::Html, &paths.html),
        ];
        all.into_iter().filter_map(|(kind, path)| Some((kind, path.clone()?))).collect()
    }

    /// The option of the report that goes to standard output, if any.
    pub(super) fn on_stdout(&self) -> Result<Option<&'static str>, RunError> {
        let paths = &self.cli.report;
        let all = [
            ("--tap", &paths.tap),
            ("--junit", &paths.junit),
            ("--html", &paths.html),
            ("--jsonl", &paths.jsonl),
        ];
        let is_there = |path: &Option<PathBuf>| path.as_deref().is_some_and(report::is_stdout);
        let mut there = all.iter().filter(|(_, path)| is_there(path)).map(|(name, _)| *name);
        match (there.next(), there.next()) {
            (Some(one), Some(other)) => Err(RunError::Usage(format!(
                "{one} and {other} both go to standard output; give one of them a file"
            ))),
            (one, _) => Ok(one),
        }
    }

    /// What the run shows on standard output.
    pub(super) fn display(&self, sets: &[Able]) -> Result<Box<dyn Show>, RunError> {
        Ok(match self.on_stdout()? {
            None => Box::new(self.terminal(sets)),
            Some("--tap") => Box::new(Tap::new(self.cli.report.tap_version, stdout())),
            Some(_) => Box::new(Silent),
        })
    }

    /// Writes the reports from these records.
    pub(super) fn write_reports(
        &self,
        reports: &[(Kind, PathBuf)],
        records: &[PathBuf],
    ) -> Result<(), RunError> {
        // TAP on standard output was written during the run.
        let is_written = |(kind, path): &&(Kind, PathBuf)| {
            matches!(kind, Kind::Tap(_)) && report::is_stdout(path)
        };
        let reports: Vec<_> = reports.iter().filter(|one| !is_written(one)).collect();
        if reports.is_empty() {
            return Ok(());
        }
        let story: Story = events(records)?.collect();
        reports.into_iter().try_for_each(|(kind, path)| write(*kind, path, &story))
    }

    /// `merge` and `--from-record`: reports from the records of finished runs.
    pub(super) fn report_on_records(&self) -> Result<Exit, RunError> {
        let cli = &self.cli;
        let mut paths = cli.what.from_record.clone();
        if cli.what.merge {
            paths.extend(cli.selectors.iter().map(PathBuf::from));
        }
        let records = self.chosen(&paths)?;
        let paths: Vec<&Path> = records.iter().map(|one| one.path.as_path()).collect();
        let (mut history, _) = Records::read(&self.places.records());
        let heard = events(&paths)?.inspect(|record| history.learn_one(record));
        let mut story: Story = heard.collect();
        for gap in gaps(&records, &story) {
            story.add_outcome(gap);
        }
        if self.on_stdout()?.is_none() {
            let shown = |source| RunError::System {
                doing: "write to standard output",
                source,
            };
            self.terminal(&[]).story(&story).map_err(shown)?;
        }
        for (kind, path) in self.reports() {
            write(kind, &path, &story)?;
        }
        if let Some(path) = &cli.report.jsonl {
            concatenate(&paths, path)?;
        }
        // Runs on other machines count in the local history too.
        if cli.what.merge
            && let Err(error) = history.write()
        {
            self.warn(&format!(
                "the times and verdicts could not be recorded: {error}"
            ));
        }
        let summary = &story.summary;
        let is_cut =
            story.was_killed || summary.not_run > 0 || summary.count(Verdict::Interrupted) > 0;
        Ok(self.skips().exit(summary, is_cut && summary.failures() == 0))
    }

    /// How skips affect the exit code.
    pub(super) fn skips(&self) -> Skips {
        match (self.cli.run.deny_skips, self.cli.run.allow_all_skipped) {
            (true, _) => Skips::Denied,
            (false, true) => Skips::Allowed,
            (false, false) => Skips::Some,
        }
    }

    /// Reads these records; a folder stands for all records in it. If a CI job was restarted, there
    /// are several records of one part, and the latest counts. A record without events is from a
    /// run killed before it began: it is left out with a warning, so that its part counts as
    /// missing.
    fn chosen(&self, paths: &[PathBuf]) -> Result<Vec<Recorded>, RunError> {
        let mut records = Vec::new();
        let mut empty = None;
        let mut read = |path: &Path| {
            match Recorded::read(path)? {
                Some(record) => records.push(record),
                None => {
                    let why = "holds no event: it is not the record of a run, or its run was killed before it began";
                    let text = format!("{} {why}", path.display());
                    self.warn(&text);
                    empty.get_or_insert(text);
                }
            }
            Ok::<_, RunError>(())
        };
        for path in paths {
            if !path.is_dir() {
                read(path)?;
                continue;
            }
            let entries = fs::read_dir(path).map_err(io_error("read the folder", path))?;
            let files = entries.flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> =
                files.filter(|file| file.extension().is_some_and(|end| end == "jsonl")).collect();
            files.sort();
            if files.is_empty() {
                return Err(RunError::Usage(format!(
                    "{} contains no record (a file *.jsonl)",
                    path.display()
                )));
            }
            for file in files {
                read(&file)?;
            }
        }
        if let (true, Some(text)) = (records.is_empty(), empty) {
            return Err(RunError::Usage(text));
        }
        records.sort_by_key(Recorded::order);
        let mut chosen: Vec<Recorded> = Vec::new();
        for record in records {
            if let Some(last) = chosen.last_mut().filter(|last| record.is_same_part(last)) {
                self.warn(&format!(
                    "{} and {} are of the same part; the later one counts",
                    last.path.display(),
                    record.path.display()
                ));
                *last = record;
            } else {
                chosen.push(record);
            }
        }
        Ok(chosen)
    }

    fn terminal(&self, sets: &[Able]) -> Terminal {
        let set = &self.cli.tools.set;
        let is_one = !["auto", "all"].contains(&set.as_str()) && !set.contains(',');
        let only_set = is_one.then(|| set.clone());
        let ways = Ways::with(sets, only_set);
        let (debug, quiet) = (&self.cli.debug, self.cli.report.quiet);
        // Redrawing would garble what the user types.
        let moving = console::can_move(&stdout()) && !debug.step;
        Terminal::new(
            self.palette,
            ways,
            moving,
            (debug.print || debug.step) && !debug.debug,
            quiet,
        )
    }
}

fn write(kind: Kind, path: &Path, story: &Story) -> Result<(), RunError> {
    report::write(kind, path, story).map_err(io_error("write the report", path))
}

/// Missing parts, as failures: a report on an incomplete run must not be a success.
fn gaps(records: &[Recorded], story: &Story) -> Vec<Outcome> {
    let begun = records.iter().filter_map(|one| one.begun.as_ref());
    let shards: Vec<_> = begun.filter_map(|run| run.shard.clone()).collect();
    let rows = story.rows.iter();
    let instances = rows.filter(|row| !row.outcome.instance.is_repeated());
    let gaps = partition::gaps(&shards, instances.count());
    let gap = |why: String| {
        let instance = InstanceInfo {
            id: "partition".to_owned(),
            case: "partition".to_owned(),
            ..InstanceInfo::default()
        };
        let attempt = Attempt {
            verdict: Some(Verdict::Fail),
            headline: why,
            ..Attempt::default()
        };
        Outcome::new(instance, Verdict::Fail, attempt)
    };
    gaps.into_iter().map(gap).collect()
}

/// The events of these records, one record after the other.
fn events(paths: &[impl AsRef<Path>]) -> Result<impl Iterator<Item = Record>, RunError> {
    let read = |path: &Path| record::read(path).map_err(io_error("read the record", path));
    let records: Result<Vec<_>, _> = paths.iter().map(|path| read(path.as_ref())).collect();
    Ok(records?.into_iter().flatten())
}

/// Concatenates the records, dropping an incomplete last line of each.
fn concatenate(paths: &[&Path], to: &Path) -> Result<(), RunError> {
    let mut text = Vec::new();
    for path in paths {
        let read = fs::read(path).map_err(io_error("read the record", path))?;
        let whole = read.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        text.extend_from_slice(&read[..whole]);
    }
    let mut file = report::create(to).map_err(io_error("create the record", to))?;
    file.write_all(&text).map_err(io_error("write the record", to))
}
