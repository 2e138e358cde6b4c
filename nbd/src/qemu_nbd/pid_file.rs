//! Detecting when a qemu-nbd that creates its own socket is serving, without polling.
//!
//! qemu-nbd writes its pid file after it has begun to serve. The file is empty for a moment, so
//! what counts is the newline; inotify reports writes.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tempfile::TempDir;
use tokio::net::unix::pipe::Receiver;

/// A directory of our own in which a pid file will appear.
pub(super) struct PidFile {
    _directory: TempDir,
    path: PathBuf,
    /// Wrapped as a pipe, which is enough for tokio to poll the descriptor.
    events: Receiver,
}

impl PidFile {
    pub(super) fn new() -> io::Result<PidFile> {
        let directory = tempfile::Builder::new().prefix("qemu-nbd-").tempdir()?;
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE | WatchFlags::MODIFY;
        inotify::add_watch(&events, directory.path(), flags)?;
        let path = directory.path().join("pid");
        Ok(PidFile {
            _directory: directory,
            path,
            events: Receiver::from_owned_fd_unchecked(events)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The process id, if the file is written.
    pub(super) fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    }

    /// Waits until the file is written.
    pub(super) async fn written(&self) -> io::Result<u32> {
        loop {
            if let Some(pid) = self.pid() {
                return Ok(pid);
            }
            self.events.readable().await?;
            // The events' content does not matter: the file is read again.
            match self.events.try_read(&mut [0; 4096]) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap 3 of running a qemu-nbd: it creates the file, locks it, and only then writes it.
    #[tokio::test]
    async fn a_pid_file_that_is_still_empty_or_half_written_is_waited_for() {
        let file = PidFile::new().unwrap();
        let mut written = Box::pin(file.written());
        for text in ["", "12", "1234"] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(file.pid(), None, "{text:?} was taken for an id");
            // Polled, so that the kernel's events for this state have been processed.
            tokio::select! {
                biased;
                pid = &mut written => panic!("{text:?} was taken for {pid:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        std::fs::write(file.path(), "1234\n").unwrap();
        assert_eq!(written.await.unwrap(), 1234);
    }
}
