//! Why an instance does not run, as a type with a readable message.

use std::fmt;
use std::path::PathBuf;

use imgtools::tools::{ToolKind, Version};
use serde::{Deserialize, Serialize};

use super::axes::Backend;

/// Why an instance does not run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Skip {
    /// A QEMU program is missing.
    NoTool {
        /// Which program.
        tool: ToolKind,
    },
    /// A QEMU program is present but does not work.
    BrokenTool {
        /// Which program.
        tool: ToolKind,
        /// Where it is.
        path: PathBuf,
        /// The result of trying it.
        why: String,
    },
    /// A block driver is not compiled in.
    NoDriver {
        /// Its name.
        driver: String,
        /// The program that was asked.
        asked: String,
    },
    /// A block driver is present, but the build's whitelist forbids this use of it.
    Whitelist {
        /// Its name.
        driver: String,
        /// The program that was asked.
        asked: String,
        /// Whether reading is allowed.
        read_only: bool,
    },
    /// The case has no point in the matrix that matches the selection.
    NotInMatrix {
        /// "format", "protocol", "cache mode"…
        axis: String,
        /// The value that was selected.
        asked: String,
        /// The values that the case supports.
        supported: Vec<String>,
    },
    /// The case, or one of its needs, is for another point of the matrix.
    OtherPoint {
        /// "format", "protocol", "backend".
        axis: String,
        /// The value that it requires.
        needed: String,
    },
    /// qemu-img cannot create or write the format.
    NotWritable {
        /// Its name.
        format: String,
    },
    /// The emulator lacks a device.
    NoDevice {
        /// Its name.
        device: String,
    },
    /// The host lacks a QMP command.
    NoCommand {
        /// Its name.
        command: String,
        /// The program that was asked.
        backend: Backend,
    },
    /// The QMP schema lacks a path.
    NoSchema {
        /// The path that was looked up.
        path: String,
        /// The program that was asked.
        backend: Backend,
    },
    /// The version is too old or too new.
    Version {
        /// The program concerned.
        of: ToolKind,
        /// The versions needed.
        needed: String,
        /// The version found.
        found: Option<Version>,
    },
    /// A feature was tried and does not work.
    Feature {
        /// Its name.
        feature: String,
        /// The tool's own message.
        why: String,
    },
    /// The guest mode needs an accelerator that no trial launch accepted.
    Accelerator {
        /// What is needed, such as "qtest".
        needed: String,
    },
    /// The case needs root.
    Root,
    /// The case must not run as root.
    NotRoot,
    /// The case is for another operating system.
    Platform {
        /// The operating system it needs.
        needed: String,
    },
    /// A program that is not part of QEMU is missing.
    NoProgram {
        /// Its name.
        program: String,
    },
    /// The creation options of this run do not suit the case.
    ImageOptions {
        /// The option.
        option: String,
    },
    /// None of several alternatives is available.
    NoneOf {
        /// The reason for each.
        reasons: Vec<Skip>,
    },
    /// Something is present that must not be.
    Unwanted {
        /// What it is.
        what: String,
    },
    /// The configuration excludes it here.
    Expectation {
        /// Why.
        reason: String,
        /// Where the configuration says so: `FILE:LINE`.
        place: String,
    },
    /// The case itself found out at run time that it cannot work here.
    Case {
        /// The case's own words.
        reason: String,
    },
}

/// How a user can get what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// Use `--provision`, which fetches an emulator.
    Provision,
    /// Install the distribution's package of QEMU tools.
    InstallTools,
    /// Run as another user.
    OtherUser,
}

impl Skip {
    /// Whether the skip is intended, so that nothing is missing.
    pub fn is_intended(&self) -> bool {
        matches!(self, Self::Expectation { .. })
    }

