//! The server as a test holds it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::builder::ServerBuilder;
use super::clock::Clock;
use super::connection::{self, Connection};
use super::error::ServerError;
use super::journal::{Entry, Event, Journal};
use super::listener::{Listener, SocketFile};
use super::state::{Order, Orders, Shared};
use super::trigger::Trigger;
use super::wire::Socket;
use crate::proto::CommandType;
use crate::uri::{Address, Uri};

/// A server that runs. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listening: Option<Listening>,
    connections: Arc<AtomicU64>,
}

/// What a server has that listens.
#[derive(Debug)]
struct Listening {
    address: Address,
    file: Arc<SocketFile>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.send_replace(true);
        if let Some(listening) = &self.listening {
            listening.accepting.abort();
            listening.file.remove();
        }
    }
}

impl Server {
    /// Starts to prepare a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(super) fn new(shared: Arc<Shared>, listening: Option<(Listener, Orders)>) -> Server {
        let connections = Arc::new(AtomicU64::new(0));
        let listening = listening.map(|(listener, orders)| {
            let (address, file) = (listener.address().clone(), listener.socket_file());
            let run = listener.run(shared.clone(), connections.clone(), orders);
            Listening {
                address,
                file,
                accepting: tokio::spawn(run),
            }
        });
        Server {
            shared,
            listening,
            connections,
        }
    }

    /// What a client connects to: the first export. `None` for a detached server.
    pub fn uri(&self) -> Option<Uri> {
        let export = self
            .shared
            .exports
            .first()
            .map(|e| e.name.clone())
            .unwrap_or_default();
        Some(match self.listening.as_ref()?.address.clone() {
            Address::Tcp { host, port } => Uri::tcp(host, port, export),
            Address::Unix(path) => Uri::unix(path, export),
            address => Uri {
                tls: false,
                address,
                export,
                user: None,
                parameters: Vec::new(),
            },
        })
    }

    /// What happened so far.
    pub fn journal(&self) -> Arc<Journal> {
        self.shared.journal.clone()
    }

    /// A switch that rules name.
    pub fn trigger(&self, name: &str) -> Trigger {
        self.shared.triggers.get(name)
    }

    /// The clock of its delays.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Serves this connection, as if a client had connected.
    pub fn serve<S>(&self, stream: S) -> JoinHandle<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Connection::accepted(number, self.shared.clone());
        tokio::spawn(connection::serve(
            Socket::Other(Box::new(stream)),
            connection,
        ))
    }

    /// Stops listening. Connections stay. New clients are refused; a port stays reserved.
    pub async fn stop_listening(&self) -> Result<(), ServerError> {
        self.shared.order(Order::Stop).await;
        self.failures()
    }

    /// Listens again at the same address.
    pub async fn listen_again(&self) -> Result<(), ServerError> {
        self.shared.order(Order::Listen).await;
        self.failures()
    }

    /// What the server itself could not do.
    fn failures(&self) -> Result<(), ServerError> {
        let failed = |e: Entry| match e.event {
            Event::Failed { what, why } => Some(format!("{what}: {why}")),
            _ => None,
        };
        let failed: Vec<_> = self
            .shared
            .journal
            .entries()
            .into_iter()
            .filter_map(failed)
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(ServerError::Failed {
            address: self.uri().map(|uri| uri.to_string()).unwrap_or_default(),
            what: failed.join(", "),
        })
    }

    /// Waits until so many connections have reached the transmission phase.
    pub async fn expect_connections(&self, n: usize, within: Duration) -> Result<(), ServerError> {
        let begun = |e: &Entry| matches!(e.event, Event::Transmission { .. });
        self.expect(&format!("connection {n}"), within, n, begun)
            .await
    }

    /// Waits until a client that was here before is back: one more connection has reached the
    /// transmission phase than have ended after they had reached it.
    pub async fn expect_reconnect(&self, within: Duration) -> Result<(), ServerError> {
        self.expect("the end of a connection", within, 1, losses())
            .await?;
        let ended = self.shared.journal.count(losses());
        let begun = |e: &Entry| matches!(e.event, Event::Transmission { .. });
        self.expect("a reconnection", within, ended + 1, begun)
            .await
    }

    /// Waits until so many requests of a kind have come.
    pub async fn expect_requests(
        &self,
        command: CommandType,
        n: usize,
        within: Duration,
    ) -> Result<(), ServerError> {
        let wanted =
            |e: &Entry| matches!(&e.event, Event::Request { command: c, .. } if *c == command);
        self.expect(&format!("{n} requests to {command}"), within, n, wanted)
            .await
    }

    async fn expect(
        &self,
        what: &str,
        within: Duration,
        n: usize,
        matches: impl FnMut(&Entry) -> bool,
    ) -> Result<(), ServerError> {
        let seen = tokio::time::timeout(within, self.shared.journal.wait_for(n, matches)).await;
        seen.map_err(|_| ServerError::Missing {
            what: what.to_owned(),
            after: within,
        })
    }

    /// Rules that should have fired and have not yet.
    pub fn unfired(&self) -> Vec<String> {
        self.shared.unfired()
    }

    /// Ends the server. That a rule never fired, or fired in vain, is an error.
    pub async fn finish(mut self) -> Result<Arc<Journal>, ServerError> {
        self.shared.over.send_replace(true);
        if let Some(listening) = &mut self.listening {
            // It ends by itself, and takes its connections with it.
            let _ = (&mut listening.accepting).await;
        }
        self.shared.deserted().await;
        self.failures()?;
        let misfits = self
            .shared
            .journal
            .entries()
            .into_iter()
            .filter_map(|e| match e.event {
                Event::Misfit { rule, action } => Some(format!("{rule}: {action}")),
                _ => None,
            });
        let misfits: Vec<String> = misfits.collect();
        if !misfits.is_empty() {
            return Err(ServerError::Misfit(misfits));
        }
        let unfired = self.shared.unfired();
        if !unfired.is_empty() {
            return Err(ServerError::Unfired(unfired));
        }
        Ok(self.shared.journal.clone())
    }
}

/// The end of a connection that had reached the transmission phase. For one pass over a journal.
fn losses() -> impl FnMut(&Entry) -> bool {
    let mut begun = HashSet::new();
    move |entry| match entry.event {
        Event::Transmission { .. } => {
            begun.insert(entry.connection);
            false
        }
        Event::Closed(_) => begun.contains(&entry.connection),
        _ => false,
    }
}
