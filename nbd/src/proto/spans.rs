//! Which bytes of a request have been answered: gaps and overlaps of a fragmented reply.

/// Disjoint, sorted, merged half-open ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Adds `start..end`; `false` if any of it was already present.
    pub(crate) fn insert(&mut self, start: u64, end: u64) -> bool {
        let at = self.0.partition_point(|&(_, e)| e <= start);
        if self.0.get(at).is_some_and(|&(s, _)| s < end) {
            return false;
        }
        let joins_left = at > 0 && self.0[at - 1].1 == start;
        let joins_right = self.0.get(at).is_some_and(|&(s, _)| s == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = end,
            (false, true) => self.0[at].0 = start,
            (false, false) => self.0.insert(at, (start, end)),
        }
        true
    }

    /// How many separate ranges there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The first hole in `start..end`.
    pub(crate) fn first_gap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let mut at = start;
        for &(s, e) in &self.0 {
            if s > at {
                return Some((at, s.min(end)));
            }
            at = at.max(e);
            if at >= end {
                return None;
            }
        }
        (at < end).then_some((at, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_agree_with_a_bitmap(ops in prop::collection::vec((0u64..64, 1u64..16), 0..40)) {
            let mut spans = Spans::default();
            let mut bits = [false; 80];
            for (start, len) in ops {
                let range = start as usize..(start + len) as usize;
                let free = bits[range.clone()].iter().all(|b| !b);
                prop_assert_eq!(spans.insert(start, start + len), free);
                if free {
                    bits[range].fill(true);
                }
            }
            let gap = bits.iter().position(|b| !b).map(|at| {
                let end = bits[at..].iter().position(|b| *b).map_or(80, |n| at + n);
                (at as u64, end as u64)
            });
            prop_assert_eq!(spans.first_gap(0, 80), gap);
        }
    }
}
