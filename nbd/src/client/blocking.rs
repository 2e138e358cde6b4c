//! A blocking client, driven by the same state machines as the async one: no runtime, no thread.
//! For several connections as one disk there is a blocking [`Handle`].
//!
//! ```no_run
//! # fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use nbd::Client;
//! let mut client = Client::builder().connect_uri_blocking(&"nbd://localhost/disk".parse()?)?;
//! let data = client.read(0, 4096)?;
//! // Several requests in flight at once.
//! let reads = [0, 4096, 8192].map(|at| client.submit(nbd::client::Command::read(at, 512)));
//! for read in reads {
//!     let reply = client.wait(read?)?;
//!     assert_eq!(reply.data.len(), 512);
//! }
//! client.disconnect()?;
//! # Ok(()) }
//! ```

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::{ClientBuilder, Deadlines};
use super::error::ConnectError;
use super::status::{ContextExtents, named};
use crate::proto::client::{
    Command, ConnectionError, Event, ExportInfo, Handshake, HandshakeError, Origin, Reply,
    RequestError, Transmission,
};
use crate::proto::{CommandFlags, CommandType};
use crate::uri::{Address, Uri};
use stream::{Stream, open, passed, waits};
#[cfg(feature = "tls")]
use tls::Tls;

mod handle;
mod stream;
#[cfg(feature = "tls")]
mod tls;

pub use handle::{Extents, Handle};

/// Slices that are written at once.
const SLICES: usize = 32;

/// A connection to an export, for threads that may block.
pub struct Client {
    stream: Stream,
    machine: Transmission<Vec<u8>>,
    /// Requests with an outstanding ticket; with their results, once they have finished.
    tickets: HashMap<u64, Option<Result<Reply, RequestError>>>,
    peer: Arc<str>,
    deadlines: Deadlines,
}

/// A submitted request, to be passed to [`Client::wait`]. The result of a dropped ticket is kept as
/// long as the client.
#[derive(Debug)]
#[must_use = "the result is kept until it is waited for"]
pub struct Ticket {
    cookie: u64,
    asks: (CommandType, u64, u64),
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Client");
        f.field("export", self.machine.export())
            .field("error", &self.machine.error())
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Connects to an address, for threads that may block.
    pub fn connect_blocking(&self, address: &Address) -> Result<Client, ConnectError> {
        let until = Instant::now().checked_add(self.deadlines.connect);
        let stream = match open(address, self.deadlines.connect) {
            Ok(stream) => stream,
            Err(e) if e.kind() == io::ErrorKind::TimedOut && passed(until) => {
                return Err(ConnectError::Deadline {
                    address: address.clone(),
                    after: self.deadlines.connect,
                });
            }
            Err(source) => {
                return Err(ConnectError::Socket {
                    address: address.clone(),
                    source,
                });
            }
        };
        self.start_blocking(stream, &address.to_string())
    }

    /// Connects to a URI, as [`ClientBuilder::connect_uri`] does, for threads that may block.
    pub fn connect_uri_blocking(&self, uri: &Uri) -> Result<Client, ConnectError> {
        self.for_uri(uri)?.connect_blocking(&uri.address)
    }

    /// Takes a connected socket (unix, TCP or vsock), such as one end of a socketpair.
    pub fn connect_fd_blocking(&self, fd: OwnedFd) -> Result<Client, ConnectError> {
        let stream = stream::adopt(fd).map_err(|source| ConnectError::Socket {
            address: Address::unknown(),
            source,
        })?;
        self.start_blocking(stream, "a socket")
    }

    fn start_blocking(&self, stream: Stream, peer: &str) -> Result<Client, ConnectError> {
        let mut this = self.clone();
        this.config.peer = peer.into();
        let started = this.negotiate_blocking(stream);
        started.map_err(|source| self.failed(peer, source))
    }

    fn negotiate_blocking(self, mut stream: Stream) -> Result<Client, HandshakeError> {
        let after = self.deadlines.handshake;
        let until = Instant::now().checked_add(after);
        let mut machine = Handshake::new(self.config.clone());
        loop {
            match next(&mut machine, &mut stream, until, after)? {
                Event::StartTls => {
                    stream = self.start_tls(stream, &machine, until)?;
                    machine.tls_started();
                }
                Event::Ready => machine.go(&self.config.export)?,
                Event::Chosen => break,
                // Nothing else was requested.
                Event::Answer(_) => {}
            }
        }
        Ok(Client {
            stream,
            machine: machine.into_transmission()?,
            tickets: HashMap::new(),
            peer: self.config.peer,
            deadlines: self.deadlines,
        })
    }

