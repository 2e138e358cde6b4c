//! The events of a run, as one enum. All reports and the record are made from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host::HostInfo;
use super::partition::Shard;
use super::verdict::{Attempt, Verdict};
use crate::case::{Aio, Backend, Cache, Format, Protocol, Skip, ToolKind};
use crate::wire::{CaseEvent, Place};

/// Something that happened in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEvent {
    /// The run starts.
    RunStarted(Box<RunStarted>),
    /// Something the user should know that is not a verdict.
    Warning {
        /// The warning.
        text: String,
    },
    /// An instance is skipped, as was known before anything ran.
    InstanceSkipped {
        /// Which.
        instance: InstanceInfo,
        /// Why.
        reason: Skip,
    },
    /// An instance starts.
    InstanceStarted {
        /// Which.
        instance: InstanceInfo,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// How long it took the last time.
        expected: Option<Duration>,
    },
    /// A case process sent an event.
    Case {
        /// The id of the instance.
        id: String,
        /// The event.
        said: CaseEvent,
    },
    /// An attempt failed and there will be another.
    AttemptFailed {
        /// The id of the instance.
        id: String,
        /// How.
        attempt: Box<Attempt>,
    },
    /// An instance has ended.
    InstanceFinished(Box<Outcome>),
    /// The user or a limit stops the run.
    Stopping {
        /// The reason, in words.
        why: String,
    },
    /// The run has ended.
    RunFinished(Box<Summary>),
}

/// Everything needed to repeat a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunStarted {
    /// The version of the record's format, [`SCHEMA`]; 0 in records older than this field.
    #[serde(default)]
    pub schema: u32,
    /// The command line.
    pub command: Vec<String>,
    /// The sets of QEMU programs, by name.
    pub sets: Vec<SetInfo>,
    /// The kernel's name, release and machine.
    pub system: String,
    /// The seed.
    pub seed: u64,
    /// How many instances run at once.
    pub jobs: usize,
    /// The factor for all deadlines.
    pub scale: f64,
    /// Where the instances have their directories.
    pub run_dir: PathBuf,
    /// The number of instances to run, repetitions included.
    pub planned: usize,
    /// The number of instances skipped.
    pub skipped: usize,
    /// The configuration files that were read, and the profile.
    #[serde(default)]
    pub config: Vec<String>,
    /// The ids of the instances that run.
    #[serde(default)]
    pub selected: Vec<String>,
    /// How long the instances that run took the last time, by id.
    pub expected: BTreeMap<String, Duration>,
    /// When it started, in seconds since the Unix epoch.
    pub started: u64,
    /// The machine.
    #[serde(default)]
    pub host: HostInfo,
    /// Where the harness keeps its caches and records.
    #[serde(default)]
    pub folder: PathBuf,
    /// This run's part of a partitioned plan.
    #[serde(default)]
    pub shard: Option<Shard>,
    /// A debugger, wrapper or user stepping through it took part, so its times and verdicts do not
    /// count for other runs.
    #[serde(default)]
    pub watched: bool,
}

/// The version of the record's format, described in docs/record.md. Additions do not change it, and
/// readers ignore what they do not know; renaming a field or changing its meaning does.
pub const SCHEMA: u32 = 1;

/// A set of QEMU programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// Its programs and their versions.
    pub tools: BTreeMap<ToolKind, ToolInfo>,
}

/// One program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolInfo {
    /// Its path.
    pub path: PathBuf,
    /// Its version, as far as known.
    pub version: String,
    /// Its SHA-256 in hexadecimal, if it could be read.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// What reports show about an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceInfo {
    /// The id.
    pub id: String,
    /// The name of the case, without row and matrix point.
    pub case: String,
    /// The description.
    pub description: String,
    /// Where the case is defined.
    pub place: Place,
    /// The upstream tests it covers.
    pub upstream: Vec<String>,
    /// The set of QEMU programs it runs on.
    pub set: String,
    /// Its point in the matrix.
    pub point: Option<PointInfo>,
}

/// A point in the matrix, and the case's declarations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInfo {
    /// The row of a family.
    pub row: Option<String>,
    /// The image format.
    pub format: Format,
    /// What carries the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// Which process hosts the block layer; `None` for a case of tools only.
    pub backend: Option<Backend>,
    /// The groups of the case.
    pub groups: Vec<String>,
    /// The time it may take, before scaling.
    pub budget: Duration,
}

