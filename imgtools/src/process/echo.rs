//! Copying the output of a process to our standard error, without its secrets.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{CommandLine, REDACTED, Stream};

/// How much is buffered while standard error blocks. Further output is dropped.
const BACKLOG: usize = 1 << 20;

/// Output arrives in pieces of any size. A possible beginning of a secret is held back until more
/// has arrived, so that none is shown in parts.
///
/// Our standard error may be a full pipe or a stopped terminal. So a separate thread writes to it,
/// and the watcher never waits for it.
pub(super) struct Echo {
    held: Held,
    writer: Arc<Writer>,
}

#[derive(Default)]
struct Held {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Default)]
struct Writer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    left_out: u64,
    /// No more output will follow.
    is_closed: bool,
    /// Everything is written.
    is_done: bool,
}

impl Writer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'q>(&self, queue: MutexGuard<'q, Queue>) -> MutexGuard<'q, Queue> {
        let waited = self.changed.wait(queue);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes.len() + bytes.len() > BACKLOG {
            queue.left_out += bytes.len() as u64;
        } else {
            queue.bytes.extend(bytes);
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Writes queued output, until the queue is closed.
    fn run(&self, mut to: impl io::Write) {
        let mut queue = self.lock();
        loop {
            let mut bytes = Vec::from(std::mem::take(&mut queue.bytes));
            if queue.left_out > 0 {
                let note = format!("\n[{} bytes of output left out]\n", queue.left_out);
                bytes.extend(note.bytes());
                queue.left_out = 0;
            }
            if !bytes.is_empty() {
                drop(queue);
                // Our standard error was closed, so there is no reader.
                let _ = to.write_all(&bytes);
                queue = self.lock();
            } else if queue.is_closed {
                queue.is_done = true;
                drop(queue);
                self.changed.notify_all();
                return;
            } else {
                queue = self.wait(queue);
            }
        }
    }
}

impl Echo {
    /// Starts the thread that writes.
    pub(super) fn start() -> io::Result<Echo> {
        let writer = Arc::new(Writer::default());
        let theirs = Arc::clone(&writer);
        std::thread::Builder::new()
            .name("process-echo".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || theirs.run(io::stderr()))?;
        let held = Held::default();
        Ok(Echo { held, writer })
    }

    /// Queues new output.
    pub(super) fn show(&mut self, command: &CommandLine, stream: Stream, bytes: &[u8]) {
        self.writer.push(&self.held.pass(command, stream, bytes, false));
    }

    /// Queues what was held back: no more output will follow. Waits until everything is written,
    /// but no longer than this; not at all with `None`, and without a limit with `Some(None)`.
    pub(super) fn finish(mut self, command: &CommandLine, until: Option<Option<Instant>>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.writer.push(&self.held.pass(command, stream, &[], true));
        }
        let Some(until) = until else { return };
        let mut queue = self.writer.lock();
        queue.is_closed = true;
        self.writer.changed.notify_all();
        while !queue.is_done {
            let Some(until) = until else {
                queue = self.writer.wait(queue);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.writer.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.writer.lock().is_closed = true;
        self.writer.changed.notify_all();
    }
}

impl Held {
    fn pass(
        &mut self,
        command: &CommandLine,
        stream: Stream,
        bytes: &[u8],
        is_last: bool,
    ) -> Vec<u8> {
        let held = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        held.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(held.len());
        let mut done = 0;
        while done < held.len() {
            let rest = &held[done..];
            let secrets = || command.secrets().map(str::as_bytes);
            let begins = |secret: &[u8]| rest.len() < secret.len() && secret.starts_with(rest);
            if !is_last && secrets().any(begins) {
                break;
            }
            match secrets().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    shown.extend_from_slice(REDACTED.as_bytes());
                    done += secret.len();
                }
                None => {
                    shown.push(rest[0]);
                    done += 1;
                }
            }
        }
        held.drain(..done);
        shown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_pieces_are_the_text_is_shown_without_its_secrets(
            parts in prop::collection::vec((any::<bool>(), "[aé1-3]{0,5}"), 0..8),
            secrets in prop::collection::vec("[1-3]{1,5}", 0..3),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut command = CommandLine::default();
            secrets.iter().for_each(|secret| command.push_secret(secret));
            let text: String = parts
                .iter()
                .map(|(is_secret, text)| match secrets.first() {
                    Some(secret) if *is_secret => secret.as_str(),
                    _ => text.as_str(),
                })
                .collect();
            let mut echo = Held::default();
            let mut shown = Vec::new();
            let mut bytes = text.as_bytes();
            for cut in cuts.iter().cycle() {
                let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
                shown.extend(echo.pass(&command, Stream::Stdout, piece, rest.is_empty()));
                bytes = rest;
                if rest.is_empty() {
                    break;
                }
            }
            let shown = String::from_utf8(shown).unwrap();
            for secret in &secrets {
                prop_assert!(!shown.contains(secret), "{} shows {}", shown, secret);
            }
            if secrets.len() < 2 {
                prop_assert_eq!(shown, command.redact(&text));
            }
        }
    }
}
