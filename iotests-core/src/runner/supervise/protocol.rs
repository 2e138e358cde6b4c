//! The protocol between the runner and a supervisor.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::wire::CaseSpec;

/// The first argument that makes this program a supervisor; the second is the file with its
/// [`SuperviseSpec`].
pub(crate) const SUPERVISE: &str = "__supervise";

/// A supervisor's task, as a JSON file in the instance's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SuperviseSpec {
    /// The process that started it: if its parent is another one, the runner is already gone.
    pub(crate) runner_pid: u32,
    /// The directory of the run, whose lock it holds as well.
    pub(crate) run_dir: PathBuf,
    /// The instance, with its deadline and its factor for grace periods.
    pub(crate) case: CaseSpec,
    /// Variables for the case and the programs that it starts.
    pub(crate) env: Vec<(String, String)>,
    /// The file for the case's standard output.
    pub(crate) stdout: PathBuf,
    /// The file for the case's standard error.
    pub(crate) stderr: PathBuf,
    /// The case waits at each step for the order to continue.
    #[serde(default)]
    pub(crate) step: bool,
}

/// What starts a supervisor's line with its [`SupervisorReport`], the last one after the events of
/// its case: no JSON value starts with it.
pub(crate) const REPORT: u8 = b'=';

/// One byte on the control pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send SIGTERM, and SIGKILL after a grace period.
    Terminate,
    /// Send SIGKILL to all.
    Kill,
    /// Send SIGUSR1 to the case, which then reports what it is waiting for, and continues.
    Explain,
    /// Continue a case that has stopped at a step.
    Step,
    /// Continue it, and do not stop at steps any more.
    Run,
    /// Stop all processes and the clock.
    Suspend,
    /// Continue them.
    Resume,
}

impl Order {
    /// Whether it ends the case.
    pub(crate) const fn ends(self) -> bool {
        matches!(self, Self::Terminate | Self::Kill)
    }

    /// The byte that stands for it.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Terminate => b't',
            Self::Kill => b'k',
            Self::Explain => b'e',
            Self::Step => b'n',
            Self::Run => b'c',
            Self::Suspend => b's',
            Self::Resume => b'r',
        }
    }

    /// The order a byte stands for.
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b't' => Some(Self::Terminate),
            b'k' => Some(Self::Kill),
            b'e' => Some(Self::Explain),
            b'n' => Some(Self::Step),
            b'c' => Some(Self::Run),
            b's' => Some(Self::Suspend),
            b'r' => Some(Self::Resume),
            _ => None,
        }
    }
}

/// How the case process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// A signal killed it.
    Signaled {
        /// The signal number.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
    },
    /// It could not be started.
    NotStarted(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signaled { signal, core } => {
                match Signal::try_from(*signal) {
                    Ok(name) => write!(f, "killed by {name}")?,
                    Err(_) => write!(f, "killed by signal {signal}")?,
                }
                if *core {
                    write!(f, " (core dumped)")
                } else {
                    Ok(())
                }
            }
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// A process that was alive after its case had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// Its process id.
    pub pid: u32,
    /// Its arguments.
    pub argv: Vec<String>,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.argv.join(" "), self.pid)
    }
}

/// What was seen from outside of a case whose time was up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The state of the case process, to follow "the case": `is stopped by a signal`.
    pub case: String,
    /// Stopped processes of the case: `qemu-img (process 7) is stopped by a signal`.
    pub stopped: Vec<String>,
    /// Every process with its state, and the stacks of a case that did not explain itself.
    pub evidence: Vec<String>,
}

/// A supervisor's final report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorReport {
    /// How the case process ended.
    pub end: End,
    /// Processes that were alive afterwards.
    pub leaks: Vec<Leak>,
    /// What was seen when the case's time was up.
    pub overdue: Option<Seen>,
    /// From the start of the case process to its end, without suspensions.
    pub elapsed: Duration,
}

impl SupervisorReport {
    /// The line by which it is sent.
    pub(crate) fn to_line(&self) -> io::Result<Vec<u8>> {
        // The case may have been killed within a line.
        let mut line = vec![b'\n', REPORT];
        serde_json::to_writer(&mut line, self)?;
        line.push(b'\n');
        Ok(line)
    }
}
