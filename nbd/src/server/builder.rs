//! What a server is made of.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::clock::Clock;
use super::error::ServerError;
use super::export::Export;
use super::handle::Server;
use super::journal::Event;
use super::listener::Listener;
use super::plan::{Engine, FaultPlan};
use super::shadow::WriteShadow;
use super::state::{Orders, Parts, Shared};
use crate::proto::{Mode, limits};
use crate::uri::Address;

/// Prepares a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    exports: Vec<Export>,
    mode: Mode,
    no_zeroes: bool,
    max_payload: u64,
    plan: FaultPlan,
    clock: Clock,
    shadow: Option<WriteShadow>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        ServerBuilder {
            exports: Vec::new(),
            mode: Mode::Extended,
            no_zeroes: true,
            max_payload: limits::MAX_PAYLOAD,
            plan: FaultPlan::new(),
            clock: Clock::real(),
            shadow: None,
        }
    }
}

impl ServerBuilder {
    /// Adds an export.
    pub fn export(mut self, export: Export) -> Self {
        self.exports.push(export);
        self
    }

    /// The richest mode that it speaks (extended, unless said otherwise).
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Does not offer to leave out the zeroes after `EXPORT_NAME`.
    pub fn with_zeroes(mut self) -> Self {
        self.no_zeroes = false;
        self
    }

    /// Largest payload in bytes (32 MiB unless said otherwise).
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// How it misbehaves.
    pub fn plan(mut self, plan: FaultPlan) -> Self {
        self.plan = plan;
        self
    }

    /// The time of delays (real, unless said otherwise).
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Has writes noted.
    pub fn shadow(mut self, shadow: WriteShadow) -> Self {
        self.shadow = Some(shadow);
        self
    }

    /// Listens on a unix socket, which must not exist yet and is removed at the end.
    pub fn listen_unix(self, path: impl Into<PathBuf>) -> Result<Server, ServerError> {
        self.listen(Address::Unix(path.into()))
    }

    /// Listens on a free port of 127.0.0.1.
    pub fn listen_tcp(self) -> Result<Server, ServerError> {
        self.listen(Address::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        })
    }

    /// Listens nowhere; [`Server::serve`] hands connections over.
    pub fn detached(self) -> Server {
        // Where nobody listens, nobody takes orders.
        let (shared, _) = self.build();
        Server::new(shared, None)
    }

    pub(super) fn build(self) -> (Arc<Shared>, Orders) {
        let (orders, taken) = mpsc::unbounded_channel();
        let shared = Shared::new(Parts {
            exports: self.exports,
            mode: self.mode,
            no_zeroes: self.no_zeroes,
            max_payload: self.max_payload,
            engine: Engine::new(self.plan),
            clock: self.clock,
            shadow: self.shadow,
            orders,
        });
        (Arc::new(shared), taken)
    }

    fn listen(self, address: Address) -> Result<Server, ServerError> {
        let wrap = |source| ServerError::Listen {
            address: format!("{address:?}"),
            source,
        };
        let listener = Listener::new(&address).map_err(wrap)?;
        let (shared, orders) = self.build();
        shared.note(0, Event::Listening);
        Ok(Server::new(shared, Some((listener, orders))))
    }
}
