//! Numbers for job ids: each is the lowest that no other job uses at the time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The numbers in use.
#[derive(Clone, Default)]
pub(in crate::author::machine) struct Numbers(Arc<Mutex<BTreeSet<u64>>>);

/// A number, in use for as long as the value lives.
pub(super) struct Number {
    number: u64,
    of: Numbers,
}

impl Numbers {
    pub(super) fn take(&self) -> Number {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..).find(|number| !used.contains(number)).unwrap_or_default();
        used.insert(number);
        Number {
            number,
            of: self.clone(),
        }
    }
}

impl Number {
    pub(super) fn get(&self) -> u64 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut used = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H35: concurrent jobs have different ids, consecutive jobs the same one.
    #[test]
    fn a_number_is_free_again_when_its_job_is_gone() {
        let numbers = Numbers::default();
        assert_eq!(numbers.take().get(), 0);
        let (first, second) = (numbers.take(), numbers.take());
        assert_eq!((first.get(), second.get()), (0, 1));
        drop(first);
        assert_eq!(numbers.take().get(), 0);
    }
}
