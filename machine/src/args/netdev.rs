//! Network backends (`-netdev`).

use super::Opts;
use std::fmt;

/// A network backend, for a guest device whose `netdev` property names its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    opts: Opts,
}

impl Netdev {
    /// A backend of any type.
    #[must_use]
    pub fn new(kind: impl Into<String>, id: impl fmt::Display) -> Self {
        Self {
            opts: Opts::with_first(kind).set("id", id),
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
    pub fn set(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.opts = self.opts.set(key, value);
        self
    }
}

impl fmt::Display for Netdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.opts.fmt(f)
    }
}
