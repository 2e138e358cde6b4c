//! Configuring a server.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::error::ServerError;
use super::export::{Export, Exports};
#[cfg(feature = "faults")]
use super::faults::{
    clock::Clock,
    journal::{self, Journal},
    plan::{Engine, FaultPlan},
    shadow::WriteShadow,
};
use super::handle::Server;
use super::listener::{Listener, ListeningSocket};
use super::state::{Note, Orders, Shared};
use crate::proto::Mode;
use crate::proto::server::Config;
use crate::uri::Address;

/// How long a client may take to choose an export.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// Prepares a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    exports: Vec<Export>,
    config: Config,
    max_connections: usize,
    /// `None` means the default.
    handshake_limit: Option<Option<Duration>>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::ServerTls>,
    #[cfg(feature = "faults")]
    plan: FaultPlan,
    #[cfg(feature = "faults")]
    journal_limit: usize,
    #[cfg(feature = "faults")]
    clock: Clock,
    #[cfg(feature = "faults")]
    shadow: Option<WriteShadow>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        ServerBuilder {
            exports: Vec::new(),
            config: Config::default(),
            max_connections: usize::MAX,
            handshake_limit: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "faults")]
            plan: FaultPlan::new(),
            #[cfg(feature = "faults")]
            journal_limit: journal::LIMIT,
            #[cfg(feature = "faults")]
            clock: Clock::real(),
            #[cfg(feature = "faults")]
            shadow: None,
        }
    }
}

impl ServerBuilder {
    /// Adds an export; the first one is what an oldstyle client gets. Duplicate names are an error
    /// when the server is started ([`ServerError::SameName`]).
    pub fn export(mut self, export: Export) -> Self {
        self.exports.push(export);
        self
    }

    /// The most capable mode that it offers (default: extended).
    pub fn mode(mut self, mode: Mode) -> Self {
        self.config.mode = mode;
        self
    }

    /// Does not offer to leave out the zeroes after `EXPORT_NAME`.
    pub fn with_zeroes(mut self) -> Self {
        self.config.no_zeroes = false;
        self
    }

    /// Largest payload in bytes, and the memory limit per connection (default 32 MiB).
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.config.max_payload = bytes;
        self
    }

    /// Most requests of a connection carried out at once (default 16, at least 1).
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.config.in_flight = requests.max(1);
        self
    }

    /// Maximum number of connections; further clients wait to be accepted. Those passed to
    /// [`Server::serve`] do not count.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// How long a client may take to choose an export, TLS included; after that it is disconnected
    /// (default 30 seconds; with a fault plan, which may delay messages, no limit). `None` means no
    /// limit.
    pub fn handshake_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.handshake_limit = Some(limit.into());
        self
    }

    /// Offers TLS, or requires it.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::ServerTls) -> Self {
        self.config.tls = tls.policy();
        self.tls = Some(tls);
        self
    }

    /// How it misbehaves.
    #[cfg(feature = "faults")]
    pub fn plan(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// How many entries its journal keeps, the newest ones (default 65,536). 0 disables it.
    #[cfg(feature = "faults")]
    pub fn journal_limit(mut self, entries: usize) -> Self {
        self.journal_limit = entries;
        self
    }

    /// The clock for delays (default: real time).
    #[cfg(feature = "faults")]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Records writes.
    #[cfg(feature = "faults")]
    pub fn shadow(mut self, shadow: WriteShadow) -> Self {
        self.shadow = Some(shadow);
        self
    }

    /// Listens on a unix socket, which must not exist yet and is removed at the end.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen_unix(self, path: impl Into<PathBuf>) -> Result<Server, ServerError> {
        self.listen(Address::Unix(path.into()))
    }

    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen_tcp(self) -> Result<Server, ServerError> {
        self.listen(Address::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        })
    }

    /// Listens on an address; port 0 means any free port.
    ///
    /// # Errors
    /// As every method that starts a server: [`ServerError::Listen`], with the address, and
    /// [`ServerError::SameName`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen(self, address: Address) -> Result<Server, ServerError> {
        self.listen_all([address])
    }

    /// Listens on several addresses.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen_all(
        self,
        addresses: impl IntoIterator<Item = Address>,
    ) -> Result<Server, ServerError> {
        self.check()?;
        let open = |address: Address| {
            Listener::new(&address).map_err(|source| ServerError::Listen { address, source })
        };
        let listeners = addresses.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(self.start(listeners))
    }

    /// Takes a listening socket of the standard library.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn from_listener(
        self,
        listener: impl Into<ListeningSocket>,
    ) -> Result<Server, ServerError> {
        self.check()?;
        let listener = Listener::adopt(listener.into())?;
        Ok(self.start(vec![listener]))
    }

    /// Takes the sockets that systemd, or a compatible service manager, has passed to this process
    /// (`LISTEN_FDS`).
    ///
    /// # Errors
    /// When there are none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn from_activation(self) -> Result<Server, ServerError> {
        self.check()?;
        let sockets = super::listener::activated()?;
        let listeners = sockets.into_iter().map(Listener::adopt).collect::<Result<_, _>>()?;
        Ok(self.start(listeners))
    }

    /// Does not listen; connections are passed to [`Server::serve`].
    pub fn detached(self) -> Result<Server, ServerError> {
        self.check()?;
        // Without a listener nothing receives orders.
        let (shared, _) = self.build();
        Ok(Server::new(shared, None))
    }

    /// Serves one connection to its end, and nothing else.
    pub async fn serve_stream<S>(self, stream: S) -> Result<(), ServerError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let server = self.detached()?;
        // It ends with the connection; a panic in it is not propagated.
        let _ = server.serve(stream).await;
        server.finish().await.map(drop)
    }

    /// Checks the configuration.
    fn check(&self) -> Result<(), ServerError> {
        let mut names = HashSet::new();
        let twice = self.exports.iter().find(|e| !names.insert(e.called()));
        match twice {
            Some(export) => Err(ServerError::SameName {
                name: export.called().to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn start(self, listeners: Vec<Listener>) -> Server {
        let (shared, orders) = self.build();
        shared.note(0, Note::Listening);
        Server::new(shared, Some((listeners, orders)))
    }

    pub(super) fn build(self) -> (Arc<Shared>, Orders) {
        let (orders, taken) = mpsc::unbounded_channel();
        #[cfg(feature = "faults")]
        let patient = !self.plan.rules.is_empty();
        #[cfg(not(feature = "faults"))]
        let patient = false;
        let default = (!patient).then_some(HANDSHAKE_LIMIT);
        #[cfg(feature = "faults")]
        let faults = {
            let needed =
                !self.plan.rules.is_empty() || self.journal_limit > 0 || self.shadow.is_some();
            needed.then(|| {
                Arc::new(super::FaultState::new(
                    Engine::new(self.plan),
                    Journal::new(self.journal_limit),
                    self.clock,
                    self.shadow,
                ))
            })
        };
        #[cfg(not(feature = "faults"))]
        let faults = None;
        let shared = Shared {
            config: self.config,
            exports: Arc::new(Exports::new(self.exports)),
            faults,
            max_connections: self.max_connections,
            handshake_limit: self.handshake_limit.unwrap_or(default),
            #[cfg(feature = "tls")]
            tls: self.tls.map(|tls| tls.config()),
            orders,
            failures: Mutex::default(),
            connected: watch::Sender::new(0),
            over: watch::Sender::new(false),
        };
        (Arc::new(shared), taken)
    }
}
