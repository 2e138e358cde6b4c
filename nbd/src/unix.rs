//! Unix sockets with paths of any length, their files, and inherited descriptors.
//!
//! An address holds 107 bytes of path. A longer one is reached through its directory, which is
//! opened first and named by its descriptor.

use std::borrow::Cow;
use std::fs::File;
use std::io;
#[cfg(feature = "server")]
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::socket::{setsockopt, sockopt};

#[cfg(any(feature = "server", feature = "qemu-nbd"))]
pub(crate) use file::{SocketFile, bind};

/// Send buffer size, as far as the system allows it (`wmem_max`): several replies of the usual
/// size, so that the writer does not block on each.
const SEND_BUFFER: usize = 2 << 20;

/// Enlarges the send buffer; the system default is less than one reply of 256 KiB.
pub(crate) fn enlarge(socket: &impl AsFd) {
    // Failure only costs speed.
    let _ = setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER);
}

/// Longest path that an address holds.
const LONGEST: usize = 107;

/// A path that fits an address; valid as long as the file is open.
pub(crate) fn short(path: &Path) -> io::Result<(Option<File>, Cow<'_, Path>)> {
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return Ok((None, Cow::Borrowed(path)));
    }
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let name = path.file_name().ok_or_else(no_name)?;
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY;
    let directory = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path.parent().unwrap_or(Path::new(".")))?;
    let by_number = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = Path::new(&by_number).join(name);
    Ok((Some(directory), Cow::Owned(path)))
}

/// Listens at a name in the abstract namespace.
#[cfg(feature = "server")]
pub(crate) fn bind_abstract(name: &[u8]) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    std::os::unix::net::UnixListener::bind_addr(&address)
}

/// A duplicate of a descriptor given by number: only a duplicate can be owned safely.
#[cfg(feature = "server")]
pub(crate) fn duplicate_of(fd: i32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

#[cfg(any(feature = "server", feature = "qemu-nbd"))]
mod file {
    //! The file of a listening socket.

    use std::io;
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::SystemTime;

    /// Listens at a path, which must not exist yet.
    pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
        let (_directory, path) = super::short(path)?;
        UnixListener::bind(path)
    }

    /// The file of a unix socket, while it is ours to remove: a file created at the path later by
    /// another process is not.
    #[derive(Debug, Default)]
    pub(crate) struct SocketFile(Mutex<Option<(PathBuf, Identity)>>);

    /// Identifies a file, even against a later one at the same path with the same inode.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Identity {
        device: u64,
        inode: u64,
        born: Option<SystemTime>,
    }

    impl Identity {
        fn of(path: &Path) -> io::Result<Identity> {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::symlink_metadata(path)?;
            Ok(Identity {
                device: metadata.dev(),
                inode: metadata.ino(),
                born: metadata.created().ok(),
            })
        }
    }

    impl SocketFile {
        /// A socket was created at this path, by us or by a child of ours.
        pub(crate) fn made(&self, path: &Path) {
            *self.lock() = Identity::of(path).ok().map(|id| (path.to_owned(), id));
        }

        pub(crate) fn remove(&self) {
            if let Some((path, identity)) = self.lock().take()
                && Identity::of(&path).is_ok_and(|now| now == identity)
            {
                // It may disappear at this very moment.
                let _ = std::fs::remove_file(path);
            }
        }

        fn lock(&self) -> MutexGuard<'_, Option<(PathBuf, Identity)>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
