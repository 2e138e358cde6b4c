//! The version that a QEMU program reports.

use std::fmt;
use std::str::FromStr;

/// A version of QEMU. A development tree is one micro version of 50 or more above the last release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Version {
    /// The yearly major version: 7 in 7.2.22.
    pub major: u32,
    /// The release in that year: 2 in 7.2.22.
    pub minor: u32,
    /// The stable update: 22 in 7.2.22.
    pub micro: u32,
}

impl Version {
    /// The version `major.minor.micro`.
    pub const fn new(major: u32, minor: u32, micro: u32) -> Version {
        Version {
            major,
            minor,
            micro,
        }
    }

    /// Parses the version from the first line of `--version`, if it follows one of these names: the
    /// program's name, with the word `version` where the program prints that.
    ///
    /// The line is `qemu-img version 7.2.22 (…)`; `qemu-nbd 7.2.22 (…)`, where the name may include
    /// a path; `QEMU emulator version 7.2.22` for qemu-system.
    pub(super) fn from_banner(banner: &str, names: &[&str]) -> Option<Version> {
        let line = banner.lines().next()?;
        // The path may contain the name as well.
        let version_behind = |name: &str| {
            line.match_indices(name).find_map(|(start, _)| {
                let is_word = start == 0 || line[..start].ends_with('/');
                let after = line[start + name.len()..].strip_prefix(' ')?;
                after.split(' ').next().filter(|_| is_word)?.parse().ok()
            })
        };
        names.iter().find_map(|name| version_behind(name))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read `{0}` as a version of QEMU, such as 7.2.22")]
pub struct NoVersion(String);

impl FromStr for Version {
    type Err = NoVersion;

    /// Parses `7.2` and `7.2.22`; anything after a `-` or `(` (a distribution's revision) is
    /// ignored.
    fn from_str(text: &str) -> Result<Version, NoVersion> {
        let wrong = || NoVersion(text.chars().take(40).collect());
        let numbers = text.split(['-', '+', '(']).next().unwrap_or(text);
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().map_err(|_| wrong()));
        let version = Version {
            major: parts.next().ok_or_else(wrong)??,
            minor: parts.next().ok_or_else(wrong)??,
            micro: parts.next().unwrap_or(Ok(0))?,
        };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_banners_of_all_programs_are_read() {
        for (banner, name, version) in [
            (
                "qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright",
                "qemu-img version",
                (7, 2, 22),
            ),
            (
                "/usr/local/bin/qemu-nbd 7.2.22 (Debian 1:7.2)\nWritten",
                "qemu-nbd",
                (7, 2, 22),
            ),
            ("qemu-nbd 10.0.2\n", "qemu-nbd", (10, 0, 2)),
            (
                "/qemu-nbd 8/qemu-nbd/qemu-nbd 10.0.2\n",
                "qemu-nbd",
                (10, 0, 2),
            ),
            (
                "QEMU emulator version 9.2.92 (v10.0.0-rc2-dirty)\n",
                "QEMU emulator version",
                (9, 2, 92),
            ),
        ] {
            let found = Version::from_banner(banner, &[name]);
            let (major, minor, micro) = version;
            assert_eq!(found, Some(Version::new(major, minor, micro)), "{banner}");
        }
    }

    #[test]
    fn another_program_has_no_version() {
        let names = ["qemu-img version"];
        for banner in [
            "",
            "ls (GNU coreutils) 9.1",
            "my-qemu-img version 1.2.3",
            "qemu-img",
            "qemu-img version",
            "qemu-img 7.2.0",
            "qemu-io version 7.2.0",
        ] {
            assert_eq!(Version::from_banner(banner, &names), None, "{banner}");
        }
    }

    #[test]
    fn versions_are_in_the_order_of_their_numbers() {
        let order = ["6.2.0", "7.2.22", "9.2.92", "10.0.2", "10.1"];
        let versions: Vec<Version> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
    }

    proptest! {
        #[test]
        fn a_version_is_read_as_it_is_written(major: u32, minor: u32, micro: u32) {
            let version = Version::new(major, minor, micro);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
            let banner = format!("qemu-img version {version} (Debian)");
            prop_assert_eq!(Version::from_banner(&banner, &["qemu-img version"]), Some(version));
        }

        #[test]
        fn no_text_is_too_strange(text in "(x|é| |/|1|\\PC){0,40}") {
            let _ = text.parse::<Version>();
            let _ = Version::from_banner(&text, &["qemu-img", "x", "é"]);
        }
    }
}
