//! How a session begins: greeting and negotiation, or synchronization with a guest agent.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::state::{Phase, Session};
use super::{HandshakeFailure, Notice};
use crate::message::{ErrorObject, Greeting, Version};

/// The length of the id prefix. QEMU may answer a command of the previous client on our connection,
/// so ids differ between connections; it reads one byte per system call, so they are short.
pub(super) const PREFIX: usize = 3;

/// The length of the negotiation's id. It is sent once, and separates our replies from those to the
/// previous client: QEMU answers in order.
const NEGOTIATION: usize = 11;

/// The command with which a guest agent is found and kept in step.
pub(super) const SYNC: &str = "guest-sync-delimited";

/// How many bytes that are not QMP may precede the greeting before the peer is rejected.
const MAX_NOISE: usize = 64;

/// How many unanswered numbers are remembered: an hour of one per second.
const MAX_SYNCS: usize = 3600;

impl Session {
    /// Whether a guest agent has yet to return a number. An agent that starts late has not seen the
    /// command, so send it again every second or so: see [`Session::synchronize`].
    pub fn is_synchronizing(&self) -> bool {
        self.phase == Phase::Synchronizing
    }

    /// Asks a guest agent to return a new number.
    pub fn synchronize(&mut self) {
        // Below 2^32: a number that every agent returns unchanged.
        let number = random() >> 32;
        self.syncs.push(number);
        // Their answers, should they still arrive, are taken for another client's.
        if self.syncs.len() > MAX_SYNCS {
            self.syncs.remove(0);
        }
        // 0xFF makes the agent drop what it has read of an unfinished command.
        let mut line = vec![0xFF];
        let command = format!("{{\"execute\":\"{SYNC}\",\"arguments\":{{\"id\":{number}}}}}\n");
        line.extend_from_slice(command.as_bytes());
        self.negotiation = Some((String::new(), line));
        self.phase = Phase::Synchronizing;
    }

    /// Whether the handshake is done.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether out-of-band execution is enabled.
    pub fn oob_enabled(&self) -> bool {
        self.oob_enabled
    }

    /// The beginning of what arrived instead of a greeting.
    pub fn noise(&mut self) -> Option<String> {
        if self.phase != Phase::Greeting && self.phase != Phase::Failed {
            return None;
        }
        // Text without a line end is still in the framer.
        if self.first_noise.is_none() {
            self.first_noise = self.framer.finish().map(|error| sample(&error.sample));
        }
        self.first_noise.clone()
    }

    pub(super) fn greeted(&mut self, greeting: Greeting) {
        let id = letters(NEGOTIATION);
        let enable = self.config.oob && greeting.offers_oob();
        self.oob_enabled = enable;
        let arguments = if enable {
            ",\"arguments\":{\"enable\":[\"oob\"]}"
        } else {
            ""
        };
        let line = format!("{{\"execute\":\"qmp_capabilities\"{arguments},\"id\":\"{id}\"}}\n");
        self.negotiation = Some((id, line.into_bytes()));
        self.phase = Phase::Negotiating;
        self.greeted = true;
        self.notices.push_back(Notice::Greeting(greeting));
    }

    pub(super) fn negotiated(&mut self, error: Option<ErrorObject>) {
        self.negotiation = None;
        match error {
            None => {
                self.phase = Phase::Ready;
                if self.config.agent {
                    if self.greeted {
                        return;
                    }
                    let greeting = Greeting::new(Version::default(), []);
                    self.greeted = true;
                    self.notices.push_back(Notice::Greeting(greeting));
                }
                self.notices.push_back(Notice::Ready {
                    oob: self.oob_enabled,
                });
            }
            Some(error) => {
                self.phase = Phase::Failed;
                self.notices.push_back(Notice::Failed(HandshakeFailure::Refused { error }));
            }
        }
    }

    /// A peer that sends much and never greets is not QEMU.
    pub(super) fn count_noise(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Greeting {
            return;
        }
        self.noise += 1;
        let sample = self.first_noise.get_or_insert_with(|| sample(bytes)).clone();
        if self.noise >= MAX_NOISE {
            self.phase = Phase::Failed;
            self.notices.push_back(Notice::Failed(HandshakeFailure::NotQmp { sample }));
        }
    }
}

/// A number that cannot be guessed.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Random letters, at most 13.
pub(super) fn letters(count: usize) -> String {
    let mut number = random();
    let mut letter = || {
        let letter = b'a' + (number % 26) as u8;
        number /= 26;
        char::from(letter)
    };
    (0..count).map(|_| letter()).collect()
}

/// The beginning of bytes that are not understood, as text.
fn sample(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}
