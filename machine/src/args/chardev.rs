//! Character devices (`-chardev`, `--chardev`).

use imgtools::image::Options;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// One character device; the backend comes first, the id next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chardev {
    id: String,
    options: Options,
}

impl Chardev {
    /// A device of any backend.
    #[must_use]
    pub fn new(backend: impl fmt::Display, id: impl Into<String>) -> Self {
        let id = id.into();
        Self {
            options: Options::with_first(backend).set("id", &id),
            id,
        }
    }

    /// A socket whose connected end is inherited as this file descriptor.
    #[must_use]
    pub fn socket_fd(id: impl Into<String>, fd: i32) -> Self {
        Self::new("socket", id).set("fd", fd)
    }

    /// A UNIX socket that QEMU creates and listens on, without waiting for the first client.
    #[must_use]
    pub fn listening(id: impl Into<String>, path: impl AsRef<Path>) -> Self {
        Self::at("socket", id, path).flag("server", true).flag("wait", false)
    }

    /// A UNIX socket to which QEMU connects.
    #[must_use]
    pub fn connecting(id: impl Into<String>, path: impl AsRef<Path>) -> Self {
        Self::at("socket", id, path)
    }

    fn at(backend: &str, id: impl Into<String>, path: impl AsRef<Path>) -> Self {
        let mut device = Self::new(backend, id);
        device.options = device.options.set_path("path", path);
        device
    }

    /// Swallows output and never has input.
    #[must_use]
    pub fn null(id: impl Into<String>) -> Self {
        Self::new("null", id)
    }

    /// Sets one more option.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.options = self.options.set(key, value);
        self
    }

    /// The word for a command line.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        self.options.as_os_str()
    }

    /// Sets one more option to `on` or `off`.
    #[must_use]
    pub fn flag(self, key: &str, on: bool) -> Self {
        self.set(key, if on { "on" } else { "off" })
    }

    /// The id by which `-mon`, `-serial chardev:…` and others refer to it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// For messages: bytes that are not UTF-8 become U+FFFD.
impl fmt::Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_does_not_hold_up_the_start() {
        assert_eq!(
            Chardev::listening("mon", "/s").to_string(),
            "socket,id=mon,path=/s,server=on,wait=off"
        );
    }
}
