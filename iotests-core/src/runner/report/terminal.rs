//! The terminal report: a line per finished instance, below it the running ones and an estimate,
//! failures in full, and a summary.

use std::collections::BTreeMap;
use std::io::{self, Write, stdout};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::palette::Palette;
use super::summary::Ways;
use super::text::{count, duration, indented, slow};
use super::{Show, Story, failure, summary};
use crate::runner::event::{Outcome, RunEvent, RunStarted, Summary};
use crate::runner::verdict::Verdict;
use crate::wire::CaseEvent;

/// The most running instances with their own line.
const RUNNING_LINES: usize = 8;

/// Writes to standard output.
pub(crate) struct Terminal {
    palette: Palette,
    ways: Ways,
    bars: Option<Bars>,
    print: bool,
    quiet: bool,
    failures: Vec<Outcome>,
    /// Instances that took much longer than before.
    slower: Vec<Outcome>,
    /// The running instances, with start and current step.
    running: BTreeMap<String, (Instant, String)>,
    planned: usize,
    /// Only one instance runs, so lines need not name it.
    alone: bool,
}

/// The progress bars at the bottom of the terminal.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    running: BTreeMap<String, Running>,
    planned: BTreeMap<String, Duration>,
    failed: usize,
}

struct Running {
    bar: ProgressBar,
    started: Instant,
    expected: Option<Duration>,
}

