//! The guest's serial console: its output, and a way to type.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

/// The most bytes kept; further output is dropped and counted.
const CAP: usize = 16 << 20;

/// A guest's serial console.
///
/// A task reads it from the start, so that nothing is missed; it ends with the process.
#[derive(Debug, Clone)]
pub struct Console {
    log: Arc<Mutex<Log>>,
    changed: watch::Receiver<()>,
    input: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
}

/// A position in a console's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl Mark {
    /// The beginning of the output.
    pub const START: Mark = Mark(0);
}

#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    dropped: u64,
    closed: bool,
}

/// Why text did not appear on, or did not reach, the console.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// The console was closed, usually because the process exited.
    #[error(
        "failed to find {wanted:?} on the console before it was closed; its last words: {tail:?}"
    )]
    Closed {
        /// The text.
        wanted: String,
        /// The end of the output.
        tail: String,
    },
    /// The text did not appear in time.
    #[error(
        "failed to find {wanted:?} on the console within {deadline:?}; its last words: {tail:?}"
    )]
    TimedOut {
        /// The text.
        wanted: String,
        /// The budget.
        deadline: Duration,
        /// The end of the output.
        tail: String,
    },
    /// Input could not be sent.
    #[error("failed to type on the console")]
    Write(#[source] std::io::Error),
    /// The guest does not read its input.
    #[error("failed to type on the console within {deadline:?}: the guest does not read")]
    NotRead {
        /// The budget.
        deadline: Duration,
    },
}

impl Console {
    /// Reads one end of a connected socket.
    ///
    /// # Errors
    /// If the socket cannot be registered with the running tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(stream: StdUnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (source, input) = UnixStream::from_std(stream)?.into_split();
        let (sender, changed) = watch::channel(());
        let log = Arc::new(Mutex::new(Log::default()));
        tokio::spawn(read(source, Arc::clone(&log), sender));
        Ok(Self {
            log,
            changed,
            input: Arc::new(tokio::sync::Mutex::new(input)),
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything printed so far.
    #[must_use]
    pub fn log(&self) -> Vec<u8> {
        self.with(|log| log.bytes.clone())
    }

    /// Everything printed so far, as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.with(|log| String::from_utf8_lossy(&log.bytes).into_owned())
    }

    /// How many bytes were dropped because the log was full (16 MiB).
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.with(|log| log.dropped)
    }

    /// The current end of the output: the starting point for a [`wait_after`](Console::wait_after).
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.with(|log| log.bytes.len()))
    }

    /// Waits until the text has been printed, possibly before the call; returns the whole output up
    /// to the end of the text.
    ///
    /// # Errors
    /// If the console is closed first, or the deadline passes.
    pub async fn wait_for(&self, wanted: &str, deadline: Duration) -> Result<String, ConsoleError> {
        let (text, _) = self.wait_after(Mark::START, wanted, deadline).await?;
        Ok(text)
    }

    /// Waits until the text has been printed after the mark; returns the output from the mark to
    /// the end of the text, and a mark there for the next wait.
    ///
    /// Input is echoed: to wait for the output of a command and not for its echo, wait for the echo
    /// first, then for the output after it.
    ///
    /// ```no_run
    /// # async fn example(console: &machine::Console, limit: std::time::Duration) -> Result<(), machine::ConsoleError> {
    /// let mark = console.mark();
    /// console.send(b"uname -s\n", limit).await?;
    /// let (_, echoed) = console.wait_after(mark, "uname -s", limit).await?;
    /// let (answer, _) = console.wait_after(echoed, "# ", limit).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the console is closed first, or the deadline passes.
    pub async fn wait_after(
        &self,
        mark: Mark,
        wanted: &str,
        deadline: Duration,
    ) -> Result<(String, Mark), ConsoleError> {
        let mut changed = self.changed.clone();
        let tail = || {
            let text = self.text();
            let chars = text.chars().count();
            text.chars().skip(chars.saturating_sub(400)).collect()
        };
        let search = async {
            // The first position not searched yet where it can begin.
            let mut from = mark.0;
            loop {
                changed.mark_unchanged();
                let (found, length, closed) = self.with(|log| {
                    let found = position(&log.bytes[from..], wanted.as_bytes());
                    let found = found.map(|at| {
                        let end = from + at + wanted.len();
                        let text = String::from_utf8_lossy(&log.bytes[mark.0..end]).into_owned();
                        (text, Mark(end))
                    });
                    (found, log.bytes.len(), log.closed)
                });
                if let Some(found) = found {
                    return Ok(found);
                }
                from = from.max((length + 1).saturating_sub(wanted.len()));
                // The sender is dropped with the task, when its runtime shuts down.
                if closed || changed.changed().await.is_err() {
                    return Err(ConsoleError::Closed {
                        wanted: wanted.to_owned(),
                        tail: tail(),
                    });
                }
            }
        };
        tokio::time::timeout(deadline, search).await.unwrap_or_else(|_| {
            Err(ConsoleError::TimedOut {
                wanted: wanted.to_owned(),
                deadline,
                tail: tail(),
            })
        })
    }

    /// Waits until the process has closed it: the output is then complete.
    pub async fn closed(&self) {
        let mut changed = self.changed.clone();
        while !self.with(|log| log.closed) && changed.changed().await.is_ok() {}
    }

    /// Sends input. A few KiB fit the socket's buffer; more waits for the guest.
    ///
    /// # Errors
    /// If the process has closed the console, or does not accept everything in time; part of it may
    /// then have been sent.
    pub async fn send(&self, bytes: &[u8], deadline: Duration) -> Result<(), ConsoleError> {
        let write = async { self.input.lock().await.write_all(bytes).await };
        match tokio::time::timeout(deadline, write).await {
            Ok(written) => written.map_err(ConsoleError::Write),
            Err(_) => Err(ConsoleError::NotRead { deadline }),
        }
    }
}

