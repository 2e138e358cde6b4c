//! What to negotiate, and how strict to be.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::connection::Client;
use super::error::{ConnectError, HandshakeError};
use super::negotiation::Negotiation;
use super::transport::{self, Stream};
use crate::proto::{Checks, Mode, limits};
use crate::uri::{Address, Uri};

/// Parts of the negotiation that can be forced or forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Newstyle at all; forbidding it demands an oldstyle server.
    Newstyle,
    /// Fixed newstyle; without it only `EXPORT_NAME` is left.
    FixedNewstyle,
    /// Leaving out the 124 zeroes after `EXPORT_NAME`.
    NoZeroes,
    /// Structured replies.
    StructuredReplies,
    /// Extended headers.
    ExtendedHeaders,
    /// `GO`; without it `EXPORT_NAME` starts transmission.
    Go,
    /// Asking for block sizes, name and description in `GO`.
    Info,
    /// Metadata contexts; required means that each one asked for must be there.
    MetaContexts,
}

/// What to do about a [`Feature`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Use it if the server has it.
    #[default]
    Auto,
    /// Fail without it.
    Require,
    /// Do not even ask.
    Forbid,
}

bitflags::bitflags! {
    /// Rules for our own requests. Switch one off to send what the server must refuse.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RequestChecks: u32 {
        /// Commands that the export does not advertise.
        const COMMANDS = 1 << 0;
        /// Flags that the export does not advertise or the command does not have.
        const FLAGS = 1 << 1;
        /// Ranges beyond the end of the export.
        const BOUNDS = 1 << 2;
        /// Requests of zero bytes.
        const ZERO_SIZE = 1 << 3;
        /// Requests that are not multiples of the minimum block size.
        const ALIGN = 1 << 4;
        /// Payloads above the server's maximum.
        const PAYLOAD = 1 << 5;
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the socket to open.
    pub connect: Duration,
    /// For the whole negotiation.
    pub handshake: Duration,
    /// For one request: for room in the window, and for its reply.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        // Generous, because a loaded machine is slow; a dead peer shows as a closed socket.
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(30));
        Deadlines {
            connect: short,
            handshake: short,
            request: long,
        }
    }
}

/// Prepares a [`Client`].
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use nbd::{Client, proto::Mode};
/// let client = Client::builder()
///     .export("disk")
///     .context("base:allocation")
///     .mode(Mode::Structured)
///     .connect_unix("/run/nbd.sock")
///     .await?;
/// let data = client.read(0, 4096).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) export: String,
    pub(super) contexts: Vec<String>,
    policies: HashMap<Feature, Policy>,
    pub(super) deadlines: Deadlines,
    pub(super) checks: Checks,
    pub(super) request_checks: RequestChecks,
    pub(super) window: usize,
    pub(super) max_payload: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            export: String::new(),
            contexts: Vec::new(),
            policies: HashMap::new(),
            deadlines: Deadlines::default(),
            checks: Checks::all(),
            request_checks: RequestChecks::all(),
            window: 64,
            max_payload: limits::MAX_PAYLOAD,
        }
    }
}

