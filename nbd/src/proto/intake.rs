//! Bytes on their way in: fixed-size headers from a small buffer, bodies where they belong.
//!
//! The owner of a connection reads into [`Intake::space`] and says how much with
//! [`Intake::filled`]. Headers pass through a buffer; a body goes straight into its own vector, so
//! a large payload is copied once, by the kernel.

/// Small enough that a large payload is not copied through it, large enough for many headers.
const BUFFER: usize = 8192;

#[derive(Debug)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    body: Option<Body>,
    /// Never takes more than the message at hand needs: what follows stays with the peer.
    exact: bool,
    /// How long the header at hand is; counts in exact mode.
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

    /// Where the next bytes belong. Never empty, unless in exact mode nothing is awaited.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if let Some(body) = &mut self.body
            && body.at < body.end
        {
            return &mut body.data[body.at..body.end];
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let limit = match self.exact {
            true => self.header.clamp(self.end, BUFFER),
            false => BUFFER,
        };
        &mut self.buffer[self.end..limit]
    }

    /// So many bytes were put into [`Intake::space`].
    pub(super) fn filled(&mut self, n: usize) {
        match &mut self.body {
            Some(body) if body.at < body.end => body.at += n,
            _ => self.end += n,
        }
    }

    /// Bytes that have come and are not consumed.
    pub(super) fn pending(&self) -> usize {
        self.end - self.start
    }

    #[cfg(feature = "server")]
    /// Bytes of the message at hand that have come: of its body, or else of its header.
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

    /// Takes a header, if all of it is there.
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

    /// Nothing is awaited: in exact mode no byte is taken until something is.
    pub(super) fn rest(&mut self) {
        self.header = 0;
    }

    /// Has the next `len` bytes put at `at` of this vector, which grows as far as needed.
    pub(super) fn begin(&mut self, mut data: Vec<u8>, at: usize, len: usize) {
        let end = at + len;
        if data.capacity() == 0 {
            // Fresh memory is zero already, and does not have to be written for that.
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

    /// The body, if all of it is there.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        match &self.body {
            Some(body) if body.at == body.end => self.body.take().map(|body| body.data),
            _ => None,
        }
    }

    /// The body as far as it has come, when no more will.
    pub(super) fn abandon(&mut self) {
        self.body = None;
    }

    /// Whether the stream may end here without cutting a message.
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
    fn in_exact_mode_what_follows_a_message_stays_with_the_peer() {
        let mut intake = Intake::new().exact(true);
        assert_eq!(intake.feed(b"ab"), 0);
        assert_eq!(intake.take(4), None);
        assert_eq!(intake.feed(b"abcdef"), 4);
        assert_eq!(intake.take(4), Some(&b"abcd"[..]));
        assert_eq!(intake.feed(b"ef"), 0);
    }
}
