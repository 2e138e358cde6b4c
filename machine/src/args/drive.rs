//! Drives (`-drive`): a block backend with a name, and optionally its guest device.

use imgtools::image::{FileName, Options};
use std::ffi::OsStr;
use std::fmt;

/// One drive. Without a file it is an empty drive, which only some interfaces accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drive {
    options: Options,
}

impl Drive {
    /// A drive without any option.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the image: a path, or anything else that QEMU accepts as one; see [`FileName`].
    #[must_use]
    pub fn file(mut self, file: impl Into<FileName>) -> Self {
        let file = file.into();
        self.options = self.options.set_path("file", file.as_os_str());
        self
    }

    /// Sets the name of the block backend.
    #[must_use]
    pub fn id(self, id: impl fmt::Display) -> Self {
        self.set("id", id)
    }

    /// Sets the guest interface: `none` for a backend alone, else `virtio`, `ide`, …
    #[must_use]
    pub fn interface(self, interface: impl fmt::Display) -> Self {
        self.set("if", interface)
    }

    /// Sets the image format, which QEMU would otherwise probe.
    #[must_use]
    pub fn format(self, format: impl fmt::Display) -> Self {
        self.set("format", format)
    }

    /// Sets the cache mode (`writeback`, `none`, `unsafe`, …).
    #[must_use]
    pub fn cache(self, mode: impl fmt::Display) -> Self {
        self.set("cache", mode)
    }

    /// Sets the kind of host I/O (`threads`, `native`, `io_uring`).
    #[must_use]
    pub fn aio(self, mode: impl fmt::Display) -> Self {
        self.set("aio", mode)
    }

    /// Whether the drive plugs a device into the guest: all interfaces but `none` do, and
    /// leaving it out means the board's default one.
    #[must_use]
    pub fn has_guest_device(&self) -> bool {
        self.options.get("if").as_deref() != Some("none")
    }

    /// Sets any other option; dotted keys reach into child nodes.
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
}

/// For messages: bytes that are not UTF-8 become U+FFFD.
impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_quotes_its_file_name() {
        let drive = Drive::new().interface("none").id("drive0").file("/d/a,b").format("raw");
        assert_eq!(
            drive.to_string(),
            "if=none,id=drive0,file=/d/a,,b,format=raw"
        );
    }
}
