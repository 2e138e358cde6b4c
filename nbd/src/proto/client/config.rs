//! What a client negotiates, and how strict it is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proto::{Checks, Mode, limits};

/// Parts of the negotiation that can be required or forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Newstyle negotiation; forbidding it requires an oldstyle server.
    Newstyle,
    /// Fixed newstyle; without it only `EXPORT_NAME` is left.
    FixedNewstyle,
    /// Leaving out the 124 zeroes after `EXPORT_NAME`.
    NoZeroes,
    /// TLS. Forbidden unless the driver has credentials.
    Tls,
    /// Structured replies.
    StructuredReplies,
    /// Extended headers.
    ExtendedHeaders,
    /// `GO`; without it `EXPORT_NAME` starts transmission.
    Go,
    /// Asking for block sizes, name and description in `GO`.
    Info,
    /// Metadata contexts; required means that each requested one must exist.
    MetaContexts,
}

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Feature::Newstyle => "newstyle negotiation",
            Feature::FixedNewstyle => "fixed newstyle",
            Feature::NoZeroes => "leaving out the zeroes (NO_ZEROES)",
            Feature::Tls => "TLS",
            Feature::StructuredReplies => "structured replies",
            Feature::ExtendedHeaders => "extended headers",
            Feature::Go => "the option GO",
            Feature::Info => "information on the export (INFO)",
            Feature::MetaContexts => "metadata contexts",
        })
    }
}

/// What to do about a [`Feature`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Use it if the server has it.
    #[default]
    Auto,
    /// Fail without it.
    Require,
    /// Do not request it.
    Forbid,
}

crate::proto::bits::flag_words! {
    /// Rules for our own requests, like libnbd's strict mode (`nbd_set_strict_mode`). A request
    /// that breaks one is not sent. Disable one to send what the server must refuse.
    pub struct StrictMode: u32 {
        /// No command that the export does not advertise, and none that writes to a read-only one.
        const COMMANDS = 1 << 0;
        /// No flag that the export does not advertise or the command does not have.
        const FLAGS = 1 << 1;
        /// No range beyond the end of the export.
        const BOUNDS = 1 << 2;
        /// No request of zero bytes.
        const ZERO_SIZE = 1 << 3;
        /// Offsets and lengths are multiples of the minimum block size.
        const ALIGN = 1 << 4;
        /// No payload above the server's maximum.
        const PAYLOAD = 1 << 5;
    }
}

/// What a client negotiates, and how strict it is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the export; empty is the default export.
    pub export: String,
    /// Metadata contexts to select, by their full names.
    pub contexts: Vec<String>,
    /// What is required or forbidden; anything else is used where the server has it.
    pub policies: HashMap<Feature, Policy>,
    /// Rules for replies.
    pub checks: Checks,
    /// Rules for our own requests.
    pub strict: StrictMode,
    /// Maximum number of requests in flight, at least 1; further ones are queued.
    pub in_flight: usize,
    /// Largest payload in bytes that is sent or accepted.
    pub max_payload: u64,
    /// The server's address, for errors.
    pub peer: Arc<str>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            export: String::new(),
            contexts: Vec::new(),
            policies: HashMap::from([(Feature::Tls, Policy::Forbid)]),
            checks: Checks::all(),
            strict: StrictMode::all(),
            in_flight: 64,
            max_payload: limits::MAX_PAYLOAD,
            peer: "the server".into(),
        }
    }
}

impl Config {
    /// What to do about a feature.
    pub fn policy(&self, feature: Feature) -> Policy {
        self.policies.get(&feature).copied().unwrap_or_default()
    }

    pub(crate) fn wants(&self, feature: Feature) -> bool {
        self.policy(feature) != Policy::Forbid
    }

    pub(crate) fn requires(&self, feature: Feature) -> bool {
        self.policy(feature) == Policy::Require
    }

    /// Exactly this mode, or an error.
    pub fn set_mode(&mut self, mode: Mode) {
        use Feature::{ExtendedHeaders, FixedNewstyle, Newstyle, StructuredReplies};
        let requirements = [
            (Newstyle, Mode::ExportName),
            (FixedNewstyle, Mode::Simple),
            (StructuredReplies, Mode::Structured),
            (ExtendedHeaders, Mode::Extended),
        ];
        for (feature, first) in requirements {
            // Extended headers replace structured replies, so the latter are not needed for them.
            let policy = match (feature, mode) {
                (StructuredReplies, Mode::Extended) => Policy::Auto,
                _ if mode >= first => Policy::Require,
                _ => Policy::Forbid,
            };
            self.policies.insert(feature, policy);
        }
    }
}
