//! The history of earlier runs: how long each instance took and how it ended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::event::RunEvent;
use super::keep;
use super::record::Record;
use super::verdict::Verdict;

/// The number of verdicts kept per instance.
const HISTORY: usize = 10;

/// The number of recent times kept per instance for comparison.
const TIMES: usize = 5;

/// The version of the file format.
const FORMAT: u32 = 1;

/// What is known about one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    /// How long it took the last time it completed.
    pub(crate) elapsed: Duration,
    /// The recent verdicts, newest last.
    pub(crate) verdicts: Vec<Verdict>,
    /// How long it took in recent runs in which it passed, newest last.
    #[serde(default)]
    pub(crate) times: Vec<Duration>,
}

impl History {
    /// The longest of the recent times, if there are enough to compare with.
    pub(crate) fn longest(&self) -> Option<Duration> {
        let enough = self.times.len() >= 2;
        self.times.iter().max().copied().filter(|_| enough)
    }
}

/// What is known about all instances.
#[derive(Debug, Default)]
pub(crate) struct Records {
    path: PathBuf,
    known: BTreeMap<String, History>,
    new: BTreeMap<String, (Duration, Verdict)>,
    /// The run being added was watched, so its results do not count.
    is_watched: bool,
}

#[derive(Serialize, Deserialize)]
struct FileContent {
    format: u32,
    instances: BTreeMap<String, History>,
}

impl Records {
    /// Reads the file. A file that cannot be parsed is ignored: the second value says why, and the
    /// next write replaces it.
    pub(crate) fn read(path: &Path) -> (Self, Option<String>) {
        let (known, warning) = match read_file(path) {
            Ok(known) => (known, None),
            Err(why) => (
                BTreeMap::new(),
                Some(format!(
                    "the records in {} are ignored: {why}",
                    path.display()
                )),
            ),
        };
        (
            Self {
                path: path.to_owned(),
                known,
                new: BTreeMap::new(),
                is_watched: false,
            },
            warning,
        )
    }

    /// What is known about an instance.
    pub(crate) fn get(&self, id: &str) -> Option<&History> {
        self.known.get(id)
    }

    /// Whether it failed the last time.
    pub(crate) fn failed(&self, id: &str) -> bool {
        self.get(id)
            .and_then(|record| record.verdicts.last())
            .is_some_and(|verdict| verdict.is_failure())
    }

    /// Notes how an instance ended. Of several repetitions in a run, a failed one and the longest
    /// time count.
    fn note(&mut self, id: &str, elapsed: Duration, verdict: Verdict) {
        if matches!(verdict, Verdict::Interrupted | Verdict::Skip) {
            return;
        }
        let noted = self.new.entry(id.to_owned()).or_insert((elapsed, verdict));
        noted.0 = noted.0.max(elapsed);
        if !noted.1.is_failure() {
            noted.1 = verdict;
        }
    }

    /// Adds the record of a run, except of a part of a plan: the new times would change the cut for
    /// the other parts. Those are added when the parts are merged.
    pub(crate) fn learn(&mut self, records: impl Iterator<Item = Record>) {
        let is_part = |record: &Record| match &record.event {
            RunEvent::RunStarted(run) => run.shard.is_some(),
            _ => false,
        };
        let records = records.take_while(|record| !is_part(record));
        records.for_each(|record| self.learn_one(&record));
    }

    /// Adds one line of a record, even of a part.
    pub(crate) fn learn_one(&mut self, record: &Record) {
        match &record.event {
            RunEvent::RunStarted(run) => self.is_watched = run.watched,
            RunEvent::InstanceFinished(outcome) if !self.is_watched => {
                let id = outcome.instance.base_id();
                self.note(id, outcome.elapsed, outcome.verdict);
            }
            _ => {}
        }
    }

