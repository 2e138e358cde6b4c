//! TLS on a non-blocking socket.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustls::ClientConnection;

use super::stream::{Stream, waits};
use crate::tls::ClientTls;

/// A TLS stream.
pub(super) struct Tls {
    pub(super) session: ClientConnection,
    pub(super) stream: Stream,
}

impl Tls {
    pub(super) fn handshake(
        tls: &ClientTls,
        stream: Stream,
        until: Option<Instant>,
    ) -> io::Result<Tls> {
        let (config, name) = tls.config();
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut this = Tls { session, stream };
        while this.session.is_handshaking() || this.session.wants_write() {
            match this.session.complete_io(&mut this.stream) {
                Ok(_) => {}
                Err(error) if waits(&error) => {
                    if !this.stream.wait(this.session.wants_write(), until)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(this)
    }
}

impl AsFd for Tls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Read for Tls {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            // The end of the stream is reported by the next read.
            self.session.read_tls(&mut self.stream)?;
            let taken = self.session.process_new_packets();
            taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl Write for Tls {
    /// Accepts as much as there is room for; what the socket does not accept at once stays
    /// buffered.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = self.session.writer().write_vectored(bufs)?;
        match self.flush() {
            Err(error) if !waits(&error) => return Err(error),
            flushed if taken == 0 => {
                // There was no room; now there is, or the socket is full.
                flushed?;
                taken = self.session.writer().write_vectored(bufs)?;
            }
            _ => {}
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}
