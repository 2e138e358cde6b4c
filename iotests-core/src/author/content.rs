//! The contents of a disk, an image or a layer, range by range.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

/// The default cluster size of qcow2 and qed, in bytes.
pub const CLUSTER: u64 = 64 * 1024;

/// The byte range of these clusters of [`CLUSTER`] bytes: `clusters(1..3)` is `64 * KIB..192 *
/// KIB`.
#[must_use]
pub const fn clusters(range: Range<u64>) -> Range<u64> {
    range.start * CLUSTER..range.end * CLUSTER
}

/// The contents of a disk or a layer: for each byte range a pattern byte, written zeroes, or a
/// hole, through which a lower layer is visible and which otherwise reads as zeroes.
///
/// It has no size: everything that it does not mention is a hole, up to the end of whatever it is
/// compared with.
///
/// ```
/// use iotests_core::author::Content;
///
/// const PATTERNS: Content = Content::of(&[(0x5d, 0..4096), (0xd5, 65536..131072)]);
/// let now = PATTERNS.written(0x33, 0..512).zeroes(65536..66048);
/// assert_eq!(now, Content::of(&[(0x33, 0..512), (0, 65536..66048)]).over(&PATTERNS));
/// ```
#[derive(Clone, Default)]
pub struct Content {
    /// Written first, in order.
    table: &'static [(u8, Range<u64>)],
    /// Written after that; `None` is a hole.
    later: Vec<(Option<u8>, Range<u64>)>,
}

impl Content {
    /// Fills each of these ranges with its byte; where two overlap, the later one counts. Usable in
    /// a constant, for a table shared by several cases.
    #[must_use]
    pub const fn of(table: &'static [(u8, Range<u64>)]) -> Self {
        Content {
            table,
            later: Vec::new(),
        }
    }

    /// Content that is a single hole.
    #[must_use]
    pub const fn nothing() -> Self {
        Content::of(&[])
    }

    /// Adds this byte in this range.
    #[must_use]
    pub fn written(mut self, byte: u8, range: Range<u64>) -> Self {
        self.later.push((Some(byte), range));
        self
    }

    /// Adds written zeroes, which hide the data of a lower layer.
    #[must_use]
    pub fn zeroes(self, range: Range<u64>) -> Self {
        self.written(0, range)
    }

    /// Makes this range a hole.
    #[must_use]
    pub fn hole(mut self, range: Range<u64>) -> Self {
        self.later.push((None, range));
        self
    }

    /// Fills each [`CLUSTER`] of this range with a different byte, so that a misplaced cluster is
    /// detected: `first` plus the number of the cluster.
    #[must_use]
    pub fn numbered(mut self, first: u8, range: Range<u64>) -> Self {
        let mut start = range.start;
        while start < range.end {
            let number = start / CLUSTER;
            let end = range.end.min((number + 1) * CLUSTER);
            self = self.written(first.wrapping_add(number as u8), start..end);
            start = end;
        }
        self
    }

    /// The combined content of this layer on top of a lower one.
    #[must_use]
    pub fn over(&self, below: &Content) -> Self {
        let mut later: Vec<_> = below.writes().collect();
        // A hole of this layer hides nothing.
        let own = self.to_write().into_iter();
        later.extend(own.map(|(byte, range)| (Some(byte), range)));
        Content { table: &[], later }
    }

    /// Replaces a range with the content of `other` there.
    #[must_use]
    pub fn with_part_of(self, other: &Content, range: Range<u64>) -> Self {
        let part = other.extents().into_iter();
        let part = part.map(|(byte, part)| (byte, intersection(&part, &range)));
        part.filter(|(_, part)| !part.is_empty())
            .fold(self.hole(range.clone()), |content, (byte, part)| {
                content.written(byte, part)
            })
    }

    /// The part of it below this size.
    #[must_use]
    pub fn cut(self, size: u64) -> Self {
        match self.end() > size {
            true => self.hole(size..u64::MAX),
            false => self,
        }
    }

