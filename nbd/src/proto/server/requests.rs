//! The server's part of the transmission phase: which requests it accepts, refuses, and has yet to
//! answer.

use super::negotiation::{Server, State, UnderWay};
use super::reply::{Answer, Outgoing, Reply};
use super::types::{Closed, Event, Incoming};
use crate::proto::chunk::Extent;
use crate::proto::{
    CommandFlags, CommandType, Errno, Mode, Request, SendQueue, StatusFilter, TransmissionFlags,
    limits,
};

/// The cost of a request, or an unsent reply, in addition to its data.
pub(super) const OVERHEAD: u64 = 256;

impl<B: AsRef<[u8]> + From<Vec<u8>> + Clone> Server<B> {
    /// Takes one part of a request; `false` if it is incomplete, or has to wait.
    pub(super) fn step_request(&mut self) -> bool {
        match &self.state {
            State::Request => {
                let style = self.mode.header_style();
                let Some(bytes) = self.intake.take(style.request_len()) else {
                    return false;
                };
                match Request::decode(style, bytes) {
                    Ok(request) => self.request(request),
                    Err(error) => self.refuse_client(error.to_string()),
                }
            }
            State::Room(id, request) => {
                let (id, request) = (*id, *request);
                if !self.has_room(&request) {
                    return false;
                }
                self.begin_payload(id, request);
            }
            State::Payload(id, request) => {
                let (id, request) = (*id, *request);
                let Some(payload) = self.intake.finish() else {
                    return false;
                };
                self.await_message(State::Request);
                self.hand_out(id, request, payload);
            }
            _ => return false,
        }
        true
    }

    fn request(&mut self, request: Request) {
        self.last_id += 1;
        let id = self.last_id;
        if self.config.intercept {
            self.state = State::Proceed(id, request);
            self.events.push_back(Event::Received { id, request });
            return;
        }
        self.admit(id, request);
    }

    pub(super) fn admit(&mut self, id: u64, request: Request) {
        if request.command == CommandType::DISC {
            return self.close(Closed::Goodbye);
        }
        let len = request.payload_len(self.mode.header_style());
        let most = self.config.max_payload;
        if len > most {
            return self.refuse_client(format!("payload of {len} bytes, the limit is {most}"));
        }
        self.state = State::Room(id, request);
    }

    /// The memory that a request may need until it is answered.
    fn cost(&self, request: &Request) -> u64 {
        let payload = request.payload_len(self.mode.header_style());
        let data = match request.command {
            // Anything above the limit is refused.
            CommandType::READ if request.len <= self.config.max_payload => request.len,
            CommandType::BLOCK_STATUS if !request.flags.contains(CommandFlags::REQ_ONE) => {
                // Once as returned by the backend, once encoded.
                2 * (limits::MAX_SENT_EXTENTS * size_of::<Extent>()) as u64
            }
            _ => 0,
        };
        OVERHEAD + payload + data
    }

    /// One request may always be in flight; more, as long as they fit the limit together.
    fn has_room(&self, request: &Request) -> bool {
        let fits = self.kept + self.cost(request) <= self.config.max_payload;
        self.kept == 0 || fits && self.under_way.len() < self.config.in_flight
    }

    fn begin_payload(&mut self, id: u64, request: Request) {
        let len = request.payload_len(self.mode.header_style());
        self.kept += self.cost(&request);
        if len == 0 {
            self.await_message(State::Request);
            return self.hand_out(id, request, Vec::new());
        }
        self.await_message(State::Payload(id, request));
        self.intake.begin(Vec::new(), 0, len as usize);
    }

    fn hand_out(&mut self, id: u64, request: Request, payload: Vec<u8>) {
        let selected = self.export.as_ref().map_or(0, |e| e.contexts) as u32;
        let mut incoming = Incoming {
            id,
            request,
            effect_len: request.len,
            payload,
            contexts: Vec::new(),
        };
        let mut objection = None;
        if request.command == CommandType::BLOCK_STATUS {
            incoming.contexts = (0..selected).collect();
            if !incoming.payload.is_empty() {
                match filter(&incoming.payload, selected) {
                    Ok(filter) => {
                        incoming.effect_len = filter.effect_len;
                        incoming.contexts = filter.contexts;
                        incoming.payload = Vec::new();
                    }
                    Err(text) => objection = Some(Answer::fail(Errno::EINVAL, text)),
                }
            }
        }
        let under_way = UnderWay {
            request,
            effect_len: incoming.effect_len,
            cost: self.cost(&request),
            contexts: incoming.contexts.clone(),
        };
        self.under_way.insert(id, under_way);
        let found = || self.objection(&incoming);
        let refused = objection.or_else(|| {
            let (errno, text) = found()?;
            Some(Answer::fail(errno, text))
        });
        match refused {
            Some(answer) => self.reply(id, answer),
            None => self.events.push_back(Event::Request(incoming)),
        }
    }

