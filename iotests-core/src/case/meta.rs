//! What is declared about a case beside its function.

use std::fmt;
use std::time::Duration;

use super::axes::{Aio, Cache, Format, Formats, Guest, Host, Protocol};
use super::requirement::Requirement;
use super::version::VersionRange;

/// The budget of a case that names none.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(60);

/// A group of cases, named as QEMU names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub &'static str);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// A failure that is known: the case fails with these versions, and that is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedFailure {
    /// Why, with a reference.
    pub reason: &'static str,
    /// What is said then, in the message of the failure or in what a machine printed.
    pub says: &'static str,
    /// The versions of QEMU that fail.
    pub versions: VersionRange,
    /// The formats it fails with; none means all that the case supports.
    pub formats: &'static [Format],
}

impl ExpectedFailure {
    /// With these formats only.
    pub const fn only(self, formats: &'static [Format]) -> Self {
        Self { formats, ..self }
    }
}

/// The change in QEMU that a case depends on; shown when the case fails on an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fix {
    /// The first release with the fix, such as "8.1".
    pub release: &'static str,
    /// The commit, abbreviated.
    pub commit: &'static str,
}

/// A case that is known to be unreliable: its failure does not fail the run until the date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// Why, with a reference.
    pub reason: &'static str,
    /// The last day, `YYYY-MM-DD`; from the next day on failures count.
    pub until: &'static str,
}

/// Everything declared in `#[case(…)]`.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// Ids of the upstream tests this case covers, down to `040::TestSingleDrive::test_commit`.
    pub upstream: &'static [&'static str],
    /// Supported formats.
    pub formats: Formats,
    /// Supported protocols.
    pub protocols: &'static [Protocol],
    /// Supported cache modes.
    pub caches: &'static [Cache],
    /// Supported aio modes.
    pub aios: &'static [Aio],
    /// Creation options this case cannot work with, such as "refcount_bits" or "compat=0.10".
    pub unsupported_imgopts: &'static [&'static str],
    /// The groups.
    pub groups: &'static [Group],
    /// What has to be there, else the case is skipped.
    pub needs: &'static [Requirement],
    /// Which process hosts the block layer.
    pub host: Host,
    /// What the guest does meanwhile.
    pub guest: Guest,
    /// Time allowed before the scale.
    pub budget: Duration,
    /// Nothing else may run at the same time.
    pub exclusive: bool,
    /// It mounts, or runs a setuid program, which a confined process may not.
    pub unconfined: bool,
    /// Memory needed at once, in bytes; the scheduler keeps the sum below what the host has.
    pub memory: u64,
    /// A known failure.
    pub xfail: Option<ExpectedFailure>,
    /// The change in QEMU that made it work.
    pub fixed_in: Option<Fix>,
    /// Known to be unreliable.
    pub quarantine: Option<Quarantine>,
}

impl Meta {
    /// Any generic format, on files, with any cache and aio mode, without a host.
    pub const fn new() -> Self {
        Self {
            upstream: &[],
            formats: Formats::Generic,
            protocols: &[Protocol::File],
            caches: Cache::ALL,
            aios: Aio::ALL,
            unsupported_imgopts: &[],
            groups: &[],
            needs: &[],
            host: Host::None,
            guest: Guest::Stopped,
            budget: DEFAULT_BUDGET,
            exclusive: false,
            unconfined: false,
            memory: 64 << 20,
            xfail: None,
            fixed_in: None,
            quarantine: None,
        }
    }

    /// The upstream tests this case covers; several stand in a slice.
    pub const fn upstream(self, ids: &'static [&'static str]) -> Self {
        Self {
            upstream: ids,
            ..self
        }
    }

    /// Exactly these formats.
    pub const fn formats(self, formats: &'static [Format]) -> Self {
        Self {
            formats: Formats::Only(formats),
            ..self
        }
    }

    /// Every generic format but these.
    pub const fn formats_except(self, formats: &'static [Format]) -> Self {
        Self {
            formats: Formats::Except(formats),
            ..self
        }
    }

    /// Every generic format (the default, said aloud).
    pub const fn generic(self) -> Self {
        Self {
            formats: Formats::Generic,
            ..self
        }
    }

    /// Exactly these protocols; `file` alone by default.
    pub const fn protocols(self, protocols: &'static [Protocol]) -> Self {
        Self { protocols, ..self }
    }

    /// Exactly these cache modes; all by default.
    pub const fn caches(self, caches: &'static [Cache]) -> Self {
        Self { caches, ..self }
    }

    /// Exactly these aio modes; all by default.
    pub const fn aios(self, aios: &'static [Aio]) -> Self {
        Self { aios, ..self }
    }

    /// Creation options (`-o`) the case cannot work with.
    pub const fn unsupported_imgopts(self, options: &'static [&'static str]) -> Self {
        Self {
            unsupported_imgopts: options,
            ..self
        }
    }

    /// The groups.
    pub const fn groups(self, groups: &'static [Group]) -> Self {
        Self { groups, ..self }
    }

    /// What has to be there.
    pub const fn needs(self, needs: &'static [Requirement]) -> Self {
        Self { needs, ..self }
    }

    /// Which process hosts the block layer.
    pub const fn host(self, host: Host) -> Self {
        Self { host, ..self }
    }

    /// What the guest does meanwhile.
    pub const fn guest(self, guest: Guest) -> Self {
        Self { guest, ..self }
    }

    /// Time allowed, before the scale.
    pub const fn budget(self, budget: Duration) -> Self {
        Self { budget, ..self }
    }

    /// Nothing else may run at the same time.
    pub const fn exclusive(self) -> Self {
        Self {
            exclusive: true,
            ..self
        }
    }

    /// It mounts something (FUSE) or runs a setuid program (sudo), which a process confined to its directories may not.
    pub const fn unconfined(self) -> Self {
        Self {
            unconfined: true,
            ..self
        }
    }

    /// Memory needed at once, in bytes.
    pub const fn memory(self, bytes: u64) -> Self {
        Self {
            memory: bytes,
            ..self
        }
    }

    /// A known failure: `xfail = known("why", "what it says", VersionRange::since(9, 0))`.
    pub const fn xfail(self, failure: ExpectedFailure) -> Self {
        Self {
            xfail: Some(failure),
            ..self
        }
    }

    /// The change in QEMU that made it work: `fixed_in = fix("8.1", "0123abcdef")`.
    pub const fn fixed_in(self, fix: Fix) -> Self {
        Self {
            fixed_in: Some(fix),
            ..self
        }
    }

    /// What is declared, as far as it holds for this format.
    pub fn on(&self, format: Format) -> Self {
        let holds =
            |known: &ExpectedFailure| known.formats.is_empty() || known.formats.contains(&format);
        Self {
            xfail: self.xfail.filter(holds),
            ..*self
        }
    }

    /// Known to be unreliable: `quarantine = until("2027-01-31", "why")`.
    pub const fn quarantine(self, quarantine: Quarantine) -> Self {
        Self {
            quarantine: Some(quarantine),
            ..self
        }
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self::new()
    }
}