    /// The end of the last range.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.extents().last().map_or(0, |(_, range)| range.end)
    }

    /// The ranges that are not holes, ascending; adjacent ranges have different bytes.
    #[must_use]
    pub fn extents(&self) -> Vec<(u8, Range<u64>)> {
        let mut out: Vec<(u8, Range<u64>)> = Vec::new();
        for (bytes, range) in layout(&[self], 0) {
            let Some(byte) = bytes[0] else { continue };
            match out.last_mut() {
                Some((last, before)) if *last == byte && before.end == range.start => {
                    before.end = range.end;
                }
                _ => out.push((byte, range)),
            }
        }
        out
    }

    /// What a reader sees below this size, from start to end; adjacent ranges have different bytes.
    #[must_use]
    pub fn reads(&self, size: u64) -> Vec<(u8, Range<u64>)> {
        let zeroes = Content::nothing().zeroes(0..size);
        self.over(&zeroes).cut(size).extents()
    }

    /// The byte that a reader sees at this offset.
    #[must_use]
    pub fn byte_at(&self, offset: u64) -> u8 {
        let mut extents = self.extents().into_iter();
        let found = extents.find(|(_, range)| range.contains(&offset));
        found.map_or(0, |(byte, _)| byte)
    }

    /// The writes that produce it, in the order in which it was built.
    pub(crate) fn to_write(&self) -> Vec<(u8, Range<u64>)> {
        if self.later.iter().any(|(byte, _)| byte.is_none()) {
            return self.extents();
        }
        let writes = self.writes().filter(|(_, range)| !range.is_empty());
        writes.filter_map(|(byte, range)| Some((byte?, range))).collect()
    }

    fn writes(&self) -> impl Iterator<Item = (Option<u8>, Range<u64>)> + '_ {
        let table = self.table.iter();
        let table = table.map(|(byte, range)| (Some(*byte), range.clone()));
        table.chain(self.later.iter().cloned())
    }
}

/// The ranges between all offsets where one of these contents may change, up to `size` at least,
/// with the value of each content there.
fn layout(contents: &[&Content], size: u64) -> Vec<(Vec<Option<u8>>, Range<u64>)> {
    let mut bounds = vec![0, size];
    for (_, range) in contents.iter().flat_map(|content| content.writes()) {
        bounds.extend([range.start, range.end]);
    }
    bounds.sort_unstable();
    bounds.dedup();
    let at = |content: &&Content, place: u64| {
        let covers = |(_, range): &(Option<u8>, Range<u64>)| range.contains(&place);
        let last = content.writes().filter(covers).last();
        last.and_then(|(byte, _)| byte)
    };
    let part = |pair: &[u64]| {
        let bytes = contents.iter().map(|content| at(content, pair[0]));
        (bytes.collect(), pair[0]..pair[1])
    };
    bounds.windows(2).map(part).collect()
}

fn intersection(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.extents() == other.extents()
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.extents()))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({self})")
    }
}

impl From<&Content> for Content {
    fn from(content: &Content) -> Self {
        content.clone()
    }
}

impl From<&[(u8, Range<u64>)]> for Content {
    fn from(writes: &[(u8, Range<u64>)]) -> Self {
        let write = |(byte, range): &(u8, Range<u64>)| (Some(*byte), range.clone());
        let later = writes.iter().map(write).collect();
        Content { table: &[], later }
    }
}

impl<const N: usize> From<&[(u8, Range<u64>); N]> for Content {
    fn from(writes: &[(u8, Range<u64>); N]) -> Self {
        writes.as_slice().into()
    }
}

