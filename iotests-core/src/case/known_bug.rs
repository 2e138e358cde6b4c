//! Known problems: bugs in QEMU, and unreliable cases.

use imgtools::tools::Version;

use super::capabilities::Capabilities;
use super::declaration::{RowMeta, is_combination};
use super::instance::Point;
use super::meta::Meta;
use super::requirement::Requirement;
use super::version::{Fixed, FixedIn};

/// A QEMU bug that makes a case fail. On a QEMU that has the bug, a failure with the given text is
/// expected, and a pass is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBug {
    /// Why the case fails, with a reference.
    pub reason: &'static str,
    /// The text of such a failure, in its message or in a machine's output. A failure with a
    /// different text is a different bug.
    pub says: &'static str,
    /// Where the bug exists: versions, formats, hosts. Checked against the program that runs the
    /// block layer of the case.
    pub when: Requirement,
    /// The first release with the fix, for each branch that has one.
    pub fixed_in: FixedIn,
    /// The combinations of rows that it affects, each with one row name per table, or `*`; all rows
    /// if empty.
    pub rows: &'static [&'static [&'static str]],
    /// The bug is a race, so a pass is not a surprise.
    pub is_intermittent: bool,
}

impl KnownBug {
    /// The first releases with the fix, one per branch, such as `["10.0.3", "10.1"]`.
    pub const fn fixed_in<const N: usize>(self, releases: [&'static str; N]) -> Self {
        Self {
            fixed_in: FixedIn::new(releases),
            ..self
        }
    }

    /// Affects only these combinations of rows: `.only(&[&["empty", "half-way"]])`.
    pub const fn only(self, rows: &'static [&'static [&'static str]]) -> Self {
        Self { rows, ..self }
    }

    /// The bug does not show every time: both a failure with this text and a pass are accepted.
    pub const fn intermittent(self) -> Self {
        Self {
            is_intermittent: true,
            ..self
        }
    }

    /// Whether it affects this combination of rows.
    pub(super) fn concerns(&self, rows: &[&RowMeta]) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|names| is_combination(names, rows))
    }

    /// What to expect of a case at this point; `None` if the bug does not exist there.
    pub fn expected(&self, capabilities: &Capabilities, point: &Point) -> Option<ExpectedBug> {
        self.when.check(capabilities, point).ok()?;
        let fixed = match capabilities.version(point.backend) {
            Some(version) => self.fixed_in.state(version),
            // Unknown; a bug declared without fixed releases applies all the same.
            None if self.fixed_in.is_empty() => Fixed::No,
            None => Fixed::Perhaps,
        };
        (fixed != Fixed::Yes).then_some(ExpectedBug {
            reason: self.reason,
            says: self.says,
            is_certain: fixed == Fixed::No && !self.is_intermittent,
        })
    }
}

/// A known bug that this QEMU has or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedBug {
    /// Why the case fails.
    pub reason: &'static str,
    /// The text of the failure; empty if any failure is expected.
    pub says: &'static str,
    /// False if either outcome is accepted: the bug is intermittent, or this is a development
    /// version of the release with the fix.
    pub is_certain: bool,
}

/// What is known about an instance with one set of programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The bugs that these programs have or may have.
    pub bugs: Vec<ExpectedBug>,
    /// A note that these programs lack the fix that the case depends on.
    pub missing_fix: Option<String>,
    /// The quarantine, if the case is unreliable with these programs.
    pub quarantine: Option<Quarantine>,
}

impl Known {
    /// The declared facts that concern these programs at this point.
    pub fn of(meta: &Meta, capabilities: &Capabilities, point: &Point) -> Self {
        let version = capabilities.version(point.backend);
        let bugs = meta.known_bugs.iter();
        Self {
            bugs: bugs.filter_map(|bug| bug.expected(capabilities, point)).collect(),
            missing_fix: meta.fixed_in.zip(version).and_then(|(fix, version)| fix.note(version)),
            quarantine: meta.quarantine,
        }
    }
}

/// The outcome of a case, judged against the known bugs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It failed as expected from one of them, for this reason.
    Expected(&'static str),
    /// It failed in another way; these notes describe what was expected.
    Otherwise(Vec<String>),
    /// It passed although it should have failed, for these reasons.
    UnexpectedPass(String),
    /// None of them applies.
    Irrelevant,
}

/// Judges a failure by its text.
pub fn judge_failure(bugs: &[ExpectedBug], says: impl Fn(&str) -> bool) -> Judgement {
    let explains = |bug: &&ExpectedBug| bug.says.is_empty() || says(bug.says);
    if let Some(bug) = bugs.iter().find(explains) {
        return Judgement::Expected(bug.reason);
    }
    let note = |bug: &ExpectedBug| {
        format!(
            "fails, but not as the known bug does (\"{}\"): {}",
            bug.says, bug.reason
        )
    };
    match bugs {
        [] => Judgement::Irrelevant,
        bugs => Judgement::Otherwise(bugs.iter().map(note).collect()),
    }
}

/// Judges a pass.
pub fn judge_pass(bugs: &[ExpectedBug]) -> Judgement {
    let certain = bugs.iter().filter(|bug| bug.is_certain);
    let reasons: Vec<&str> = certain.map(|bug| bug.reason).collect();
    if reasons.is_empty() {
        return Judgement::Irrelevant;
    }
    Judgement::UnexpectedPass(reasons.join("; "))
}

/// The change in QEMU that a case depends on; shown when the case fails on an older version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fix {
    /// The first releases with the fix, one per branch.
    pub releases: FixedIn,
    /// The commit, abbreviated.
    pub commit: &'static str,
}

