//! What is read from an image, from start to end.

use std::ops::Range;

/// The bytes of an image, as runs of the same byte; as long as the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(Vec<(u8, Range<u64>)>);

impl Bytes {
    /// Zeroes.
    pub(super) fn zeroes(size: u64) -> Self {
        Bytes(vec![(0, 0..size)])
    }

    pub(super) fn size(&self) -> u64 {
        self.0.last().map_or(0, |(_, range)| range.end)
    }

    /// The runs, ascending; neighbours differ.
    pub(super) fn runs(&self) -> &[(u8, Range<u64>)] {
        &self.0
    }

    /// This byte in this range, as far as the image goes.
    pub(super) fn fill(&mut self, byte: u8, range: Range<u64>) {
        let range = range.start..range.end.min(self.size());
        if range.is_empty() {
            return;
        }
        let mut parts = self.part(0..range.start);
        parts.push((byte, range.clone()));
        parts.extend(self.part(range.end..self.size()));
        self.0 = joined(parts);
    }

    /// Zeroes everywhere but in these ranges.
    pub(super) fn keep(&mut self, ranges: &[Range<u64>]) {
        let before = std::mem::replace(self, Bytes::zeroes(self.size()));
        for range in ranges {
            for (byte, range) in before.part(range.clone()) {
                self.fill(byte, range);
            }
        }
    }

    /// Another size; what is new is zero.
    pub(super) fn resize(&mut self, size: u64) {
        let old = self.size();
        let mut parts = self.part(0..size.min(old));
        parts.push((0, old..size));
        self.0 = joined(parts);
    }

    /// Where the two differ; what only one of them has counts as well.
    pub(super) fn differences(&self, other: &Bytes) -> Vec<Range<u64>> {
        let mut bounds: Vec<u64> = self.0.iter().chain(&other.0).map(|run| run.1.end).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let (mut start, mut out) = (0, Vec::new());
        for end in bounds {
            if self.at(start) != other.at(start) {
                out.push(start..end);
            }
            start = end;
        }
        out
    }

    fn at(&self, place: u64) -> Option<u8> {
        let run = self.0.iter().find(|(_, range)| range.contains(&place));
        run.map(|(byte, _)| *byte)
    }

    fn part(&self, wanted: Range<u64>) -> Vec<(u8, Range<u64>)> {
        let cut = |(byte, range): &(u8, Range<u64>)| {
            let cut = range.start.max(wanted.start)..range.end.min(wanted.end);
            (*byte, cut)
        };
        self.0.iter().map(cut).collect()
    }
}

fn joined(parts: Vec<(u8, Range<u64>)>) -> Vec<(u8, Range<u64>)> {
    let mut out: Vec<(u8, Range<u64>)> = Vec::new();
    for (byte, range) in parts.into_iter().filter(|(_, range)| !range.is_empty()) {
        match out.last_mut() {
            Some((last, before)) if *last == byte => before.end = range.end,
            _ => out.push((byte, range)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(bytes: &Bytes) -> Vec<u8> {
        let runs = bytes.runs().iter();
        runs.flat_map(|(byte, range)| vec![*byte; (range.end - range.start) as usize]).collect()
    }

    proptest! {
        #[test]
        fn runs_are_as_byte_by_byte(
            writes in proptest::collection::vec((0_u8..3, 0_u64..50, 0_u64..20), 0..9),
            size in 0_u64..60,
        ) {
            let (mut runs, mut plain) = (Bytes::zeroes(40), vec![0; 40]);
            for (byte, start, length) in writes {
                runs.fill(byte, start..start + length);
                plain.iter_mut().skip(start as usize).take(length as usize).for_each(|b| *b = byte);
            }
            prop_assert_eq!(flat(&runs), plain.clone());
            let mut other = runs.clone();
            other.resize(size);
            plain.resize(size as usize, 0);
            prop_assert_eq!(flat(&other), plain.clone());

            let mut kept = runs.clone();
            kept.keep(&[3..9, 5..30]);
            let at = |place| (3..30).contains(&place);
            let all = flat(&runs).into_iter().enumerate();
            let expected: Vec<u8> = all.map(|(place, byte)| if at(place) { byte } else { 0 }).collect();
            prop_assert_eq!(flat(&kept), expected);

            let differences = runs.differences(&other);
            for place in 0..60_u64 {
                let differs = flat(&runs).get(place as usize) != plain.get(place as usize);
                prop_assert_eq!(differences.iter().any(|range| range.contains(&place)), differs);
            }
        }
    }
}