    /// How to get what is missing, if there is a way.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NoTool {
                tool: ToolKind::System,
            }
            | Self::BrokenTool {
                tool: ToolKind::System,
                ..
            } => Some(Remedy::Provision),
            Self::NoTool { .. } | Self::BrokenTool { .. } => Some(Remedy::InstallTools),
            Self::Root | Self::NotRoot => Some(Remedy::OtherUser),
            Self::NoneOf { reasons } => reasons.iter().find_map(Self::remedy),
            _ => None,
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTool {
                tool: ToolKind::System,
            } => write!(f, "needs an emulator (qemu-system-*)"),
            Self::BrokenTool {
                tool: ToolKind::System,
                path,
                why,
            } => write!(f, "the emulator {} does not start: {why}", path.display()),
            Self::BrokenTool { tool, path, why } => {
                write!(f, "{tool} {} does not work: {why}", path.display())
            }
            Self::NoTool { tool } => write!(f, "needs {tool}"),
            Self::NoDriver { driver, asked } => write!(f, "{asked} has no block driver `{driver}`"),
            Self::Whitelist {
                driver,
                asked,
                read_only: false,
            } => write!(
                f,
                "{asked} may not use the block driver `{driver}` (whitelist)"
            ),
            Self::Whitelist { driver, asked, .. } => {
                write!(
                    f,
                    "{asked} may only read with the block driver `{driver}` (whitelist)"
                )
            }
            Self::NotInMatrix {
                axis,
                asked,
                supported,
            } => write!(
                f,
                "does not run with {axis} {asked}, only with {}",
                supported.join(", ")
            ),
            Self::OtherPoint { axis, needed } => write!(f, "only with {axis} {needed}"),
            Self::NotWritable { format } => write!(f, "qemu-img cannot create {format} images"),
            Self::NoDevice { device } => write!(f, "the emulator has no device `{device}`"),
            Self::NoCommand { command, backend } => {
                write!(f, "{} has no command `{command}`", backend.tool())
            }
            Self::NoSchema { path, backend } => {
                write!(f, "the QMP schema of {} has no `{path}`", backend.tool())
            }
            Self::Version {
                of,
                needed,
                found: Some(found),
            } => write!(f, "needs {of} {needed}, this is {found}"),
            Self::Version {
                of,
                needed,
                found: None,
            } => write!(f, "needs {of} {needed}, its version is unknown"),
            Self::Feature { feature, why } => write!(f, "{feature} does not work here: {why}"),
            Self::Accelerator { needed } => write!(f, "needs the accelerator {needed}"),
            Self::Root => write!(f, "needs root"),
            Self::NotRoot => write!(
                f,
                "needs a user other than root, for whom permissions count"
            ),
            Self::Platform { needed } => write!(f, "runs on {needed} only"),
            Self::NoProgram { program } => write!(f, "needs the program `{program}`"),
            Self::ImageOptions { option } => {
                write!(f, "does not work with the image option `{option}`")
            }
            Self::NoneOf { reasons } => {
                for (index, reason) in reasons.iter().enumerate() {
                    if index > 0 {
                        write!(f, "; and ")?;
                    }
                    write!(f, "{reason}")?;
                }
                Ok(())
            }
            Self::Expectation { reason, place } => write!(f, "{reason} ({place})"),
            Self::Unwanted { what } => write!(f, "only without {what}"),
            Self::Case { reason } => write!(f, "{reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_says_what_is_missing_and_how_to_get_it() {
        let skip = Skip::NoTool {
            tool: ToolKind::System,
        };
        assert_eq!(skip.to_string(), "needs an emulator (qemu-system-*)");
        assert_eq!(skip.remedy(), Some(Remedy::Provision));
        let either = Skip::NoneOf {
            reasons: vec![Skip::Root, skip],
        };
        assert_eq!(
            either.to_string(),
            "needs root; and needs an emulator (qemu-system-*)"
        );
    }

    #[test]
    fn a_skip_survives_the_wire() {
        let skip = Skip::Version {
            of: ToolKind::Img,
            needed: "9.1 or later".to_owned(),
            found: Some(Version::new(7, 2, 22)),
        };
        let text = serde_json::to_string(&skip).unwrap();
        assert_eq!(serde_json::from_str::<Skip>(&text).unwrap(), skip);
    }
}
