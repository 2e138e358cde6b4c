//! Ids of commands: short, free of those in flight, and not those of another connection.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// The characters at the beginning of an id that tell connections apart.
const PREFIX: usize = 2;

/// Gives out ids.
///
/// QEMU may answer a command of the client before us on our connection, so ids must differ
/// between connections, of other processes too. It reads one byte per system call, so they must be
/// short, and stay short in long sessions: two characters for the connection and one for the
/// command. An id is used again only after its reply, and of those that are free the one that was
/// used longest ago.
#[derive(Debug)]
pub(crate) struct Ids {
    prefix: [u8; PREFIX],
    free: VecDeque<usize>,
    /// Longer ones, made while many commands waited.
    longer: Vec<usize>,
    made: usize,
}

/// A number that nobody can guess or has used.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Ids {
    pub(crate) fn new() -> Self {
        // Within a process prefixes follow each other, so that none comes back soon.
        static START: OnceLock<u64> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let start = START.get_or_init(random);
        let seed = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            prefix: [digit(seed), digit(seed / 62)],
            free: (0..DIGITS.len()).collect(),
            longer: Vec::new(),
            made: DIGITS.len(),
        }
    }

    /// The id of the negotiation. It is sent once and may be long, and it is what stands between
    /// us and the replies of the client before us: QEMU answers in order.
    pub(crate) fn of_negotiation(&self) -> String {
        let mut id = self.prefix.to_vec();
        let mut rest = random();
        for _ in 0..10 {
            id.push(digit(rest));
            rest /= 62;
        }
        text(&id)
    }

    /// An id that no unanswered command has.
    pub(crate) fn take(&mut self) -> String {
        let mut number = self
            .free
            .pop_front()
            .or_else(|| self.longer.pop())
            .unwrap_or_else(|| {
                self.made += 1;
                self.made - 1
            });
        let mut id = self.prefix.to_vec();
        loop {
            id.push(digit(number as u64));
            number /= 62;
            if number == 0 {
                return text(&id);
            }
        }
    }

    /// Says that the command of this id was answered, or never sent.
    pub(crate) fn release(&mut self, id: &str) {
        let digits = id.bytes().skip(PREFIX).rev();
        let number = digits.fold(0, |number, digit| {
            let value = DIGITS.iter().position(|&other| other == digit);
            number * DIGITS.len() + value.unwrap_or(0)
        });
        if number < DIGITS.len() {
            self.free.push_back(number);
        } else {
            self.longer.push(number);
        }
    }
}

fn digit(number: u64) -> u8 {
    DIGITS[(number % 62) as usize]
}

fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_of_three_characters_and_come_back_last() {
        let mut ids = Ids::new();
        let first = ids.take();
        ids.release(&first);
        for _ in 1..62 {
            let id = ids.take();
            assert_eq!(id.len(), 3);
            assert_ne!(id, first);
            ids.release(&id);
        }
        assert_eq!(ids.take(), first);
    }

    #[test]
    fn ids_in_use_are_unique_however_many_and_short_ones_return() {
        let mut ids = Ids::new();
        for _ in 0..2 {
            let taken: HashSet<String> = (0..10_000).map(|_| ids.take()).collect();
            assert_eq!(taken.len(), 10_000);
            assert_eq!(taken.iter().filter(|id| id.len() == 3).count(), 62);
            assert_eq!(taken.iter().map(String::len).max(), Some(5));
            taken.iter().for_each(|id| ids.release(id));
        }
        assert_eq!(ids.take().len(), 3);
    }

    #[test]
    fn no_two_connections_of_a_process_have_an_id_in_common() {
        let ids: HashSet<String> = (0..300).map(|_| Ids::new().take()).collect();
        assert_eq!(ids.len(), 300);
        let ids = Ids::new();
        assert_ne!(ids.of_negotiation(), ids.of_negotiation());
    }
}
