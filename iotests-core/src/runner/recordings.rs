//! The records of earlier runs, as files `records/TIME-PID.jsonl`, locked during the run.
//!
//! A run that ends in order adds its results to the history itself. If it is killed, the next run
//! does.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

use super::error::{RunError, io as io_error};
use super::event::RunEvent;
use super::record;
use super::records::Records;
use super::verdict::Verdict;

/// The most records kept, and their total size.
const KEPT: usize = 20;
const BYTES: u64 = 256 << 20;

/// The suffix of a record that is in the history.
const LEARNT: &str = ".jsonl";
/// The suffix of a record that is not in the history yet.
const OPEN: &str = ".open.jsonl";

/// The record of this run.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    lock: Flock<File>,
}

impl Recording {
    /// Creates a record in this folder.
    pub(crate) fn create(folder: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(folder).map_err(io_error("create the folder of the records", folder))?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}-{}{OPEN}", since.as_millis(), std::process::id());
        let path = folder.join(name);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o644)
            .open(&path)
            .map_err(io_error("create the record", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| io_error("lock", &path)(error.into()))?;
        Ok(Self { path, lock })
    }

    /// The file, for writing.
    pub(crate) fn file(&self) -> Result<File, RunError> {
        let copy = self.lock.try_clone();
        copy.map_err(io_error("write the record", &self.path))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Marks the record as added to the history.
    pub(crate) fn finish(self) {
        let _ = fs::rename(&self.path, learnt(&self.path));
    }
}

/// Adds the records of killed runs to the history, and removes the oldest records.
pub(crate) fn tidy(folder: &Path, records: &mut Records) -> io::Result<()> {
    let mut all: Vec<(PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(LEARNT) {
            continue;
        }
        let mut path = path;
        if name.ends_with(OPEN) {
            let Ok(file) = File::open(&path) else {
                continue;
            };
            // If it is locked, its run is still going on.
            let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            records.learn(record::read(&path)?);
            records.write()?;
            let to = learnt(&path);
            fs::rename(&path, &to)?;
            path = to;
        }
        all.push((path, entry.metadata().map_or(0, |data| data.len())));
    }
    // Names start with the time.
    all.sort();
    let mut bytes = 0;
    for (index, (path, size)) in all.iter().rev().enumerate() {
        bytes += size;
        if index >= KEPT || bytes > BYTES {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// The ids of the instances that the last finished run selected but did not complete.
pub(crate) fn unfinished(folder: &Path) -> io::Result<BTreeSet<String>> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let over = names.filter(|name| name.ends_with(LEARNT) && !name.ends_with(OPEN));
    let mut left = BTreeSet::new();
    // Names start with the time.
    let Some(newest) = over.max() else {
        return Ok(left);
    };
    for record in record::read(&folder.join(newest))? {
        match record.event {
            RunEvent::RunStarted(run) => left.extend(run.selected),
            RunEvent::InstanceFinished(outcome) if outcome.verdict != Verdict::Interrupted => {
                left.remove(outcome.instance.base_id());
            }
            _ => {}
        }
    }
    Ok(left)
}

fn learnt(path: &Path) -> PathBuf {
    let name = path.to_string_lossy();
    PathBuf::from(format!("{}{LEARNT}", name.trim_end_matches(OPEN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::event::{InstanceInfo, Outcome};
    use crate::runner::record::Recorder;
    use crate::runner::verdict::Attempt;

    fn outcome(id: &str) -> RunEvent {
        let instance = InstanceInfo {
            id: id.to_owned(),
            ..InstanceInfo::default()
        };
        let failed = Outcome::new(instance, Verdict::Fail, Attempt::default());
        RunEvent::InstanceFinished(Box::new(failed))
    }

    #[test]
    fn the_next_run_learns_once_from_the_record_of_a_killed_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("records");
        let history = place.path().join("records.json");
        let killed = Recording::create(&folder).unwrap();
        let mut recorder = Recorder::new(vec![killed.file().unwrap()]);
        recorder.record(None, &outcome("a@raw")).unwrap();
        let (mut records, _) = Records::read(&history);
        tidy(&folder, &mut records).unwrap();
        assert!(!records.failed("a@raw"), "its run lives");
        drop((killed, recorder));
        tidy(&folder, &mut records).unwrap();
        assert!(Records::read(&history).0.failed("a@raw"));
        let name = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().file_name();
        assert!(!name.to_string_lossy().ends_with(OPEN));
        tidy(&folder, &mut records).unwrap();
        let (records, _) = Records::read(&history);
        assert_eq!(records.get("a@raw").unwrap().verdicts.len(), 1);
    }

    #[test]
    fn only_the_newest_records_are_kept() {
        let place = tempfile::tempdir().unwrap();
        for number in 100..100 + KEPT + 3 {
            fs::write(place.path().join(format!("{number}-1.jsonl")), "").unwrap();
        }
        let (mut records, _) = Records::read(&place.path().join("records.json"));
        tidy(place.path(), &mut records).unwrap();
        let left = fs::read_dir(place.path()).unwrap().count();
        assert_eq!(left, KEPT);
        assert!(!place.path().join("100-1.jsonl").exists());
    }
}
