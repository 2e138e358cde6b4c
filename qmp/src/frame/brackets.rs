//! Counts brackets outside strings: where a message ends, and where it cannot go on.

/// Why [`Brackets::scan`] stopped.
pub(super) enum Scan {
    /// All bytes are read and the message is still open.
    Open,
    /// The message is complete; the position is after it.
    Closed,
    TooDeep,
    /// The byte at the position cannot belong to the message.
    Broken {
        /// It is an opening brace on a line of its own: the next message.
        restart: bool,
    },
}

/// The scanner's state within a message.
#[derive(Debug)]
pub(super) struct Brackets {
    /// One bit per open bracket, set for a square one, down to `tracked` levels.
    square: Vec<u64>,
    tracked: usize,
    depth: usize,
    deepest: usize,
    in_string: bool,
    /// The last byte outside strings that was not white space; `"` after a string.
    last: u8,
    /// There was a line end after `last`.
    fresh_line: bool,
}

impl Brackets {
    pub(super) fn new(tracked: usize) -> Self {
        Self {
            square: Vec::new(),
            tracked,
            depth: 0,
            deepest: 0,
            in_string: false,
            last: 0,
            fresh_line: false,
        }
    }

    /// Begins a message whose opening brace has been read.
    pub(super) fn begin(&mut self) {
        self.depth = 0;
        self.deepest = 0;
        self.in_string = false;
        self.last = b'{';
        self.fresh_line = false;
        self.open(false);
    }

    /// How deep the message nests, as far as it has been read.
    pub(super) fn deepest(&self) -> usize {
        self.deepest
    }

    fn open(&mut self, square: bool) {
        if self.depth < self.tracked {
            let (word, bit) = (self.depth / 64, self.depth % 64);
            if word == self.square.len() {
                self.square.push(0);
            }
            self.square[word] = self.square[word] & !(1 << bit) | u64::from(square) << bit;
        }
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
    }

    /// Closes a bracket; false when it does not match the open one.
    fn close(&mut self, square: bool) -> bool {
        self.depth -= 1;
        let (word, bit) = (self.depth / 64, self.depth % 64);
        self.depth >= self.tracked || (self.square[word] >> bit & 1 == 1) == square
    }

    /// Reads from `pos` on, until the message closes, breaks or the bytes end.
    pub(super) fn scan(&mut self, buf: &[u8], pos: &mut usize, max_depth: usize) -> Scan {
        let mut at = *pos;
        let end = buf.len();
        // Kept in registers: this loop sees every byte of every message.
        let (mut last, mut fresh_line) = (self.last, self.fresh_line);
        let outcome = loop {
            if self.in_string {
                let next = skip_string(buf, at);
                self.in_string = false;
                match next {
                    StringEnd::Closed(next) => at = next,
                    StringEnd::Open(next) => {
                        at = next;
                        self.in_string = true;
                        break Scan::Open;
                    }
                    StringEnd::Broken(next) => {
                        at = next;
                        break Scan::Broken { restart: false };
                    }
                }
            }
            if at >= end {
                break Scan::Open;
            }
            let byte = buf[at];
            match CLASS[usize::from(byte)] {
                Class::Space => {
                    fresh_line |= byte == b'\n';
                    at += 1;
                    continue;
                }
                Class::Other => {
                    if last == b'{' {
                        // A brace opens an object only if a name or a closing brace follows.
                        break Scan::Broken { restart: false };
                    }
                    // Numbers and punctuation come in runs.
                    while at + 1 < end && matches!(CLASS[usize::from(buf[at + 1])], Class::Other) {
                        at += 1;
                    }
                    last = buf[at];
                    fresh_line = false;
                    at += 1;
                    continue;
                }
                Class::Quote => {
                    if !matches!(last, b'{' | b'[' | b',' | b':') {
                        break Scan::Broken { restart: false };
                    }
                    self.in_string = true;
                    at += 1;
                }
                Class::Open => {
                    if !matches!(last, b'[' | b',' | b':') {
                        break Scan::Broken {
                            restart: byte == b'{' && fresh_line,
                        };
                    }
                    at += 1;
                    self.open(byte == b'[');
                    if self.depth > max_depth {
                        last = byte;
                        fresh_line = false;
                        break Scan::TooDeep;
                    }
                }
                Class::Close => {
                    if !self.close(byte == b']') {
                        self.depth += 1;
                        break Scan::Broken { restart: false };
                    }
                    at += 1;
                    if self.depth == 0 {
                        break Scan::Closed;
                    }
                }
                Class::Control => break Scan::Broken { restart: false },
            }
            last = byte;
            fresh_line = false;
        };
        self.last = last;
        self.fresh_line = fresh_line;
        *pos = at;
        outcome
    }
}

enum StringEnd {
    Closed(usize),
    Open(usize),
    /// A byte at which to start afresh: a line end, or 0xFF.
    Broken(usize),
}

/// Reads a string whose opening quote is before `at`.
fn skip_string(buf: &[u8], mut at: usize) -> StringEnd {
    loop {
        let found = match find_special(&buf[at..]) {
            Some(offset) => at + offset,
            None => return StringEnd::Open(buf.len()),
        };
        match buf[found] {
            b'"' => return StringEnd::Closed(found + 1),
            // A backslash at the very end is left for the next call, with what it escapes.
            b'\\' if found + 1 >= buf.len() => return StringEnd::Open(found),
            b'\\' => at = found + 2,
            _ => return StringEnd::Broken(found),
        }
    }
}

/// The first byte that is special inside a string.
pub(super) fn find_special(bytes: &[u8]) -> Option<usize> {
    // Most strings are shorter than what a vector search needs to pay off.
    let mut at = 0;
    while at < NEAR
        && let Some(word) = bytes.get(at..at + 8)
    {
        let word = u64::from_le_bytes([
            word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
        ]);
        let found = specials(word);
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = &bytes[at..];
    let end = memchr::memchr2(b'"', b'\\', rest);
    let inner = &rest[..end.unwrap_or(rest.len())];
    memchr::memchr2(b'\n', 0xFF, inner).or(end).map(|found| at + found)
}

/// How far a string is searched eight bytes at a time.
pub(super) const NEAR: usize = 32;

/// The lowest bit that is set belongs to the first byte, in memory order, of those that
/// [`find_special`] looks for. Higher ones mean nothing.
fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xFF;
    // A borrow of the subtraction spoils only bytes above the first zero.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let equal = |byte: u8| zero(word ^ (ONES * u64::from(byte)));
    (equal(b'"') | equal(b'\\') | equal(b'\n') | zero(!word)) & (ONES << 7)
}

#[derive(Clone, Copy)]
enum Class {
    Other,
    Space,
    Quote,
    Open,
    Close,
    Control,
}

static CLASS: [Class; 256] = {
    let mut class = [Class::Other; 256];
    let mut byte = 0;
    while byte < 0x20 {
        class[byte] = Class::Control;
        byte += 1;
    }
    class[b' ' as usize] = Class::Space;
    class[b'\t' as usize] = Class::Space;
    class[b'\r' as usize] = Class::Space;
    class[b'\n' as usize] = Class::Space;
    class[b'"' as usize] = Class::Quote;
    class[b'{' as usize] = Class::Open;
    class[b'[' as usize] = Class::Open;
    class[b'}' as usize] = Class::Close;
    class[b']' as usize] = Class::Close;
    class[0xFF] = Class::Control;
    class
};