impl InstanceInfo {
    /// The id without the number of the repetition (`#2`).
    pub fn base_id(&self) -> &str {
        self.id.split('#').next().unwrap_or(&self.id)
    }

    /// Whether this is a second or later repetition.
    pub(crate) fn is_repeated(&self) -> bool {
        self.id.rsplit_once('#').is_some_and(|(_, number)| number != "1")
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The instance.
    pub instance: InstanceInfo,
    /// How it ended.
    pub verdict: Verdict,
    /// An explanation: why the failure was expected, why it is in quarantine, which fix is missing.
    pub note: Option<String>,
    /// Its attempts, the last one last.
    pub attempts: Vec<Attempt>,
    /// From the start of the first attempt to the end of the last.
    pub elapsed: Duration,
    /// The longest of its recent times, if it took much longer now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slower_than: Option<Duration>,
    /// The end of what the case process printed to standard output.
    pub stdout_tail: String,
    /// The end of what the case process printed to standard error.
    pub stderr_tail: String,
    /// Its directory, if kept.
    pub kept: Option<PathBuf>,
    /// The command that repeats exactly this.
    pub rerun: String,
    /// Parts that its last attempt left out, and why.
    #[serde(default)]
    pub not_run: Vec<String>,
    /// What it measured.
    pub metrics: Vec<Metric>,
    /// Goldens to review.
    pub pending_goldens: Vec<PathBuf>,
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

impl Outcome {
    /// An outcome with a single attempt and nothing else.
    pub fn new(instance: InstanceInfo, verdict: Verdict, attempt: Attempt) -> Self {
        Self {
            instance,
            verdict,
            note: None,
            elapsed: attempt.elapsed,
            kept: attempt.kept.clone(),
            attempts: vec![attempt],
            slower_than: None,
            stdout_tail: String::new(),
            stderr_tail: String::new(),
            rerun: String::new(),
            not_run: Vec::new(),
            metrics: Vec::new(),
            pending_goldens: Vec::new(),
        }
    }

    /// The outcome of an instance skipped before anything ran.
    pub fn skipped(instance: InstanceInfo, reason: Skip) -> Self {
        let attempt = Attempt {
            verdict: Some(Verdict::Skip),
            skip: Some(reason),
            ..Attempt::default()
        };
        Self::new(instance, Verdict::Skip, attempt)
    }

    /// The attempt that decided.
    pub fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The reason of a skip.
    pub fn skip(&self) -> Option<&Skip> {
        self.last().and_then(|attempt| attempt.skip.as_ref())
    }
}

/// The counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of instances per verdict.
    pub counts: BTreeMap<Verdict, usize>,
    /// Instances that never started because the run was stopped.
    pub not_run: usize,
    /// The reasons of the skips, most frequent first.
    pub skips: Vec<(Skip, usize)>,
    /// Why parts of cases were left out, most frequent first.
    #[serde(default)]
    pub parts: Vec<(String, usize)>,
    /// From the start to the end.
    pub elapsed: Duration,
}

impl Summary {
    /// How many have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }

    /// How many fail the run.
    pub fn failures(&self) -> usize {
        Verdict::ALL
            .iter()
            .filter(|verdict| verdict.is_failure())
            .map(|verdict| self.count(*verdict))
            .sum()
    }

    /// How many have ended in total.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// Counts one instance that has ended.
    pub fn add(&mut self, outcome: &Outcome) {
        let verdict = outcome.verdict;
        *self.counts.entry(verdict).or_default() += 1;
        if let Some(skip) = outcome.skip().filter(|_| verdict == Verdict::Skip) {
            tally(&mut self.skips, skip);
        }
        for reason in &outcome.not_run {
            tally(&mut self.parts, reason);
        }
    }
}

/// Counts one more of these; the most frequent ones come first.
fn tally<T: Clone + PartialEq>(counts: &mut Vec<(T, usize)>, item: &T) {
    match counts.iter_mut().find(|(known, _)| known == item) {
        Some((_, count)) => *count += 1,
        None => counts.push((item.clone(), 1)),
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
}
