//! Block status as a stream.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::error::HandleError;
use super::handle::Handle;
use super::status::MapEntry;

/// The status of a range, in order: a [`Stream`] of [`MapEntry`]. Neighbours may have the same
/// status. It ends after an error.
///
/// ```no_run
/// # async fn f(disk: nbd::client::Handle) -> Result<(), nbd::client::HandleError> {
/// let mut extents = disk.extents("base:allocation", 0..disk.export().size);
/// while let Some(extent) = extents.next().await {
///     let extent = extent?;
///     println!("{} {} {:?}", extent.offset, extent.len, extent.base());
/// }
/// # Ok(()) }
/// ```
pub struct Extents {
    handle: Handle,
    context: String,
    range: Range<u64>,
    asking: Option<Asking>,
    ready: std::vec::IntoIter<MapEntry>,
}

type Asking = Pin<Box<dyn Future<Output = Result<Vec<MapEntry>, HandleError>> + Send>>;

/// Bytes per request; a reply may cover less.
const STATUS_STEP: u64 = 1 << 30;

impl Extents {
    pub(super) fn new(handle: Handle, context: &str, range: Range<u64>) -> Extents {
        Extents {
            handle,
            context: context.to_owned(),
            range,
            asking: None,
            ready: Vec::new().into_iter(),
        }
    }

    /// The next piece; `None` at the end. Cancel-safe: nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<MapEntry, HandleError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Requests the status of the next step of the range.
    fn ask(&mut self) -> Asking {
        let start = self.range.start;
        let asked = start..self.range.end.min(start.saturating_add(STATUS_STEP));
        self.range.start = asked.end;
        let (handle, context) = (self.handle.clone(), self.context.clone());
        Box::pin(async move {
            let map = |client: super::Client| {
                let (context, asked) = (context.clone(), asked.clone());
                async move { client.map(&context, asked).await }
            };
            handle.run(map).await
        })
    }
}

impl std::fmt::Debug for Extents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Extents");
        f.field("context", &self.context).field("range", &self.range).finish_non_exhaustive()
    }
}

impl Stream for Extents {
    type Item = Result<MapEntry, HandleError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Poll::Ready(Some(Ok(entry)));
            }
            if self.asking.is_none() && !self.range.is_empty() {
                self.asking = Some(self.ask());
            }
            let Some(asking) = &mut self.asking else {
                return Poll::Ready(None);
            };
            let map = ready!(asking.as_mut().poll(cx));
            self.asking = None;
            match map {
                Ok(map) => self.ready = map.into_iter(),
                Err(error) => {
                    self.range.start = self.range.end;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
