//! Block status as a stream.

use std::ops::Range;

use super::error::HandleError;
use super::handle::Handle;
use super::status::MapEntry;

/// The status of a range, in order: a stream of [`MapEntry`]. Neighbours may be alike.
#[derive(Debug)]
pub struct Extents {
    handle: Handle,
    context: String,
    range: Range<u64>,
    ready: std::vec::IntoIter<MapEntry>,
}

/// Bytes that are asked about at once; a reply may say less.
const STATUS_STEP: u64 = 1 << 30;

impl Extents {
    pub(super) fn new(handle: Handle, context: &str, range: Range<u64>) -> Extents {
        Extents {
            handle,
            context: context.to_owned(),
            range,
            ready: Vec::new().into_iter(),
        }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<MapEntry, HandleError>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            if self.range.is_empty() {
                return None;
            }
            let start = self.range.start;
            let asked = start..self.range.end.min(start.saturating_add(STATUS_STEP));
            let map = self.handle.run(|client| {
                let (context, asked) = (self.context.clone(), asked.clone());
                async move { client.map(&context, asked).await }
            });
            match map.await {
                Ok(map) => self.ready = map.into_iter(),
                Err(error) => {
                    self.range.start = self.range.end;
                    return Some(Err(error));
                }
            }
            self.range.start = asked.end;
        }
    }
}