/// Formats bytes in ranges, for messages.
fn show(parts: &[(u8, Range<u64>)]) -> String {
    match parts {
        [] => "nothing".to_owned(),
        parts => parts
            .iter()
            .map(|(byte, range)| format!("{byte:#04x} in {range:#x?}"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// A range that reads differently than expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) range: Range<u64>,
    pub(crate) found: u8,
    pub(crate) expected: u8,
}

impl Wrong {
    /// The maximum number that is collected: enough to recognise the mistake.
    const MOST: usize = 8;

    /// The expected and the actual bytes of all these ranges.
    pub(crate) fn both(all: &[Wrong]) -> (String, String) {
        let part = |byte: fn(&Wrong) -> u8| {
            let parts = all.iter().map(|wrong| (byte(wrong), wrong.range.clone()));
            let more = if all.len() < Wrong::MOST { "" } else { ", …" };
            show(&parts.collect::<Vec<_>>()) + more
        };
        (part(|wrong| wrong.expected), part(|wrong| wrong.found))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong {
            range,
            found,
            expected,
        } = self;
        write!(f, "{found:#04x} in {range:#x?}, expected {expected:#04x}")
    }
}

/// The first ranges within `size` bytes that differ from the contents: every sector must match one
/// of them.
pub(crate) fn compare(
    mut from: impl Read,
    size: u64,
    contents: &[&Content],
) -> io::Result<Vec<Wrong>> {
    /// Less than what malloc gives back to the kernel.
    const AT_ONCE: u64 = 64 * 1024;
    const SECTOR: u64 = 512;
    let mut wrong: Vec<Wrong> = Vec::new();
    let mut buffer = vec![0; AT_ONCE as usize];
    for (bytes, part) in layout(contents, size) {
        let mut bytes: Vec<u8> = bytes.into_iter().map(Option::unwrap_or_default).collect();
        bytes.dedup();
        let mut start = part.start;
        while start < part.end.min(size) {
            let end = part.end.min(size).min(start + AT_ONCE);
            let block = &mut buffer[..(end - start) as usize];
            from.read_exact(block)?;
            if !bytes.iter().any(|byte| is_filled(block, *byte)) {
                for (number, sector) in block.chunks(SECTOR as usize).enumerate() {
                    if !bytes.iter().any(|byte| is_filled(sector, *byte)) {
                        note(&mut wrong, start + number as u64 * SECTOR, sector, bytes[0]);
                    }
                }
                if wrong.len() > Wrong::MOST {
                    wrong.truncate(Wrong::MOST);
                    return Ok(wrong);
                }
            }
            start = end;
        }
    }
    Ok(wrong)
}

/// If a block equals itself shifted by one byte, all its bytes are the same. This is a single
/// memory comparison, where a search would compare byte by byte.
pub(crate) fn is_filled(block: &[u8], byte: u8) -> bool {
    let Some((first, rest)) = block.split_first() else {
        return true;
    };
    *first == byte && *rest == block[..rest.len()]
}

fn note(wrong: &mut Vec<Wrong>, at: u64, sector: &[u8], expected: u8) {
    for (place, found) in (at..).zip(sector.iter().copied()) {
        if found == expected {
            continue;
        }
        match wrong.last_mut() {
            Some(last)
                if (last.range.end, last.found, last.expected) == (place, found, expected) =>
            {
                last.range.end += 1;
            }
            _ => wrong.push(Wrong {
                range: place..place + 1,
                found,
                expected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERNS: Content = Content::of(&[(0x5d, 0..512), (0xd5, 1024..2048)]);

    /// What a reader would see, byte by byte; `None` for a hole.
    fn bytes(content: &Content, size: usize) -> Vec<Option<u8>> {
        let mut out = vec![None; size];
        for (byte, range) in content.extents() {
            out[range.start as usize..range.end as usize].fill(Some(byte));
        }
        out
    }

    fn content() -> impl Strategy<Value = Content> {
        let write = (proptest::option::of(0_u8..4), 0_u64..40, 0_u64..40);
        proptest::collection::vec(write, 0..8).prop_map(|writes| {
            let write = |(byte, start, length): (Option<u8>, u64, u64)| {
                (byte, start..(start + length).min(40))
            };
            let later = writes.into_iter().map(write).collect();
            Content { table: &[], later }
        })
    }

    proptest! {
        #[test]
        fn layers_read_as_byte_by_byte(above in content(), below in content(), cut in 0_u64..50) {
            let (a, b) = (bytes(&above, 40), bytes(&below, 40));
            let both: Vec<_> = a.iter().zip(&b).map(|(a, b)| a.or(*b)).collect();
            prop_assert_eq!(bytes(&above.over(&below), 40), both);

            let part: Vec<_> = (0..40).map(|at| if (7..20).contains(&at) { b[at] } else { a[at] }).collect();
            prop_assert_eq!(bytes(&above.clone().with_part_of(&below, 7..20), 40), part);

            let shorter: Vec<_> = (0..40).map(|at| a[at].filter(|_| (at as u64) < cut)).collect();
            prop_assert_eq!(bytes(&above.clone().cut(cut), 40), shorter);

            let data: Vec<u8> = a.iter().map(|byte| byte.unwrap_or(0)).collect();
            prop_assert_eq!(compare(&*data, 40, &[&above]).unwrap(), []);
            let read: Vec<u8> = above.reads(40).into_iter()
                .flat_map(|(byte, range)| vec![byte; (range.end - range.start) as usize]).collect();
            prop_assert_eq!(read, data);
        }

        #[test]
        fn a_wrong_byte_is_found_where_it_is(content in content(), at in 0_usize..40) {
            let mut data: Vec<u8> = bytes(&content, 40).into_iter().map(|b| b.unwrap_or(0)).collect();
            let expected = data[at];
            data[at] = 0x77;
            let place = at as u64;
            let wrong = Wrong { range: place..place + 1, found: 0x77, expected };
            prop_assert_eq!(compare(&*data, 40, &[&content]).unwrap(), [wrong]);
        }
    }

    #[test]
    fn a_constant_table_can_be_written_over() {
        let now = PATTERNS.written(0x33, 256..1536).hole(0..128);
        assert_eq!(
            now.to_string(),
            "0x5d in 0x80..0x100, 0x33 in 0x100..0x600, 0xd5 in 0x600..0x800"
        );
        assert_eq!(
            (now.byte_at(0x100), now.byte_at(0), now.end()),
            (0x33, 0, 2048)
        );
        assert_eq!(Content::nothing().to_string(), "nothing");
    }

    #[test]
    fn each_cluster_has_a_byte_of_its_own() {
        let numbered = Content::nothing().numbered(0xff, clusters(0..2));
        let expected = Content::of(&[(0xff, 0..CLUSTER), (0, CLUSTER..2 * CLUSTER)]);
        assert_eq!(numbered, expected);
    }

    #[test]
    fn writes_keep_their_order_unless_there_are_holes() {
        let writes = [(1, 512..1024), (2, 0..512), (3, 7..7)];
        let content = Content::from(&writes);
        assert_eq!(content.to_write(), writes[..2]);
        assert_eq!(content.hole(0..512).to_write(), writes[..1]);
    }

    #[test]
    fn a_sector_may_be_as_in_either_but_not_in_parts() {
        let (old, new) = (PATTERNS, Content::nothing().written(1, 0..2048));
        let mut data = [vec![0x5d; 512], vec![0; 512], vec![1; 512], vec![0xd5; 512]].concat();
        assert_eq!(compare(&*data, 2048, &[&new, &old]).unwrap(), []);
        data[3] = 1;
        let wrong = compare(&*data, 2048, &[&new, &old]).unwrap();
        let (expected, found) = Wrong::both(&wrong);
        assert_eq!(expected, "0x01 in 0x0..0x3, 0x01 in 0x4..0x200");
        assert_eq!(found, "0x5d in 0x0..0x3, 0x5d in 0x4..0x200");
        assert_eq!(wrong[0].to_string(), "0x5d in 0x0..0x3, expected 0x01");
    }

    #[test]
    fn data_without_a_pattern_is_not_listed_in_full() {
        let data: Vec<u8> = (0..=255).cycle().take(1 << 21).collect();
        let wrong = compare(&*data, 1 << 21, &[&PATTERNS]).unwrap();
        assert_eq!(wrong.len(), Wrong::MOST);
        assert!(Wrong::both(&wrong).1.ends_with(", …"));
    }
}
