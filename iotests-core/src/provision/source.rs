//! The sources of packages: the machine's own sources, or a suite of Debian's archive.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The suites with their own QEMU, oldest first. If two have the same version, the first is used.
pub(super) const SUITES: [&str; 5] = [
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];

/// The names of Debian releases in a machine's sources.
const RELEASES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// Sets the archive's address if the machine's sources do not contain it.
pub(crate) const MIRROR_VARIABLE: &str = "IOTESTS_DEBIAN_MIRROR";

/// The files with the keys of Debian's archive, on Debian and elsewhere if its keyring is
/// installed.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// One source of packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// The machine's own sources.
    Machine,
    /// A suite of Debian's archive.
    Suite(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("this machine's package sources"),
            Self::Suite(suite) => f.write_str(suite),
        }
    }
}

/// A copy of Debian's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    /// Its address, as in a sources file.
    pub(super) address: String,
    /// The file with the keys that sign it; without one, the keys that apt already trusts.
    pub(super) keys: Option<PathBuf>,
}

impl Archive {
    /// The archive that the machine's own sources use, by the addresses of their lists:
    /// `http://mirror.example/debian/dists/bookworm/InRelease`.
    ///
    /// Third parties name their suites after Debian's, and some also their archive; but Debian's
    /// also has suites such as `bookworm-updates`.
    pub(super) fn of_lists(lists: &[String]) -> Option<Self> {
        let places: Vec<(&str, &str)> = lists
            .iter()
            .filter_map(|list| {
                let (address, rest) = list.split_once("/dists/")?;
                let suite = rest.split('/').next()?;
                let is_debian =
                    ["/debian", "/debian.list"].iter().any(|end| address.ends_with(end));
                is_debian.then_some((address, suite))
            })
            .collect();
        let is_release = |suite: &str| RELEASES.contains(&suite);
        let adds = |suite: &str| {
            let release = ["-updates", "-backports"].iter().find_map(|end| suite.strip_suffix(end));
            release.is_some_and(is_release)
        };
        let found = places.iter().find(|(_, suite)| adds(suite));
        let found = found.or_else(|| places.iter().find(|(_, suite)| is_release(suite)));
        found.map(|(address, _)| Self::at(address))
    }

    /// The archive at this address, signed by Debian.
    pub(super) fn at(address: &str) -> Self {
        let keys = KEYRINGS.iter().map(PathBuf::from);
        Self {
            address: address.trim_end_matches('/').to_owned(),
            keys: keys.into_iter().find(|path| Path::is_file(path)),
        }
    }

    /// A sources file with this suite and the suite that it extends.
    pub(super) fn entry(&self, suite: &str) -> String {
        let base = suite.strip_suffix("-backports").unwrap_or(suite);
        let suites = if base == suite {
            suite.to_owned()
        } else {
            format!("{base} {suite}")
        };
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\nTargets: Packages\n",
            self.address
        );
        if let Some(keys) = &self.keys {
            text += &format!("Signed-By: {}\n", keys.display());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_one_that_the_machine_installs_from() {
        let of = |lists: &[&str]| {
            let lists: Vec<String> = lists.iter().map(|list| format!("{list}/InRelease")).collect();
            Archive::of_lists(&lists).map(|archive| archive.address)
        };
        let other = "https://download.example/linux/debian/dists/bookworm";
        let security = "http://mirror.example/debian-security/dists/bookworm-security";
        let archive = "http://mirror.example/debian/dists/bookworm-updates";
        assert_eq!(
            of(&[other, security, archive]).unwrap(),
            "http://mirror.example/debian"
        );
        let only = "mirror+file:/etc/apt/mirrors/debian.list/dists/trixie";
        assert_eq!(
            of(&[only]).unwrap(),
            "mirror+file:/etc/apt/mirrors/debian.list"
        );
        assert_eq!(of(&["http://m/ubuntu/dists/noble", security]), None);
    }

    #[test]
    fn backports_come_with_the_release_that_they_add_to() {
        let archive = Archive {
            address: "http://m/debian".to_owned(),
            keys: Some("/k".into()),
        };
        assert_eq!(
            archive.entry("trixie-backports"),
            "Types: deb\nURIs: http://m/debian\nSuites: trixie trixie-backports\n\
             Components: main\nTargets: Packages\nSigned-By: /k\n"
        );
        assert!(archive.entry("sid").contains("Suites: sid\n"));
    }
}
