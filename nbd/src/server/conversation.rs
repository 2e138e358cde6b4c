//! One connection without I/O: the protocol's state machine, the faults between it and the bytes,
//! and what its driver has to do.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;

use super::export::{Export, Exports};
use super::{Effect, Faults};
use crate::proto::server::{Answer, Closed, Config, Event, Incoming, Server};
use crate::proto::{OptionReply, SendQueue};

/// A message to be written.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) head: Vec<u8>,
    pub(super) data: Vec<Bytes>,
    pub(super) cost: u64,
    /// Written separately, so that the client can see it before the next one.
    pub(super) alone: bool,
}

/// What a rule decided about a received request.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The answer, instead of carrying it out.
    pub(super) fail: Option<Answer<Bytes>>,
    /// Reports success of a write that is not carried out.
    pub(super) lose: bool,
    /// Carries out only this many bytes of a write.
    pub(super) tear: Option<u64>,
}

/// A request for the backend to carry out.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) incoming: Incoming,
    pub(super) export: Export,
    /// The names of the selected contexts; the id is the position.
    pub(super) contexts: Arc<[String]>,
}

/// What waits until the intake's gate is open.
#[derive(Debug)]
enum Decision {
    Option(Option<Vec<OptionReply>>),
    Request,
    Execute(Incoming),
}

/// One connection without I/O.
#[derive(Debug)]
pub(super) struct Conversation {
    machine: Server<Bytes>,
    faults: Option<Box<Faults>>,
    exports: Arc<Exports>,
    export: Option<Export>,
    contexts: Arc<[String]>,
    wire: SendQueue<Bytes>,
    jobs: VecDeque<Job>,
    decision: Option<Decision>,
    /// The number of the last expected message reported to the faults.
    seen: u64,
    awaits_client_flags: bool,
    wants_tls: bool,
    is_transmitting: bool,
    closed: Option<Closed>,
    /// The message being written must be written separately.
    alone: bool,
}

impl Conversation {
    pub(super) fn new(
        mut config: Config,
        exports: Arc<Exports>,
        faults: Option<Faults>,
    ) -> Conversation {
        config.intercept = faults.is_some();
        config.exact = faults.as_ref().is_some_and(Faults::is_armed);
        Conversation {
            machine: Server::new(config),
            faults: faults.map(Box::new),
            exports,
            export: None,
            contexts: Arc::default(),
            wire: SendQueue::default(),
            jobs: VecDeque::new(),
            decision: None,
            seen: 0,
            awaits_client_flags: false,
            wants_tls: false,
            is_transmitting: false,
            closed: None,
            alone: false,
        }
    }

    /// Makes all progress that is possible without I/O.
    pub(super) fn pump(&mut self) {
        if let Some(faults) = &mut self.faults {
            faults.refresh();
        }
        while self.turn() {}
    }

    /// One round; `false` if nothing happened.
    fn turn(&mut self) -> bool {
        let mut busy = self.decide();
        while let Some(event) = self.machine.event() {
            busy = true;
            self.take_event(event);
        }
        while let Some(outgoing) = self.machine.outgoing() {
            busy = true;
            let under_way = self.machine.under_way();
            match &mut self.faults {
                Some(faults) => faults.send(outgoing, under_way),
                None => outgoing.enqueue(&mut self.wire),
            }
        }
        // Last, so that faults on an expected message follow everything sent before.
        busy |= self.begin_message();
        busy | self.stage()
    }