impl Builder {
    /// Name of the export; empty is the default export.
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.export = name.into();
        self
    }

    /// Asks for a metadata context by its full name. Can be repeated. Which contexts there are, and
    /// all of a namespace (`qemu:`), only [`Negotiation::list_contexts`] can tell.
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.contexts.push(name.into());
        self
    }

    /// Asks for several metadata contexts.
    pub fn contexts<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.contexts.extend(names.into_iter().map(Into::into));
        self
    }

    /// Fails without this feature.
    pub fn require(mut self, feature: Feature) -> Self {
        self.policies.insert(feature, Policy::Require);
        self
    }

    /// Does not use this feature.
    pub fn forbid(mut self, feature: Feature) -> Self {
        self.policies.insert(feature, Policy::Forbid);
        self
    }

    /// Exactly this mode, or an error.
    pub fn mode(mut self, mode: Mode) -> Self {
        use Feature::{ExtendedHeaders, FixedNewstyle, Newstyle, StructuredReplies};
        let ladder = [
            (Newstyle, Mode::ExportName),
            (FixedNewstyle, Mode::Simple),
            (StructuredReplies, Mode::Structured),
            (ExtendedHeaders, Mode::Extended),
        ];
        for (feature, first) in ladder {
            // Extended headers replace structured replies, so these need not be there for them.
            let policy = match (feature, mode) {
                (StructuredReplies, Mode::Extended) => Policy::Auto,
                _ if mode >= first => Policy::Require,
                _ => Policy::Forbid,
            };
            self.policies.insert(feature, policy);
        }
        self
    }

    /// Deadlines of all phases.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Which rules for replies to enforce (all, unless said otherwise).
    pub fn checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }

    /// Stops enforcing some rules for replies.
    pub fn tolerate(mut self, checks: Checks) -> Self {
        self.checks -= checks;
        self
    }

    /// Stops enforcing some rules for our own requests.
    pub fn provoke(mut self, checks: RequestChecks) -> Self {
        self.request_checks -= checks;
        self
    }

    /// Most requests under way at once (64 unless said otherwise, at least 1). One whose caller has
    /// given up is under way until its reply has come.
    pub fn window(mut self, requests: usize) -> Self {
        self.window = requests.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Largest payload in bytes that is sent or accepted (32 MiB unless said otherwise).
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    pub(super) fn policy(&self, feature: Feature) -> Policy {
        self.policies.get(&feature).copied().unwrap_or_default()
    }

    pub(super) fn wants(&self, feature: Feature) -> bool {
        self.policy(feature) != Policy::Forbid
    }

    pub(super) fn requires(&self, feature: Feature) -> bool {
        self.policy(feature) == Policy::Require
    }

    /// Connects to a unix socket.
    pub async fn connect_unix(&self, path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        self.connect(&Address::Unix(path.as_ref().to_owned())).await
    }

    /// Connects over TCP.
    pub async fn connect_tcp(&self, host: &str, port: u16) -> Result<Client, ConnectError> {
        self.connect(&Address::Tcp {
            host: host.to_owned(),
            port,
        })
        .await
    }

    /// Connects to an address.
    pub async fn connect(&self, address: &Address) -> Result<Client, ConnectError> {
        let (stream, address) = transport::open(address, self.deadlines.connect).await?;
        self.over(stream, address).await
    }

    /// Connects to a URI, whose export is used instead of [`Builder::export`].
    pub async fn connect_uri(&self, uri: &Uri) -> Result<Client, ConnectError> {
        if uri.tls {
            return Err(ConnectError::Tls(uri.to_string()));
        }
        self.clone().export(&uri.export).connect(&uri.address).await
    }

    /// Takes a connected socket (unix or TCP), such as one end of a socketpair.
    pub async fn connect_fd(&self, fd: OwnedFd) -> Result<Client, ConnectError> {
        let stream = transport::from_fd(fd)?;
        self.over(stream, "socket".into()).await
    }

    /// Takes any stream of bytes.
    pub async fn connect_stream<S>(&self, stream: S) -> Result<Client, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.over(Stream::new(stream), "stream".into()).await
    }

    async fn over(&self, stream: Stream, address: String) -> Result<Client, ConnectError> {
        let wrap = |source| ConnectError::Handshake {
            address: address.clone(),
            source,
        };
        let negotiation = Negotiation::start(stream, self.clone())
            .await
            .map_err(wrap)?;
        negotiation.go().await.map_err(wrap)
    }

    /// Opens a connection and stops before an export is chosen.
    pub async fn negotiate(&self, address: &Address) -> Result<Negotiation, ConnectError> {
        let (stream, address) = transport::open(address, self.deadlines.connect).await?;
        Negotiation::start(stream, self.clone())
            .await
            .map_err(|source| ConnectError::Handshake { address, source })
    }

    /// Like [`Builder::negotiate`], over any stream.
    pub async fn negotiate_stream<S>(&self, stream: S) -> Result<Negotiation, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Negotiation::start(Stream::new(stream), self.clone()).await
    }
}
