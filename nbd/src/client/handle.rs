//! Several connections to one export as one disk: any range, any length, and lost connections are
//! re-established.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::builder::ClientBuilder;
use super::connection::Client;
use super::error::{ConnectError, HandleError};
use super::extents::Extents;
use crate::proto::client::{ExportInfo, Origin, RequestError, StrictMode};
use crate::proto::{CommandFlags, CommandType, Errno, Mode, TransmissionFlags, limits};
use crate::uri::Uri;

/// What happens to a request whose connection is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reconnect {
    /// It fails.
    #[default]
    Never,
    /// It is sent again on a new connection, until this much time has passed since it was first
    /// sent; so is one that a server refuses because it is shutting down (`ESHUTDOWN`). A write may
    /// therefore be carried out twice, with the same data; a server that has not noticed the lost
    /// connection may still be carrying out the first one after later writes are done. Unflushed
    /// writes survive only if the server shut down cleanly.
    Within(Duration),
}

/// Prepares a [`Handle`].
#[derive(Clone, Debug)]
pub struct HandleBuilder {
    builder: ClientBuilder,
    connections: usize,
    reconnect: Reconnect,
}

impl ClientBuilder {
    /// A handle on several connections, each with this builder's settings.
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
    /// ([`TransmissionFlags::CAN_MULTI_CONN`]); otherwise one is used.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// What happens to requests whose connection is lost (default: they fail).
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
        let first = Slot {
            client: Some(first),
            lost: false,
        };
        let mut slots = vec![Mutex::new(first)];
        // The others are opened on first use.
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
    builder: ClientBuilder,
    uri: Uri,
    reconnect: Reconnect,
    export: ExportInfo,
    slots: Vec<Mutex<Slot>>,
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct Slot {
    /// None before it is first used.
    client: Option<Client>,
    /// A request was lost with it, so it must be replaced.
    lost: bool,
}

/// Backoff between attempts to connect: initial and maximum.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Parts of one request in flight at once.
const DEPTH: usize = 16;

impl Handle {
    /// The export as the server described it.
    pub fn export(&self) -> &ExportInfo {
        &self.inner.export
    }

    /// The server's address, for messages.
    pub fn peer(&self) -> String {
        self.inner.uri.address.to_string()
    }

    /// The maximum number of connections.
    pub fn connections(&self) -> usize {
        self.inner.slots.len()
    }

    /// Carries out a request on one of the connections, round-robin.
    pub(super) async fn run<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, HandleError>
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
        let mut pause = Duration::ZERO;
        loop {
            let client = self.client(slot, until).await?;
            match request(client.clone()).await {
                Err(error)
                    if is_lost(&error)
                        && until.is_some_and(|until| Instant::now() + pause < until) =>
                {
                    self.lose(slot, client).await;
                    // Do not hammer a server that accepts connections only to drop them.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).clamp(PAUSE.0, PAUSE.1);
                }
                result => return Ok(result?),
            }
        }
    }

    /// A request was lost with this connection. If the slot already has a newer one, that one
    /// stays.
    async fn lose(&self, slot: usize, client: Client) {
        let mut kept = self.inner.slots[slot].lock().await;
        let kept_one = kept.client.as_ref();
        let is_kept = kept_one.is_some_and(|kept| kept.is_same(&client));
        kept.lost |= is_kept;
    }

