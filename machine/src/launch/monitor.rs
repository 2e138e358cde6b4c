//! Our end of the monitor, up to the negotiated session.

use crate::socket;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// Our end, before the process exists.
pub(super) enum MonitorEnd {
    Connected(UnixStream),
    Listening(UnixListener),
    ToConnect(PathBuf),
}

/// Why a monitor did not become ready.
pub(super) enum NotReady {
    /// The process ended first.
    Exited,
    /// Its socket could not be reached.
    Socket(std::io::Error),
    /// It closed the stream, or does not speak QMP.
    Qmp(qmp::Error),
}

/// Connects and negotiates.
pub(super) async fn connect(
    end: MonitorEnd,
    options: qmp::Options,
) -> Result<qmp::Client, NotReady> {
    let stream = match end {
        MonitorEnd::Connected(stream) => Ok(stream),
        MonitorEnd::ToConnect(path) => socket::connect(&path),
        MonitorEnd::Listening(listener) => accept(listener).await,
    };
    let stream = stream.map_err(NotReady::Socket)?;
    qmp::Client::from_fd(stream, options).await.map_err(|error| NotReady::Qmp(error.into()))
}

async fn accept(listener: UnixListener) -> std::io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let (stream, _) = tokio::net::UnixListener::from_std(listener)?.accept().await?;
    stream.into_std()
}
