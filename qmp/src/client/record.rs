//! The messages, for transcripts, recorders and traces: redacted, and for traces shortened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::{error, trace};

use super::foreign;
use super::options::{Options, Recorder};
use crate::redact::Redaction;
use crate::transcript::{Direction, Entry, Tail};

/// The longest text that is kept per message in the tail, and shown in traces.
const MAX_TEXT: usize = 2048;

pub(crate) struct Record {
    tail: Mutex<Tail>,
    keeps_tail: bool,
    recorder: Option<Recorder>,
    /// The recorder panicked, and is not called again.
    recorder_failed: AtomicBool,
    redaction: Redaction,
    began: Instant,
}

impl Record {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            tail: Mutex::new(Tail::new(options.transcript_lines)),
            keeps_tail: options.transcript_lines > 0,
            recorder: options.recorder.clone(),
            recorder_failed: AtomicBool::new(false),
            redaction: options.redaction.clone(),
            began: Instant::now(),
        }
    }

    /// The last `count` messages, oldest first.
    pub(crate) fn tail(&self, count: usize) -> Vec<Entry> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.last(count)
    }

    /// Whether messages are recorded or traced at all.
    pub(crate) fn is_wanted(&self) -> bool {
        self.keeps_tail || self.recorder().is_some() || traces()
    }

    fn recorder(&self) -> Option<&Recorder> {
        let recorder = self.recorder.as_ref()?;
        (!self.recorder_failed.load(Ordering::Relaxed)).then_some(recorder)
    }

    /// Records a message.
    pub(crate) fn note(&self, direction: Direction, bytes: &[u8]) {
        let at = self.began.elapsed();
        if let Some(recorder) = self.recorder() {
            let text = self.text(bytes);
            let entry = Entry {
                at,
                direction,
                text,
            };
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(message) = foreign::call(|| recorder(&entry)) {
                self.recorder_failed.store(true, Ordering::Relaxed);
                error!(target: "qmp", message, "the recorder panicked; nothing more is recorded");
            }
        }
        if !self.keeps_tail && !traces() {
            return;
        }
        let text = self.shortened(direction, bytes);
        trace!(target: "qmp", ?direction, text, "message");
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push(Entry {
            at,
            direction,
            text,
        });
    }

    /// The beginning of a message.
    fn shortened(&self, direction: Direction, bytes: &[u8]) -> String {
        let mut text = match direction {
            // What makes a member secret may follow it, as in `object-add`.
            Direction::Out => self.text(bytes),
            // May be many megabytes.
            Direction::In => self.text(&bytes[..bytes.len().min(MAX_TEXT)]),
        };
        let cut =
            text.len() > MAX_TEXT || matches!(direction, Direction::In) && bytes.len() > MAX_TEXT;
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        if cut {
            text.push_str(&format!(" ... ({} bytes)", bytes.len()));
        }
        text
    }

    fn text(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        self.redaction.apply(&text).into_owned()
    }
}

fn traces() -> bool {
    tracing::enabled!(target: "qmp", tracing::Level::TRACE)
}
