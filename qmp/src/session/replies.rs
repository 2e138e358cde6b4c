//! Assigns messages to commands.

use super::handshake::SYNC;
use super::state::{Flight, Phase, Session};
use super::{Discarded, Failure, Notice, Returned, Undecodable};
use crate::message::{Message, Reply};

impl Session {
    pub(super) fn message(&mut self, message: Message, frame: &[u8], depth: usize) {
        match message {
            Message::Event(event) => self.notices.push_back(Notice::Event(event)),
            Message::Reply(reply) => self.reply(reply, frame, depth),
            Message::Greeting(greeting) if self.phase == Phase::Greeting => self.greeted(greeting),
            Message::Greeting(_) => self.discard(Discarded::Greeting),
            Message::Other => {
                self.discard(Discarded::Unknown);
                self.count_noise(frame);
            }
        }
    }

    fn reply(&mut self, reply: Reply, frame: &[u8], depth: usize) {
        if self.config.agent {
            return self.agent_reply(reply, frame, depth);
        }
        let id = reply.id_text();
        if let (Phase::Negotiating, Some(id), Some((ours, _))) =
            (self.phase, id.as_deref(), &self.negotiation)
            && id == ours
        {
            self.negotiated(reply.result.err());
            return;
        }
        // An error without id is about text that QEMU could not parse. It parses in order, so the
        // error belongs to the oldest in-band command. Before the session is ready nothing of ours
        // can be wrong, and the error is for the previous client.
        let id = match id {
            Some(id) => Some(id.into_owned()),
            None if reply.id.is_none() && reply.result.is_err() => self.in_band.front().cloned(),
            None => None,
        };
        match id {
            Some(id) => self.reply_to(&id, reply, frame, depth),
            None => self.stale(reply),
        }
    }

    fn stale(&mut self, reply: Reply) {
        let id = reply.id.map(|raw| raw.get().to_owned());
        self.discard(Discarded::Stale { id });
    }

    fn reply_to(&mut self, id: &str, reply: Reply, frame: &[u8], depth: usize) {
        let Some((id, flight)) = self.flights.remove_entry(id) else {
            return self.stale(reply);
        };
        self.make_room(&id, &flight);
        if flight.abandoned {
            self.discard(Discarded::Late {
                id,
                command: flight.command,
            });
            return;
        }
        let result = match reply.result {
            Ok(raw) => Ok(Returned { raw, depth }),
            Err(error) => Err(Failure::Error {
                error,
                raw: String::from_utf8_lossy(frame).into_owned(),
            }),
        };
        self.answered(id, &flight, result);
    }

    fn answered(&mut self, id: String, flight: &Flight, result: Result<Returned, Failure>) {
        // An agent was sent none.
        let id = if self.config.agent { String::new() } else { id };
        self.notices.push_back(Notice::Reply {
            call: flight.call,
            id,
            result,
        });
    }

    /// An agent answers in order and names no command: a reply is for the one in flight or, until a
    /// number of ours has been returned, for another client.
    fn agent_reply(&mut self, reply: Reply, frame: &[u8], depth: usize) {
        let number = match &reply.result {
            Ok(raw) => raw.get().parse::<u64>().ok(),
            Err(_) => None,
        };
        let at = number.and_then(|number| self.syncs.iter().position(|&sent| sent == number));
        let synchronizing = self.phase == Phase::Synchronizing;
        if let Some(at) = at {
            // Numbers sent after it may be answered as well, between other replies.
            self.syncs.drain(..=at);
            if synchronizing {
                return self.negotiated(None);
            }
            return self.stale(reply);
        }
        match (&reply.result, self.in_band.front().cloned()) {
            (Err(error), _) if synchronizing && error.desc.contains(SYNC) => {
                let error = error.clone();
                self.negotiated(Some(error));
            }
            (_, Some(id)) if !synchronizing && reply.id.is_none() => {
                self.reply_to(&id, reply, frame, depth);
            }
            _ => self.stale(reply),
        }
    }

    pub(super) fn make_room(&mut self, id: &str, flight: &Flight) {
        if !flight.oob
            && let Some(at) = self.in_band.iter().position(|other| other == id)
        {
            self.in_band.remove(at);
        }
    }

    pub(super) fn undecodable(&mut self, source: Undecodable, bytes: &[u8]) {
        // The id can often still be recovered, and then its caller need not wait.
        let named = if self.config.agent {
            self.in_band.front().cloned()
        } else {
            let names = |id: &&String| {
                [": ", ":"].iter().any(|colon| {
                    let member = format!("\"id\"{colon}\"{id}\"");
                    memchr::memmem::find(bytes, member.as_bytes()).is_some()
                })
            };
            self.flights.keys().find(names).cloned()
        };
        if let Some((id, flight)) = named.and_then(|id| self.flights.remove_entry(&id)) {
            self.make_room(&id, &flight);
            // For an agent it may have been something else.
            self.out_of_step = self.config.agent;
            if !flight.abandoned {
                let text = String::from_utf8_lossy(bytes).into_owned();
                self.answered(id, &flight, Err(Failure::Undecodable { source, text }));
                return;
            }
        }
        self.discard(Discarded::Undecodable(source));
        self.count_noise(bytes);
    }

    fn discard(&mut self, what: Discarded) {
        self.notices.push_back(Notice::Discarded(what));
    }
}
