//! The reports of a run, and those on runs that are over.

use std::io::stdout;
use std::path::PathBuf;

use super::App;
use crate::case::Backend;
use crate::runner::error::{RunError, io as io_error};
use crate::runner::plan::Able;
use crate::runner::report::{self, Terminal, Ways};
use crate::runner::{Exit, called_as, console, record};

impl App {
    /// The reports that are files, with where they go.
    pub(super) fn reports(&self) -> Vec<(report::Kind, PathBuf)> {
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
    pub(super) fn write_reports(
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
    pub(super) fn report_on_records(&self) -> Result<Exit, RunError> {
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

    pub(super) fn terminal(&self, sets: &[Able]) -> Terminal {
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
        let (debug, quiet) = (&self.cli.debug, self.cli.report.quiet);
        Terminal::new(
            self.palette,
            ways,
            moving,
            debug.print && !debug.debug,
            quiet,
        )
    }
}
