//! Unix sockets at paths of any length.
//!
//! A socket address holds at most 107 bytes of path (`sun_path`). Linux accepts any path that leads
//! to the socket's inode, though, so a directory or socket that is already open can be named
//! through `/proc/self/fd`, which is always short. Elsewhere the system rejects a longer path.

#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

/// The longest path that fits a socket address, in bytes without the terminating zero.
#[cfg(target_os = "linux")]
pub const MAX_PATH: usize = 107;
/// The longest path that fits a socket address, in bytes without the terminating zero.
#[cfg(not(target_os = "linux"))]
pub const MAX_PATH: usize = 103;

/// Whether this path can be used as a socket address as it is.
#[must_use]
pub fn fits(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() <= MAX_PATH
}

/// A short name for an inode, valid while this value lives, in this process and in
/// children that inherit the descriptor under the same number.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct ShortPath {
    fd: OwnedFd,
}

#[cfg(target_os = "linux")]
impl ShortPath {
    /// Opens the file, socket or directory as a name only (`O_PATH`).
    ///
    /// # Errors
    /// If it does not exist or cannot be reached.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        use rustix::fs::{CWD, Mode, OFlags};
        let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd })
    }

    /// The name in this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        fd_path(self.fd.as_raw_fd())
    }

    /// The descriptor, to be passed to a child, in which [`fd_path`] names the inode.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// The name of the process's descriptor with this number.
#[cfg(target_os = "linux")]
#[must_use]
pub fn fd_path(number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// Listens at this path, however long it is.
///
/// # Errors
/// If something exists at the path, or the directory is missing or not writable.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if fits(path) {
        return UnixListener::bind(path);
    }
    listen_long(path)
}

/// Connects to the socket at this path, however long it is.
///
/// # Errors
/// If there is no socket, or nothing listens on it.
pub fn connect(path: &Path) -> std::io::Result<UnixStream> {
    if fits(path) {
        return UnixStream::connect(path);
    }
    connect_long(path)
}

/// Bound under a short name in the same directory, then renamed: a bound address stays bound. A
/// hard link instead of a rename refuses an existing target.
#[cfg(target_os = "linux")]
fn listen_long(path: &Path) -> std::io::Result<UnixListener> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);

    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let dir = ShortPath::open(parent.unwrap_or(Path::new(".")))?;
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!(".s{}.{unique}", std::process::id());
    let short = dir.path().join(name);
    let listener = UnixListener::bind(&short)?;
    let linked = std::fs::hard_link(&short, path);
    std::fs::remove_file(&short)?;
    linked?;
    Ok(listener)
}

#[cfg(target_os = "linux")]
fn connect_long(path: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(ShortPath::open(path)?.path())
}

#[cfg(not(target_os = "linux"))]
fn listen_long(path: &Path) -> std::io::Result<UnixListener> {
    UnixListener::bind(path)
}

#[cfg(not(target_os = "linux"))]
fn connect_long(path: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(path)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use std::io::{Read, Write};

    fn long_path(dir: &Path) -> PathBuf {
        let mut deep = dir.to_owned();
        for _ in 0..4 {
            deep.push("d".repeat(60));
        }
        std::fs::create_dir_all(&deep).unwrap();
        deep.join("s".repeat(120))
    }

    #[test]
    fn a_socket_at_a_path_of_400_bytes_works_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = long_path(dir.path());
        assert!(!fits(&path));
        let listener = listen(&path).unwrap();
        let mut client = connect(&path).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn an_existing_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("short"), long_path(dir.path())] {
            std::fs::write(&path, "precious").unwrap();
            assert!(listen(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), b"precious");
            assert_eq!(
                std::fs::read_dir(path.parent().unwrap())
                    .unwrap()
                    .filter(|e| {
                        e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".s")
                    })
                    .count(),
                0
            );
        }
    }
}
