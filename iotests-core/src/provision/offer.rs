//! What a source offers: an emulator, and tools of the same version.

use serde::{Deserialize, Serialize};

use super::apt::Row;
use super::source::Source;

/// A QEMU that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    /// Its source.
    pub(super) source: Source,
    /// The version of the emulator's package: `1:10.0.2+ds-2+deb13u1~bpo12+1`.
    pub(super) package: String,
    /// The packages to fetch, as `package=version`.
    pub(super) packages: Vec<String>,
}

impl Offer {
    /// The newest emulator that has tools of the same version. The error states what is missing.
    pub(super) fn choose(source: &Source, emulator: &str, rows: &[Row]) -> Result<Self, String> {
        let of = |package: &str| {
            let rows = rows.iter().filter(|row| row.package == package);
            rows.map(|row| row.version.as_str()).collect::<Vec<_>>()
        };
        let (emulators, tools, extras) = (of(emulator), of(TOOLS), of(EXTRA));
        if emulators.is_empty() {
            return Err(format!("no package {emulator}"));
        }
        for version in &emulators {
            // A rebuild of one package for one architecture ("+b3") does not change the source.
            let same = |other: &&&str| source_version(other) == source_version(version);
            let Some(tool) = tools.iter().find(same) else {
                continue;
            };
            let mut packages = vec![format!("{emulator}={version}"), format!("{TOOLS}={tool}")];
            let extra = extras.iter().find(same);
            packages.extend(extra.map(|extra| format!("{EXTRA}={extra}")));
            return Ok(Self {
                source: source.clone(),
                package: (*version).to_owned(),
                packages,
            });
        }
        let tools = if tools.is_empty() {
            "nothing".to_owned()
        } else {
            tools.join(", ")
        };
        Err(format!(
            "{emulator} is offered as {}, {TOOLS} only as {tools}",
            emulators.join(", "),
        ))
    }

    /// QEMU's version according to the package: `7.2` for `1:7.2+dfsg-7+deb12u18`, which is really
    /// 7.2.22.
    pub(super) fn upstream(&self) -> &str {
        let version = self.package.split_once(':').map_or(&*self.package, |x| x.1);
        let end = version.find(|c: char| !c.is_ascii_digit() && c != '.');
        &version[..end.unwrap_or(version.len())]
    }

    /// Whether it can be the requested version. Debian's stable releases still call it `7.2` after
    /// an update to 7.2.22, so the package's version may be less precise than the request.
    pub(super) fn may_be(&self, wanted: &str) -> bool {
        begins_with(self.upstream(), wanted) || begins_with(wanted, self.upstream())
    }

    /// Whether a set with this name, made from this package, is the one offered.
    pub(super) fn is(&self, name: &str, package: &str) -> bool {
        source_version(&self.package) == source_version(package)
            // The package has the full version: the same QEMU, packaged for another suite.
            || (self.upstream() == name && name.split('.').count() == 3)
    }
}

/// The package with qemu-img and the other tools.
pub(super) const TOOLS: &str = "qemu-utils";
/// The package with the modular block drivers.
pub(super) const EXTRA: &str = "qemu-block-extra";

/// Whether a version equals another one or extends it by more parts: 10.0.2 begins with 10.0, but
/// 10.0.13 does not begin with 10.0.1.
pub(super) fn begins_with(version: &str, start: &str) -> bool {
    version.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Orders `7.2.22` before `10.0.2`.
pub(super) fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// A version without the suffix of a binary-only rebuild.
fn source_version(version: &str) -> &str {
    match version.rsplit_once("+b") {
        Some((source, rebuild)) if rebuild.bytes().all(|b| b.is_ascii_digit()) => source,
        _ => version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, &str)]) -> Vec<Row> {
        let row = |(package, version): &(&str, &str)| Row {
            package: (*package).to_owned(),
            version: (*version).to_owned(),
            suite: "s".to_owned(),
        };
        rows.iter().map(row).collect()
    }

    fn choose(emulator: &str, offered: &[(&str, &str)]) -> Result<Vec<String>, String> {
        Offer::choose(&Source::Machine, emulator, &rows(offered)).map(|offer| offer.packages)
    }

    fn offer(package: &str) -> Offer {
        Offer {
            source: Source::Machine,
            package: package.to_owned(),
            packages: Vec::new(),
        }
    }

    #[test]
    fn the_tools_are_of_the_emulators_version_even_when_newer_ones_exist() {
        let offered = [
            ("qemu-system-x86", "1:7.2+dfsg-7+deb12u18+b3"),
            ("qemu-system-x86", "1:7.2+dfsg-7+deb12u15"),
            ("qemu-utils", "1:10.0.2+ds-2+deb13u1~bpo12+1"),
            ("qemu-utils", "1:7.2+dfsg-7+deb12u18+b1"),
            ("qemu-block-extra", "1:7.2+dfsg-7+deb12u15"),
        ];
        assert_eq!(
            choose("qemu-system-x86", &offered).unwrap(),
            [
                "qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3",
                "qemu-utils=1:7.2+dfsg-7+deb12u18+b1",
            ]
        );
    }

    #[test]
    fn an_older_emulator_is_taken_when_the_newest_has_no_tools() {
        let offered = [
            ("e", "9"),
            ("e", "8"),
            ("qemu-utils", "8"),
            ("qemu-block-extra", "8+b2"),
        ];
        assert_eq!(
            choose("e", &offered).unwrap(),
            ["e=8", "qemu-utils=8", "qemu-block-extra=8+b2"]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(choose("e", &[]).unwrap_err(), "no package e");
        assert_eq!(
            choose("e", &[("e", "9"), ("qemu-utils", "8")]).unwrap_err(),
            "e is offered as 9, qemu-utils only as 8"
        );
        assert_eq!(
            choose("e", &[("e", "9")]).unwrap_err(),
            "e is offered as 9, qemu-utils only as nothing"
        );
    }

    #[test]
    fn only_a_numeric_rebuild_suffix_is_dropped() {
        assert_eq!(source_version("1:7.2-1+b3"), "1:7.2-1");
        assert_eq!(source_version("1:7.2-1+bpo1"), "1:7.2-1+bpo1");
        assert_eq!(source_version("1:7.2-1"), "1:7.2-1");
    }

    #[test]
    fn a_package_may_say_less_than_its_program() {
        let stable = offer("1:7.2+dfsg-7+deb12u18+b3");
        assert_eq!(stable.upstream(), "7.2");
        assert!(stable.may_be("7") && stable.may_be("7.2") && stable.may_be("7.2.22"));
        assert!(!stable.may_be("7.20") && !stable.may_be("8"));
        let exact = offer("1:10.0.13+ds-0+deb13u1");
        assert!(exact.may_be("10.0.13") && exact.may_be("10") && !exact.may_be("10.0.1"));
    }

    #[test]
    fn a_set_is_current_by_its_package_or_by_its_whole_version() {
        let newest = offer("1:11.1.3+ds-1");
        assert!(newest.is("11.1.3", "1:11.1.3+ds-1~bpo13+1"));
        assert!(!newest.is("11.1.2", "1:11.1.2+ds-3"));
        let stable = offer("1:7.2+dfsg-7+deb12u18+b3");
        assert!(stable.is("7.2.22", "1:7.2+dfsg-7+deb12u18+b4"));
        // A point release is a different QEMU, although it is also called 7.2.
        assert!(!stable.is("7.2.21", "1:7.2+dfsg-7+deb12u17"));
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(version_key("7.2.22") < version_key("10.0.2"));
        assert!(begins_with("10.0.2", "10.0") && !begins_with("10.0.13", "10.0.1"));
    }
}
