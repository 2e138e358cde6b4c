//! Cuts a stream of bytes into JSON messages, however the bytes arrive.
//!
//! QEMU ends each message with CR LF, but the end of a message is where its braces balance, not
//! where a line ends: `pretty=on` spreads one message over many lines, and the guest agent or a
//! proxy may send no newline at all. The framer therefore counts brackets outside strings, keeps
//! its position between calls, and examines each byte once.
//!
//! It checks only as much of the grammar as it needs to detect broken input and to resynchronize;
//! [`crate::message::Message::decode`] decides whether a frame is valid JSON.

mod brackets;

use std::fmt;

use brackets::{Brackets, Scan};

/// What a [`Framer`] accepts. The defaults are QEMU's own input limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest message, in bytes.
    pub message: usize,
    /// The deepest nesting of objects and arrays.
    pub depth: usize,
}

impl Limits {
    /// QEMU's own limits: 64 MiB, 1024 levels (`qobject/json-streamer.c`).
    pub const QEMU: Self = Self {
        message: 64 << 20,
        depth: 1024,
    };

    /// For guest agents: `guest-file-read` returns at most 48 MiB (`qga/commands.c`), which is 64
    /// MiB in base64 and slightly more as a message.
    pub const AGENT: Self = Self::QEMU.with_message(65 << 20);

    /// These limits with another message size.
    pub const fn with_message(self, bytes: usize) -> Self {
        Self {
            message: bytes,
            ..self
        }
    }

    /// These limits with another nesting depth.
    pub const fn with_depth(self, levels: usize) -> Self {
        Self {
            depth: levels,
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::QEMU
    }
}

/// One balanced object, without the white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The text of the object.
    pub bytes: &'a [u8],
    /// How deep it nests; a flat object is 1.
    pub depth: usize,
}

/// Bytes that are not a message. The framer has skipped them; the next message can be read.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to frame a message: {kind} ({skipped} bytes skipped)")]
pub struct FrameError {
    /// What is wrong.
    pub kind: FrameErrorKind,
    /// How many bytes were skipped.
    pub skipped: usize,
    /// The first bytes that were skipped, and for a long run also the last ones.
    pub sample: Vec<u8>,
}

impl fmt::Debug for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameError")
            .field("kind", &self.kind)
            .field("skipped", &self.skipped)
            .field("sample", &String::from_utf8_lossy(&self.sample))
            .finish()
    }
}

/// The ways in which bytes fail to be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameErrorKind {
    /// Text where a message should start.
    #[error("text that is not a JSON object")]
    Garbage,
    /// A message that breaks off: another one starts inside it, or a string runs over a line end.
    #[error("a message that breaks off")]
    Broken,
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Cut,
    /// A message larger than [`Limits::message`].
    #[error("a message larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit that it exceeds.
        limit: usize,
    },
    /// A message that nests deeper than [`Limits::depth`].
    #[error("a message that nests deeper than the limit of {limit} levels")]
    TooDeep {
        /// The limit that it exceeds.
        limit: usize,
    },
}

/// How much memory is kept between messages.
const KEEP: usize = 1 << 20;

/// How many bytes of each end of skipped text are kept for the error.
const SAMPLE: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Between messages.
    Between,
    /// Inside a message that starts at `start`.
    Message,
    /// Inside a message that exceeds a limit; its bytes are not kept.
    Oversized(FrameErrorKind),
    /// In text that is not a message. Unless `to_line_end`, an opening brace ends it, too.
    Garbage {
        kind: FrameErrorKind,
        to_line_end: bool,
    },
}

/// What one step over the unread bytes found.
enum Step {
    Frame {
        start: usize,
        end: usize,
        depth: usize,
    },
    Error(FrameErrorKind),
    NeedMore,
}

