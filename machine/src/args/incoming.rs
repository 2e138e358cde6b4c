//! Where an incoming migration comes from (`-incoming`).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Source of an incoming migration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Incoming {
    /// Set later by `migrate-incoming`.
    Defer,
    /// QEMU listens on this UNIX socket. A path of any length works.
    Unix(PathBuf),
    /// An inherited file descriptor (a socket, pipe or file), shared by relaunches.
    Fd(Arc<OwnedFd>),
    /// Standard output of a shell command.
    Exec(String),
    /// Any other URI.
    Uri(String),
}
