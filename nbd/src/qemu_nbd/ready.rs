//! Waiting for the greeting of a server that is starting.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::proto::{ClientFlags, Greeting, OptionReplyHeader, OptionRequest};
use crate::uri::Address;

/// Connects and reads a whole greeting; an error means that the server is gone.
pub(super) async fn greeting(address: &Address) -> std::io::Result<()> {
    match address {
        Address::Tcp { host, port } => {
            probe(TcpStream::connect((host.as_str(), *port)).await?).await
        }
        Address::Unix(path) => {
            let (_directory, path) = crate::unix::short(path)?;
            probe(UnixStream::connect(&*path).await?).await
        }
        Address::Abstract(_) | Address::Vsock { .. } => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

/// Reads the greeting and aborts the negotiation cleanly.
///
/// A client that has not chosen an export does not count: a server that exits with its last client
/// keeps running. Some versions (7.2) print a message when a client just closes, but not when it
/// aborts.
async fn probe(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut bytes = [0; Greeting::NEWSTYLE_LEN];
    stream.read_exact(&mut bytes).await?;
    Greeting::decode(&bytes).map_err(std::io::Error::other)?;
    let mut goodbye = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    goodbye.extend(OptionRequest::Abort.encode());
    stream.write_all(&goodbye).await?;
    // It may answer or close at once; what matters is that it has processed the option.
    let _ = stream.read_exact(&mut [0; OptionReplyHeader::LEN]).await;
    Ok(())
}
