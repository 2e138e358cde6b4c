//! Character devices (`-chardev`, `--chardev`).

use super::Opts;
use std::fmt;

/// One character device; the backend comes first, the id next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chardev {
    id: String,
    opts: Opts,
}

impl Chardev {
    /// A device of any backend.
    #[must_use]
    pub fn new(backend: impl Into<String>, id: impl Into<String>) -> Self {
        let id = id.into();
        Self {
            opts: Opts::with_first(backend).set("id", &id),
            id,
        }
    }

    /// A socket whose connected end is inherited as this file descriptor.
    #[must_use]
    pub fn socket_fd(id: impl Into<String>, fd: i32) -> Self {
        Self::new("socket", id).set("fd", fd)
    }

    /// A socket on which QEMU listens, inherited as this file descriptor. QEMU does not
    /// wait for the first client.
    #[must_use]
    pub fn listening_fd(id: impl Into<String>, fd: i32) -> Self {
        Self::socket_fd(id, fd)
            .flag("server", true)
            .flag("wait", false)
    }

    /// A UNIX socket that QEMU makes and listens on, without waiting for the first client.
    #[must_use]
    pub fn listening(id: impl Into<String>, path: impl fmt::Display) -> Self {
        Self::new("socket", id)
            .set("path", path)
            .flag("server", true)
            .flag("wait", false)
    }

    /// A UNIX socket to which QEMU connects.
    #[must_use]
    pub fn connecting(id: impl Into<String>, path: impl fmt::Display) -> Self {
        Self::new("socket", id).set("path", path)
    }

    /// Swallows output and never has input.
    #[must_use]
    pub fn null(id: impl Into<String>) -> Self {
        Self::new("null", id)
    }

    /// Sets one more option.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.opts = self.opts.set(key, value);
        self
    }

    /// Sets one more option to `on` or `off`.
    #[must_use]
    pub fn flag(mut self, key: impl Into<String>, on: bool) -> Self {
        self.opts = self.opts.flag(key, on);
        self
    }

    /// The id by which `-mon`, `-serial chardev:…` and others refer to it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.opts.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_does_not_hold_up_the_start() {
        assert_eq!(
            Chardev::listening_fd("mon", 7).to_string(),
            "socket,id=mon,fd=7,server=on,wait=off"
        );
    }
}
