//! Several connections to one export as one disk: any range, any length, and connections that are
//! lost are made again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::builder::Builder;
use super::connection::Client;
use super::error::ConnectError;
use super::status::MapEntry;
use crate::proto::client::{ExportInfo, RequestError};
use crate::proto::{CommandFlags, Mode, TransmissionFlags, limits};
use crate::uri::Uri;

/// What becomes of a request whose connection is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reconnect {
    /// It fails.
    #[default]
    Never,
    /// It is sent again on a new connection, for so long since it was first sent. A write may so be
    /// carried out twice, with the same data. What was written before and not flushed is only as
    /// safe as the server's end was orderly.
    Within(Duration),
}

/// A [`Handle`] could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No connection could be made (again).
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What was found after a connection was lost is not the export that was there before.
    #[error("export {export:?} of {peer} has changed while the connection was lost: {what}")]
    Changed {
        /// The export.
        export: String,
        /// Its server.
        peer: String,
        /// What is different.
        what: String,
    },
    /// A local file could not be read or written.
    #[error("failed to use {path}", path = path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Prepares a [`Handle`].
#[derive(Clone, Debug)]
pub struct HandleBuilder {
    builder: Builder,
    connections: usize,
    reconnect: Reconnect,
}

impl Builder {
    /// A handle on several connections, with what this builder says for each of them.
    pub fn handle(self) -> HandleBuilder {
        HandleBuilder {
            builder: self,
            connections: 1,
            reconnect: Reconnect::Never,
        }
    }
}

impl HandleBuilder {
    /// How many connections to use, where the server allows several
    /// ([`TransmissionFlags::CAN_MULTI_CONN`]); where it does not, there is one.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// What becomes of requests whose connection is lost (they fail, unless said otherwise).
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Connects.
    pub async fn connect_uri(self, uri: &Uri) -> Result<Handle, ConnectError> {
        let first = self.builder.connect_uri(uri).await?;
        let export = first.export().clone();
        let several = export.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let count = if several { self.connections } else { 1 };
        let mut slots = vec![Mutex::new(Some(first))];
        // The others are made when they are first used.
        slots.resize_with(count, Mutex::default);
        Ok(Handle {
            inner: Arc::new(Inner {
                builder: self.builder,
                uri: uri.clone(),
                reconnect: self.reconnect,
                export,
                slots,
                next: AtomicUsize::new(0),
            }),
        })
    }
}

/// One disk over one or several connections. Cheap to clone.
///
/// ```no_run
/// # async fn f(uri: nbd::Uri) -> Result<(), Box<dyn std::error::Error>> {
/// use nbd::client::Reconnect;
/// use std::time::Duration;
/// let disk = nbd::Client::builder()
///     .context("base:allocation")
///     .handle()
///     .connections(4)
///     .reconnect(Reconnect::Within(Duration::from_secs(60)))
///     .connect_uri(&uri)
///     .await?;
/// disk.copy_to_file("disk.raw", |done, total| eprintln!("{done} of {total}")).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    builder: Builder,
    uri: Uri,
    reconnect: Reconnect,
    export: ExportInfo,
    slots: Vec<Mutex<Option<Client>>>,
    next: AtomicUsize,
}

/// Pause between two attempts to connect, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Parts of one request that are under way at once.
const DEPTH: usize = 16;

impl Handle {
    /// What the server said of the export.
    pub fn export(&self) -> &ExportInfo {
        &self.inner.export
    }

    /// How many connections are used at most.
    pub fn connections(&self) -> usize {
        self.inner.slots.len()
    }

    /// Carries a request out on one of the connections, in turns.
    async fn run<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, HandleError>
    where
        F: Future<Output = Result<T, RequestError>>,
    {
        let inner = &self.inner;
        let slot = inner.next.fetch_add(1, Ordering::Relaxed) % inner.slots.len();
        self.run_on(slot, request).await
    }

    async fn run_on<T, F>(
        &self,
        slot: usize,
        request: impl Fn(Client) -> F,
    ) -> Result<T, HandleError>
    where
        F: Future<Output = Result<T, RequestError>>,
    {
        let until = match self.inner.reconnect {
            Reconnect::Never => None,
            Reconnect::Within(time) => Instant::now().checked_add(time),
        };
        loop {
            let client = self.client(slot, until).await?;
            match request(client).await {
                Err(RequestError::Connection { .. })
                    if until.is_some_and(|until| Instant::now() < until) => {}
                result => return Ok(result?),
            }
        }
    }

