//! Ranges of QEMU versions, and releases that contain a fix.
//!
//! How versions compare: QEMU makes three releases a year, X.0, X.1 and X.2. Between two releases,
//! a development tree has a micro version of 50 or more on top of the previous release, and a
//! release candidate one of 90 or more: 9.2.50 leads to 10.0, and 9.2.92 is 10.0-rc2. Both are
//! older than 10.0.0, but **count as the release that they lead to** in a range, because features
//! land before the candidates. Whether they contain a fix made for that very release is unknown.

use std::fmt;

use imgtools::tools::Version;

/// The lowest micro version of a development tree.
const DEVELOPMENT: u32 = 50;

/// The release that a version counts as: itself, or the next release for a development version.
fn counts_as(version: Version) -> Version {
    match (version.micro >= DEVELOPMENT, version.minor) {
        (false, _) => version,
        (true, 2..) => Version::new(version.major + 1, 0, 0),
        (true, minor) => Version::new(version.major, minor + 1, 0),
    }
}

fn branch(version: Version) -> (u32, u32) {
    (version.major, version.minor)
}

/// Releases from `since` (inclusive) up to `before` (exclusive), with their stable updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The first release in the range.
    pub since: Option<Version>,
    /// The first release after the range.
    pub before: Option<Version>,
}

impl VersionRange {
    /// All versions.
    pub const ANY: Self = Self {
        since: None,
        before: None,
    };

    /// From this release on.
    pub const fn since(major: u32, minor: u32) -> Self {
        Self {
            since: Some(Version::new(major, minor, 0)),
            before: None,
        }
    }

    /// This release or later.
    #[must_use]
    pub const fn since_release(major: u32, minor: u32, micro: u32) -> Self {
        Self {
            since: Some(Version::new(major, minor, micro)),
            before: None,
        }
    }

    /// All versions before this release.
    pub const fn before(major: u32, minor: u32) -> Self {
        Self {
            since: None,
            before: Some(Version::new(major, minor, 0)),
        }
    }

    /// Excludes this release and later ones.
    pub const fn and_before(self, major: u32, minor: u32) -> Self {
        Self {
            since: self.since,
            before: Some(Version::new(major, minor, 0)),
        }
    }

    /// Whether `version` is in the range.
    pub fn contains(&self, version: Version) -> bool {
        let version = counts_as(version);
        self.since.is_none_or(|since| version >= since)
            && self.before.is_none_or(|before| version < before)
    }

    /// Whether the range is empty.
    pub(super) fn is_empty(&self) -> bool {
        matches!((self.since, self.before), (Some(since), Some(before)) if since >= before)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.since, self.before) {
            (None, None) => write!(f, "any version"),
            (Some(since), None) => write!(f, "{}.{} or later", since.major, since.minor),
            (None, Some(before)) => write!(f, "older than {}.{}", before.major, before.minor),
            (Some(since), Some(before)) => {
                write!(
                    f,
                    "{}.{} or later, but older than {}.{}",
                    since.major, since.minor, before.major, before.minor
                )
            }
        }
    }
}

/// The maximum number of branches that can have their own fix.
const BRANCHES: usize = 6;

/// The first releases that contain a fix: on mainline, and on each stable branch that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedIn([Option<Version>; BRANCHES]);

/// Whether a version contains a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// Unknown: it is a development version of the release with the fix.
    Perhaps,
}

impl FixedIn {
    /// No release contains the fix.
    pub const NONE: Self = Self([None; BRANCHES]);

    /// These releases, such as `["10.0.3", "10.1"]`. In a constant, an invalid version is a compile
    /// error.
    pub const fn new<const N: usize>(releases: [&'static str; N]) -> Self {
        assert!(N <= BRANCHES, "a fix has at most six releases");
        let mut versions = [None; BRANCHES];
        let mut index = 0;
        while index < N {
            versions[index] = Some(parse(releases[index]));
            index += 1;
        }
        Self(versions)
    }

    /// Whether no release is named.
    pub fn is_empty(&self) -> bool {
        self.releases().next().is_none()
    }

    fn releases(&self) -> impl Iterator<Item = Version> + '_ {
        self.0.iter().flatten().copied()
    }