/// Appends to the log until the other end is closed.
async fn read(mut source: OwnedReadHalf, log: Arc<Mutex<Log>>, changed: watch::Sender<()>) {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = source.read(&mut chunk).await.unwrap_or(0);
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let keep = read.min(CAP.saturating_sub(log.bytes.len()));
            log.bytes.extend_from_slice(&chunk[..keep]);
            log.dropped += (read - keep) as u64;
            log.closed = read == 0;
        }
        changed.send_replace(());
        if read == 0 {
            return;
        }
    }
}

/// The first position of the needle in the text.
fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    match wanted.len() {
        0 => Some(0),
        length => text.windows(length).position(|part| part == wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn text_is_found_whenever_it_was_printed() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        theirs.write_all(b"SeaBIOS\r\n").unwrap();
        console.wait_for("SeaBIOS", LONG).await.unwrap();
        console.wait_for("BIOS", LONG).await.unwrap();
        theirs.write_all(b"login: ").unwrap();
        assert_eq!(
            console.wait_for("login", LONG).await.unwrap(),
            "SeaBIOS\r\nlogin"
        );
        console.send(b"root\n", LONG).await.unwrap();
        let mut typed = [0; 5];
        theirs.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
    }

    #[tokio::test]
    async fn a_second_prompt_is_not_the_first_one_and_an_echo_is_not_the_answer() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        theirs.write_all(b"boot\r\n# ").unwrap();
        let (_, prompt) = console.wait_after(Mark(0), "# ", LONG).await.unwrap();
        assert_eq!(prompt, console.mark());
        let again = console.wait_after(prompt, "# ", Duration::from_millis(5));
        let error = again.await.unwrap_err();
        assert!(matches!(error, ConsoleError::TimedOut { .. }), "{error}");
        theirs.write_all(b"echo up\r\nup\r\n# ").unwrap();
        let (_, echoed) = console.wait_after(prompt, "echo up", LONG).await.unwrap();
        let (answer, end) = console.wait_after(echoed, "# ", LONG).await.unwrap();
        assert_eq!(answer, "\r\nup\r\n# ");
        assert_eq!(end, console.mark());
    }

    #[tokio::test]
    async fn a_closed_console_ends_the_wait_and_keeps_the_log() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        theirs.write_all(b"last words").unwrap();
        drop(theirs);
        let error = console.wait_for("never", LONG).await.unwrap_err();
        assert!(
            matches!(&error, ConsoleError::Closed { tail, .. } if tail == "last words"),
            "{error}"
        );
        assert!(console.wait_for("words", LONG).await.is_ok());
    }

    #[tokio::test]
    async fn text_is_found_across_pieces_and_the_end_is_awaited() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        let waiting = tokio::spawn({
            let console = console.clone();
            async move { console.wait_for("login: ", LONG).await }
        });
        for piece in ["x", "lo", "gi", "n", ": "] {
            theirs.write_all(piece.as_bytes()).unwrap();
            // Long enough for each piece to be read separately.
            console.wait_for(piece, LONG).await.unwrap();
        }
        assert_eq!(waiting.await.unwrap().unwrap(), "xlogin: ");
        let end = vec![b'e'; 100_000];
        let writer = std::thread::spawn(move || theirs.write_all(&end).map(|()| drop(theirs)));
        console.closed().await;
        assert_eq!(console.log().len(), 8 + 100_000);
        writer.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn typing_to_a_guest_that_does_not_read_meets_the_deadline() {
        let (ours, _theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        let typed = console.send(&[b'x'; 4 << 20], Duration::from_millis(5));
        let error = typed.await.unwrap_err();
        assert!(matches!(error, ConsoleError::NotRead { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_silent_console_meets_the_deadline() {
        let (ours, _theirs) = StdUnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        let error = console.wait_for("x", Duration::from_millis(5)).await.unwrap_err();
        assert!(matches!(error, ConsoleError::TimedOut { .. }));
    }
}
