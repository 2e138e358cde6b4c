//! What the runner and a supervisor say to each other.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The first argument that makes this program a supervisor; the second is the file with its [`SuperviseSpec`].
pub(crate) const SUPERVISE: &str = "__supervise";

/// What a supervisor has to do; a JSON file in the directory of the instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SuperviseSpec {
    /// The process that started it: when its parent is another, the runner is already gone.
    pub(crate) runner_pid: u32,
    /// The file with the `CaseSpec`.
    pub(crate) case_spec: PathBuf,
    /// Variables of the case and of the programs that it starts.
    pub(crate) env: Vec<(String, String)>,
    /// Where the standard output of the case goes.
    pub(crate) stdout: PathBuf,
    /// Where the standard error of the case goes.
    pub(crate) stderr: PathBuf,
    /// When the case is to end, counted from its start.
    pub(crate) deadline: Duration,
    /// How long what is still alive when the case has ended may take to end by itself, before the scale.
    pub(crate) leak_grace: Duration,
    /// The case waits at each step for the order to go on.
    #[serde(default)]
    pub(crate) step: bool,
    /// What the graces of the supervisor are multiplied with.
    pub(crate) scale: f64,
}

/// One byte on the control pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// SIGTERM, and SIGKILL after a grace.
    Terminate,
    /// SIGKILL to all.
    Kill,
    /// SIGUSR1 to the case: it says where it is, and goes on.
    Explain,
    /// A case that has stopped at a step goes on.
    Step,
    /// It goes on and does not stop at a step any more.
    Run,
    /// Everything is stopped, and the time as well.
    Suspend,
    /// It all goes on.
    Resume,
}

impl Order {
    /// Whether the case ends by it.
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
        /// The number.
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

/// A case whose time is up, as it is seen from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How the case process is, to be read after "the case": `is stopped by a signal`.
    pub case: String,
    /// Other processes below that do not run because somebody stopped them, and how: `qemu-img (process 7) is stopped by a signal`.
    pub stopped: Vec<String>,
    /// Every process with its state, and the stacks of a case that did not explain itself.
    pub evidence: Vec<String>,
}

/// The last word of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorReport {
    /// How the case process ended.
    pub end: End,
    /// What was alive afterwards.
    pub leaks: Vec<Leak>,
    /// What was seen when the time was up and the supervisor had to end the case.
    pub overdue: Option<Seen>,
    /// From the start of the case process to its end, without the time in which it was suspended.
    pub elapsed: Duration,
}
