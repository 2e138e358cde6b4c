//! The exit codes of the command.

use std::process::ExitCode;

/// How the command ended. The numbers are documented in `--help` and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that ran passed.
    Passed = 0,
    /// At least one instance failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No case was selected.
    NothingSelected = 3,
    /// There are no QEMU programs, or one named by the user is missing or not QEMU's.
    NoQemu = 4,
    /// This machine cannot run cases: no writable scratch folder, no disk space left.
    Environment = 5,
    /// Something was skipped, and `--deny-skips` was given.
    SkipsDenied = 6,
    /// Cases of this program have invalid declarations.
    Declarations = 7,
    /// Everything selected was skipped, and `--allow-all-skipped` was not given.
    NothingRan = 8,
    /// A signal ended the run.
    Interrupted = 130,
}

impl Exit {
    /// All codes with their meanings, for `--help`.
    pub const DOCUMENTED: [(Self, &'static str); 10] = [
        (Self::Passed, "everything that ran passed"),
        (
            Self::Failed,
            "at least one instance failed, timed out, crashed or leaked",
        ),
        (Self::Usage, "bad usage"),
        (Self::NothingSelected, "no case was selected"),
        (
            Self::NoQemu,
            "no QEMU tools, or a named one is missing, not executable or not QEMU's",
        ),
        (
            Self::Environment,
            "this machine cannot run cases (scratch folder, disk space)",
        ),
        (
            Self::SkipsDenied,
            "something was skipped, and --deny-skips was given",
        ),
        (
            Self::Declarations,
            "cases of this program have invalid declarations",
        ),
        (
            Self::NothingRan,
            "everything was skipped, and --allow-all-skipped was not given",
        ),
        (Self::Interrupted, "stopped by a signal"),
    ];

    /// The numeric code.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
