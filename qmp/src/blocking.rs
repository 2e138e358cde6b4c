//! The client for programs without async: the same core on a thread of its own.
//!
//! The thread keeps reading while the program does other things, so that neither events nor QEMU
//! are held up.
//!
//! ```no_run
//! # fn main() -> Result<(), qmp::Error> {
//! let client = qmp::blocking::Client::connect_unix("/run/vm.qmp", qmp::Options::default())?;
//! println!("{}", client.greeting().version);
//! let (_, event) = client.wait(client.as_async().execute("stop", ()).and_event("STOP"))?;
//! println!("stopped at {}", event.timestamp.seconds);
//! # Ok(()) }
//! ```

use std::future::{Future, IntoFuture};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::net::ToSocketAddrs;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{ConnectError, Error};
use crate::{Closed, Command, Event, Greeting, Matcher, Options, RecvError};

/// A session with one monitor. Must not be used inside an async runtime.
///
/// Dropping it ends the session, also for clones of [`Client::as_async`]. A partly written line is
/// finished first.
#[derive(Debug)]
pub struct Client {
    // Dropped first, so that the session ends before its runtime.
    client: crate::Client,
    runtime: Background,
}

/// A runtime whose shutdown does not wait for anything.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn start() -> Result<Self, ConnectError> {
        let built =
            Builder::new_multi_thread().worker_threads(1).thread_name("qmp").enable_all().build();
        built.map(|runtime| Self(Some(runtime))).map_err(|error| {
            let endpoint = "the monitor (no runtime)".to_owned();
            ConnectError::Io {
                endpoint,
                source: Arc::new(error),
            }
        })
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.as_ref().map(|runtime| runtime.block_on(work))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let shared = self.client.shared();
        shared.close(Closed::Local);
        // The driver ends with the runtime, and may have a line to finish. No thread may block
        // inside a runtime.
        if Handle::try_current().is_err() {
            self.runtime.block_on(shared.driver_gone());
        }
    }
}

impl Client {
    fn start(
        connect: impl Future<Output = Result<crate::Client, ConnectError>>,
    ) -> Result<Self, ConnectError> {
        let runtime = Background::start()?;
        let gone = ConnectError::Closed {
            endpoint: "the monitor".to_owned(),
            cause: Closed::Local,
        };
        let client = runtime.block_on(connect).unwrap_or(Err(gone))?;
        Ok(Self { client, runtime })
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// As [`crate::Client::connect_unix`].
    pub fn connect_unix(path: impl AsRef<Path>, options: Options) -> Result<Self, ConnectError> {
        Self::start(crate::Client::connect_unix(path, options))
    }

    /// Connects over TCP, to an address or a name, each with its port.
    ///
    /// # Errors
    /// As [`crate::Client::connect_tcp`].
    pub fn connect_tcp(
        address: impl ToSocketAddrs + std::fmt::Display,
        options: Options,
    ) -> Result<Self, ConnectError> {
        Self::start(crate::Client::connect_tcp(address, options))
    }

    /// Starts a session over a connected socket.
    ///
    /// # Errors
    /// As [`crate::Client::from_fd`].
    pub fn from_fd(fd: impl Into<OwnedFd>, options: Options) -> Result<Self, ConnectError> {
        Self::start(crate::Client::from_fd(fd, options))
    }

    /// The async client of the same session.
    pub fn as_async(&self) -> &crate::Client {
        &self.client
    }

    /// Blocks on any future of the async client.
    ///
    /// ```no_run
    /// # fn f(client: qmp::blocking::Client) -> Result<(), qmp::Error> {
    /// let mut job = client.as_async().job("job0");
    /// client.wait(job.wait_ready())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the future.
    pub fn wait<T>(&self, work: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, Error> {
        let gone = Error::closed("use the client", Closed::Local);
        self.runtime.block_on(work.into_future()).unwrap_or(Err(gone))
    }

    /// The greeting.
    pub fn greeting(&self) -> Arc<Greeting> {
        self.client.greeting()
    }

    /// Executes a command by name.
    ///
    /// # Errors
    /// As [`crate::Call`].
    pub fn execute(&self, name: &str, arguments: impl Serialize) -> Result<Value, Error> {
        self.wait(self.client.execute(name, arguments))
    }

    /// Executes a typed command.
    ///
    /// # Errors
    /// As [`crate::Call`].
    pub fn call<C: Command>(&self, command: C) -> Result<C::Return, Error> {
        self.wait(self.client.call(command))
    }

    /// All matching events from now on, until the session ends.
    pub fn subscribe(
        &self,
        matcher: impl Into<Matcher>,
    ) -> impl Iterator<Item = Result<Arc<Event>, RecvError>> {
        let mut stream = self.client.subscribe(matcher);
        std::iter::from_fn(move || match self.wait(async { Ok(stream.recv().await) }) {
            Ok(Err(RecvError::Closed(_))) | Err(_) => None,
            Ok(item) => Some(item),
        })
    }

    /// Asks QEMU to exit.
    ///
    /// # Errors
    /// As [`crate::Client::quit`].
    pub fn quit(&self) -> Result<(), Error> {
        self.wait(self.client.quit())
    }
}