/// The incremental framer. Feed it with [`Framer::push`], then take frames until there are none.
///
/// ```
/// let mut framer = qmp::frame::Framer::default();
/// framer.push(b"{\"return\": {}}\r\n{\"eve");
/// assert_eq!(framer.next_frame().unwrap().unwrap().bytes, b"{\"return\": {}}");
/// assert!(framer.next_frame().is_none());
/// framer.push(b"nt\": \"STOP\"}");
/// assert_eq!(framer.next_frame().unwrap().unwrap().bytes, b"{\"event\": \"STOP\"}");
/// ```
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buf: Vec<u8>,
    /// The first byte that still matters.
    start: usize,
    /// The first byte not looked at.
    pos: usize,
    mode: Mode,
    brackets: Brackets,
    /// What was skipped since the last frame or error.
    skipped: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new(Limits::QEMU)
    }
}

impl Framer {
    /// An empty framer.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buf: Vec::new(),
            start: 0,
            pos: 0,
            mode: Mode::Between,
            brackets: Brackets::new(limits.depth),
            skipped: 0,
            head: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            // Bytes of finished messages are dropped when that is free or when they are the larger
            // part, so that each byte is moved a bounded number of times.
            if self.start == self.buf.len() {
                self.buf.clear();
                // One huge message must not keep its memory allocated forever.
                self.buf.shrink_to(KEEP);
                self.pos = 0;
                self.start = 0;
            } else if self.start >= self.buf.len() / 2 {
                self.buf.drain(..self.start);
                self.pos -= self.start;
                self.start = 0;
            }
        }
        self.buf.extend_from_slice(bytes);
    }

    /// How many bytes are buffered for an incomplete message.
    pub fn pending(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Whether the last bytes belong to an unfinished message or other text.
    ///
    /// Valid once [`Framer::next_frame`] has returned `None`.
    pub fn is_mid_message(&self) -> bool {
        self.mode != Mode::Between
    }

    /// The next message or skipped text; `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Option<Result<Frame<'_>, FrameError>> {
        loop {
            let step = match self.mode {
                Mode::Between => self.scan_between(),
                Mode::Message => self.scan_message(),
                Mode::Oversized(kind) => self.scan_oversized(kind),
                Mode::Garbage { kind, to_line_end } => self.scan_garbage(kind, to_line_end),
            };
            match step {
                None => {}
                Some(Step::NeedMore) => return None,
                Some(Step::Error(kind)) => return Some(Err(self.take_error(kind))),
                Some(Step::Frame { start, end, depth }) => {
                    return Some(Ok(Frame {
                        bytes: &self.buf[start..end],
                        depth,
                    }));
                }
            }
        }
    }

    /// Marks the end of the stream. An unfinished message is an error.
    ///
    /// Call it after [`Framer::next_frame`] has returned `None`.
    pub fn finish(&mut self) -> Option<FrameError> {
        let mode = std::mem::replace(&mut self.mode, Mode::Between);
        let unread = self.start..self.buf.len();
        self.skip(unread);
        match mode {
            Mode::Between if self.skipped == 0 => None,
            Mode::Between | Mode::Message => Some(self.take_error(FrameErrorKind::Cut)),
            Mode::Oversized(kind) | Mode::Garbage { kind, .. } => Some(self.take_error(kind)),
        }
    }

    fn scan_between(&mut self) -> Option<Step> {
        // 0xFF is the guest agent's resynchronization mark, and never part of a message.
        let first = self.buf[self.pos..].iter().position(|&b| !is_space(b) && b != 0xFF);
        self.pos = first.map_or(self.buf.len(), |at| self.pos + at);
        self.start = self.pos;
        match self.buf.get(self.pos) {
            None => Some(Step::NeedMore),
            Some(b'{') => {
                self.begin_message();
                None
            }
            Some(_) => {
                self.mode = Mode::Garbage {
                    kind: FrameErrorKind::Garbage,
                    to_line_end: false,
                };
                None
            }
        }
    }

    fn begin_message(&mut self) {
        self.mode = Mode::Message;
        self.start = self.pos;
        self.pos += 1;
        self.brackets.begin();
    }

    fn scan_message(&mut self) -> Option<Step> {
        let start = self.start;
        let scan = self.brackets.scan(&self.buf, &mut self.pos, self.limits.depth);
        let exceeds = self.pos - start > self.limits.message;
        let too_large = FrameErrorKind::TooLarge {
            limit: self.limits.message,
        };
        match scan {
            // If both limits are exceeded the first counts, however the bytes are split.
            Scan::Open | Scan::TooDeep if exceeds => {
                self.give_up(too_large);
                None
            }
            Scan::Open => Some(Step::NeedMore),
            Scan::Closed if exceeds => {
                let end = self.pos;
                self.skip(start..end);
                self.mode = Mode::Between;
                Some(Step::Error(too_large))
            }
            Scan::Closed => {
                self.mode = Mode::Between;
                self.start = self.pos;
                Some(Step::Frame {
                    start,
                    end: self.pos,
                    depth: self.brackets.deepest(),
                })
            }
            Scan::TooDeep => {
                self.give_up(FrameErrorKind::TooDeep {
                    limit: self.limits.depth,
                });
                None
            }
            Scan::Broken { restart } => self.broken(restart),
        }
    }

    /// Keeps counting brackets, but no longer keeps the message.
    fn give_up(&mut self, kind: FrameErrorKind) {
        self.skip(self.start..self.pos);
        self.mode = Mode::Oversized(kind);
    }

    fn scan_oversized(&mut self, kind: FrameErrorKind) -> Option<Step> {
        let from = self.pos;
        let scan = self.brackets.scan(&self.buf, &mut self.pos, usize::MAX);
        if let Scan::Broken { restart } = scan {
            self.start = from;
            return self.broken(restart);
        }
        self.skip(from..self.pos);
        match scan {
            Scan::Closed => {
                self.mode = Mode::Between;
                Some(Step::Error(kind))
            }
            _ => Some(Step::NeedMore),
        }
    }

    /// The message breaks off at `pos`. With `restart`, the byte there opens the next one.
    fn broken(&mut self, restart: bool) -> Option<Step> {
        self.skip(self.start..self.pos);
        if restart {
            self.mode = Mode::Between;
            return Some(Step::Error(FrameErrorKind::Broken));
        }
        self.mode = Mode::Garbage {
            kind: FrameErrorKind::Broken,
            to_line_end: true,
        };
        None
    }

    fn scan_garbage(&mut self, kind: FrameErrorKind, to_line_end: bool) -> Option<Step> {
        let rest = &self.buf[self.pos..];
        let end = rest.iter().position(|&b| b == b'\n' || b == 0xFF || b == b'{' && !to_line_end);
        let until = end.map_or(self.buf.len(), |at| self.pos + at);
        self.skip(self.pos..until);
        self.pos = until;
        if end.is_none() {
            return Some(Step::NeedMore);
        }
        self.mode = Mode::Between;
        Some(Step::Error(kind))
    }

    /// Counts bytes as skipped and keeps a sample of them.
    fn skip(&mut self, range: std::ops::Range<usize>) {
        let end = range.end;
        let bytes = &self.buf[range];
        self.skipped += bytes.len();
        let (head, rest) = bytes.split_at(bytes.len().min(SAMPLE - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(&rest[rest.len().saturating_sub(SAMPLE)..]);
        let surplus = self.tail.len().saturating_sub(SAMPLE);
        self.tail.drain(..surplus);
        self.start = end;
    }

    fn take_error(&mut self, kind: FrameErrorKind) -> FrameError {
        let mut sample = std::mem::take(&mut self.head);
        let tail = std::mem::take(&mut self.tail);
        if sample.len() + tail.len() < self.skipped {
            sample.extend_from_slice(b" ... ");
        }
        sample.extend_from_slice(&tail);
        FrameError {
            kind,
            skipped: std::mem::take(&mut self.skipped),
            sample,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests;
