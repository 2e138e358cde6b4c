//! The output of a process: both streams, their common order, and a cap that keeps the tail.

use std::borrow::Cow;
use std::ops::Range;

/// One of the two output streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A snapshot of a process's output.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// Standard output; its last bytes, if it was longer than the cap.
    pub stdout: Vec<u8>,
    /// Standard error; its last bytes, if it was longer than the cap.
    pub stderr: Vec<u8>,
    /// How many bytes are missing before `stdout` and `stderr` together, because of the cap.
    pub truncated: u64,
    order: Vec<(Stream, Range<usize>)>,
}

impl Captured {
    /// Standard output as text; bytes that are not UTF-8 become U+FFFD.
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text; bytes that are not UTF-8 become U+FFFD.
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }

    /// Both streams in the order in which their bytes arrived.
    ///
    /// Two pipes have no common order: writes to one and then the other between two of our reads
    /// (usually microseconds apart) may appear swapped. Standard output of a C program is also
    /// delayed by its buffer.
    pub fn chunks(&self) -> impl Iterator<Item = (Stream, &[u8])> {
        self.order.iter().map(|(stream, range)| match stream {
            Stream::Stdout => (*stream, &self.stdout[range.clone()]),
            Stream::Stderr => (*stream, &self.stderr[range.clone()]),
        })
    }

    /// Both streams as one text, in the order of [`Captured::chunks`].
    pub fn combined_text(&self) -> String {
        let bytes: Vec<u8> = self.chunks().flat_map(|(_, bytes)| bytes).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured")
            .field("stdout", &format_args!("{} bytes", self.stdout.len()))
            .field("stderr", &format_args!("{} bytes", self.stderr.len()))
            .field("truncated", &self.truncated)
            .finish_non_exhaustive()
    }
}

/// The growing record from which [`Captured`] is copied. Positions in a stream count from its first
/// byte, kept or not, so that they stay valid when the cap drops the head.
#[derive(Debug)]
pub(super) struct Capture {
    cap: usize,
    stdout: Tail,
    stderr: Tail,
    /// The stream and the positions of each run of output. Neighbours differ in their stream.
    runs: Vec<(Stream, Range<u64>)>,
    /// The number of runs at which runs emptied by the cap are swept again.
    sweep_at: usize,
}

/// The end of a stream.
#[derive(Debug, Default)]
struct Tail {
    /// Kept bytes start at `head`; those before it are removed in batches.
    bytes: Vec<u8>,
    head: usize,
    dropped: u64,
}