    /// The connection of a slot, established or re-established if necessary.
    async fn client(&self, slot: usize, until: Option<Instant>) -> Result<Client, HandleError> {
        let inner = &self.inner;
        let mut kept = inner.slots[slot].lock().await;
        if let Some(client) = &kept.client
            && (until.is_none() || client.error().is_none() && !kept.lost)
        {
            return Ok(client.clone());
        }
        let mut pause = PAUSE.0;
        loop {
            match inner.builder.connect_uri(&inner.uri).await {
                Ok(client) => {
                    self.same(client.export())?;
                    *kept = Slot {
                        client: Some(client.clone()),
                        lost: false,
                    };
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

    /// Whether the export is the same as before.
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
            peer: self.peer(),
            what,
        })
    }

    /// Splits a range into aligned parts of at most `most` bytes.
    fn parts(&self, range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let minimum = u64::from(self.export().sizes().minimum.max(1));
        let step = (most / minimum * minimum).max(minimum);
        let mut at = range.start;
        std::iter::from_fn(move || {
            let part = at..next_step(at, step).min(range.end);
            at = part.end;
            (part.start < part.end).then_some(part)
        })
    }

    /// Rejects a range beyond the end of the export before any part is carried out.
    fn inside(&self, command: CommandType, offset: u64, len: u64) -> Result<(), HandleError> {
        let (export, config) = (self.export(), &self.inner.builder.config);
        let end = offset.checked_add(len);
        if end.is_some_and(|end| end <= export.size) || !config.strict.contains(StrictMode::BOUNDS)
        {
            return Ok(());
        }
        let reason = format!("beyond the end of the export ({} bytes)", export.size);
        Err(self.misuse(command, offset, len, reason))
    }

    fn misuse(&self, command: CommandType, offset: u64, len: u64, reason: String) -> HandleError {
        let export = self.export().name.as_str();
        let origin = Box::new(Origin::new(command, offset, len, export, self.peer()));
        RequestError::Misuse { origin, reason }.into()
    }

    /// Largest payload of one request.
    fn payload(&self) -> u64 {
        let own = self.inner.builder.config.max_payload;
        own.min(u64::from(self.export().sizes().maximum))
    }

    /// Longest range of one request without data.
    fn reach(&self) -> u64 {
        match self.export().mode {
            Mode::Extended => u64::MAX / 2,
            _ => limits::MAX_COMPACT_LEN,
        }
    }

    /// Carries out one request per part, several at once.
    async fn each<F>(
        &self,
        command: CommandType,
        (offset, len): (u64, u64),
        most: u64,
        work: impl Fn(Handle, Range<u64>) -> F,
    ) -> Result<(), HandleError>
    where
        F: Future<Output = Result<(), HandleError>> + Send + 'static,
    {
        self.inside(command, offset, len)?;
        let mut running = JoinSet::new();
        for part in self.parts(offset..offset.saturating_add(len), most) {
            if running.len() == DEPTH {
                next_of(&mut running).await?;
            }
            running.spawn(work(self.clone(), part));
        }
        while next_of(&mut running).await?.is_some() {}
        Ok(())
    }

    /// The same for a request without data.
    async fn each_range<F>(
        &self,
        command: CommandType,
        whole: (u64, u64),
        request: impl Fn(Client, u64, u64) -> F + Copy + Send + Sync + 'static,
    ) -> Result<(), HandleError>
    where
        F: Future<Output = Result<(), RequestError>> + Send,
    {
        self.each(command, whole, self.reach(), |this, part| async move {
            let len = part.end - part.start;
            this.run(|client| request(client, part.start, len)).await
        })
        .await
    }

    /// Reads any length that fits in memory, in as many requests as the server's limits require.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, HandleError> {
        self.inside(CommandType::READ, offset, len)?;
        let range = offset..offset.saturating_add(len);
        if (1..=self.payload()).contains(&len) {
            return self.read_part(range).await;
        }
        // Whatever size a server claims, reading it is an error and does not abort the program.
        let mut data = Vec::new();
        if data.try_reserve_exact(len as usize).is_err() {
            let reason = "there is not enough memory for a request of this size".to_owned();
            return Err(self.misuse(CommandType::READ, offset, len, reason));
        }
        let mut parts = self.parts(range, self.payload());
        let mut running = VecDeque::new();
        loop {
            while running.len() < DEPTH
                && let Some(part) = parts.next()
            {
                let this = self.clone();
                // In its own set, so that it ends with this future, and is awaited in turn.
                let mut read = JoinSet::new();
                read.spawn(async move { this.read_part(part).await });
                running.push_back(read);
            }
            let Some(mut first) = running.pop_front() else {
                return Ok(data);
            };
            data.extend(next_of(&mut first).await?.unwrap_or_default());
        }
    }

    /// Reads at most what one request may cover.
    async fn read_part(&self, part: Range<u64>) -> Result<Vec<u8>, HandleError> {
        let len = part.end - part.start;
        let read = |client: Client| async move { client.read(part.start, len).await };
        self.run(read).await
    }

    /// Writes any length, in as many requests as the server's limits require.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), HandleError> {
        let data = data.into();
        let whole = (offset, data.len() as u64);
        self.each(CommandType::WRITE, whole, self.payload(), |this, part| {
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
        let whole = (offset, len);
        self.each_range(
            CommandType::WRITE_ZEROES,
            whole,
            move |client, at, len| async move { client.write_zeroes(at, len, flags).await },
        )
        .await
    }

    /// Discards any length.
    pub async fn trim(&self, offset: u64, len: u64) -> Result<(), HandleError> {
        let whole = (offset, len);
        self.each_range(CommandType::TRIM, whole, |client, at, len| async move {
            client.trim(at, len).await
        })
        .await
    }

    /// Flushes everything written over any of the connections to stable storage.
    pub async fn flush(&self) -> Result<(), HandleError> {
        if !self.export().flags.contains(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        for (slot, kept) in self.inner.slots.iter().enumerate() {
            // A connection that was never used has nothing to flush.
            if kept.lock().await.client.is_some() {
                self.run_on(slot, |client| async move { client.flush().await }).await?;
            }
        }
        Ok(())
    }

    /// The status of a range in a selected context, as a stream that is fetched on demand.
    pub fn extents(&self, context: &str, range: Range<u64>) -> Extents {
        Extents::new(self.clone(), context, range)
    }

    /// Disconnects gracefully on each connection.
    pub async fn disconnect(self) {
        for kept in &self.inner.slots {
            if let Some(client) = kept.lock().await.client.take() {
                // Everything was answered; it does not matter whether the server disconnects
                // cleanly.
                let _ = client.disconnect().await;
            }
        }
    }
}

/// Whether a request may be sent again on another connection.
fn is_lost(error: &RequestError) -> bool {
    error.connection().is_some() || error.errno() == Some(Errno::ESHUTDOWN)
}

/// The end of the step that contains this offset.
pub(super) fn next_step(at: u64, step: u64) -> u64 {
    let end = at.saturating_add(1).checked_next_multiple_of(step);
    end.unwrap_or(u64::MAX)
}

/// The next task's result; `None` if there is none. A panic in it is resumed here.
pub(super) async fn next_of<T: 'static>(
    running: &mut JoinSet<Result<T, HandleError>>,
) -> Result<Option<T>, HandleError> {
    match running.join_next().await {
        None => Ok(None),
        Some(Ok(result)) => result.map(Some),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only runtime shutdown cancels it, and that ends us as well.
            Err(_) => std::future::pending().await,
        },
    }
}
