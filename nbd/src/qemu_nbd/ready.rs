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

/// Reads the greeting and leaves politely.
///
/// A client that has not chosen an export does not count: a server that ends with its last client
/// stays. One that just closes is noted on the standard error of some versions (7.2), one that
/// aborts is not.
async fn probe(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut bytes = [0; Greeting::NEWSTYLE_LEN];
    stream.read_exact(&mut bytes).await?;
    Greeting::decode(&bytes).map_err(std::io::Error::other)?;
    let mut goodbye = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    goodbye.extend(OptionRequest::Abort.encode());
    stream.write_all(&goodbye).await?;
    // Whether it answers or closes at once does not matter; that it has understood does.
    let _ = stream.read_exact(&mut [0; OptionReplyHeader::LEN]).await;
    Ok(())
}
