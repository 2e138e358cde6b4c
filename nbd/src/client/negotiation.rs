//! Driving a handshake, and queries before an export is chosen.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::builder::ClientBuilder;
use super::connection::Client;
use crate::proto::client::{Context, Event, ExportInfo, Handshake, HandshakeError};
use crate::proto::{Mode, OptionReply, OptionRequest};
use crate::socket::Socket;

/// Practically infinite, yet short enough to be added to an `Instant`.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A connection in the option phase.
///
/// Usually [`ClientBuilder::connect`] is the way to go; this is for listing and for tests of the
/// negotiation.
pub struct Negotiation {
    socket: Socket,
    machine: Handshake,
    builder: ClientBuilder,
    deadline: Instant,
}

impl std::fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Negotiation");
        f.field("mode", &self.machine.mode())
            .field("selected", &self.machine.selected())
            .finish_non_exhaustive()
    }
}

impl Negotiation {
    /// Negotiates up to the caller's first choice.
    pub(super) async fn start(
        socket: Socket,
        builder: ClientBuilder,
    ) -> Result<Self, HandshakeError> {
        let mut this = Negotiation {
            socket,
            machine: Handshake::new(builder.config.clone()),
            deadline: Instant::now() + builder.deadlines.handshake.min(FOREVER),
            builder,
        };
        this.event().await?;
        Ok(this)
    }

    /// Moves bytes until there is an event.
    async fn event(&mut self) -> Result<Event, HandshakeError> {
        loop {
            self.flush().await?;
            match self.machine.event()? {
                Some(Event::StartTls) => self.start_tls().await?,
                Some(event) => return Ok(event),
                None => {
                    let reading = self.socket.read(self.machine.space());
                    match tokio::time::timeout_at(self.deadline, reading).await {
                        Ok(Ok(0)) => self.machine.end_of_stream(),
                        Ok(Ok(n)) => self.machine.filled(n),
                        Ok(Err(error)) => self.machine.io_failed(error),
                        Err(_) => self.machine.timed_out(self.builder.deadlines.handshake),
                    }
                }
            }
        }
    }

    async fn flush(&mut self) -> Result<(), HandshakeError> {
        let bytes = self.machine.transmit();
        if bytes.is_empty() {
            return Ok(());
        }
        let sending = async {
            self.socket.write_all(&bytes).await?;
            self.socket.flush().await
        };
        match tokio::time::timeout_at(self.deadline, sending).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => self.machine.io_failed(error),
            Err(_) => self.machine.timed_out(self.builder.deadlines.handshake),
        }
        self.machine.event().map(drop)
    }

    #[cfg(feature = "tls")]
    async fn start_tls(&mut self) -> Result<(), HandshakeError> {
        let (ours, _) = tokio::io::duplex(1);
        let plain = std::mem::replace(&mut self.socket, Socket::other(ours));
        let Some(tls) = &self.builder.tls else {
            return Err(HandshakeError::Feature {
                feature: super::Feature::Tls,
                detail: "there are no credentials for it",
            });
        };
        match tokio::time::timeout_at(self.deadline, tls.connect(plain)).await {
            Ok(Ok(stream)) => {
                self.socket = stream;
                self.machine.tls_started();
            }
            Ok(Err(error)) => self.machine.io_failed(error),
            Err(_) => self.machine.timed_out(self.builder.deadlines.handshake),
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    async fn start_tls(&mut self) -> Result<(), HandshakeError> {
        Err(HandshakeError::Feature {
            feature: super::Feature::Tls,
            detail: "this program is built without it (the feature `tls`)",
        })
    }

    /// What has been agreed on so far.
    pub fn mode(&self) -> Mode {
        self.machine.mode()
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.machine.is_tls()
    }

    /// Like [`Negotiation::go`], for this export instead of the builder's.
    pub async fn go_to(mut self, export: impl Into<String>) -> Result<Client, HandshakeError> {
        self.builder.config.export = export.into();
        self.go().await
    }

    /// Chooses the builder's export and starts transmission.
    pub async fn go(mut self) -> Result<Client, HandshakeError> {
        self.machine.go(&self.builder.config.export)?;
        self.event().await?;
        let machine = self.machine.into_transmission()?;
        Ok(Client::start(
            self.socket,
            machine,
            &self.builder.config.peer,
            self.builder.deadlines,
        ))
    }

    /// Ends the session with `ABORT`.
    pub async fn abort(mut self) -> Result<(), HandshakeError> {
        if self.mode() < Mode::Simple {
            return Ok(());
        }
        match self.option(&OptionRequest::Abort).await {
            // Servers may close at once (proto.md, `NBD_OPT_ABORT`).
            Ok(_) | Err(HandshakeError::Closed { .. } | HandshakeError::Io { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends raw bytes, to see how the server reacts.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.machine.send_raw(bytes);
        self.flush().await
    }

    /// Sends an option and collects every reply up to the final one, which is dropped if it is
    /// `ACK` and returned as [`HandshakeError::Refused`] if it is an error.
    pub async fn option(
        &mut self,
        option: &OptionRequest,
    ) -> Result<Vec<OptionReply>, HandshakeError> {
        self.machine.option(option)?;
        loop {
            if let Event::Answer(answer) = self.event().await? {
                return answer;
            }
        }
    }

    /// Names and descriptions of the exports (`LIST`).
    pub async fn list(&mut self) -> Result<Vec<(String, String)>, HandshakeError> {
        let replies = self.option(&OptionRequest::List).await?;
        Handshake::exports_of(replies)
    }

    /// The server's description of an export, without choosing it (`INFO`).
    pub async fn info(&mut self, export: &str) -> Result<ExportInfo, HandshakeError> {
        let option = self.machine.info_option(export);
        let replies = self.option(&option).await?;
        self.machine.info_of(export, replies)
    }

    /// Contexts that match the queries; no query means all (`LIST_META_CONTEXT`).
    pub async fn list_contexts(
        &mut self,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<String>, HandshakeError> {
        let option = Handshake::list_contexts_option(export, queries);
        let replies = self.option(&option).await?;
        let found = Handshake::contexts_of(&option, replies)?;
        Ok(found.into_iter().map(|context| context.name).collect())
    }

    /// Selects contexts for the transmission phase (`SET_META_CONTEXT`), replacing those selected
    /// before. [`Negotiation::go`] selects the builder's own, if it has any.
    pub async fn set_contexts(
        &mut self,
        export: &str,
        queries: &[impl AsRef<str>],
    ) -> Result<Vec<Context>, HandshakeError> {
        let option = Handshake::set_contexts_option(export, queries);
        let replies = self.option(&option).await?;
        Handshake::contexts_of(&option, replies)
    }
}
