//! How a transmission processes each reply of the server.

use std::sync::Arc;

use super::{Input, Life, Notice, Pending, Transmission};
use crate::proto::chunk::{self, Hole, Status};
use crate::proto::client::error::{ConnectionError, RequestError};
use crate::proto::{Body, CommandType, Errno, Outcome, ReplyHeader, Violation};

impl<B: AsRef<[u8]>> Transmission<B> {
    /// Consumes the received bytes, as far as possible.
    pub(super) fn advance(&mut self) {
        while !self.is_dead() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(violation) => self.die(violation.into()),
            }
        }
    }

    /// Takes one part of a message; `false` if it is incomplete.
    fn step(&mut self) -> Result<bool, Violation> {
        match self.input {
            Input::Header => {
                let Some(start) = self.intake.peek(4) else {
                    return Ok(false);
                };
                let len = ReplyHeader::len_from_magic(start)?;
                let Some(bytes) = self.intake.take(len) else {
                    return Ok(false);
                };
                let header = ReplyHeader::decode(bytes)?;
                self.header(header)?;
            }
            Input::DataOffset { cookie, len } => {
                let Some(bytes) = self.intake.take(8) else {
                    return Ok(false);
                };
                let offset = bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
                let pending = self.pending(cookie)?;
                let at = pending.check.content(offset, len)?;
                self.place(cookie, at, len)?;
            }
            Input::Data { cookie } => {
                let Some(data) = self.intake.finish() else {
                    return Ok(false);
                };
                self.pending(cookie)?.reply.data = data;
                self.chunk_done(cookie)?;
            }
            Input::Hole { cookie } => {
                let Some(bytes) = self.intake.take(chunk::HOLE_LEN as usize) else {
                    return Ok(false);
                };
                let hole = Hole::decode(bytes)?;
                let at = self.pending(cookie)?.check.hole(hole)?;
                let mut data = self.take_data(cookie)?;
                zero(&mut data, at, u64::from(hole.len));
                self.pending(cookie)?.reply.data = data;
                self.chunk_done(cookie)?;
            }
            Input::Status { cookie, wide } => {
                let Some(bytes) = self.intake.finish() else {
                    return Ok(false);
                };
                let status = Status::decode(&bytes, wide)?;
                let pending = self.pending(cookie)?;
                pending.check.status(&status)?;
                pending.reply.statuses.push(status);
                self.chunk_done(cookie)?;
            }
            Input::Error {
                cookie,
                with_offset,
                known,
            } => {
                let Some(bytes) = self.intake.finish() else {
                    return Ok(false);
                };
                let error = chunk::Error::decode(&bytes, with_offset, known)?;
                self.pending(cookie)?.check.error(error)?;
                self.chunk_done(cookie)?;
            }
        }
        Ok(true)
    }

    /// A request in flight.
    fn pending(&mut self, cookie: u64) -> Result<&mut Pending, Violation> {
        let known = cookie != 0 && cookie < self.next_cookie;
        // In the order of submission, so all from the first that waits on are unsent.
        let unsent = self.waiting.front().is_some_and(|(c, _)| cookie >= *c);
        match self.pending.get_mut(&cookie) {
            Some(pending) if !unsent => Ok(pending),
            None if known => Err(Violation::DuplicateReply { cookie }),
            _ => Err(Violation::UnknownCookie { cookie }),
        }
    }

    fn header(&mut self, header: ReplyHeader) -> Result<(), Violation> {
        let cookie = header.cookie();
        let pending = self.pending(cookie)?;
        self.input = match pending.check.header(&header)? {
            Body::Nothing => return self.chunk_done(cookie),
            Body::Simple { len } => return self.place(cookie, 0, len),
            Body::Data { len } => Input::DataOffset { cookie, len },
            Body::Hole => Input::Hole { cookie },
            Body::Status { wide, len } => {
                self.intake.begin(Vec::new(), 0, len as usize);
                Input::Status { cookie, wide }
            }
            Body::Error {
                with_offset,
                known,
                len,
            } => {
                self.intake.begin(Vec::new(), 0, len as usize);
                Input::Error {
                    cookie,
                    with_offset,
                    known,
                }
            }
        };
        Ok(())
    }

    /// Directs read data to its place. The request stays in place; only its buffer moves.
    fn place(&mut self, cookie: u64, at: u64, len: u64) -> Result<(), Violation> {
        let data = self.take_data(cookie)?;
        self.intake.begin(data, at as usize, len as usize);
        self.input = Input::Data { cookie };
        Ok(())
    }

    /// A reply's data so far; initially a passed buffer, if it is large enough.
    fn take_data(&mut self, cookie: u64) -> Result<Vec<u8>, Violation> {
        let pending = self.pending(cookie)?;
        let data = std::mem::take(&mut pending.reply.data);
        let (reuses, len) = (pending.reuses, pending.effect_len);
        if data.capacity() > 0 || !reuses {
            return Ok(data);
        }
        let fits = |buffer: &Vec<u8>| buffer.capacity() as u64 >= len;
        if let Some(at) = self.buffers.iter().rposition(fits) {
            return Ok(self.buffers.remove(at));
        }
        // Each reply takes one out; those that are too small are not kept forever.
        self.buffers.pop();
        Ok(Vec::new())
    }

    /// A chunk is complete, and perhaps the reply with it.
    fn chunk_done(&mut self, cookie: u64) -> Result<(), Violation> {
        self.input = Input::Header;
        let pending = self.pending(cookie)?;
        pending.started = true;
        let Some(outcome) = pending.check.finish()? else {
            return Ok(());
        };
        let Some(mut pending) = self.pending.remove(&cookie) else {
            return Ok(());
        };
        if let Some((at, _)) = pending.deadline {
            self.deadlines.remove(&(at, cookie));
        }
        let mut shut_down = false;
        let result = match outcome {
            Outcome::Done => {
                if pending.request.command == CommandType::READ {
                    let len = pending.effect_len as usize;
                    // Too short only where gaps are tolerated, too long only if the buffer was.
                    pending.reply.data.resize(len, 0);
                    pending.check.clear_gaps(&mut pending.reply.data);
                }
                Ok(pending.reply)
            }
            Outcome::Failed(error) => {
                shut_down = error.errno == Errno::ESHUTDOWN;
                Err(RequestError::Refused {
                    origin: self.origin(&pending.request, pending.effect_len),
                    errno: error.errno,
                    message: error.message,
                    at: error.offset,
                })
            }
        };
        if !pending.given_up {
            self.notices.push_back(Notice { cookie, result });
        }
        if shut_down && matches!(self.life, Life::Open | Life::Leaving) {
            self.shut_down();
        }
        self.send_waiting();
        Ok(())
    }

    /// The server announced its shutdown (proto.md: a client MUST start a soft disconnect).
    fn shut_down(&mut self) {
        self.life = Life::ShuttingDown;
        self.refuse_waiting(&ConnectionError::Shutdown);
    }

    /// Fails the requests that will never be sent.
    pub(super) fn refuse_waiting(&mut self, why: &ConnectionError) {
        for (cookie, command) in std::mem::take(&mut self.waiting) {
            if let Some(pending) = self.pending.remove(&cookie)
                && let Some((at, _)) = pending.deadline
            {
                self.deadlines.remove(&(at, cookie));
            }
            let origin = self.origin(&command.request, command.effect_len);
            let source = Arc::new(why.clone());
            let result = Err(RequestError::Connection { origin, source });
            self.notices.push_back(Notice { cookie, result });
        }
    }
}

fn zero(data: &mut Vec<u8>, at: u64, len: u64) {
    let (at, end) = (at as usize, (at + len) as usize);
    if data.capacity() == 0 {
        *data = vec![0; end];
        return;
    }
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].fill(0);
}
