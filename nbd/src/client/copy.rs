//! Copying between an export and a file, holes left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Whence, lseek};
use tokio::task::JoinSet;

use super::handle::{Handle, HandleError, joined};
use super::status::MapEntry;
use crate::proto::{BaseAllocation, CommandFlags, TransmissionFlags};

/// Bytes that are copied at once.
const STEP: u64 = 1 << 20;
/// Steps under way at once.
const DEPTH: usize = 8;

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, HandleError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(std::io::Error::other).and_then(|done| done);
    done.map_err(|source| HandleError::File {
        path: path.to_owned(),
        source,
    })
}

impl Handle {
    /// Copies the export to a file, which is made, or emptied. With `base:allocation` selected, what
    /// reads as zeroes becomes a hole. `progress` learns how many bytes are done, of how many.
    ///
    /// Dropping the future cancels the copy: no further request is sent. The file stays as far as it
    /// has come.
    pub async fn copy_to_file(
        &self,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), HandleError> {
        let path = path.as_ref().to_owned();
        let size = self.export().reachable_size();
        let target = path.clone();
        let file = blocking(&path, move || {
            let file = File::create(target)?;
            file.set_len(size)?;
            Ok(file)
        });
        let file = Arc::new(file.await?);
        let mut done = 0;
        let mut running = JoinSet::new();
        let knows = self.export().context_id("base:allocation").is_some();
        let mut extents = self.extents("base:allocation", 0..size);
        let mut whole = Some(MapEntry {
            offset: 0,
            len: size,
            status: 0,
        });
        loop {
            let piece = match knows {
                true => extents.next().await.transpose()?,
                false => whole.take(),
            };
            let Some(piece) = piece else { break };
            if piece.base().contains(BaseAllocation::ZERO) {
                done += piece.len;
                progress(done, size);
                continue;
            }
            let mut at = piece.offset;
            while at < piece.end() {
                let len = STEP.min(piece.end() - at);
                if running.len() == DEPTH {
                    done += joined(running.join_next().await)?;
                    progress(done, size);
                }
                let (this, file, path) = (self.clone(), file.clone(), path.clone());
                running.spawn(async move {
                    let data = this.read(at, len).await?;
                    blocking(&path, move || file.write_all_at(&data, at)).await?;
                    Ok(len)
                });
                at += len;
            }
        }
        while !running.is_empty() {
            done += joined(running.join_next().await)?;
            progress(done, size);
        }
        blocking(&path, move || file.sync_data()).await
    }

    /// Copies a file to the start of the export. Holes of the file become zeroes without being sent,
    /// where the server can do that. `progress` learns how many bytes are done, of how many.
    ///
    /// Dropping the future cancels the copy: no further request is sent. The export stays as far as
    /// it has come. At the end all is flushed.
    pub async fn copy_from_file(
        &self,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), HandleError> {
        let path = path.as_ref().to_owned();
        let source = path.clone();
        let opened = blocking(&path, move || {
            let file = File::open(source)?;
            let size = lseek(&file, 0, Whence::SeekEnd)? as u64;
            Ok((Arc::new(file), size))
        });
        let (file, size) = opened.await?;
        let flags = self.export().flags;
        let zeroes = flags.contains(TransmissionFlags::SEND_WRITE_ZEROES);
        let (mut at, mut done) = (0, 0);
        let mut running = JoinSet::new();
        while at < size {
            let looked = file.clone();
            let piece = blocking(&path, move || next_piece(&looked, at, size)).await?;
            let (is_hole, end) = piece;
            let len = match is_hole && zeroes {
                true => end - at,
                false => STEP.min(end - at),
            };
            if running.len() == DEPTH {
                done += joined(running.join_next().await)?;
                progress(done, size);
            }
            let (this, file, path) = (self.clone(), file.clone(), path.clone());
            running.spawn(async move {
                if is_hole && zeroes {
                    this.write_zeroes(at, len, CommandFlags::empty()).await?;
                    return Ok(len);
                }
                let read = move || {
                    let mut data = vec![0; len as usize];
                    file.read_exact_at(&mut data, at)?;
                    Ok(data)
                };
                let data = blocking(&path, read).await?;
                this.write(at, data).await?;
                Ok(len)
            });
            at += len;
        }
        while !running.is_empty() {
            done += joined(running.join_next().await)?;
            progress(done, size);
        }
        self.flush().await
    }
}

/// Whether there is a hole at this place, and where that changes.
fn next_piece(file: &File, at: u64, size: u64) -> std::io::Result<(bool, u64)> {
    let data = match lseek(file, at as i64, Whence::SeekData) {
        Ok(data) => (data as u64).min(size),
        Err(nix::errno::Errno::ENXIO) => size,
        // A file system without holes: all of it is data.
        Err(nix::errno::Errno::EINVAL) => return Ok((false, size)),
        Err(error) => return Err(error.into()),
    };
    if data > at {
        return Ok((true, data));
    }
    let hole = lseek(file, at as i64, Whence::SeekHole).map_or(size, |hole| hole as u64);
    Ok((false, hole.min(size)))
}