    #[cfg(feature = "tls")]
    fn start_tls(
        &self,
        stream: Stream,
        machine: &Handshake,
        until: Option<Instant>,
    ) -> Result<Stream, HandshakeError> {
        let Some(tls) = &self.tls else {
            return Err(HandshakeError::Feature {
                feature: super::Feature::Tls,
                detail: "there are no credentials for it",
            });
        };
        Tls::handshake(tls, stream, until)
            .map(|tls| Stream::Tls(Box::new(tls)))
            .map_err(|error| {
                let (phase, after) = (machine.phase(), self.deadlines.handshake);
                match error.kind() {
                    io::ErrorKind::TimedOut => HandshakeError::Deadline { phase, after },
                    _ => HandshakeError::Io {
                        phase,
                        source: Arc::new(error),
                    },
                }
            })
    }

    #[cfg(not(feature = "tls"))]
    fn start_tls(
        &self,
        _: Stream,
        _: &Handshake,
        _: Option<Instant>,
    ) -> Result<Stream, HandshakeError> {
        Err(HandshakeError::Feature {
            feature: super::Feature::Tls,
            detail: "this program is built without it (the feature `tls`)",
        })
    }
}

/// Moves bytes until the handshake reports an event.
fn next(
    machine: &mut Handshake,
    stream: &mut Stream,
    until: Option<Instant>,
    after: Duration,
) -> Result<Event, HandshakeError> {
    let mut out = Vec::new();
    loop {
        out.extend(machine.transmit());
        if out.is_empty()
            && let Some(event) = machine.event()?
        {
            return Ok(event);
        }
        let moved = match (out.is_empty(), stream.wants_flush()) {
            (true, false) => stream.read(machine.space()).map(Moved::In),
            (true, true) => stream.flush().map(|()| Moved::Out(0)),
            (false, _) => stream.write(&out).map(Moved::Out),
        };
        match moved {
            Ok(Moved::In(0)) => machine.end_of_stream(),
            Ok(Moved::In(n)) => machine.filled(n),
            Ok(Moved::Out(n)) => drop(out.drain(..n)),
            Err(error) if waits(&error) => match stream.wait(!out.is_empty(), until) {
                Ok(true) => {}
                Ok(false) => machine.timed_out(after),
                Err(error) => machine.io_failed(error),
            },
            Err(error) => machine.io_failed(error),
        }
        // Unsent bytes no longer matter once it failed.
        machine.failure()?;
    }
}

enum Moved {
    In(usize),
    Out(usize),
}

impl Client {
    /// The export as the server described it.
    pub fn export(&self) -> &ExportInfo {
        self.machine.export()
    }

    /// The server's address, for messages.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Why the connection is over, if it is.
    pub fn error(&self) -> Option<Arc<ConnectionError>> {
        self.machine.error()
    }

    /// Submits a request. It is sent by [`Client::wait`], for whichever request that is called.
    ///
    /// # Errors
    /// When strict mode rejects it, or the connection is over. Nothing is sent then.
    pub fn submit(&mut self, command: Command<Vec<u8>>) -> Result<Ticket, RequestError> {
        let after = self.deadlines.request;
        let deadline = Instant::now().checked_add(after).map(|at| (at, after));
        let asks = command.asks();
        let cookie = self.machine.submit(command, deadline)?;
        self.tickets.insert(cookie, None);
        Ok(Ticket { cookie, asks })
    }