    /// Adds the new notes to the file, keeping what other runs have written in the meantime.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let lock = File::create(self.path.with_extension("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let mut known = read_file(&self.path).unwrap_or_default();
        for (id, (elapsed, verdict)) in std::mem::take(&mut self.new) {
            let record = known.entry(id).or_insert_with(|| History {
                elapsed,
                verdicts: Vec::new(),
                times: Vec::new(),
            });
            record.elapsed = elapsed;
            if verdict == Verdict::Pass {
                record.times.push(elapsed);
                let excess = record.times.len().saturating_sub(TIMES);
                record.times.drain(..excess);
            }
            record.verdicts.push(verdict);
            let excess = record.verdicts.len().saturating_sub(HISTORY);
            record.verdicts.drain(..excess);
        }
        let content = FileContent {
            format: FORMAT,
            instances: known.clone(),
        };
        keep::replace(&self.path, &content)?;
        self.known = known;
        Ok(())
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, History>, String> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result.map_err(|error| error.to_string())?,
    };
    let content: FileContent = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if content.format != FORMAT {
        return Err(format!("format {} is not {FORMAT}", content.format));
    }
    Ok(content.instances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::event::{InstanceInfo, Outcome, RunStarted};
    use crate::runner::verdict::Attempt;

    #[test]
    fn notes_are_read_back_and_two_runs_keep_each_others_notes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/records.json");
        let (mut one, _) = Records::read(&path);
        let (mut other, _) = Records::read(&path);
        one.note("a", Duration::from_secs(3), Verdict::Fail);
        other.note("b", Duration::from_secs(1), Verdict::Pass);
        one.write().unwrap();
        other.write().unwrap();
        let (read, warning) = Records::read(&path);
        assert_eq!(warning, None);
        assert!(read.failed("a") && !read.failed("b") && !read.failed("c"));
        assert_eq!(read.get("a").unwrap().elapsed, Duration::from_secs(3));
    }

    #[test]
    fn a_watched_run_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (mut records, _) = Records::read(&folder.path().join("records.json"));
        let run = |watched: bool, id: &str| {
            let run = RunStarted {
                watched,
                ..RunStarted::default()
            };
            let instance = InstanceInfo {
                id: id.to_owned(),
                ..InstanceInfo::default()
            };
            let outcome = Outcome::new(instance, Verdict::Fail, Attempt::default());
            let events = [
                RunEvent::RunStarted(Box::new(run)),
                RunEvent::InstanceFinished(Box::new(outcome)),
            ];
            events.map(|event| Record {
                at: 0,
                elapsed: Duration::ZERO,
                slot: None,
                event,
            })
        };
        for (watched, id) in [(true, "under-valgrind"), (false, "by-itself")] {
            records.learn(run(watched, id).into_iter());
        }
        records.write().unwrap();
        assert!(records.failed("by-itself"));
        assert_eq!(records.get("under-valgrind"), None);
    }

    #[test]
    fn a_failed_repetition_outweighs_passed_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        let (mut records, _) = Records::read(&path);
        for (seconds, verdict) in [(1, Verdict::Pass), (3, Verdict::Crash), (2, Verdict::Pass)] {
            records.note("a", Duration::from_secs(seconds), verdict);
        }
        records.write().unwrap();
        assert!(records.failed("a"));
        assert_eq!(records.get("a").unwrap().elapsed, Duration::from_secs(3));
    }

    #[test]
    fn a_corrupt_file_is_ignored_with_a_warning_and_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        for bad in ["{", "[]", r#"{"format":99,"instances":{}}"#, "\0\u{1}"] {
            fs::write(&path, bad).unwrap();
            let (mut records, warning) = Records::read(&path);
            assert!(
                warning.is_some_and(|text| text.contains("records.json")),
                "{bad}"
            );
            records.note("a", Duration::ZERO, Verdict::Pass);
            records.write().unwrap();
            assert_eq!(Records::read(&path).1, None);
        }
    }

    #[test]
    fn the_history_is_limited_and_skips_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        for _ in 0..HISTORY + 3 {
            let (mut records, _) = Records::read(&path);
            records.note("a", Duration::ZERO, Verdict::Pass);
            records.note("b", Duration::ZERO, Verdict::Skip);
            records.write().unwrap();
        }
        let (mut records, _) = Records::read(&path);
        assert_eq!(records.get("a").unwrap().verdicts.len(), HISTORY);
        assert_eq!(records.get("a").unwrap().times.len(), TIMES);
        assert_eq!(records.get("a").unwrap().longest(), Some(Duration::ZERO));
        records.note("c", Duration::from_secs(1), Verdict::Pass);
        records.write().unwrap();
        let once = records.get("c").unwrap().longest();
        assert_eq!(once, None, "one time is nothing to compare with");
        assert_eq!(records.get("b"), None);
    }
}
