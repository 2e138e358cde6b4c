//! The record of a run: one line of JSON per event, appended as it happens. The history and all
//! reports are made from it, even if the run was cut short.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::event::RunEvent;
use crate::wire::CaseEvent;

/// How much of the start of an attempt's log is recorded.
const HEAD: usize = 256 << 10;
/// How much of its end is recorded.
const TAIL: usize = 64 << 10;

/// The size of a line of the record without its text.
const FRAME: usize = 160;

/// One line of the record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// When it happened, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The time since the run started, without suspensions.
    pub elapsed: Duration,
    /// The slot of the instance, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// What happened.
    pub event: RunEvent,
}

/// Writes the record.
#[derive(Debug)]
pub(crate) struct Recorder {
    files: Vec<File>,
    begun: Instant,
    paused: Duration,
    logs: BTreeMap<String, Log>,
}

impl Recorder {
    /// Writes to all these files.
    pub(crate) fn new(files: Vec<File>) -> Self {
        Self {
            files,
            begun: Instant::now(),
            paused: Duration::ZERO,
            logs: BTreeMap::new(),
        }
    }

    /// The time since the run started, without suspensions.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.paused)
    }

    /// Sets the total time that the run was suspended.
    pub(crate) fn paused(&mut self, paused: Duration) {
        self.paused = paused;
    }

    /// Records one event.
    pub(crate) fn record(&mut self, slot: Option<u16>, event: &RunEvent) -> io::Result<()> {
        match event {
            RunEvent::Case {
                id,
                said: CaseEvent::Log { text },
            } => {
                let log = self.logs.entry(id.clone()).or_default();
                if !log.takes(text) {
                    return Ok(());
                }
            }
            // Only for display: the output files are kept if the instance fails.
            RunEvent::Case {
                said: CaseEvent::Printed { .. },
                ..
            } => return Ok(()),
            RunEvent::AttemptFailed { id, .. } => self.end_of_log(slot, id)?,
            RunEvent::InstanceFinished(outcome) => self.end_of_log(slot, &outcome.instance.id)?,
            _ => {}
        }
        self.write(slot, event)
    }

    /// Writes the held-back end of a log, and how much is missing before it.
    fn end_of_log(&mut self, slot: Option<u16>, id: &str) -> io::Result<()> {
        let Some(log) = self.logs.remove(id) else {
            return Ok(());
        };
        let missing = (log.missing > 0).then(|| format!("[{} bytes left out]", log.missing));
        for text in missing.into_iter().chain(log.tail) {
            let id = id.to_owned();
            let said = CaseEvent::Log { text };
            self.write(slot, &RunEvent::Case { id, said })?;
        }
        Ok(())
    }

    fn write(&mut self, slot: Option<u16>, event: &RunEvent) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'e> {
            at: u64,
            elapsed: Duration,
            #[serde(skip_serializing_if = "Option::is_none")]
            slot: Option<u16>,
            event: &'e RunEvent,
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut line = serde_json::to_vec(&Line {
            at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            elapsed: self.elapsed(),
            slot,
            event,
        })?;
        line.push(b'\n');
        // One write per line, so that only the last line can be incomplete. If a file fails, the
        // others are still written.
        let mut result = Ok(());
        for file in &mut self.files {
            result = file.write_all(&line).and(result);
        }
        result
    }
}

/// The log of one attempt so far.
#[derive(Debug, Default)]
struct Log {
    recorded: usize,
    tail: VecDeque<String>,
    kept: usize,
    missing: usize,
}

impl Log {
    /// Whether this text belongs to the head, which is recorded at once. Otherwise it is held back
    /// until newer text displaces it.
    fn takes(&mut self, text: &str) -> bool {
        if self.tail.is_empty() && self.missing == 0 && self.recorded + text.len() <= HEAD {
            self.recorded += text.len() + FRAME;
            return true;
        }
        let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL));
        self.missing += start;
        self.tail.push_back(text[start..].to_owned());
        self.kept += text.len() - start + FRAME;
        while self.kept > TAIL + FRAME {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.kept -= oldest.len() + FRAME;
            self.missing += oldest.len();
        }
        false
    }
}

/// The records in a file, up to the first invalid line: if the run was killed, the last may be
/// incomplete.
pub(crate) fn read(path: &Path) -> io::Result<impl Iterator<Item = Record> + use<>> {
    let lines = BufReader::new(File::open(path)?).split(b'\n');
    Ok(lines.map_while(|line| serde_json::from_slice(&line.ok()?).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> RunEvent {
        RunEvent::Case {
            id: "a".to_owned(),
            said: CaseEvent::Log {
                text: text.to_owned(),
            },
        }
    }

    fn failed() -> RunEvent {
        RunEvent::AttemptFailed {
            id: "a".to_owned(),
            attempt: Box::default(),
        }
    }

    fn texts(path: &Path) -> Vec<String> {
        let text = |record: Record| match record.event {
            RunEvent::Case {
                said: CaseEvent::Log { text },
                ..
            } => Some(text),
            _ => None,
        };
        read(path).unwrap().filter_map(text).collect()
    }

    #[test]
    fn a_long_log_is_recorded_with_its_start_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut recorder = Recorder::new(vec![File::create(&path).unwrap()]);
        let lines = 100_000;
        for number in 0..lines {
            recorder.record(Some(3), &log(&format!("line {number:06}"))).unwrap();
        }
        recorder.record(Some(3), &failed()).unwrap();
        let texts = texts(&path);
        assert_eq!(texts[0], "line 000000");
        assert_eq!(texts.last().unwrap(), &format!("line {:06}", lines - 1));
        let missing = texts.iter().find(|text| text.starts_with('[')).unwrap();
        assert!(missing.ends_with("bytes left out]"), "{missing}");
        let bytes: usize = texts.iter().map(String::len).sum();
        assert!(bytes < HEAD + TAIL + 100, "{bytes}");
        // The next attempt starts with an empty log.
        recorder.record(Some(3), &log("again")).unwrap();
        assert_eq!(self::texts(&path).last().unwrap(), "again");
    }

    #[test]
    fn one_endless_line_is_cut() {
        let mut log = Log::default();
        assert!(!log.takes(&"é".repeat(1 << 20)));
        assert_eq!(log.kept, TAIL + FRAME);
        assert_eq!(log.missing, (2 << 20) - TAIL);
    }

    #[test]
    fn a_record_that_is_cut_anywhere_is_read_up_to_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut recorder = Recorder::new(vec![File::create(&path).unwrap()]);
        for number in 0..3 {
            recorder.record(None, &log(&number.to_string())).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            // A complete line counts even without its line break.
            let expected = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(read(&path).unwrap().count(), expected, "{cut}");
        }
    }
}
