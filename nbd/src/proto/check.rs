//! What a reply to a given request must look like.
//!
//! [`ReplyCheck`] follows the chunks of one reply and rejects whatever proto.md forbids. It does no
//! I/O: for each header it returns which body to read, and for each body where it belongs.

use super::Mode;
use super::chunk::{DATA_PREFIX, Error, HOLE_LEN, Hole, Status};
use super::codes::{ChunkType, CommandType, Errno};
use super::flags::{ChunkFlags, CommandFlags};
use super::limits::{MAX_EXTENTS, MAX_FRAGMENTS, MAX_PAYLOAD};
use super::reply::ReplyHeader;
use super::request::Request;
use super::spans::Spans;
use super::violation::Violation;

super::bits::flag_words! {
    /// Rules that can be switched off, one by one, to talk to a server that breaks them.
    ///
    /// Other violations (an unknown cookie, data outside the request, a chunk of the wrong kind)
    /// cannot be tolerated, because there would be no place for the data.
    pub struct Checks: u32 {
        /// A successful read must cover the whole range.
        const GAP = 1 << 0;
        /// No byte may be sent twice.
        const OVERLAP = 1 << 1;
        /// An error chunk must carry an error.
        const ERROR_IS_NOT_ZERO = 1 << 2;
        /// An extended reply must repeat the offset of its request.
        const ECHOED_OFFSET = 1 << 3;
        /// A `NONE` chunk must be the last one.
        const NONE_IS_LAST = 1 << 4;
        /// A block status reply must answer each context exactly once, in plausible extents.
        const STATUS = 1 << 5;
        /// A read with `DF` must arrive in one piece.
        const UNFRAGMENTED = 1 << 6;
    }
}

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Nothing,
    /// All data of a simple reply.
    Simple {
        /// Bytes.
        len: u64,
    },
    /// An offset of eight bytes, then data.
    Data {
        /// Bytes of the data.
        len: u64,
    },
    /// [`Hole`].
    Hole,
    /// [`Status`].
    Status {
        /// 64-bit form.
        wide: bool,
        /// Bytes.
        len: u64,
    },
    /// [`Error`].
    Error {
        /// `ERROR_OFFSET`.
        with_offset: bool,
        /// Whether we know this kind of error chunk.
        known: bool,
        /// Bytes.
        len: u64,
    },
}

/// How a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success.
    Done,
    /// The first error received.
    Failed(Error),
}

/// The rules for the reply to one request.
///
/// In turns: [`header`](ReplyCheck::header), the body that it asks for
/// ([`content`](ReplyCheck::content), [`hole`](ReplyCheck::hole), [`status`](ReplyCheck::status) or
/// [`error`](ReplyCheck::error)), then [`finish`](ReplyCheck::finish), until that has the outcome.
/// After a [`Violation`] the meaning of the following bytes is unknown.
#[derive(Debug)]
pub struct ReplyCheck {
    request: Request,
    effect_len: u64,
    mode: Mode,
    checks: Checks,
    max_payload: u64,
    contexts: Vec<u32>,
    answered: Vec<u32>,
    extents: usize,
    spans: Spans,
    content_chunks: usize,
    error: Option<Error>,
    done: bool,
}

impl ReplyCheck {
    /// Rules for the reply to `request`. `effect_len` is the length of the affected range, which
    /// differs from the length field when that counts a payload. `contexts` are those that a
    /// `BLOCK_STATUS` must answer.
    pub fn new(request: Request, effect_len: u64, mode: Mode, contexts: Vec<u32>) -> Self {
        ReplyCheck {
            request,
            effect_len,
            mode,
            checks: Checks::all(),
            max_payload: MAX_PAYLOAD,
            contexts,
            answered: Vec::new(),
            extents: 0,
            spans: Spans::default(),
            content_chunks: 0,
            error: None,
            done: false,
        }
    }