impl Tail {
    fn kept(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    fn push(&mut self, bytes: &[u8], cap: usize) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.kept().len().saturating_sub(cap);
        self.head += excess;
        self.dropped += excess as u64;
        // Moving only when half of the buffer is waste makes dropping cheap on average.
        if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    fn end(&self) -> u64 {
        self.dropped + self.kept().len() as u64
    }

    /// The kept bytes from this position on.
    fn from(&self, position: u64) -> &[u8] {
        let kept = self.kept();
        let skip = usize::try_from(position.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        &kept[skip.min(kept.len())..]
    }
}

impl Capture {
    /// Keeps at most `cap` bytes of each stream.
    pub(super) fn new(cap: usize) -> Capture {
        Capture {
            cap,
            stdout: Tail::default(),
            stderr: Tail::default(),
            runs: Vec::new(),
            sweep_at: 64,
        }
    }

    fn tail(&self, stream: Stream) -> &Tail {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let tail = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let start = tail.end();
        tail.push(bytes, self.cap);
        let end = tail.end();
        match self.runs.last_mut() {
            Some((last, range)) if *last == stream => range.end = end,
            _ => self.runs.push((stream, start..end)),
        }
        if self.runs.len() >= self.sweep_at {
            let (stdout, stderr) = (self.stdout.dropped, self.stderr.dropped);
            self.runs.retain(|(stream, range)| {
                range.end
                    > if *stream == Stream::Stdout {
                        stdout
                    } else {
                        stderr
                    }
            });
            self.sweep_at = (self.runs.len() * 2).max(64);
        }
    }

    /// The kept bytes of a stream from this position on.
    pub(super) fn from(&self, stream: Stream, position: u64) -> &[u8] {
        self.tail(stream).from(position)
    }

    /// The position after the last byte of a stream.
    pub(super) fn end(&self, stream: Stream) -> u64 {
        self.tail(stream).end()
    }

    pub(super) fn captured(&self) -> Captured {
        let mut order: Vec<(Stream, Range<usize>)> = Vec::with_capacity(self.runs.len());
        for (stream, range) in &self.runs {
            let dropped = self.tail(*stream).dropped;
            // Positions relative to the kept bytes fit: they index into memory.
            let relative = |position: u64| position.saturating_sub(dropped) as usize;
            let range = relative(range.start)..relative(range.end);
            if range.is_empty() {
                continue;
            }
            match order.last_mut() {
                Some((last, before)) if last == stream => before.end = range.end,
                _ => order.push((*stream, range)),
            }
        }
        Captured {
            stdout: self.stdout.kept().to_vec(),
            stderr: self.stderr.kept().to_vec(),
            truncated: self.stdout.dropped + self.stderr.dropped,
            order,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cap_keeps_the_tail_of_each_stream() {
        let mut capture = Capture::new(4);
        capture.push(Stream::Stderr, b"e");
        capture.push(Stream::Stdout, b"012345");
        capture.push(Stream::Stdout, b"67");
        let captured = capture.captured();
        assert_eq!(captured.stdout, b"4567");
        assert_eq!(
            captured.stderr, b"e",
            "a chatty stdout costs stderr nothing"
        );
        assert_eq!(captured.truncated, 4);
        assert_eq!(captured.combined_text(), "e4567");
    }

    proptest! {
        #[test]
        fn a_capture_is_the_tail_of_what_was_pushed(
            cap in 1usize..50,
            pushes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..300),
            position in 0u64..200,
        ) {
            let mut capture = Capture::new(cap);
            let mut whole: [Vec<u8>; 2] = Default::default();
            for (is_err, bytes) in &pushes {
                let stream = if *is_err { Stream::Stderr } else { Stream::Stdout };
                capture.push(stream, bytes);
                whole[*is_err as usize].extend_from_slice(bytes);
            }
            let captured = capture.captured();
            let tail = |bytes: &[u8]| bytes[bytes.len().saturating_sub(cap)..].to_vec();
            prop_assert_eq!(&captured.stdout, &tail(&whole[0]));
            prop_assert_eq!(&captured.stderr, &tail(&whole[1]));
            let total: usize = whole.iter().map(Vec::len).sum();
            let kept = captured.stdout.len() + captured.stderr.len();
            prop_assert_eq!(captured.truncated, (total - kept) as u64);
            // The chunks are exactly the streams again, and in the order of the pushes.
            let mut parts: [Vec<u8>; 2] = Default::default();
            for (stream, bytes) in captured.chunks() {
                parts[(stream == Stream::Stderr) as usize].extend_from_slice(bytes);
            }
            prop_assert_eq!(&parts[0], &captured.stdout);
            prop_assert_eq!(&parts[1], &captured.stderr);
            let end = (position as usize).clamp(whole[0].len().saturating_sub(cap), whole[0].len());
            prop_assert_eq!(capture.from(Stream::Stdout, position), &whole[0][end..]);
            prop_assert_eq!(capture.end(Stream::Stdout), whole[0].len() as u64);
        }

        #[test]
        fn without_a_cap_the_common_order_is_the_order_of_the_pushes(
            pushes in prop::collection::vec((any::<bool>(), "[a-z]{0,4}"), 0..40),
        ) {
            let mut capture = Capture::new(usize::MAX);
            for (is_err, text) in &pushes {
                let stream = if *is_err { Stream::Stderr } else { Stream::Stdout };
                capture.push(stream, text.as_bytes());
            }
            let all: String = pushes.iter().map(|(_, text)| text.as_str()).collect();
            prop_assert_eq!(capture.captured().combined_text(), all);
        }
    }
}