    /// Reports to the faults which message is expected, once, and how much of it has arrived.
    /// `true` if that may have changed their state, which then has to be examined.
    fn begin_message(&mut self) -> bool {
        let Some(faults) = self.faults.as_mut().filter(|f| f.is_armed()) else {
            return false;
        };
        let machine = &self.machine;
        let mut begun = false;
        if self.seen != machine.messages() && !machine.is_ended() {
            if std::mem::take(&mut self.awaits_client_flags) {
                faults.client_flags();
            }
            if !faults.intake_is_open() {
                return false;
            }
            self.seen = machine.messages();
            begun = true;
            if machine.awaits_client_flags() {
                self.awaits_client_flags = true;
                faults.awaits_client_flags();
            } else if machine.awaits_option() {
                faults.awaits_option();
            } else if machine.awaits_request() {
                faults.awaits_request();
            } else if let Some(request) = machine.awaits_payload_of() {
                faults.awaits_payload(request);
            } else {
                self.seen = 0;
                return false;
            }
        }
        faults.progress(machine.progress()) || begun
    }

    /// Continues with a message that waited for its gate.
    fn decide(&mut self) -> bool {
        let open = self.faults.as_mut().is_none_or(|f| f.intake_is_open());
        if !open {
            return false;
        }
        match self.decision.take() {
            None => return false,
            Some(Decision::Option(Some(replies))) => self.machine.answer(replies),
            Some(Decision::Option(None) | Decision::Request) => self.machine.proceed(),
            Some(Decision::Execute(incoming)) => self.execute(incoming),
        }
        true
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Option { option, len } => {
                let judged = self.faults.as_mut().and_then(|faults| {
                    faults.completed();
                    faults.option(option, len)
                });
                self.decision = Some(Decision::Option(judged));
            }
            Event::Received { id, request } => {
                if let Some(faults) = &mut self.faults {
                    faults.completed();
                    faults.request(id, &request);
                }
                self.decision = Some(Decision::Request);
            }
            Event::List => {
                let all = self.exports.list();
                self.machine.list(all);
            }
            Event::Describe { export, advertise } => self.describe(&export, advertise),
            Event::StartTls => self.wants_tls = true,
            Event::Transmission {
                export,
                mode,
                advertised,
                contexts,
            } => {
                tracing::debug!(export = export.name, %mode, size = advertised.size, "transmission");
                self.contexts = contexts.into();
                self.is_transmitting = true;
                #[cfg(feature = "faults")]
                if let Some(faults) = &self.faults {
                    faults.note(super::faults::journal::Event::Transmission {
                        mode,
                        export: export.name,
                        size: advertised.size,
                    });
                }
            }
            Event::Request(incoming) => self.carry_out(incoming),
            Event::Closed(why) => self.closed = Some(self.closed.take().unwrap_or(why)),
        }
    }

    fn describe(&mut self, name: &str, advertise: bool) {
        let found = match (self.machine.is_oldstyle(), name) {
            (true, _) => self.exports.first(),
            (false, name) => self.exports.find(name),
        };
        let description = found.as_ref().map(Export::describe);
        if advertise {
            self.export = found;
        }
        let faults = self.faults.as_mut();
        self.machine.describe_with(description, |told| match faults {
            Some(faults) if advertise => faults.advertise(told),
            _ => told,
        });
    }

    fn carry_out(&mut self, incoming: Incoming) {
        if let Some(faults) = &mut self.faults {
            faults.completed();
            if !faults.intake_is_open() {
                self.decision = Some(Decision::Execute(incoming));
                return;
            }
        }
        self.execute(incoming);
    }

    fn execute(&mut self, mut incoming: Incoming) {
        let id = incoming.id;
        let verdict = self.faults.as_mut().map(|f| f.verdict(id));
        let verdict = verdict.unwrap_or_default();
        if let Some(answer) = verdict.fail {
            return self.machine.reply(id, answer);
        }
        if verdict.lose {
            // It is not even recorded: the shadow must find it.
            return self.machine.reply(id, Answer::Done);
        }
        if let Some(n) = verdict.tear {
            incoming.payload.truncate(n as usize);
        }
        match self.export.clone() {
            Some(export) => self.jobs.push_back(Job {
                incoming,
                export,
                contexts: self.contexts.clone(),
            }),
            None => self.machine.close(Closed::Shutdown),
        }
    }

    /// Moves writable messages to the send queue.
    fn stage(&mut self) -> bool {
        let under_way = self.machine.under_way();
        let Some(faults) = &mut self.faults else {
            return false;
        };
        let mut busy = false;
        // A request that is still held back is not owed an answer.
        let not_begun = matches!(self.decision, Some(Decision::Execute(_)));
        faults.settle(under_way - usize::from(not_begun));
        while faults.release(under_way) {
            busy = true;
        }
        let cost = faults.released();
        if self.wire.is_empty() {
            self.alone = false;
        }
        while !self.alone
            && let Some(write) = faults.next_write()
        {
            self.wire.push_parts(write.head, write.data, write.cost);
            self.alone = write.alone;
            busy = true;
        }
        if self.wire.is_empty()
            && let Some(write) = faults.next_of_flood()
        {
            self.wire.push_parts(write.head, write.data, write.cost);
        }
        if cost > 0 {
            self.machine.sent(cost);
            busy = true;
        }
        busy
    }

    /// A request for the backend to carry out.
    pub(super) fn job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// The answer to a job.
    pub(super) fn reply(&mut self, id: u64, answer: Answer<Bytes>) {
        self.machine.reply(id, answer);
    }

    /// Whether more may be received now.
    pub(super) fn wants_input(&mut self) -> bool {
        let received = self.machine.progress();
        self.machine.wants_input()
            && self.decision.is_none()
            && !self.machine.space().is_empty()
            && self.faults.as_mut().is_none_or(|faults| {
                !faults.is_armed() || faults.intake_is_open() && faults.intake_limit(received) > 0
            })
    }

    /// Where the next bytes belong.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let received = self.machine.progress();
        let limit = match &self.faults {
            Some(faults) => faults.intake_limit(received),
            None => usize::MAX,
        };
        let space = self.machine.space();
        let limit = limit.min(space.len());
        &mut space[..limit]
    }

    /// `n` bytes have arrived.
    pub(super) fn filled(&mut self, n: usize) {
        if let Some(export) = &self.export {
            self.machine.resize(export.size());
        }
        self.machine.filled(n);
    }

    /// The client has closed the connection, or it broke.
    pub(super) fn end_of_stream(&mut self) {
        self.machine.end_of_stream();
    }

    /// Whether there is something to write.
    pub(super) fn wants_output(&self) -> bool {
        !self.wire.is_empty()
    }

    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.wire.slices(slices)
    }

    /// `n` bytes were written.
    pub(super) fn written(&mut self, n: usize) {
        let cost = self.wire.advance(n);
        if cost > 0 {
            self.machine.sent(cost);
        }
    }

    /// Whether the last write was to be seen separately.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// The next action on the connection, now that everything before it is written.
    pub(super) fn effect(&mut self) -> Option<Effect> {
        match self.wire.is_empty() {
            true => self.faults.as_mut()?.next_effect(),
            false => None,
        }
    }

    /// Whether to start TLS now.
    pub(super) fn wants_tls(&self) -> bool {
        self.wants_tls && self.is_flushed()
    }

    pub(super) fn tls_started(&mut self) {
        self.wants_tls = false;
        self.machine.tls_started();
    }

    /// Whether the handshake is over.
    pub(super) fn is_transmitting(&self) -> bool {
        self.is_transmitting
    }

    fn is_flushed(&self) -> bool {
        self.wire.is_empty() && self.faults.as_ref().is_none_or(|f| f.is_drained())
    }

    /// Why the connection is over, once nothing more is owed to the client.
    pub(super) fn finished(&self) -> Option<Closed> {
        let why = self.closed.as_ref()?;
        let owes = self.machine.under_way() > 0 || !self.is_flushed();
        // With faults, a client that is gone may be owed something forever.
        let gone = *why == Closed::Peer && self.faults.as_ref().is_some_and(|f| f.is_armed());
        (gone || !owes).then(|| why.clone())
    }

    /// The faults, if there are any.
    pub(super) fn faults(&mut self) -> Option<&mut Faults> {
        self.faults.as_deref_mut()
    }
}