impl Terminal {
    /// Shows progress bars if `moving`, and what cases log if `print`.
    pub(crate) fn new(
        palette: Palette,
        ways: Ways,
        moving: bool,
        print: bool,
        quiet: bool,
    ) -> Self {
        let bars = moving.then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10));
            let total = all.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed}{msg}")
            {
                total.set_style(style);
            }
            total.enable_steady_tick(Duration::from_millis(250));
            Bars {
                all,
                total,
                running: BTreeMap::new(),
                planned: BTreeMap::new(),
                failed: 0,
            }
        });
        Self {
            palette,
            ways,
            bars,
            print,
            quiet,
            failures: Vec::new(),
            slower: Vec::new(),
            running: BTreeMap::new(),
            planned: 0,
            alone: false,
        }
    }

    fn line(&self, text: &str) -> io::Result<()> {
        match &self.bars {
            Some(bars) => bars.all.println(text.trim_end_matches('\n')),
            None => {
                let mut out = stdout().lock();
                let written = writeln!(out, "{}", text.trim_end_matches('\n'));
                match written.and_then(|()| out.flush()) {
                    // The reader may want only the head; the run and its reports continue.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    result => result,
                }
            }
        }
    }

    /// Shows a finished run from its record.
    pub(crate) fn story(&mut self, story: &Story) -> io::Result<()> {
        if let Some(run) = story.run() {
            self.programs(run)?;
            match story.runs.len() {
                1 => self.plan(run)?,
                records => {
                    let instances = count(story.rows.len(), "instance");
                    self.line(&format!("{records} records, {instances}"))?;
                }
            }
        }
        for note in &story.notes {
            self.line(&self.palette.warn(note))?;
        }
        for row in &story.rows {
            if row.outcome.verdict != Verdict::Skip {
                self.finished(&row.outcome)?;
            }
        }
        self.summary(&story.summary)?;
        self.failures.clear();
        self.slower.clear();
        Ok(())
    }

    fn header(&self, run: &RunStarted) -> io::Result<()> {
        self.programs(run)?;
        self.plan(run)
    }

    /// Shows the programs, the configuration and the folder.
    fn programs(&self, run: &RunStarted) -> io::Result<()> {
        let palette = self.palette;
        for set in &run.sets {
            let tools: Vec<String> =
                set.tools.iter().map(|(kind, tool)| format!("{kind} {}", tool.version)).collect();
            let tools = if tools.is_empty() {
                "no programs".to_owned()
            } else {
                tools.join(", ")
            };
            self.line(&palette.dim(format!("set {}: {tools}", set.name)))?;
        }
        if !run.config.is_empty() {
            self.line(&palette.dim(format!("configuration: {}", run.config.join(", "))))?;
        }
        if !run.folder.as_os_str().is_empty() {
            let folder = run.folder.display();
            self.line(&palette.dim(format!("caches, records and kept failures: {folder}")))?;
        }
        Ok(())
    }

    /// Shows what runs.
    fn plan(&self, run: &RunStarted) -> io::Result<()> {
        if let Some(shard) = &run.shard {
            self.line(&self.palette.dim(format!("part {shard}")))?;
        }
        let jobs = run.jobs;
        let what = count(run.planned, "instance");
        let scale = if run.scale == 1.0 {
            String::new()
        } else {
            format!(", deadlines × {}", run.scale)
        };
        self.line(&format!(
            "running {what}, at most {jobs} at once; {} skipped; seed {}{scale}",
            run.skipped, run.seed
        ))
    }

    /// Shows the progress of the run, on request.
    pub(crate) fn status(&self, so_far: &Summary) -> io::Result<()> {
        let (ended, failed) = (so_far.total(), so_far.failures());
        let planned = self.planned.max(ended + self.running.len());
        let mut text = format!("{ended} of {planned} have ended, {failed} failed; running:");
        for (id, (since, step)) in &self.running {
            text += &format!("\n  {:>9} {id}", duration(since.elapsed()));
            if !step.is_empty() {
                text += &format!(": {step}");
            }
        }
        self.line(&self.palette.bold(text))
    }

    fn note_running(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RunStarted(run) => {
                self.planned = run.planned + run.skipped;
                self.alone = run.planned == 1;
            }
            RunEvent::InstanceStarted { instance, .. } => {
                let begun = (Instant::now(), String::new());
                self.running.insert(instance.id.clone(), begun);
            }
            RunEvent::Case {
                id,
                said: CaseEvent::Step { text, .. },
            } => {
                if let Some((_, step)) = self.running.get_mut(id) {
                    step.clone_from(text);
                }
            }
            RunEvent::InstanceFinished(outcome) => {
                self.running.remove(&outcome.instance.id);
            }
            _ => {}
        }
    }

    fn finished(&mut self, outcome: &Outcome) -> io::Result<()> {
        if outcome.slower_than.is_some() {
            self.slower.push(outcome.clone());
        }
        let matters = outcome.verdict.is_failure()
            || outcome.verdict == Verdict::Flaky
            || outcome.slower_than.is_some()
            || !outcome.pending_goldens.is_empty();
        if self.quiet && !matters {
            return Ok(());
        }
        let word = self.palette.verdict(outcome.verdict, format!("{:>15}", outcome.verdict.word()));
        let time = format!("{:>9}", duration(outcome.elapsed));
        let mut line = format!("{word} {} {}", self.palette.dim(time), outcome.instance.id);
        if let Some(skip) = outcome.skip() {
            line += &self.palette.dim(format!("  ({skip})"));
        } else if let Some(note) = &outcome.note {
            line += &self.palette.dim(format!("  ({note})"));
        }
        if let Some(slow) = slow(outcome) {
            line += &self.palette.warn(format!("  ({slow})"));
        }
        self.line(&line)?;
        if let Some(kept) = outcome.kept.as_ref().filter(|_| !outcome.verdict.is_failure()) {
            let kept = format!("{:>15} {}", "kept in:", kept.display());
            self.line(&self.palette.dim(kept))?;
        }
        for reason in &outcome.not_run {
            let part = format!("{:>15} {reason}", "part not run:");
            self.line(&self.palette.dim(part))?;
        }
        if outcome.verdict.is_failure() {
            self.line(&failure::block(outcome, self.palette))?;
            self.failures.push(outcome.clone());
        }
        for golden in &outcome.pending_goldens {
            self.line(
                &self.palette.warn(format!("  golden waits for review: {}", golden.display())),
            )?;
        }
        Ok(())
    }

    fn said(&self, id: &str, said: &CaseEvent) -> io::Result<()> {
        let whose = |mark: &str| match self.alone {
            true => String::new(),
            false => format!("{id}{mark} "),
        };
        match said {
            CaseEvent::Step { text, .. } if self.print => {
                self.line(&self.palette.dim(format!("{}── {text}", whose(":"))))
            }
            CaseEvent::Printed { text } => {
                self.line(&indented(text.trim_end_matches('\n'), &whose("|")))
            }
            CaseEvent::Log { text } if self.print => self.line(&indented(text, &whose(":"))),
            // Only on the user's request; other reports are shown with the failure.
            CaseEvent::Explained(report) if report.cause == "SIGUSR1" => {
                let what = failure::hang_text(report, self.palette);
                self.line(&format!("{}{}\n{what}", whose(":"), report.headline))
            }
            CaseEvent::Metric { name, value, unit } => {
                self.line(&self.palette.dim(format!("{}{name} = {value} {unit}", whose(":"))))
            }
            _ => Ok(()),
        }
    }

    fn summary(&mut self, end: &Summary) -> io::Result<()> {
        if let Some(bars) = self.bars.take() {
            bars.total.finish_and_clear();
            // Bars that are left belong to interrupted instances.
            bars.all.clear()?;
        }
        let palette = self.palette;
        self.line("")?;
        for outcome in &self.failures {
            let why = outcome.last().map(|attempt| attempt.headline.as_str()).unwrap_or_default();
            self.line(&format!(
                "{} {}",
                palette.verdict(outcome.verdict, outcome.verdict),
                outcome.instance.id
            ))?;
            self.line(&format!("    {why}\n    {}", palette.dim(&outcome.rerun)))?;
        }
        for outcome in &self.slower {
            let usual = outcome.slower_than.unwrap_or_default();
            let (took, id) = (duration(outcome.elapsed), &outcome.instance.id);
            let line = format!("slow {id}: {took}, at most {} before", duration(usual));
            self.line(&palette.warn(line))?;
        }
        let skips = summary::skips(end, &self.ways, palette);
        if !skips.is_empty() {
            self.line(&skips)?;
        }
        self.line(&palette.bold(summary::counts(end, palette)))
    }
}

