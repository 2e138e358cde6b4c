//! Copying between an export and a file, skipping holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Whence, lseek};
use tokio::task::JoinSet;

use super::error::HandleError;
use super::handle::{Handle, next_of};
use super::status::MapEntry;
use crate::proto::{BaseAllocation, CommandFlags, TransmissionFlags};

/// Bytes per step.
const STEP: u64 = 1 << 20;
/// Steps in flight at once.
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
    /// Copies the export to a file, which is created or truncated. With `base:allocation` selected,
    /// what reads as zeroes becomes a hole. `progress` is called with the bytes done and the total.
    ///
    /// Dropping the future cancels the copy: no further request is sent. The file is left partly
    /// written.
    ///
    /// # Errors
    /// Also, before anything is done, when no request can address the end of the export
    /// ([`ExportInfo::reachable_size`](super::ExportInfo::reachable_size)).
    pub async fn copy_to_file(
        &self,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), HandleError> {
        let path = path.as_ref().to_owned();
        let size = self.export().size;
        self.export().reaches(size, &self.peer())?;
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
                    done += next_of(&mut running).await?.unwrap_or(0);
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
        while let Some(len) = next_of(&mut running).await? {
            done += len;
            progress(done, size);
        }
        blocking(&path, move || file.sync_data()).await
    }

    /// Copies a file to the start of the export. Holes in the file are zeroed without being sent,
    /// if the server supports that. `progress` is called with the bytes done and the total.
    ///
    /// Dropping the future cancels the copy: no further request is sent. The export is left partly
    /// written. The copy ends with a flush.
    ///
    /// # Errors
    /// Also, before anything is done, when the file is larger than the export.
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
        let room = self.export().reachable_size();
        if size > room {
            let export = self.export().name.clone();
            return Err(HandleError::TooLarge {
                path,
                size,
                export,
                room,
            });
        }
        // The end of the file may be in the middle of a block.
        let minimum = u64::from(self.export().sizes().minimum.max(1));
        let whole = size - size % minimum;
        let flags = self.export().flags;
        let zeroes = flags.contains(TransmissionFlags::SEND_WRITE_ZEROES);
        let (mut at, mut done) = (0, 0);
        let mut running = JoinSet::new();
        while at < whole {
            let looked = file.clone();
            let piece = blocking(&path, move || next_piece(&looked, at, whole)).await?;
            let (is_hole, end) = aligned(piece, at, minimum);
            let len = match is_hole && zeroes {
                true => end - at,
                false => STEP.min(end - at),
            };
            if running.len() == DEPTH {
                done += next_of(&mut running).await?.unwrap_or(0);
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
        while let Some(len) = next_of(&mut running).await? {
            done += len;
            progress(done, size);
        }
        if whole < size {
            // The export's content beyond the end of the file is left alone.
            let mut block = self.read(whole, minimum).await?;
            let read = move || {
                file.read_exact_at(&mut block[..(size - whole) as usize], whole)?;
                Ok(block)
            };
            let block = blocking(&path, read).await?;
            self.write(whole, block).await?;
            progress(size, size);
        }
        self.flush().await
    }
}

/// Aligns the end of a piece to a block: a block that is only partly a hole counts as data.
fn aligned((is_hole, end): (bool, u64), at: u64, minimum: u64) -> (bool, u64) {
    let down = end - end % minimum;
    match is_hole {
        true if down > at => (true, down),
        _ => (false, end.next_multiple_of(minimum)),
    }
}

/// Whether there is a hole at this offset, and where that changes.
fn next_piece(file: &File, at: u64, size: u64) -> std::io::Result<(bool, u64)> {
    let data = match lseek(file, at as i64, Whence::SeekData) {
        Ok(data) => (data as u64).min(size),
        Err(nix::errno::Errno::ENXIO) => size,
        // A file system without holes: everything is data.
        Err(nix::errno::Errno::EINVAL) => return Ok((false, size)),
        Err(error) => return Err(error.into()),
    };
    if data > at {
        return Ok((true, data));
    }
    let hole = lseek(file, at as i64, Whence::SeekHole).map_or(size, |hole| hole as u64);
    Ok((false, hole.min(size)))
}
