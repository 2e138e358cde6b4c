//! Ids of commands: short, and not those of another connection.

use std::hash::{BuildHasher, Hasher, RandomState};

const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// The length of an id. QEMU reads one byte per system call, so it is as short as 14 million
/// commands between a command and its reply allow.
const LEN: usize = 4;

/// Counts from a number that nobody can guess: QEMU may answer a command of the client before us
/// on our connection.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u64,
}

/// A number that nobody can guess or has used.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self { next: random() }
    }

    /// The id of the negotiation. It is sent once and may be long, and it is what stands between
    /// us and the replies of the client before us: QEMU answers in order.
    pub(crate) fn of_negotiation(&self) -> String {
        text(random(), 11)
    }

    /// An id that no unanswered command has.
    pub(crate) fn take(&mut self) -> String {
        self.next = self.next.wrapping_add(1);
        text(self.next, LEN)
    }
}

fn text(mut number: u64, len: usize) -> String {
    let digits = (0..len).map(|_| {
        let digit = DIGITS[(number % 62) as usize];
        number /= 62;
        char::from(digit)
    });
    digits.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn many_ids_of_one_connection_are_all_different_and_short() {
        let mut ids = Ids::new();
        let taken: HashSet<String> = (0..100_000).map(|_| ids.take()).collect();
        assert_eq!(taken.len(), 100_000);
        assert!(taken.iter().all(|id| id.len() == LEN));
    }

    #[test]
    fn connections_begin_at_different_ids() {
        let first: HashSet<String> = (0..20).map(|_| Ids::new().take()).collect();
        assert!(first.len() > 18, "{first:?}");
        let ids = Ids::new();
        assert_ne!(ids.of_negotiation(), ids.of_negotiation());
    }
}
