//! Network backends (`-netdev`).

use imgtools::image::Options;
use std::ffi::OsStr;
use std::fmt;

/// A network backend, for a guest device whose `netdev` property names its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    options: Options,
}

impl Netdev {
    /// A backend of any type.
    #[must_use]
    pub fn new(kind: impl fmt::Display, id: impl fmt::Display) -> Self {
        Self {
            options: Options::with_first(kind).set("id", id),
        }
    }

    /// The user-mode network, which needs no privileges.
    #[must_use]
    pub fn user(id: impl fmt::Display) -> Self {
        Self::new("user", id)
    }

    /// A tap interface that is already set up.
    #[must_use]
    pub fn tap(id: impl fmt::Display, interface: impl fmt::Display) -> Self {
        Self::new("tap", id)
            .set("ifname", interface)
            .set("script", "no")
            .set("downscript", "no")
    }

    /// Sets one option.
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
impl fmt::Display for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}
