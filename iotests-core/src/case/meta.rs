//! The merged declaration of one case, or of one row of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::axes::{Aio, Cache, Formats, Guest, Host, Protocol};
use super::declaration::{Declaration, Group};
use super::known_bug::{Fix, KnownBug, Quarantine};
use super::requirement::Requirement;

/// The budget of a case that declares none.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(60);

/// The layer that declared a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `defaults!` of this module.
    Module(&'static str),
    /// The attribute of the case.
    Attribute,
    /// The row of this name.
    Row(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(module) => write!(f, "defaults of {module}"),
            Self::Attribute => f.pad("attribute"),
            Self::Row(name) => write!(f, "row {name}"),
        }
    }
}

/// The merged declaration of one case, or of one row of it.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Ids of the upstream tests that it covers.
    pub upstream: Vec<String>,
    /// Supported formats.
    pub formats: Formats,
    /// Supported protocols.
    pub protocols: &'static [Protocol],
    /// Supported cache modes.
    pub caches: &'static [Cache],
    /// Supported aio modes.
    pub aios: &'static [Aio],
    /// Creation options that it cannot work with, such as "refcount_bits" or "compat=0.10".
    pub unsupported_imgopts: Vec<&'static str>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// What it needs; it is skipped if something is missing.
    pub needs: Vec<Requirement>,
    /// The process that hosts the block layer.
    pub host: Host,
    /// What the guest does during the case.
    pub guest: Guest,
    /// The time allowed, before scaling.
    pub budget: Duration,
    /// Whether it must run alone.
    pub exclusive: bool,
    /// A machine-wide resource that only one case may use at a time.
    pub lock: Option<&'static str>,
    /// Whether it mounts or runs a setuid program, which a confined process cannot do.
    pub unconfined: bool,
    /// The number of processors that it keeps busy; it occupies as many of the jobs.
    pub cpus: u32,
    /// The memory that it needs, in bytes; the scheduler keeps the sum below the host's memory.
    pub memory: u64,
    /// QEMU bugs that make it fail.
    pub known_bugs: Vec<KnownBug>,
    /// The change in QEMU that made it work.
    pub fixed_in: Option<Fix>,
    /// Set if it is known to be unreliable.
    pub quarantine: Option<Quarantine>,
    /// The layers that declared each key, outermost first; for a single value the last one counts.
    /// Keys that no layer declared are absent.
    pub origins: BTreeMap<&'static str, Vec<Origin>>,
}

impl Default for Meta {
    /// Every generic format, on files, with every cache and aio mode, without a host.
    fn default() -> Self {
        Self {
            upstream: Vec::new(),
            formats: Formats::Generic,
            protocols: &[Protocol::File],
            caches: Cache::ALL,
            aios: Aio::ALL,
            unsupported_imgopts: Vec::new(),
            groups: Vec::new(),
            needs: Vec::new(),
            host: Host::None,
            guest: Guest::Stopped,
            budget: DEFAULT_BUDGET,
            exclusive: false,
            lock: None,
            unconfined: false,
            cpus: 1,
            memory: 64 << 20,
            known_bugs: Vec::new(),
            fixed_in: None,
            quarantine: None,
            origins: BTreeMap::new(),
        }
    }
}

impl Meta {
    /// Merges the layers, outermost first: lists accumulate, single values replace outer ones.
    ///
    /// Upstream ids are omitted: those of a family depend on its tables, see
    /// [`Registered`](super::Registered).
    pub fn merge(layers: &[(Origin, Declaration)]) -> Self {
        let mut meta = Self::default();
        for (origin, layer) in layers {
            let replace = Self {
                formats: layer.format_set.unwrap_or(meta.formats),
                protocols: layer.protocols.unwrap_or(meta.protocols),
                caches: layer.caches.unwrap_or(meta.caches),
                aios: layer.aios.unwrap_or(meta.aios),
                host: layer.host.unwrap_or(meta.host),
                guest: layer.guest.unwrap_or(meta.guest),
                budget: layer.budget.unwrap_or(meta.budget),
                exclusive: layer.exclusive.unwrap_or(meta.exclusive),
                lock: layer.lock.or(meta.lock),
                unconfined: layer.unconfined.unwrap_or(meta.unconfined),
                cpus: layer.cpus.unwrap_or(meta.cpus),
                memory: layer.memory.unwrap_or(meta.memory),
                fixed_in: layer.fixed_in.or(meta.fixed_in),
                quarantine: layer.quarantine.or(meta.quarantine),
                ..meta
            };
            meta = replace;
            add(&mut meta.unsupported_imgopts, layer.unsupported_imgopts);
            add(&mut meta.groups, layer.groups);
            add(&mut meta.needs, layer.needs);
            add(&mut meta.known_bugs, layer.known_bugs);
            for key in layer.keys() {
                meta.origins.entry(key).or_default().push(origin.clone());
            }
        }
        meta
    }
}

/// Appends items, dropping duplicates.
fn add<T: Copy + PartialEq>(all: &mut Vec<T>, more: Option<&'static [T]>) {
    for one in more.unwrap_or_default() {
        if !all.contains(one) {
            all.push(*one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Format;
    use crate::case::names::{AUTO, QUICK, RW, known, secs, since};

    const OUTER: Declaration = Declaration::new()
        .formats(&[Format::Qcow2, Format::Qed])
        .groups(&[RW])
        .budget(secs(5))
        .needs(&[Requirement::Luks]);
    const INNER: Declaration =
        Declaration::new().groups(&[QUICK, RW]).host(Host::Any).exclusive(true);
    const ROW: Declaration = Declaration::new()
        .formats(&[Format::Raw])
        .needs(&[Requirement::Zstd])
        .exclusive(false)
        .known_bugs(&[known("bug", "says", since(8, 0))]);

    #[test]
    fn lists_add_up_and_values_of_inner_layers_replace_those_of_outer_ones() {
        let layers = [
            (Origin::Module("a::b"), OUTER),
            (Origin::Attribute, INNER),
            (Origin::Row("row"), ROW),
        ];
        let meta = Meta::merge(&layers);
        assert_eq!(meta.formats.to_vec(), [Format::Raw]);
        assert_eq!(meta.groups, [RW, QUICK]);
        assert_eq!(meta.needs, [Requirement::Luks, Requirement::Zstd]);
        assert_eq!(meta.host, Host::Any);
        assert_eq!(meta.budget, secs(5));
        assert!(!meta.exclusive);
        assert_eq!(meta.known_bugs.len(), 1);
        let siblings = Meta::merge(&layers[..2]);
        assert!(siblings.exclusive && siblings.known_bugs.is_empty());
        assert!(!meta.groups.contains(&AUTO));
    }

    #[test]
    fn every_key_knows_who_declared_it() {
        let layers = [
            (Origin::Module("a::b"), OUTER),
            (Origin::Attribute, INNER),
            (Origin::Row("row"), ROW),
        ];
        let meta = Meta::merge(&layers);
        let of = |key: &str| {
            let origins = meta.origins.get(key).cloned().unwrap_or_default();
            origins.iter().map(Origin::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("groups"), ["defaults of a::b", "attribute"]);
        assert_eq!(of("format_set"), ["defaults of a::b", "row row"]);
        assert_eq!(of("host"), ["attribute"]);
        assert!(of("memory").is_empty());
    }
}