impl Show for Terminal {
    fn stopped(&mut self) -> io::Result<()> {
        let text = "stopped: Enter runs to the next step, c to the end, q ends the run";
        self.line(&self.palette.bold(text))
    }

    fn status(&mut self, summary: &Summary) -> io::Result<()> {
        Self::status(self, summary)
    }

    fn event(&mut self, event: &RunEvent) -> io::Result<()> {
        self.note_running(event);
        if let Some(bars) = &mut self.bars {
            bars.event(event);
        }
        match event {
            RunEvent::RunStarted(run) => self.header(run),
            RunEvent::Warning { text } => self.line(&self.palette.warn(format!("warning: {text}"))),
            RunEvent::Case { id, said } => self.said(id, said),
            RunEvent::AttemptFailed { id, attempt } => {
                let why = &attempt.headline;
                self.line(&self.palette.warn(format!("{:>15} {id}: {why}", "retry")))
            }
            RunEvent::InstanceFinished(outcome) => self.finished(outcome),
            RunEvent::Stopping { why } => self.line(&self.palette.warn(format!("stopping: {why}"))),
            RunEvent::RunFinished(end) => self.summary(end),
            RunEvent::InstanceSkipped { .. } | RunEvent::InstanceStarted { .. } => Ok(()),
        }
    }
}

impl Bars {
    fn event(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RunStarted(run) => {
                self.total.set_length(run.planned as u64);
                self.planned.clone_from(&run.expected);
            }
            RunEvent::InstanceStarted {
                instance, expected, ..
            } => {
                let bar = if self.running.len() < RUNNING_LINES {
                    self.all.insert_before(&self.total, ProgressBar::new_spinner())
                } else {
                    ProgressBar::hidden()
                };
                if let Ok(style) =
                    ProgressStyle::with_template("  {spinner} {elapsed:>4} {wide_msg}")
                {
                    bar.set_style(style);
                }
                bar.set_message(instance.id.clone());
                bar.enable_steady_tick(Duration::from_millis(250));
                self.planned.remove(&instance.id);
                // With `--for`, more instances run than were planned.
                let begun = self.total.position() + self.running.len() as u64 + 1;
                if self.total.length().is_some_and(|length| length < begun) {
                    self.total.set_length(begun);
                }
                let running = Running {
                    bar,
                    started: Instant::now(),
                    expected: *expected,
                };
                self.running.insert(instance.id.clone(), running);
            }
            RunEvent::Case {
                id,
                said: CaseEvent::Step { text, .. },
            } => {
                if let Some(running) = self.running.get(id) {
                    running.bar.set_message(format!("{id}: {text}"));
                }
            }
            RunEvent::AttemptFailed { id, .. } => self.ended(id),
            RunEvent::InstanceFinished(outcome) => {
                self.ended(&outcome.instance.id);
                self.failed += usize::from(outcome.verdict.is_failure());
                self.total.inc(1);
            }
            _ => {}
        }
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let left = self.estimate().map(|left| format!(", about {} left", duration(left)));
        self.total.set_message(failed + &left.unwrap_or_default());
    }

    fn ended(&mut self, id: &str) {
        if let Some(running) = self.running.remove(id) {
            running.bar.finish_and_clear();
            self.all.remove(&running.bar);
        }
    }

    /// Estimates the remaining time from the records; `None` if nothing is known about the rest.
    fn estimate(&self) -> Option<Duration> {
        let waiting: Duration = self.planned.values().sum();
        let running = self
            .running
            .values()
            .filter_map(|one| Some(one.expected?.saturating_sub(one.started.elapsed())));
        let longest = running.clone().max().unwrap_or_default();
        let total = waiting + running.sum::<Duration>();
        let jobs = u32::try_from(self.running.len()).unwrap_or(1).max(1);
        let left = (total / jobs).max(longest);
        (!left.is_zero()).then_some(left)
    }
}
