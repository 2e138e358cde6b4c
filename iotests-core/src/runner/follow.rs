//! Follows the files into which a case and its programs print, to show their output as it appears.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How much of an incomplete line is held back.
const LINE: usize = 64 << 10;

/// Follows growing files.
pub(crate) struct Follower {
    watch: OwnedFd,
    files: Vec<(File, Vec<u8>)>,
}

impl Follower {
    /// Creates the files.
    pub(crate) fn new(paths: &[&Path]) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut files = Vec::new();
        for path in paths {
            File::create(path)?;
            inotify::add_watch(&watch, *path, WatchFlags::MODIFY)?;
            files.push((File::open(path)?, Vec::new()));
        }
        Ok(Self { watch, files })
    }

    /// Ready when one of them has grown.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Passes on new complete lines and, the last time, also an incomplete one.
    pub(crate) fn read(&mut self, is_last: bool, emit: &mut impl FnMut(String)) {
        let mut buffer = vec![0; LINE];
        // Drain the events; what they say does not matter.
        while matches!(rustix::io::read(&self.watch, &mut buffer), Ok(1..)) {}
        for (file, rest) in &mut self.files {
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                rest.extend_from_slice(&buffer[..count]);
                let end = match rest.iter().rposition(|byte| *byte == b'\n') {
                    Some(end) => end + 1,
                    None if rest.len() >= LINE => rest.len(),
                    None => continue,
                };
                let lines: Vec<u8> = rest.drain(..end).collect();
                emit(String::from_utf8_lossy(&lines).into_owned());
            }
            if is_last && !rest.is_empty() {
                emit(String::from_utf8_lossy(&std::mem::take(rest)).into_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn complete_lines_are_passed_on_at_once_and_the_rest_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut follower = Follower::new(&[&path]).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let mut read = |text: &str, is_last| {
            writer.write_all(text.as_bytes()).unwrap();
            let mut told = String::new();
            follower.read(is_last, &mut |text| told += &text);
            told
        };
        assert_eq!(read("one\ntw", false), "one\n");
        assert_eq!(read("o\n", false), "two\n");
        assert_eq!(read("", false), "");
        assert_eq!(read("three", true), "three");
        let long = "x".repeat(LINE);
        assert_eq!(
            read(&long, false),
            long,
            "one without end does not fill the memory"
        );
    }
}
