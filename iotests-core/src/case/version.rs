//! Ranges of QEMU's versions.

use std::fmt;

use imgtools::tools::Version;

/// Versions from `since` (inclusive) up to `before` (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The first version in the range.
    pub since: Option<Version>,
    /// The first version after the range.
    pub before: Option<Version>,
}

impl VersionRange {
    /// All versions.
    pub const ANY: Self = Self {
        since: None,
        before: None,
    };

    /// From this one on.
    pub const fn since(major: u32, minor: u32) -> Self {
        Self {
            since: Some(Version::new(major, minor, 0)),
            before: None,
        }
    }

    /// All before this one.
    pub const fn before(major: u32, minor: u32) -> Self {
        Self {
            since: None,
            before: Some(Version::new(major, minor, 0)),
        }
    }

    /// And all before this one.
    pub const fn and_before(self, major: u32, minor: u32) -> Self {
        Self {
            since: self.since,
            before: Some(Version::new(major, minor, 0)),
        }
    }

    /// Whether `version` is in the range.
    pub fn contains(&self, version: Version) -> bool {
        self.since.is_none_or(|since| version >= since)
            && self.before.is_none_or(|before| version < before)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_includes_its_start_and_excludes_its_end() {
        let range = VersionRange::since(7, 0).and_before(9, 1);
        assert!(range.contains(Version::new(7, 0, 0)));
        assert!(!range.contains(Version::new(9, 1, 0)));
        assert!(range.contains(Version::new(9, 0, 50)));
        assert_eq!(range.to_string(), "7.0 or later, but older than 9.1");
    }
}
