//! Waiting for a monitor that connects to this side.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::net::AddressFamily;
use tokio::net::{TcpListener, ToSocketAddrs, UnixListener};

use super::connect::Attempt;
use super::handle::Client;
use super::options::Options;
use crate::error::ConnectError;
use crate::socket;

/// A socket on which one monitor is expected, as with QEMU's `-qmp unix:PATH` without `server`.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on a Unix socket. The path is removed when the listener is dropped.
    ///
    /// # Errors
    /// When the path exists or cannot be created.
    pub fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let listener = socket::listen(path)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self {
            socket: Socket::Unix(listener, path.to_owned()),
        })
    }

    /// Listens on a TCP address; port 0 lets the system choose.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn bind_tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::Tcp(TcpListener::bind(address).await?),
        })
    }

    /// The TCP address, if it is one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(..) => None,
            Socket::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Waits for one connection, stops listening, and starts a session on it.
    ///
    /// # Errors
    /// When no peer connects, or the handshake does not succeed, in time.
    pub async fn accept_one(self, options: Options) -> Result<Client, ConnectError> {
        match &self.socket {
            Socket::Unix(listener, path) => {
                let attempt = Attempt::new(options, path.display());
                let (stream, _) = attempt.accepted(listener.accept()).await?;
                drop(self);
                attempt.handshake(stream).await
            }
            Socket::Tcp(listener) => {
                let attempt = Attempt::new(options, "the TCP listener");
                let (stream, _) = attempt.accepted(listener.accept()).await?;
                drop(self);
                attempt.over_tcp(stream, AddressFamily::INET).await
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // It may already be gone; nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}