    /// Why a request cannot be carried out (proto.md, "Request types" and "Error values").
    fn objection(&self, incoming: &Incoming) -> Option<(Errno, &'static str)> {
        use CommandType as C;
        let (request, len) = (&incoming.request, incoming.effect_len);
        let export = self.export.as_ref()?;
        let filtered =
            request.command == C::BLOCK_STATUS && request.payload_len(self.mode.header_style()) > 0;
        let allowed = self.allowed_flags(request.command, export.flags, filtered);
        if !allowed.contains(request.flags) {
            return Some((Errno::EINVAL, "flags do not fit the command"));
        }
        let writes = [C::WRITE, C::TRIM, C::WRITE_ZEROES].contains(&request.command);
        let ranged = writes || [C::READ, C::CACHE, C::BLOCK_STATUS].contains(&request.command);
        if !ranged && request.command != C::FLUSH {
            return Some((Errno::EINVAL, "unknown command"));
        }
        if writes && export.flags.contains(TransmissionFlags::READ_ONLY) {
            return Some((Errno::EPERM, "the export is read-only"));
        }
        let end = request.offset.checked_add(len);
        if ranged && end.is_none_or(|end| end > export.size) {
            let errno = match request.command {
                C::WRITE | C::WRITE_ZEROES => Errno::ENOSPC,
                _ => Errno::EINVAL,
            };
            return Some((errno, "beyond the end of the export"));
        }
        let minimum = export.minimum;
        if ranged && !(request.offset.is_multiple_of(minimum) && len.is_multiple_of(minimum)) {
            return Some((Errno::EINVAL, "not a multiple of the minimum block size"));
        }
        if request.command == C::READ && len > self.config.max_payload {
            let errno = match request.flags.contains(CommandFlags::DF) {
                true => Errno::EOVERFLOW,
                false => Errno::EINVAL,
            };
            return Some((errno, "too much at once"));
        }
        if request.command == C::BLOCK_STATUS && export.contexts == 0 {
            return Some((Errno::EINVAL, "no context was selected"));
        }
        if request.command == C::BLOCK_STATUS && len == 0 {
            return Some((Errno::EINVAL, "no bytes"));
        }
        None
    }

    /// The flags that a command allows (proto.md, "Command flags").
    fn allowed_flags(
        &self,
        command: CommandType,
        export: TransmissionFlags,
        filtered: bool,
    ) -> CommandFlags {
        use CommandFlags as F;
        let has = |flag| export.contains(flag);
        match command {
            CommandType::READ => F::FUA | F::DF.only_if(has(TransmissionFlags::SEND_DF)),
            CommandType::WRITE => F::FUA | F::PAYLOAD_LEN.only_if(self.mode == Mode::Extended),
            CommandType::WRITE_ZEROES => {
                F::FUA | F::NO_HOLE | F::FAST_ZERO.only_if(has(TransmissionFlags::SEND_FAST_ZERO))
            }
            CommandType::BLOCK_STATUS => F::REQ_ONE | F::PAYLOAD_LEN.only_if(filtered),
            _ => F::FUA,
        }
    }

    /// The export's size has changed: requests beyond it are refused from now on.
    pub fn resize(&mut self, size: u64) {
        if let Some(export) = &mut self.export {
            export.size = size;
        }
    }

    /// Answers a request. An answer that the protocol does not allow becomes an error.
    pub fn reply(&mut self, id: u64, mut answer: Answer<B>) {
        let Some(asked) = self.under_way.remove(&id) else {
            return;
        };
        let size = self.export.as_ref().map_or(0, |export| export.size);
        answer.legalise(&asked, self.mode, size);
        // Its actual memory until it is sent: a client that does not read must not exhaust memory
        // with small replies either.
        let cost = OVERHEAD + answer.kept();
        self.kept = (self.kept + cost).saturating_sub(asked.cost);
        let mut reply = Reply::new(asked.request, self.mode, answer);
        (reply.id, reply.cost) = (id, cost);
        self.out.push_back(Outgoing::Reply(reply));
        self.advance();
    }

    /// A reply of this cost was sent, which makes room for other requests.
    pub fn sent(&mut self, cost: u64) {
        self.kept = self.kept.saturating_sub(cost);
        self.advance();
    }

    /// All bytes to be sent, for drivers that write them at once: they count as sent.
    #[must_use]
    pub fn transmit(&mut self) -> Vec<u8> {
        let mut queue = SendQueue::default();
        while let Some(outgoing) = self.outgoing() {
            outgoing.enqueue(&mut queue);
        }
        let bytes = queue.take();
        let cost = queue.advance(bytes.len());
        self.sent(cost);
        bytes
    }

    /// How many requests are in flight.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}

fn filter(payload: &[u8], known: u32) -> Result<StatusFilter, String> {
    let filter = StatusFilter::decode(payload).map_err(|error| error.to_string())?;
    let ids = &filter.contexts;
    if ids.is_empty() {
        return Err("no context id".into());
    }
    let twice = ids.iter().enumerate().any(|(n, id)| ids[..n].contains(id));
    if twice || ids.iter().any(|id| *id >= known) {
        return Err("unknown or repeated context id".into());
    }
    Ok(filter)
}
