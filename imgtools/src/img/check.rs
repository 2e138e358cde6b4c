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

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Leaked clusters are freed.
    Leaks,
    /// Everything that can be.
    All,
}

/// What the exit status says. After a repair it is about the image as it is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckVerdict {
    /// Nothing wrong (status 0).
    Clean,
    /// The check met errors on its way (status 1 with a report); what the report has may not be all.
    Incomplete,
    /// Corrupt (status 2).
    Corrupt,
    /// Only leaked clusters, which cost space but no data (status 3).
    Leaks,
    /// The format knows no check (status 63).
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
    /// What the exit status says.
    pub verdict: CheckVerdict,
    /// What was found; absent if the format knows no check.
    pub report: Option<CheckReport>,
    /// What was printed; standard error has a line for each thing found.
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
    /// The report of a clean image; anything but that is an error.
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
        // The report is printed if the check itself was done; with 1 only then is it an answer.
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
