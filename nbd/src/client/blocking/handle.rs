//! Several connections as one disk, for threads that may block.

use std::io;
use std::ops::Range;
use std::path::Path;

use tokio::runtime::Runtime;

use crate::client::{ConnectError, ExportInfo, HandleBuilder, HandleError, MapEntry};
use crate::proto::CommandFlags;
use crate::uri::Uri;

/// [`crate::client::Handle`] for threads that may block: several connections as one disk, requests of
/// any length, reconnection, copies from and to files.
///
/// It is the async handle with its own runtime, which runs only during method calls, on the calling
/// thread. Threads can share it.
///
/// ```no_run
/// # fn f(uri: nbd::Uri) -> Result<(), Box<dyn std::error::Error>> {
/// let builder = nbd::Client::builder().context("base:allocation");
/// let disk = builder.handle().connections(4).connect_uri_blocking(&uri)?;
/// for extent in disk.extents("base:allocation", 0..disk.export().size) {
///     let extent = extent?;
///     println!("{} {} {:?}", extent.offset, extent.len, extent.base());
/// }
/// disk.copy_to_file("disk.raw", |done, total| eprintln!("{done} of {total}"))?;
/// disk.disconnect();
/// # Ok(()) }
/// ```
///
/// # Panics
/// All methods that communicate with the server panic in a thread that drives async tasks.
#[derive(Debug)]
pub struct Handle {
    handle: crate::client::Handle,
    runtime: Runtime,
}

impl HandleBuilder {
    /// Connects, for threads that may block.
    ///
    /// # Panics
    /// In a thread that drives async tasks.
    pub fn connect_uri_blocking(self, uri: &Uri) -> Result<Handle, ConnectError> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(|source: io::Error| {
            let address = uri.address.clone();
            ConnectError::Socket { address, source }
        })?;
        let handle = runtime.block_on(self.connect_uri(uri))?;
        Ok(Handle { handle, runtime })
    }
}

impl Handle {
    /// The export as the server described it.
    pub fn export(&self) -> &ExportInfo {
        self.handle.export()
    }

    /// The server's address, for messages.
    pub fn peer(&self) -> String {
        self.handle.peer()
    }

    /// The maximum number of connections.
    pub fn connections(&self) -> usize {
        self.handle.connections()
    }

    /// Reads any length that fits in memory, in as many requests as the server's limits require.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, HandleError> {
        self.runtime.block_on(self.handle.read(offset, len))
    }

    /// Writes any length, in as many requests as the server's limits require.
    pub fn write(&self, offset: u64, data: impl Into<Vec<u8>>) -> Result<(), HandleError> {
        let data: Vec<u8> = data.into();
        self.runtime.block_on(self.handle.write(offset, data))
    }

    /// Writes zeroes of any length. Flags: [`CommandFlags::NO_HOLE`], `FAST_ZERO`, `FUA`.
    pub fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<(), HandleError> {
        let zeroes = self.handle.write_zeroes(offset, len, flags);
        self.runtime.block_on(zeroes)
    }

    /// Discards any length.
    pub fn trim(&self, offset: u64, len: u64) -> Result<(), HandleError> {
        self.runtime.block_on(self.handle.trim(offset, len))
    }

    /// Flushes everything written over any of the connections to stable storage.
    pub fn flush(&self) -> Result<(), HandleError> {
        self.runtime.block_on(self.handle.flush())
    }

    /// The status of a range in a selected context, fetched piece by piece on demand.
    pub fn extents(&self, context: &str, range: Range<u64>) -> Extents<'_> {
        Extents {
            extents: self.handle.extents(context, range),
            runtime: &self.runtime,
        }
    }

    /// Copies the export to a file, as [`crate::client::Handle::copy_to_file`] does.
    pub fn copy_to_file(
        &self,
        path: impl AsRef<Path>,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), HandleError> {
        let copy = self.handle.copy_to_file(path, progress);
        self.runtime.block_on(copy)
    }

    /// Copies a file to the export, as [`crate::client::Handle::copy_from_file`] does.
    pub fn copy_from_file(
        &self,
        path: impl AsRef<Path>,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), HandleError> {
        let copy = self.handle.copy_from_file(path, progress);
        self.runtime.block_on(copy)
    }

    /// Disconnects gracefully on each connection.
    pub fn disconnect(self) {
        self.runtime.block_on(self.handle.disconnect());
    }
}

/// The status of a range, in order. Neighbours may have the same status. It ends after an error.
#[derive(Debug)]
pub struct Extents<'h> {
    extents: crate::client::Extents,
    runtime: &'h Runtime,
}

impl Iterator for Extents<'_> {
    type Item = Result<MapEntry, HandleError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.extents.next())
    }
}
