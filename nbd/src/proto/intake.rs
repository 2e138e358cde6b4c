//! Incoming bytes: fixed-size headers from a small buffer, bodies directly into their destination.
//!
//! The owner of a connection reads into [`Intake::space`], or into both [`Intake::spaces`], and
//! reports how much with [`Intake::filled`]. Headers pass through a buffer; a body goes straight
//! into its own vector, so a large payload is copied once, by the kernel.

/// Small enough that a large payload is not copied through it, large enough for many headers.
const BUFFER: usize = 8192;

/// A body with this much outstanding is usually followed by a similar one: then only the next
/// header is read with it, since what is read of the next body has to be copied.
const LARGE: usize = 16 * 1024;
/// The longest header, with the offset in front of a chunk's data.
const HEADER: usize = 40;

#[derive(Debug)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    body: Option<Body>,
    /// Never reads more than the current message needs: what follows stays in the socket.
    exact: bool,
    /// The current header's length; used in exact mode.
    header: usize,
}

#[derive(Debug)]
struct Body {
    data: Vec<u8>,
    at: usize,
    end: usize,
}

impl Intake {
    pub(super) fn new() -> Intake {
        Intake {
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            body: None,
            exact: false,
            header: 0,
        }
    }

    pub(super) fn exact(mut self, exact: bool) -> Intake {
        self.exact = exact;
        self
    }

    /// Where the next bytes belong. Empty only in exact mode, when nothing is expected.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let [space, _] = self.spaces();
        space
    }

    /// [`Intake::space`], and the space for the bytes after it: a body is read together with the
    /// next header.
    pub(super) fn spaces(&mut self) -> [&mut [u8]; 2] {
        match &mut self.body {
            Some(body) if body.at < body.end => {
                // Everything in the buffer belongs to the body.
                (self.start, self.end) = (0, 0);
                let behind = match (self.exact, body.end - body.at) {
                    (true, _) => 0,
                    (false, LARGE..) => HEADER,
                    (false, _) => BUFFER,
                };
                [
                    &mut body.data[body.at..body.end],
                    &mut self.buffer[..behind],
                ]
            }
            _ => {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                let limit = match self.exact {
                    true => self.header.clamp(self.end, BUFFER),
                    false => BUFFER,
                };
                [&mut self.buffer[self.end..limit], &mut []]
            }
        }
    }

    /// `n` bytes were put into [`Intake::space`], or into both [`Intake::spaces`].
    pub(super) fn filled(&mut self, mut n: usize) {
        if let Some(body) = &mut self.body {
            let own = n.min(body.end - body.at);
            body.at += own;
            n -= own;
        }
        self.end += n;
    }

    /// Received bytes that are not consumed.
    pub(super) fn pending(&self) -> usize {
        self.end - self.start
    }

    #[cfg(feature = "server")]
    /// Received bytes of the current message: of its body, or else of its header.
    pub(super) fn progress(&self, body_from: usize) -> usize {
        match &self.body {
            Some(body) => body.at - body_from,
            None => self.pending(),
        }
    }

    /// Looks at the next bytes without taking them.
    pub(super) fn peek(&mut self, len: usize) -> Option<&[u8]> {
        self.header = len;
        (self.pending() >= len).then(|| &self.buffer[self.start..self.start + len])
    }

    /// Takes a header, if it is complete.
    pub(super) fn take(&mut self, len: usize) -> Option<&[u8]> {
        self.header = len;
        if self.pending() < len {
            return None;
        }
        self.header = 0;
        let at = self.start;
        self.start += len;
        Some(&self.buffer[at..at + len])
    }

    /// Nothing is expected: in exact mode no byte is read until something is.
    pub(super) fn rest(&mut self) {
        self.header = 0;
    }

    /// Directs the next `len` bytes to `at` in this vector, which grows as needed.
    pub(super) fn begin(&mut self, mut data: Vec<u8>, at: usize, len: usize) {
        let end = at + len;
        if data.capacity() == 0 {
            // Fresh memory is already zero and need not be written.
            data = vec![0; end];
        } else if data.len() < end {
            data.resize(end, 0);
        }
        let ready = len.min(self.pending());
        data[at..at + ready].copy_from_slice(&self.buffer[self.start..self.start + ready]);
        self.start += ready;
        self.body = Some(Body {
            data,
            at: at + ready,
            end,
        });
    }

    /// The body, if it is complete.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        match &self.body {
            Some(body) if body.at == body.end => self.body.take().map(|body| body.data),
            _ => None,
        }
    }

    /// Drops the partial body, when no more will arrive.
    pub(super) fn abandon(&mut self) {
        self.body = None;
    }

    /// Whether the stream may end here without truncating a message.
    pub(super) fn is_between(&self) -> bool {
        self.pending() == 0 && self.body.is_none()
    }

    /// Copies bytes in, as far as there is space; returns how many.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.filled(n);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_what_came_with_its_header_and_then_its_own_bytes_only() {
        let mut intake = Intake::new();
        intake.feed(b"headbo");
        assert_eq!(intake.take(4), Some(&b"head"[..]));
        intake.begin(Vec::new(), 1, 4);
        assert_eq!(intake.finish(), None);
        assert_eq!(intake.feed(b"dynext"), 2);
        assert_eq!(intake.finish().as_deref(), Some(&b"\0body"[..]));
        assert_eq!(intake.feed(b"next"), 4);
        assert_eq!(intake.take(5), None);
        assert_eq!(intake.take(4), Some(&b"next"[..]));
        assert!(intake.is_between());
    }

    #[test]
    fn what_follows_a_body_is_read_with_it() {
        let mut intake = Intake::new();
        intake.feed(b"headbo");
        assert_eq!(intake.take(4), Some(&b"head"[..]));
        intake.begin(Vec::new(), 0, 4);
        let [body, behind] = intake.spaces();
        assert_eq!((body.len(), behind.len()), (2, BUFFER));
        body.copy_from_slice(b"dy");
        behind[..4].copy_from_slice(b"next");
        intake.filled(6);
        assert_eq!(intake.finish().as_deref(), Some(&b"body"[..]));
        assert_eq!(intake.take(4), Some(&b"next"[..]));
        // After a large body, only the next header.
        intake.begin(Vec::new(), 0, LARGE);
        assert_eq!(intake.spaces().map(|space| space.len()), [LARGE, HEADER]);
        let mut exact = Intake::new().exact(true);
        exact.begin(Vec::new(), 0, LARGE);
        assert_eq!(exact.spaces().map(|space| space.len()), [LARGE, 0]);
    }

    #[test]
    fn in_exact_mode_what_follows_a_message_stays_with_the_peer() {
        let mut intake = Intake::new().exact(true);
        assert_eq!(intake.feed(b"ab"), 0);
        assert_eq!(intake.take(4), None);
        assert_eq!(intake.feed(b"abcdef"), 4);
        assert_eq!(intake.take(4), Some(&b"abcd"[..]));
        assert_eq!(intake.feed(b"ef"), 0);
    }
}
