//! The extents of `map`, parsed as they are printed: a fragmented image has millions.

use serde::de::IgnoredAny;

use super::{ImgError, MapExtent};
use crate::process::{Child, Output, block_on};

/// A running `map` that streams its extents, in bounded memory. Dropping it kills it.
///
/// qemu-img runs only slightly ahead of the reader.
#[derive(Debug)]
pub struct Extents {
    child: Child,
    parser: Parser,
    ready: std::collections::VecDeque<MapExtent>,
    found: u64,
    is_over: bool,
}

impl Extents {
    pub(super) fn new(child: Child) -> Extents {
        Extents {
            child,
            parser: Parser::default(),
            ready: Default::default(),
            found: 0,
            is_over: false,
        }
    }

    /// The next extent; `None` at the end of the image, and after an error.
    pub async fn next(&mut self) -> Option<Result<MapExtent, ImgError>> {
        while self.ready.is_empty() && !self.is_over {
            let bytes = self.child.pull().await;
            let ready = &mut self.ready;
            self.parser.feed(&bytes, |extent| ready.push_back(extent));
            if bytes.is_empty() {
                self.is_over = true;
                if let Err(error) = self.end().await {
                    return Some(Err(error));
                }
            }
        }
        let extent = self.ready.pop_front()?;
        self.found += 1;
        Some(Ok(extent))
    }

    /// [`Extents::next`] outside of async code.
    pub fn next_blocking(&mut self) -> Option<Result<MapExtent, ImgError>> {
        block_on(self.next())
    }

    async fn end(&mut self) -> Result<(), ImgError> {
        let output = self.child.wait().await?.check_code(|_| true)?;
        let parser = std::mem::take(&mut self.parser);
        parser.end(output, self.found)
    }
}

/// Parses `[{…},\n{…}]` in pieces of any size.
#[derive(Clone, Debug, Default)]
pub(super) struct Parser {
    /// The beginning of an incomplete extent.
    rest: Vec<u8>,
    began: bool,
    ended: bool,
    error: Option<String>,
}

impl Parser {
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(MapExtent)) {
        if self.ended || self.error.is_some() {
            return;
        }
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let is_between = |byte: &u8| match byte {
                b'[' => !self.began,
                b',' => self.began,
                _ => byte.is_ascii_whitespace(),
            };
            let Some(next) = self.rest[at..].iter().position(|byte| !is_between(byte)) else {
                self.began |= self.rest[at..].contains(&b'[');
                at = self.rest.len();
                break;
            };
            self.began |= self.rest[at..at + next].contains(&b'[');
            at += next;
            if self.rest[at] == b']' && self.began {
                self.ended = true;
                break;
            }
            if !self.began {
                let text = String::from_utf8_lossy(&self.rest[at..]);
                self.error = Some(format!("a list was expected, not {:.40?}", text));
                break;
            }
            let entry = &self.rest[at..];
            let mut entries = serde_json::Deserializer::from_slice(entry).into_iter();
            match entries.next() {
                Some(Ok(extent)) => {
                    at += entries.byte_offset();
                    found(extent);
                }
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(error)) => {
                    self.error = Some(error.to_string());
                    break;
                }
                None => break,
            }
        }
        self.rest.drain(..at);
    }

    /// Interprets the end of the output, after `found` extents.
    pub(super) fn end(self, output: Output, found: u64) -> Result<(), ImgError> {
        if self.ended && output.status.is_success() {
            return Ok(());
        }
        if self.began && self.error.is_none() {
            // It prints incrementally, so a failure leaves an unfinished list.
            return Err(ImgError::TruncatedMap {
                output: output.into(),
                found,
                extents: Vec::new(),
            });
        }
        let output = output.check()?;
        let source = match self.error {
            Some(message) => serde::de::Error::custom(message),
            None => match serde_json::from_str::<IgnoredAny>("") {
                Err(error) => error,
                Ok(_) => serde::de::Error::custom("nothing was printed"),
            },
        };
        Err(ImgError::Json {
            output: output.into(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u64, length: u64, data: bool) -> MapExtent {
        MapExtent {
            start,
            length,
            depth: 0,
            present: Some(data),
            zero: !data,
            data,
            compressed: None,
            offset: data.then_some(start),
            other: Default::default(),
        }
    }

    fn fed(pieces: impl IntoIterator<Item = Vec<u8>>) -> (Parser, Vec<MapExtent>) {
        let (mut parser, mut found) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(&piece, |extent| found.push(extent));
        }
        (parser, found)
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_are_all_extents_before_the_cut_are_found(
            parts in prop::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..8),
            cut in any::<prop::sample::Index>(),
            size in 1usize..200,
        ) {
            let extents: Vec<MapExtent> = parts
                .iter()
                .map(|(start, length, data)| extent((*start).into(), (*length).into(), *data))
                .collect();
            let lines: Vec<String> =
                extents.iter().map(|extent| serde_json::to_string(extent).unwrap()).collect();
            let text = format!("[{}]\n", lines.join(",\n"));
            let pieces = |text: &str| {
                text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>()
            };
            let (parser, found) = fed(pieces(&text));
            prop_assert!(parser.ended && parser.error.is_none());
            prop_assert_eq!(&found, &extents);
            let cut = cut.index(text.len() - 1);
            let (parser, found) = fed(pieces(&text[..cut]));
            prop_assert!(!parser.ended && parser.error.is_none());
            let whole = text[..cut].matches('}').count();
            prop_assert_eq!(found, &extents[..whole]);
        }

        #[test]
        fn no_text_is_too_strange(text in "(\\[|\\{|\\}|\\]|,|\\PC){0,60}") {
            let _ = fed([text.into_bytes()]);
        }
    }

    #[test]
    fn what_is_no_list_of_extents_is_an_error() {
        for text in ["{}", "x", "[{\"start\": \"x\"}]", "[7]"] {
            let (parser, found) = fed([text.as_bytes().to_vec()]);
            assert!(parser.error.is_some() && found.is_empty(), "{text}");
        }
    }
}
