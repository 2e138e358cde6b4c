//! The owner's handle of a running server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::builder::ServerBuilder;
use super::connection::{self, Connection};
use super::error::ServerError;
use super::export::Export;
use super::listener::{self, Listener};
use super::state::{Order, Orders, Shared};
use crate::socket::Socket;
use crate::unix::SocketFile;
use crate::uri::{Address, Uri};

/// What a server leaves behind: with the feature `faults`, the journal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    #[cfg(feature = "faults")]
    journal: Arc<super::faults::journal::Journal>,
}

#[cfg(feature = "faults")]
impl std::ops::Deref for Report {
    type Target = super::faults::journal::Journal;

    fn deref(&self) -> &Self::Target {
        &self.journal
    }
}

/// A running server. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Server {
    pub(super) shared: Arc<Shared>,
    listening: Option<Listening>,
    connections: Arc<AtomicU64>,
}

/// The listening part of a server.
#[derive(Debug)]
struct Listening {
    addresses: Vec<Address>,
    files: Vec<Arc<SocketFile>>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.send_replace(true);
        #[cfg(feature = "faults")]
        if let Some(faults) = &self.shared.faults {
            faults.journal.end();
        }
        for file in self.listening.iter().flat_map(|l| &l.files) {
            file.remove();
        }
    }
}

impl Server {
    /// Starts building a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(super) fn new(shared: Arc<Shared>, listening: Option<(Vec<Listener>, Orders)>) -> Server {
        let connections = Arc::new(AtomicU64::new(0));
        let listening = listening.map(|(listeners, orders)| {
            let addresses = listeners.iter().map(|l| l.address().clone()).collect();
            let files = listeners.iter().map(Listener::socket_file).collect();
            let run = listener::run(listeners, shared.clone(), connections.clone(), orders);
            Listening {
                addresses,
                files,
                accepting: tokio::spawn(run),
            }
        });
        Server {
            shared,
            listening,
            connections,
        }
    }

    /// Where it listens, with actual ports. Empty for a detached server.
    pub fn addresses(&self) -> &[Address] {
        self.listening.as_ref().map_or(&[], |l| &l.addresses)
    }

    /// What a client connects to: the first export at the first address. `None` for a detached
    /// server.
    pub fn uri(&self) -> Option<Uri> {
        let address = self.addresses().first()?.clone();
        let mut uri = Uri::at(address, self.shared.exports.first_name());
        uri.tls = self.shared.config.tls == crate::proto::server::TlsPolicy::Required;
        Some(uri)
    }

    /// Adds an export, or replaces the one of the same name; connected clients keep theirs.
    pub fn add_export(&self, export: Export) {
        self.shared.exports.add(export);
    }

    /// Removes an export; connected clients keep using it. `false` if there is none.
    pub fn remove_export(&self, name: &str) -> bool {
        self.shared.exports.remove(name)
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        *self.shared.connected.borrow()
    }

    /// Serves this connection, as if a client had connected.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve<S>(&self, stream: S) -> JoinHandle<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Connection::accepted(number, self.shared.clone());
        let socket = Socket::other(stream);
        tokio::spawn(connection::serve(Some(socket), connection))
    }

    /// Stops listening. Connections stay open. New clients are refused; a port stays reserved.
    pub async fn stop_listening(&self) -> Result<(), ServerError> {
        self.order(Order::Stop, "stop listening").await
    }

    /// Listens again at the same address.
    pub async fn listen_again(&self) -> Result<(), ServerError> {
        self.order(Order::Listen, "listen again").await
    }

    async fn order(&self, order: Order, what: &'static str) -> Result<(), ServerError> {
        let wrap = |source| ServerError::Socket {
            address: self.addresses().first().cloned().unwrap_or_else(Address::unknown),
            what,
            source,
        };
        self.shared.order(order).await.map_err(wrap)
    }

    /// Shuts the server down, and waits until requests in flight have finished: afterwards no
    /// backend is used any more.
    ///
    /// # Errors
    /// [`ServerError::Failed`] for what the server failed to do while it ran, unless a retry
    /// succeeded; with the feature `faults` also for a rule of the fault plan that never fired, or
    /// did not apply.
    pub async fn finish(mut self) -> Result<Report, ServerError> {
        self.shared.over.send_replace(true);
        if let Some(listening) = &mut self.listening {
            // It ends by itself, and its connections with it.
            let _ = (&mut listening.accepting).await;
        }
        self.shared.deserted().await;
        self.report()
    }

    fn report(&self) -> Result<Report, ServerError> {
        none_of(self.shared.failures().clone(), ServerError::Failed)?;
        #[cfg(feature = "faults")]
        if let Some(faults) = &self.shared.faults {
            none_of(faults.inapplicable_rules(), ServerError::Inapplicable)?;
            none_of(faults.unfired(), ServerError::Unfired)?;
        }
        Ok(Report {
            #[cfg(feature = "faults")]
            journal: self.journal(),
        })
    }
}

fn none_of(list: Vec<String>, error: fn(Vec<String>) -> ServerError) -> Result<(), ServerError> {
    match list.is_empty() {
        true => Ok(()),
        false => Err(error(list)),
    }
}
