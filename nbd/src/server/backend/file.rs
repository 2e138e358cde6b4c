//! Content in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::{Backend, BackendError, HOLE, Piece, push};
use crate::proto::chunk::Extent;
use crate::proto::{CommandFlags, TransmissionFlags};

/// A raw file, or a block device.
#[derive(Clone, Debug)]
pub struct FileBackend {
    file: Arc<File>,
    size: u64,
    read_only: bool,
}

impl FileBackend {
    /// Opens a file, whose size is that of the export, for reading and, unless it is `read_only`, writing.
    ///
    /// # Errors
    /// When it cannot be opened in this mode.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> io::Result<FileBackend> {
        let file = File::options().read(true).write(!read_only).open(path)?;
        // A device's metadata does not give its size.
        let size = lseek(&file, 0, Whence::SeekEnd)? as u64;
        Ok(FileBackend {
            file: Arc::new(file),
            size,
            read_only,
        })
    }

    /// Runs blocking calls on the blocking thread pool.
    async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || f(&file)).await;
        Ok(done.map_err(io::Error::other)??)
    }
}

impl Backend for FileBackend {
    fn size(&self) -> u64 {
        self.size
    }

    fn flags(&self) -> TransmissionFlags {
        let flags = TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN;
        if self.read_only {
            flags | TransmissionFlags::READ_ONLY
        } else {
            flags
        }
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let data = self.blocking(move |file| {
            let mut data = vec![0; len as usize];
            file.read_exact_at(&mut data, offset)?;
            Ok(data)
        });
        Ok(vec![Piece::Data(data.await?.into())])
    }

    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), BackendError> {
        self.blocking(move |file| {
            file.write_all_at(&data, offset)?;
            if fua { file.sync_data() } else { Ok(()) }
        })
        .await
    }

    async fn zero(&self, offset: u64, len: u64, flags: CommandFlags) -> Result<(), BackendError> {
        let how = match flags.contains(CommandFlags::NO_HOLE) {
            true => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            false => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        };
        let fua = flags.contains(CommandFlags::FUA);
        self.blocking(move |file| {
            let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if fallocate(file, how, offset as i64, len as i64).is_err() {
                // Not every file system supports this; writing zeroes always works.
                let zeroes = vec![0; len.min(1 << 20) as usize];
                let mut at = 0;
                while at < len {
                    let n = zeroes.len().min((len - at) as usize);
                    file.write_all_at(&zeroes[..n], offset + at)?;
                    at += n as u64;
                }
            }
            if fua { file.sync_data() } else { Ok(()) }
        })
        .await
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<(), BackendError> {
        self.blocking(move |file| {
            let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Only a hint: failure is not an error.
            let _ = fallocate(file, how, offset as i64, len as i64);
            Ok(())
        })
        .await
    }

    async fn flush(&self) -> Result<(), BackendError> {
        self.blocking(File::sync_data).await
    }

    async fn status(
        &self,
        _: &str,
        offset: u64,
        len: u64,
        _one: bool,
    ) -> Result<Vec<Extent>, BackendError> {
        self.blocking(move |file| {
            let (mut at, end) = (offset, offset + len);
            let mut extents = Vec::new();
            while at < end {
                let data = match lseek(file, at as i64, Whence::SeekData) {
                    Ok(data) => (data as u64).min(end),
                    Err(nix::errno::Errno::ENXIO) => end,
                    Err(nix::errno::Errno::EINVAL) => at,
                    Err(error) => return Err(error.into()),
                };
                if data > at {
                    push(&mut extents, data - at, HOLE);
                    at = data;
                    continue;
                }
                let hole = lseek(file, at as i64, Whence::SeekHole).map_or(end, |h| h as u64);
                push(&mut extents, hole.min(end) - at, 0);
                at = hole.min(end);
            }
            Ok(extents)
        })
        .await
    }
}
