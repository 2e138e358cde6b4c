//! The guest's serial console: everything it printed, and a way to type.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The most that is kept; what comes later than this many bytes is dropped and counted.
const CAP: usize = 16 << 20;

/// A guest's serial console.
///
/// A thread reads it from the start, so the guest never waits for us and nothing is missed;
/// the thread ends with the process.
#[derive(Debug, Clone)]
pub struct Console {
    log: Arc<Mutex<Log>>,
    changed: watch::Receiver<()>,
    input: Arc<UnixStream>,
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
    /// The console was closed, as a rule because the process ended.
    #[error(
        "failed to find {wanted:?} on the console before it was closed; its last words: {tail:?}"
    )]
    Closed {
        /// The text.
        wanted: String,
        /// The end of the log.
        tail: String,
    },
    /// The text did not come in time.
    #[error(
        "failed to find {wanted:?} on the console within {deadline:?}; its last words: {tail:?}"
    )]
    TimedOut {
        /// The text.
        wanted: String,
        /// The budget.
        deadline: Duration,
        /// The end of the log.
        tail: String,
    },
    /// Input could not be sent.
    #[error("failed to type on the console")]
    Write(#[source] std::io::Error),
}

impl Console {
    /// Reads one end of a connected socket.
    ///
    /// # Errors
    /// If the socket cannot be duplicated or the thread not be started.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        let (sender, changed) = watch::channel(());
        let log = Arc::new(Mutex::new(Log::default()));
        let mut source = stream.try_clone()?;
        let target = Arc::clone(&log);
        let run = move || {
            let mut chunk = [0; 4096];
            loop {
                let read = match source.read(&mut chunk) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                    read => read.unwrap_or(0),
                };
                let mut log = target.lock().unwrap_or_else(PoisonError::into_inner);
                let keep = read.min(CAP.saturating_sub(log.bytes.len()));
                log.bytes.extend_from_slice(&chunk[..keep]);
                log.dropped += (read - keep) as u64;
                log.closed = read == 0;
                drop(log);
                sender.send_replace(());
                if read == 0 {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(run)?;
        Ok(Self {
            log,
            changed,
            input: Arc::new(stream),
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

    /// Waits until the text has been printed, also if it was before the call; returns the
    /// whole log up to then.
    ///
    /// # Errors
    /// If the console is closed first, or the deadline passes.
    pub async fn wait_for(&self, wanted: &str, deadline: Duration) -> Result<String, ConsoleError> {
        let mut changed = self.changed.clone();
        let tail = || {
            let text = self.text();
            let chars = text.chars().count();
            text.chars().skip(chars.saturating_sub(400)).collect()
        };
        let search = async {
            loop {
                changed.mark_unchanged();
                let text = self.text();
                if text.contains(wanted) {
                    return Ok(text);
                }
                if self.with(|log| log.closed) || changed.changed().await.is_err() {
                    // The last bytes come with the news of the end.
                    return match self.text() {
                        text if text.contains(wanted) => Ok(text),
                        _ => Err(ConsoleError::Closed {
                            wanted: wanted.to_owned(),
                            tail: tail(),
                        }),
                    };
                }
            }
        };
        tokio::time::timeout(deadline, search)
            .await
            .unwrap_or_else(|_| {
                Err(ConsoleError::TimedOut {
                    wanted: wanted.to_owned(),
                    deadline,
                    tail: tail(),
                })
            })
    }

    /// Types. A few KiB fit the socket's buffer; more waits for the guest.
    ///
    /// # Errors
    /// If the process has closed the console.
    pub fn send(&self, bytes: &[u8]) -> Result<(), ConsoleError> {
        (&*self.input).write_all(bytes).map_err(ConsoleError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn text_is_found_whenever_it_was_printed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        theirs.write_all(b"SeaBIOS\r\n").unwrap();
        console.wait_for("SeaBIOS", LONG).await.unwrap();
        console.wait_for("BIOS", LONG).await.unwrap();
        theirs.write_all(b"login: ").unwrap();
        assert_eq!(
            console.wait_for("login", LONG).await.unwrap(),
            "SeaBIOS\r\nlogin: "
        );
        console.send(b"root\n").unwrap();
        let mut typed = [0; 5];
        theirs.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
    }

    #[tokio::test]
    async fn a_closed_console_ends_the_wait_and_keeps_the_log() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
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
    async fn a_silent_console_meets_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let console = Console::new(ours).unwrap();
        let error = console
            .wait_for("x", Duration::from_millis(5))
            .await
            .unwrap_err();
        assert!(matches!(error, ConsoleError::TimedOut { .. }));
    }
}
