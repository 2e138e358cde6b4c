//! The socket that an activated qemu-nbd inherits, and its file.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use crate::unix;
use crate::uri::Address;

/// A socket file that we must remove: an activated qemu-nbd leaves it, and so does a killed one. A
/// file that another server has since created at the path is left alone.
#[derive(Debug, Default)]
pub(super) struct SocketFile(unix::SocketFile);

impl SocketFile {
    /// The file that is at this path now.
    pub(super) fn made(&self, path: &Path) {
        self.0.made(path);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// A listening socket. Its file is removed with the last value that serves there, or could.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: Address,
    listener: Listener,
    pub(super) file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listening {
    pub(super) fn at(address: &Address) -> io::Result<Listening> {
        match address {
            Address::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port))?;
                let address = Address::Tcp {
                    host: host.clone(),
                    port: listener.local_addr()?.port(),
                };
                Ok(Listening {
                    address,
                    listener: Listener::Tcp(listener),
                    file: None,
                })
            }
            Address::Unix(path) => {
                let listener = unix::bind(path)?;
                let file = SocketFile::default();
                file.made(path);
                Ok(Listening {
                    address: address.clone(),
                    listener: Listener::Unix(listener),
                    file: Some(Arc::new(file)),
                })
            }
            // qemu-nbd does not accept such a socket.
            Address::Abstract(_) | Address::Vsock { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A duplicate of the socket, for a qemu-nbd to inherit.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        match &self.listener {
            Listener::Unix(listener) => Ok(listener.try_clone()?.into()),
            Listener::Tcp(listener) => Ok(listener.try_clone()?.into()),
        }
    }

    /// Accepts the next client, and closes the connection.
    pub(super) async fn hang_up(&self) -> io::Result<()> {
        match &self.listener {
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
                listener.accept().await.map(drop)
            }
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                listener.accept().await.map(drop)
            }
        }
    }
}