    /// Waits for a request to finish. Others make progress meanwhile.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn wait(&mut self, ticket: Ticket) -> Result<Reply, RequestError> {
        loop {
            self.collect();
            match self.tickets.get_mut(&ticket.cookie).map(Option::take) {
                Some(Some(result)) => {
                    self.tickets.remove(&ticket.cookie);
                    return result;
                }
                Some(None) if !self.machine.is_dead() => self.turn(None),
                // A ticket of another client, or of one that died without a reported reason.
                _ => {
                    let source = self.machine.error();
                    let source = source.unwrap_or_else(|| Arc::new(ConnectionError::Closed));
                    let (what, offset, len) = ticket.asks;
                    let (export, peer) = (self.export().name.as_str(), self.peer.clone());
                    let origin = Box::new(Origin::new(what, offset, len, export, peer));
                    return Err(RequestError::Connection { origin, source });
                }
            }
        }
    }

    fn collect(&mut self) {
        while let Some(notice) = self.machine.notice() {
            if let Some(result) = self.tickets.get_mut(&notice.cookie) {
                *result = Some(notice.result);
            }
        }
    }

    /// Moves what can be moved, or waits until something can or the deadline passes.
    fn turn(&mut self, until: Option<Instant>) {
        let written = self.push();
        let read = self.read_ready();
        if written || read || self.machine.is_dead() {
            return;
        }
        let writes = self.machine.wants_to_send();
        let until = self.machine.deadline().into_iter().chain(until).min();
        match self.stream.wait(writes, until) {
            Ok(true) => {}
            Ok(false) => self.machine.timeout(Instant::now()),
            Err(error) => self.machine.io_failed(error),
        }
    }

    /// `true` if anything was written.
    fn push(&mut self) -> bool {
        let mut wrote = false;
        while self.machine.wants_to_send() && !self.machine.is_dead() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = self.machine.slices(&mut slices);
            match self.stream.write_vectored(&slices[..n]) {
                Ok(0) => self.machine.io_failed(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.machine.sent(n),
                Err(error) if waits(&error) => break,
                Err(error) => self.write_failed(error),
            }
            wrote = true;
        }
        if self.stream.wants_flush() && !self.machine.is_dead() {
            match self.stream.flush() {
                Err(error) if !waits(&error) => self.write_failed(error),
                _ => {}
            }
        }
        wrote
    }

    /// A server may have sent a final message before it closed, which is read first.
    fn write_failed(&mut self, error: io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            while !self.machine.is_dead() && self.read_ready() {}
        }
        self.machine.io_failed(error);
    }

    /// `true` if anything was read.
    fn read_ready(&mut self) -> bool {
        if self.machine.is_dead() {
            return false;
        }
        let mut both = self.machine.spaces().map(IoSliceMut::new);
        match self.stream.read_vectored(&mut both) {
            Ok(0) => self.machine.end_of_stream(),
            Ok(n) => self.machine.filled(n),
            Err(error) if waits(&error) => return false,
            Err(error) => self.machine.io_failed(error),
        }
        true
    }

    fn run(&mut self, command: Command<Vec<u8>>) -> Result<Reply, RequestError> {
        let ticket = self.submit(command)?;
        self.wait(ticket)
    }

    /// Reads `len` bytes at `offset`.
    pub fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, RequestError> {
        Ok(self.run(Command::read(offset, len))?.data)
    }

    /// Writes data at `offset`.
    pub fn write(&mut self, offset: u64, data: impl Into<Vec<u8>>) -> Result<(), RequestError> {
        self.run(Command::write(offset, data.into())).map(drop)
    }

    /// Writes zeroes. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), RequestError> {
        let command = Command::write_zeroes(offset, len).flags(flags);
        self.run(command).map(drop)
    }

    /// Discards.
    pub fn trim(&mut self, offset: u64, len: u64) -> Result<(), RequestError> {
        self.run(Command::trim(offset, len)).map(drop)
    }

    /// Waits until completed writes are on stable storage.
    pub fn flush(&mut self) -> Result<(), RequestError> {
        self.run(Command::flush()).map(drop)
    }

    /// Status of every selected context.
    pub fn block_status(
        &mut self,
        offset: u64,
        len: u64,
    ) -> Result<Vec<ContextExtents>, RequestError> {
        let reply = self.run(Command::block_status(offset, len))?;
        Ok(named(reply, self.export()))
    }

    /// Disconnects gracefully: sends `DISC` after all submitted requests, and waits until the
    /// server has closed the connection.
    pub fn disconnect(mut self) -> Result<(), Arc<ConnectionError>> {
        let until = Instant::now().checked_add(self.deadlines.request);
        self.machine.disconnect();
        while !self.machine.is_dead() && !passed(until) {
            self.turn(until);
            self.collect();
            if self.machine.has_said_goodbye() {
                // The read side reports a failure.
                let _ = self.stream.shut_down();
            }
        }
        match self.machine.error() {
            Some(why) if self.machine.is_dead() => match *why {
                ConnectionError::Closed | ConnectionError::Disconnected => Ok(()),
                _ => Err(why),
            },
            _ => {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                Err(Arc::new(ConnectionError::Io(Arc::new(error))))
            }
        }
    }
}