    /// Enforces only these rules.
    pub fn with_checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }

    /// The most data of a read to hold in memory (default [`MAX_PAYLOAD`]), whatever the request's
    /// length.
    pub fn with_max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    fn range(&self) -> (u64, u64) {
        (
            self.request.offset,
            self.request.offset.saturating_add(self.effect_len),
        )
    }

    /// Checks a header and returns what to read next.
    pub fn header(&mut self, header: &ReplyHeader) -> Result<Body, Violation> {
        let command = self.request.command;
        let wrong = |got| Violation::WrongKind {
            got,
            command,
            mode: self.mode,
        };
        let (flags, kind, len) = match *header {
            ReplyHeader::Simple { error, .. } => {
                let plain = command != CommandType::READ
                    && (command != CommandType::BLOCK_STATUS || error != Errno::OK);
                let legal = match self.mode {
                    Mode::Extended => false,
                    Mode::Structured => plain,
                    _ => true,
                };
                return if legal {
                    self.simple(error)
                } else {
                    Err(wrong("simple"))
                };
            }
            ReplyHeader::Structured {
                flags, kind, len, ..
            } => {
                if self.mode != Mode::Structured {
                    return Err(wrong("structured"));
                }
                (flags, kind, u64::from(len))
            }
            ReplyHeader::Extended {
                flags,
                kind,
                len,
                offset,
                ..
            } => {
                if self.mode != Mode::Extended {
                    return Err(wrong("extended"));
                }
                if offset != self.request.offset && self.checks.contains(Checks::ECHOED_OFFSET) {
                    let expected = self.request.offset;
                    return Err(Violation::EchoedOffset {
                        expected,
                        got: offset,
                    });
                }
                (flags, kind, len)
            }
        };
        self.done = flags.contains(ChunkFlags::DONE);
        self.chunk(kind, len)
    }

    fn simple(&mut self, error: Errno) -> Result<Body, Violation> {
        self.done = true;
        if error != Errno::OK {
            self.error = Some(Error {
                errno: error,
                message: String::new(),
                offset: None,
            });
        } else if self.request.command == CommandType::READ {
            let (from, to) = self.range();
            self.fits(self.effect_len)?;
            self.spans.insert(from, to);
            return Ok(Body::Simple {
                len: self.effect_len,
            });
        }
        Ok(Body::Nothing)
    }

    /// Whether data up to here, counted from the start of the request, is within the memory limit.
    fn fits(&self, len: u64) -> Result<(), Violation> {
        let limit = self.max_payload;
        if len > limit {
            return Err(Violation::Oversize { len, limit });
        }
        Ok(())
    }

    fn chunk(&mut self, kind: ChunkType, len: u64) -> Result<Body, Violation> {
        let command = self.request.command;
        let bad = |expected: String| Violation::ChunkLength {
            kind,
            len,
            expected,
        };
        let content_for = match kind {
            ChunkType::OFFSET_DATA | ChunkType::OFFSET_HOLE => Some(CommandType::READ),
            ChunkType::BLOCK_STATUS | ChunkType::BLOCK_STATUS_EXT => {
                Some(CommandType::BLOCK_STATUS)
            }
            _ => None,
        };
        if content_for.is_some_and(|expected| expected != command) {
            return Err(Violation::UnexpectedChunk { kind, command });
        }
        match kind {
            ChunkType::NONE if len != 0 => Err(bad("0".into())),
            ChunkType::NONE if !self.done && self.checks.contains(Checks::NONE_IS_LAST) => {
                Err(Violation::MissingDone)
            }
            ChunkType::NONE => Ok(Body::Nothing),
            ChunkType::OFFSET_DATA => {
                // More than the request's length is out of range at any offset, and must not be
                // read.
                let most = DATA_PREFIX.saturating_add(self.effect_len);
                if len <= DATA_PREFIX || len > most {
                    return Err(bad(format!("{}..={most}", DATA_PREFIX + 1)));
                }
                Ok(Body::Data {
                    len: len - DATA_PREFIX,
                })
            }
            ChunkType::OFFSET_HOLE if len != HOLE_LEN => Err(bad(HOLE_LEN.to_string())),
            ChunkType::OFFSET_HOLE => Ok(Body::Hole),
            ChunkType::BLOCK_STATUS | ChunkType::BLOCK_STATUS_EXT => {
                let wide = kind == ChunkType::BLOCK_STATUS_EXT;
                if wide != (self.mode == Mode::Extended) {
                    return Err(Violation::UnexpectedChunk { kind, command });
                }
                Status::check_len(len, wide)?;
                let count = (len / if wide { 16 } else { 8 }) as usize;
                if self.extents + count > MAX_EXTENTS {
                    let most = MAX_EXTENTS - self.extents;
                    return Err(bad(format!("at most {most} more extents")));
                }
                self.extents += count;
                Ok(Body::Status { wide, len })
            }
            kind if kind.is_error() => {
                let with_offset = kind == ChunkType::ERROR_OFFSET;
                Error::check_len(len, with_offset)?;
                Ok(Body::Error {
                    with_offset,
                    known: with_offset || kind == ChunkType::ERROR,
                    len,
                })
            }
            kind => Err(Violation::UnexpectedChunk { kind, command }),
        }
    }

    /// Records data or zeroes; returns where in the request they belong.
    pub fn content(&mut self, offset: u64, len: u64) -> Result<u64, Violation> {
        let (from, to) = self.range();
        let end = offset.saturating_add(len);
        if offset < from || end > to || len == 0 {
            return Err(Violation::OutOfRange {
                start: offset,
                end,
                from,
                to,
            });
        }
        self.fits(end - from)?;
        self.content_chunks += 1;
        if self.content_chunks > 1
            && self.request.flags.contains(CommandFlags::DF)
            && self.checks.contains(Checks::UNFRAGMENTED)
        {
            return Err(Violation::Fragmented);
        }
        if !self.spans.insert(offset, end) && self.checks.contains(Checks::OVERLAP) {
            return Err(Violation::Overlap { start: offset, end });
        }
        if self.spans.count() > MAX_FRAGMENTS {
            return Err(Violation::TooManyFragments);
        }
        Ok(offset - from)
    }

    /// Zeroes what a tolerated gap left of the buffer's old content.
    pub(super) fn clear_gaps(&self, data: &mut [u8]) {
        let (from, to) = self.range();
        let mut at = from;
        while let Some((start, end)) = self.spans.first_gap(at, to) {
            if let Some(gap) = data.get_mut((start - from) as usize..(end - from) as usize) {
                gap.fill(0);
            }
            at = end;
        }
    }

    /// Records zeroes; returns where in the request they belong.
    pub fn hole(&mut self, hole: Hole) -> Result<u64, Violation> {
        self.content(hole.offset, u64::from(hole.len))
    }

    /// Records the status of one context.
    pub fn status(&mut self, status: &Status) -> Result<(), Violation> {
        if !self.checks.contains(Checks::STATUS) {
            return Ok(());
        }
        let context = status.context;
        if !self.contexts.contains(&context) {
            return Err(Violation::UnknownContext { context });
        }
        if self.answered.contains(&context) {
            return Err(Violation::DuplicateContext { context });
        }
        self.answered.push(context);
        let bad = |detail: String| Violation::Extents { context, detail };
        let mut at = 0u64;
        for (n, extent) in status.extents.iter().enumerate() {
            if extent.len == 0 {
                return Err(bad(format!("extent {n} is empty")));
            }
            if at >= self.effect_len {
                return Err(bad(format!(
                    "extent {n} starts after the end of the request"
                )));
            }
            at = at
                .checked_add(extent.len)
                .filter(|len| self.request.offset.checked_add(*len).is_some())
                .ok_or_else(|| bad(format!("extent {n} ends beyond 2^64")))?;
        }
        if self.request.flags.contains(CommandFlags::REQ_ONE)
            && (status.extents.len() > 1 || at > self.effect_len)
        {
            return Err(bad("more than the one extent that was asked for".into()));
        }
        Ok(())
    }

    /// Records an error chunk; the first one is the outcome.
    pub fn error(&mut self, error: Error) -> Result<(), Violation> {
        if error.errno == Errno::OK && self.checks.contains(Checks::ERROR_IS_NOT_ZERO) {
            return Err(Violation::ErrorZero);
        }
        if let Some(offset) = error.offset {
            let (from, to) = self.range();
            if offset < from || offset >= to.max(from.saturating_add(1)) {
                return Err(Violation::OutOfRange {
                    start: offset,
                    end: offset,
                    from,
                    to,
                });
            }
        }
        self.error.get_or_insert(error);
        Ok(())
    }

    /// After a body: the outcome, if that was the last chunk.
    pub fn finish(&mut self) -> Result<Option<Outcome>, Violation> {
        if !self.done {
            return Ok(None);
        }
        if let Some(error) = self.error.take() {
            return Ok(Some(Outcome::Failed(error)));
        }
        let (from, to) = self.range();
        if self.request.command == CommandType::READ
            && self.checks.contains(Checks::GAP)
            && let Some((start, end)) = self.spans.first_gap(from, to)
        {
            return Err(Violation::Gap { start, end });
        }
        if self.request.command == CommandType::BLOCK_STATUS
            && self.checks.contains(Checks::STATUS)
            && let Some(&context) = self.contexts.iter().find(|c| !self.answered.contains(c))
        {
            return Err(Violation::MissingContext { context });
        }
        Ok(Some(Outcome::Done))
    }
}

// The bookkeeping above must stay small compared to the payload itself.
const _: () = assert!(MAX_FRAGMENTS * 16 * 2 <= 1 << 20);
const _: () = assert!(MAX_EXTENTS as u64 * 32 <= MAX_PAYLOAD);