    /// Whether `version` has the fix.
    pub fn state(&self, version: Version) -> Fixed {
        let Some(mainline) = self.releases().max() else {
            return Fixed::No;
        };
        let counted = counts_as(version);
        if counted != version && counted == mainline {
            return Fixed::Perhaps;
        }
        let on_branch = |release: Version| branch(release) == branch(counted) && counted >= release;
        if counted >= mainline || self.releases().any(on_branch) {
            Fixed::Yes
        } else {
            Fixed::No
        }
    }
}

impl fmt::Display for FixedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, release) in self.releases().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{release}")?;
        }
        Ok(())
    }
}

/// Parses `7.2.22` or `7.2` in a constant.
const fn parse(text: &str) -> Version {
    let (bytes, mut parts, mut at, mut index) = (text.as_bytes(), [0_u32; 3], 0, 0);
    assert!(!bytes.is_empty(), "a version is missing");
    while index < bytes.len() {
        match bytes[index] {
            b'.' if index > 0 && bytes[index - 1] != b'.' && at < 2 => at += 1,
            digit @ b'0'..=b'9' => parts[at] = parts[at] * 10 + (digit - b'0') as u32,
            _ => panic!("a version is written as 7.2 or 7.2.22"),
        }
        index += 1;
    }
    assert!(
        at > 0 && bytes[bytes.len() - 1] != b'.',
        "a version is written as 7.2 or 7.2.22"
    );
    Version::new(parts[0], parts[1], parts[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_includes_its_start_and_excludes_its_end() {
        let range = VersionRange::since(7, 0).and_before(9, 1);
        assert!(range.contains(Version::new(7, 0, 0)));
        assert!(!range.contains(Version::new(9, 1, 0)));
        assert!(range.contains(Version::new(9, 0, 2)));
        assert_eq!(range.to_string(), "7.0 or later, but older than 9.1");
        let range = VersionRange::since_release(9, 0, 2);
        assert!(range.contains(Version::new(9, 0, 2)) && range.contains(Version::new(10, 0, 0)));
        assert!(!range.contains(Version::new(9, 0, 1)));
    }

    #[test]
    fn a_release_candidate_counts_as_the_release_and_is_older_than_it() {
        let rc2 = Version::new(9, 2, 92);
        assert!(VersionRange::since(10, 0).contains(rc2));
        assert!(!VersionRange::before(10, 0).contains(rc2));
        assert!(!VersionRange::since(10, 1).contains(rc2));
        assert!(rc2 < Version::new(10, 0, 0));
        assert!(
            VersionRange::since(9, 2).contains(Version::new(9, 1, 50)),
            "a development tree as well"
        );
        assert!(!VersionRange::since(10, 0).contains(Version::new(9, 2, 49)));
    }

    #[test]
    fn a_fix_counts_from_its_release_on_its_branch_and_from_the_mainline_on_everywhere() {
        let fix = const { FixedIn::new(["9.2.4", "10.0.1", "10.1"]) };
        for (version, expected) in [
            ("9.1.9", Fixed::No),
            ("9.2.3", Fixed::No),
            ("9.2.4", Fixed::Yes),
            ("9.2.92", Fixed::No), // 10.0-rc2 is older than 10.0.1
            ("10.0.0", Fixed::No),
            ("10.0.1", Fixed::Yes),
            ("10.0.50", Fixed::Perhaps),
            ("10.0.94", Fixed::Perhaps),
            ("10.1.0", Fixed::Yes),
            ("10.1.50", Fixed::Yes),
            ("11.0.0", Fixed::Yes),
        ] {
            assert_eq!(fix.state(version.parse().unwrap()), expected, "{version}");
        }
        assert_eq!(FixedIn::NONE.state(Version::new(99, 0, 0)), Fixed::No);
        assert_eq!(fix.to_string(), "9.2.4, 10.0.1, 10.1.0");
    }

    #[test]
    fn only_a_version_is_read_as_one() {
        assert_eq!(parse("10.1"), Version::new(10, 1, 0));
        assert_eq!(parse("7.2.22"), Version::new(7, 2, 22));
        for text in ["", "10", "10.", ".1", "10..1", "1.2.3.4", "v10.1"] {
            assert!(std::panic::catch_unwind(|| parse(text)).is_err(), "{text}");
        }
    }
}
