//! How a process ended, and how shells and valgrind report it.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::Signal;

/// The exit status that `valgrind --error-exitcode=99` reports by QEMU's convention
/// (`tests/qemu-iotests/common.rc`).
pub const VALGRIND_ERROR: i32 = 99;

/// How a process ended: by itself, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Status {
    /// It called `exit` with this status (0 to 255).
    Exited(i32),
    /// A signal ended it. Never a success, whatever exit status the caller expected.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
}

impl Status {
    /// Whether the process exited with status 0.
    pub fn is_success(self) -> bool {
        self == Status::Exited(0)
    }

    /// The exit status, if it was not a signal that ended the process.
    pub fn code(self) -> Option<i32> {
        match self {
            Status::Exited(code) => Some(code),
            Status::Signaled { .. } => None,
        }
    }

    /// The number of the signal that ended the process, if one did.
    pub fn signal(self) -> Option<i32> {
        match self {
            Status::Exited(_) => None,
            Status::Signaled { signal, .. } => Some(signal),
        }
    }

    /// Converts the status of a wrapper into that of the wrapped program.
    pub fn under(self, convention: Convention) -> Status {
        match (convention, self) {
            (Convention::Shell, Status::Exited(code)) => match Signal::new(code - 128) {
                Some(signal) => Status::Signaled {
                    signal: signal.number(),
                    core: false,
                },
                None => self,
            },
            _ => self,
        }
    }
}

/// What runs between us and the requested program, and so how to interpret its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// Nothing: the status is the program's own.
    #[default]
    Direct,
    /// A shell that waits for the program: `128 + N` means that signal N ended it.
    Shell,
    /// valgrind: [`VALGRIND_ERROR`] means that it found errors.
    Valgrind,
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Status {
        match (status.code(), status.signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Signaled {
                signal,
                core: status.core_dumped(),
            },
            // Only a stopped or continued child has neither, and we do not wait for those states.
            (None, None) => Status::Exited(status.into_raw()),
        }
    }
}

/// Finishes the sentence "the process …".
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Status::Exited(code) => write!(f, "exited with status {code}"),
            Status::Signaled { signal, core } => {
                write!(f, "was killed by signal {signal}")?;
                if let Some(known) = Signal::new(signal) {
                    write!(f, " ({known})")?;
                }
                f.write_str(if core { ", core dumped" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reports_a_signal_as_128_plus_its_number() {
        let segv = Status::Exited(139);
        assert_eq!(
            segv.under(Convention::Shell),
            Status::Signaled {
                signal: 11,
                core: false
            }
        );
        assert_eq!(segv.under(Convention::Direct), segv);
        for plain in [0, 1, 127, 128, 255] {
            let status = Status::Exited(plain);
            assert_eq!(
                status.under(Convention::Shell),
                status,
                "{plain} is not a signal"
            );
        }
    }

    #[test]
    fn a_status_reads_as_the_end_of_a_sentence() {
        assert_eq!(Status::Exited(3).to_string(), "exited with status 3");
        let status = Status::Signaled {
            signal: 6,
            core: true,
        };
        assert_eq!(
            status.to_string(),
            "was killed by signal 6 (SIGABRT), core dumped"
        );
    }
}
