//! Starting TLS on an accepted connection.

use std::io;

use super::state::Shared;
use crate::socket::Socket;

/// Replaces the socket with a TLS stream over it.
#[cfg(feature = "tls")]
pub(super) async fn accept(socket: &mut Option<Socket>, shared: &Shared) -> io::Result<()> {
    let (Some(config), Some(plain)) = (shared.tls.clone(), socket.take()) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let stream = acceptor.accept(plain).await?;
    *socket = Some(Socket::other(stream));
    Ok(())
}

#[cfg(not(feature = "tls"))]
pub(super) async fn accept(_: &mut Option<Socket>, _: &Shared) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
