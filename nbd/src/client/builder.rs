//! What to negotiate, how strict to be, how long to wait.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Client;
use super::error::ConnectError;
use super::negotiation::Negotiation;
use super::transport;
use crate::proto::client::{Config, Feature, HandshakeError, Policy, StrictMode};
use crate::proto::{Checks, Mode};
use crate::socket::Socket;
use crate::uri::{Address, Uri};

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the socket to open.
    pub connect: Duration,
    /// For the whole negotiation, TLS included.
    pub handshake: Duration,
    /// For one request: waiting for a free slot, and for its reply.
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
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    pub(super) config: Config,
    pub(super) deadlines: Deadlines,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::tls::ClientTls>,
}

impl ClientBuilder {
    /// Name of the export; empty is the default export.
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.config.export = name.into();
        self
    }

    /// Requests a metadata context by its full name. Can be repeated.
    /// [`Negotiation::list_contexts`] lists the available contexts, or those of a namespace
    /// (`qemu:`).
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.config.contexts.push(name.into());
        self
    }

    /// Requests several metadata contexts.
    pub fn contexts<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.config.contexts.extend(names);
        self
    }

    /// Fails without this feature.
    pub fn require(self, feature: Feature) -> Self {
        self.policy(feature, Policy::Require)
    }

    /// Does not use this feature.
    pub fn forbid(self, feature: Feature) -> Self {
        self.policy(feature, Policy::Forbid)
    }

    /// What to do about a feature.
    pub fn policy(mut self, feature: Feature, policy: Policy) -> Self {
        self.config.policies.insert(feature, policy);
        self
    }

    /// Exactly this mode, or an error.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.config.set_mode(mode);
        self
    }

    /// Requires TLS with these credentials.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::ClientTls) -> Self {
        self.tls = Some(tls);
        self.require(Feature::Tls)
    }

    /// Deadlines of all phases.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Which rules for replies to enforce (default: all).
    pub fn checks(mut self, checks: Checks) -> Self {
        self.config.checks = checks;
        self
    }

    /// Stops enforcing some rules for replies.
    pub fn tolerate(mut self, checks: Checks) -> Self {
        self.config.checks -= checks;
        self
    }

    /// Which rules for our own requests to enforce (default: all).
    pub fn strict(mut self, rules: StrictMode) -> Self {
        self.config.strict = rules;
        self
    }

    /// Stops enforcing some rules for our own requests, to send what a server must refuse.
    pub fn not_strict(mut self, rules: StrictMode) -> Self {
        self.config.strict -= rules;
        self
    }

    /// Maximum number of requests in flight (default 64, at least 1). An abandoned request counts
    /// until its reply arrives.
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.config.in_flight = requests.max(1);
        self
    }

    /// Largest payload in bytes that is sent or accepted (default 32 MiB).
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// Connects to a unix socket.
    pub async fn connect_unix(&self, path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        self.connect(&Address::Unix(path.as_ref().to_owned())).await
    }

    /// Connects over TCP.
    pub async fn connect_tcp(&self, host: &str, port: u16) -> Result<Client, ConnectError> {
        let host = host.to_owned();
        self.connect(&Address::Tcp { host, port }).await
    }

    /// Connects to an address.
    pub async fn connect(&self, address: &Address) -> Result<Client, ConnectError> {
        let socket = transport::open(address, self.deadlines.connect).await?;
        self.over(socket, &address.to_string()).await
    }

    /// Connects to a URI, whose export is used instead of [`ClientBuilder::export`]. An `nbds…` URI
    /// requires TLS, with the credentials in its parameters unless `tls` sets others.
    pub async fn connect_uri(&self, uri: &Uri) -> Result<Client, ConnectError> {
        self.for_uri(uri)?.connect(&uri.address).await
    }

    /// This builder with the settings from a URI.
    pub(super) fn for_uri(&self, uri: &Uri) -> Result<ClientBuilder, ConnectError> {
        let mut this = self.clone().export(&uri.export);
        if !uri.tls {
            return Ok(this);
        }
        this = this.require(Feature::Tls);
        #[cfg(feature = "tls")]
        if this.tls.is_none() {
            let tls = crate::tls::ClientTls::from_uri(uri);
            this.tls = Some(tls.map_err(|source| ConnectError::Tls {
                peer: uri.to_string(),
                source,
            })?);
        }
        Ok(this)
    }

    /// Takes a connected socket (unix or TCP), such as one end of a socketpair.
    pub async fn connect_fd(&self, fd: OwnedFd) -> Result<Client, ConnectError> {
        let socket = transport::from_fd(fd)?;
        self.over(socket, "a socket").await
    }

    /// Takes any stream of bytes.
    pub async fn connect_stream<S>(&self, stream: S) -> Result<Client, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.over(Socket::other(stream), "a stream").await
    }

    async fn over(&self, socket: Socket, peer: &str) -> Result<Client, ConnectError> {
        let wrap = |source| self.failed(peer, source);
        let negotiation = self.begin(socket, peer).await.map_err(wrap)?;
        negotiation.go().await.map_err(wrap)
    }

    pub(super) fn failed(&self, peer: &str, source: HandshakeError) -> ConnectError {
        ConnectError::Handshake {
            peer: peer.to_owned(),
            export: self.config.export.clone(),
            source,
        }
    }

    async fn begin(&self, socket: Socket, peer: &str) -> Result<Negotiation, HandshakeError> {
        let mut this = self.clone();
        this.config.peer = peer.into();
        Negotiation::start(socket, this).await
    }

    /// Opens a connection and stops before an export is chosen.
    pub async fn negotiate(&self, address: &Address) -> Result<Negotiation, ConnectError> {
        let socket = transport::open(address, self.deadlines.connect).await?;
        let peer = address.to_string();
        let begun = self.begin(socket, &peer).await;
        begun.map_err(|source| self.failed(&peer, source))
    }

    /// Like [`ClientBuilder::negotiate`], to the server of a URI.
    pub async fn negotiate_uri(&self, uri: &Uri) -> Result<Negotiation, ConnectError> {
        self.for_uri(uri)?.negotiate(&uri.address).await
    }

    /// Like [`ClientBuilder::negotiate`], over any stream.
    pub async fn negotiate_stream<S>(&self, stream: S) -> Result<Negotiation, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.begin(Socket::other(stream), "a stream").await
    }
}