impl Fix {
    /// A note for a failure with this version.
    pub fn note(&self, version: Version) -> Option<String> {
        let missing = match self.releases.state(version) {
            Fixed::Yes => return None,
            Fixed::No => "does not have",
            Fixed::Perhaps => "may not have",
        };
        let (commit, releases) = (self.commit, self.releases);
        Some(format!(
            "QEMU {version} {missing} the fix {commit}, released in {releases}"
        ))
    }
}

/// A case that is known to be unreliable: until the date, its failures do not fail the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// Why, with a reference.
    pub reason: &'static str,
    /// The last day, `YYYY-MM-DD`; failures count from the next day on.
    pub until: &'static str,
}

impl Quarantine {
    /// The last day of a quarantine without an end.
    pub(crate) const FOREVER: &'static str = "9999-12-31";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::names::{before, known, since};
    use crate::case::{Aio, Backend, Cache, Format, Protocol, ToolFacts, ToolKind};

    fn point(format: Format, backend: Option<Backend>) -> Point {
        Point {
            format,
            protocol: Protocol::File,
            cache: Cache::Writeback,
            aio: Aio::Threads,
            backend,
        }
    }

    /// A set whose programs have these versions.
    fn mixed(img: &str, daemon: &str) -> Capabilities {
        let mut set = Capabilities::default();
        for (tool, version) in [(ToolKind::Img, img), (ToolKind::StorageDaemon, daemon)] {
            let version = version.parse().ok();
            let facts = ToolFacts {
                version,
                ..ToolFacts::default()
            };
            set.tools.insert(tool, facts);
        }
        set
    }

    #[test]
    fn a_bug_is_judged_by_the_program_that_runs_the_block_layer() {
        let bug = known("bug 1", "says", before(9, 1));
        let set = mixed("10.0.2", "7.2.22");
        let daemon = point(Format::Qcow2, Some(Backend::Qsd));
        assert!(bug.expected(&set, &daemon).is_some());
        assert_eq!(
            bug.expected(&set, &point(Format::Qcow2, None)),
            None,
            "qemu-img is newer"
        );
    }

    #[test]
    fn a_bug_can_be_one_of_a_format() {
        let when =
            Requirement::AllOf(const { &[since(7, 0), Requirement::OnFormat(Format::Luks)] });
        let bug = known("bug 1", "says", when);
        let set = mixed("10.0.2", "7.2.22");
        assert!(bug.expected(&set, &point(Format::Luks, None)).is_some());
        assert_eq!(bug.expected(&set, &point(Format::Qcow2, None)), None);
    }

    #[test]
    fn of_an_intermittent_bug_either_end_is_right_until_it_is_fixed() {
        let bug = known("bug 1", "says", since(7, 0)).fixed_in(["10.1"]);
        let expected = |version: &str| {
            let set = mixed(version, version);
            Vec::from_iter(bug.intermittent().expected(&set, &point(Format::Raw, None)))
        };
        let bugs = expected("10.0.2");
        let fails = judge_failure(&bugs, |text| text == "says");
        assert_eq!(fails, Judgement::Expected("bug 1"));
        assert_eq!(judge_pass(&bugs), Judgement::Irrelevant);
        assert!(matches!(
            judge_failure(&bugs, |_| false),
            Judgement::Otherwise(_)
        ));
        assert_eq!(expected("10.1.0"), []);
    }

    #[test]
    fn a_fix_is_looked_for_on_the_branch_of_the_version() {
        let bug = known("bug 1", "says", since(7, 0)).fixed_in(["10.0.3", "10.1"]);
        let expected = |version: &str| {
            bug.expected(&mixed(version, version), &point(Format::Raw, None))
                .map(|bug| bug.is_certain)
        };
        assert_eq!(expected("10.0.2"), Some(true));
        assert_eq!(expected("10.0.3"), None);
        assert_eq!(expected("10.1.0"), None);
        assert_eq!(expected("10.0.90"), Some(false), "10.1-rc0 may have it");
        assert_eq!(expected("6.2.0"), None, "the bug is not there yet");
    }

    #[test]
    fn one_of_several_bugs_explains_a_failure_and_none_a_different_one() {
        let bug = |reason, says, is_certain| ExpectedBug {
            reason,
            says,
            is_certain,
        };
        let bugs = [bug("bug 1", "aborts", true), bug("bug 2", "hangs", false)];
        let judged = |text: &str| judge_failure(&bugs, |says| text.contains(says));
        assert_eq!(judged("it hangs"), Judgement::Expected("bug 2"));
        let Judgement::Otherwise(notes) = judged("it leaks") else {
            panic!("{:?}", judged("it leaks"));
        };
        assert_eq!(notes.len(), 2);
        assert_eq!(
            judge_pass(&bugs),
            Judgement::UnexpectedPass("bug 1".to_owned())
        );
        assert_eq!(judge_pass(&bugs[1..]), Judgement::Irrelevant);
    }

    #[test]
    fn a_failure_on_an_older_version_names_the_fix() {
        let fix = crate::case::names::fix(["8.1"], "abc123");
        let note = |version: &str| fix.note(version.parse().unwrap());
        assert_eq!(
            note("7.2.0").unwrap(),
            "QEMU 7.2.0 does not have the fix abc123, released in 8.1.0"
        );
        assert_eq!(note("8.1.0"), None);
        assert!(note("8.0.91").unwrap().contains("may not have"));
    }
}
