//! `qemu-img check` and the five meanings of its exit status.

use std::fmt;

use super::{Arguments, Call, CheckReport, ImgError, Operation};
use crate::image::{ImageSpec, NameError};
use crate::process::{Output, ProcessError};

/// `check`.
#[derive(Clone, Debug)]
pub struct Check {
    image: ImageSpec,
    repair: Option<Repair>,
    force_share: bool,
    cache: Option<String>,
}

/// What to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Frees leaked clusters.
    Leaks,
    /// Repairs everything that can be repaired.
    All,
}

/// The meaning of the exit status. After a repair it describes the repaired image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckVerdict {
    /// Nothing wrong (status 0).
    Clean,
    /// The check encountered errors (status 1 with a report); the report may be incomplete.
    Incomplete,
    /// Corrupt (status 2).
    Corrupt,
    /// Only leaked clusters, which cost space but no data (status 3).
    Leaks,
    /// The format does not support checks (status 63).
    Unsupported,
}

impl fmt::Display for CheckVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CheckVerdict::Clean => "it is clean",
            CheckVerdict::Incomplete => "the check could not be completed",
            CheckVerdict::Corrupt => "it is corrupt",
            CheckVerdict::Leaks => "it has leaked clusters",
            CheckVerdict::Unsupported => "its format does not support checks",
        })
    }
}

/// The outcome of a check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckOutcome {
    /// The meaning of the exit status.
    pub verdict: CheckVerdict,
    /// What was found; absent if the format does not support checks.
    pub report: Option<CheckReport>,
    /// The output; standard error has a line for each finding.
    pub output: Box<Output>,
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: `{}`{}",
            self.verdict,
            self.output.command,
            self.output.tail()
        )
    }
}

impl CheckOutcome {
    /// The report of a clean image; any other verdict is an error.
    pub fn clean(self) -> Result<CheckReport, ImgError> {
        match (self.verdict, self.report) {
            (CheckVerdict::Clean, Some(report)) => Ok(report),
            (_, report) => Err(ImgError::NotClean(Box::new(CheckOutcome {
                report,
                ..self
            }))),
        }
    }
}

impl Check {
    pub(super) fn new(image: ImageSpec) -> Check {
        Check {
            image,
            repair: None,
            force_share: false,
            cache: None,
        }
    }
}

impl Call<Check> {
    /// Repairs what is found.
    pub fn repair(self, what: Repair) -> Call<Check> {
        self.with(|op| op.repair = Some(what))
    }

    /// Opens an image that is in use by others.
    pub fn force_share(self) -> Call<Check> {
        self.with(|op| op.force_share = true)
    }

    /// The cache mode.
    pub fn cache(self, mode: &str) -> Call<Check> {
        self.with(|op| op.cache = Some(mode.to_owned()))
    }
}

impl Operation for Check {
    type Answer = CheckOutcome;
    const NAME: &'static str = "check";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        match self.repair {
            None => {}
            Some(Repair::Leaks) => args.pair("-r", "leaks"),
            Some(Repair::All) => args.pair("-r", "all"),
        }
        args.flag("-U", self.force_share);
        args.maybe("-T", self.cache.as_ref());
        args.image(&self.image)
    }

    fn answer(self, output: Output) -> Result<CheckOutcome, ImgError> {
        // The report is printed if the check was carried out; status 1 is an answer only with a
        // report.
        let report = serde_json::from_slice(&output.stdout);
        let (verdict, report) = match (output.status.code(), report) {
            (Some(0), Ok(report)) => (CheckVerdict::Clean, Some(report)),
            (Some(1), Ok(report)) => (CheckVerdict::Incomplete, Some(report)),
            (Some(2), Ok(report)) => (CheckVerdict::Corrupt, Some(report)),
            (Some(3), Ok(report)) => (CheckVerdict::Leaks, Some(report)),
            (Some(63), report) => (CheckVerdict::Unsupported, report.ok()),
            (Some(0 | 2 | 3), Err(source)) => {
                return Err(ImgError::Json {
                    output: output.into(),
                    source,
                });
            }
            _ => return Err(ProcessError::Status(output.into()).into()),
        };
        Ok(CheckOutcome {
            verdict,
            report,
            output: output.into(),
        })
    }
}