    /// The connection of a slot, made (again) if need be.
    async fn client(&self, slot: usize, until: Option<Instant>) -> Result<Client, HandleError> {
        let inner = &self.inner;
        let mut kept = inner.slots[slot].lock().await;
        if let Some(client) = &*kept
            && (client.error().is_none() || until.is_none())
        {
            return Ok(client.clone());
        }
        let mut pause = PAUSE.0;
        loop {
            match inner.builder.connect_uri(&inner.uri).await {
                Ok(client) => {
                    self.same(client.export())?;
                    *kept = Some(client.clone());
                    return Ok(client);
                }
                Err(error) if until.is_none_or(|until| Instant::now() + pause >= until) => {
                    return Err(error.into());
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether an export is the one that was there before.
    fn same(&self, now: &ExportInfo) -> Result<(), HandleError> {
        let before = &self.inner.export;
        let what = if now.size != before.size {
            format!("{} bytes, not {}", now.size, before.size)
        } else if now.flags != before.flags {
            format!("its flags are {}, not {}", now.flags, before.flags)
        } else if now.contexts != before.contexts || now.mode != before.mode {
            "another mode, or other contexts".to_owned()
        } else {
            return Ok(());
        };
        Err(HandleError::Changed {
            export: before.name.clone(),
            peer: self.inner.uri.address.to_string(),
            what,
        })
    }

    /// Cuts a range into aligned parts of at most `most` bytes.
    fn parts(&self, range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let minimum = u64::from(self.export().sizes().minimum.max(1));
        let step = (most / minimum * minimum).max(minimum);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let end = (at + 1).next_multiple_of(step).min(range.end);
            let part = at..end;
            at = end;
            (part.start < part.end).then_some(part)
        })
    }

    /// Most that one request may carry.
    fn payload(&self) -> u64 {
        let own = self.inner.builder.config.max_payload;
        own.min(u64::from(self.export().sizes().maximum))
    }

    /// Most that one request without data may be about.
    fn reach(&self) -> u64 {
        match self.export().mode {
            Mode::Extended => u64::MAX / 2,
            _ => limits::MAX_COMPACT_LEN,
        }
    }

    /// Carries out a part each, several at once.
    async fn each<F>(
        &self,
        range: Range<u64>,
        most: u64,
        work: impl Fn(Handle, Range<u64>) -> F,
    ) -> Result<(), HandleError>
    where
        F: Future<Output = Result<(), HandleError>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        for part in self.parts(range, most) {
            if running.len() == DEPTH {
                joined(running.join_next().await)?;
            }
            running.spawn(work(self.clone(), part));
        }
        while !running.is_empty() {
            joined(running.join_next().await)?;
        }
        Ok(())
    }

    /// Reads any length, in as many requests as the server's limits ask for.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, HandleError> {
        let range = offset..offset.saturating_add(len);
        let mut parts = self.parts(range, self.payload());
        let mut running = JoinSet::new();
        let mut data = vec![0; len as usize];
        loop {
            while running.len() < DEPTH
                && let Some(part) = parts.next()
            {
                let this = self.clone();
                running.spawn(async move {
                    let read = |client: Client| {
                        let part = part.clone();
                        async move { client.read(part.start, part.end - part.start).await }
                    };
                    this.run(read).await.map(|data| (part.start, data))
                });
            }
            let Some(done) = running.join_next().await else {
                return Ok(data);
            };
            let (at, bytes) = joined(Some(done))?;
            let at = (at - offset) as usize;
            data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Writes any length, in as many requests as the server's limits ask for.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), HandleError> {
        let data = data.into();
        let range = offset..offset.saturating_add(data.len() as u64);
        self.each(range, self.payload(), |this, part| {
            let from = (part.start - offset) as usize..(part.end - offset) as usize;
            let data = data.slice(from);
            async move {
                this.run(|client| {
                    let data = data.clone();
                    async move { client.write(part.start, data).await }
                })
                .await
            }
        })
        .await
    }

    /// Writes zeroes of any length. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), HandleError> {
        let range = offset..offset.saturating_add(len);
        self.each(range, self.reach(), |this, part| async move {
            let len = part.end - part.start;
            this.run(|client| async move { client.write_zeroes(part.start, len, flags).await })
                .await
        })
        .await
    }

    /// Discards any length.
    pub async fn trim(&self, offset: u64, len: u64) -> Result<(), HandleError> {
        let range = offset..offset.saturating_add(len);
        self.each(range, self.reach(), |this, part| async move {
            let len = part.end - part.start;
            this.run(|client| async move { client.trim(part.start, len).await })
                .await
        })
        .await
    }

    /// Makes all stable that was written over any of the connections.
    pub async fn flush(&self) -> Result<(), HandleError> {
        if !self.export().flags.contains(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        for (slot, kept) in self.inner.slots.iter().enumerate() {
            // What was never used has nothing to flush.
            if kept.lock().await.is_some() {
                self.run_on(slot, |client| async move { client.flush().await })
                    .await?;
            }
        }
        Ok(())
    }

    /// The status of a range in a context that was selected, piece by piece as it is asked for.
    pub fn extents(&self, context: &str, range: Range<u64>) -> Extents {
        Extents {
            handle: self.clone(),
            context: context.to_owned(),
            range,
            ready: Vec::new().into_iter(),
        }
    }

    /// Says goodbye on each connection.
    pub async fn disconnect(self) {
        for kept in &self.inner.slots {
            if let Some(client) = kept.lock().await.take() {
                // All was answered; a server that does not say goodbye changes nothing about that.
                let _ = client.disconnect().await;
            }
        }
    }
}

/// What a task came to. A panic in it goes on here.
pub(super) fn joined<T>(
    done: Option<Result<Result<T, HandleError>, tokio::task::JoinError>>,
) -> Result<T, HandleError> {
    match done {
        Some(Ok(result)) => result,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable_end(),
        },
        None => unreachable_end(),
    }
}

/// Tasks are neither cancelled nor waited for when there are none.
fn unreachable_end<T>() -> Result<T, HandleError> {
    Err(HandleError::File {
        path: "a task".into(),
        source: std::io::ErrorKind::Interrupted.into(),
    })
}

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
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<MapEntry, HandleError>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            if self.range.is_empty() {
                return None;
            }
            let asked = self.range.start..self.range.end.min(self.range.start + STATUS_STEP);
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
