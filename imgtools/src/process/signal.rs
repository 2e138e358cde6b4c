//! The signals, by their names in C and `kill -l`.

use std::fmt;

/// A signal that can be sent, or that ended a process.
///
/// It displays as its name:
///
/// ```
/// use imgtools::process::Signal;
///
/// assert_eq!(Signal::SIGTERM.to_string(), "SIGTERM");
/// assert_eq!(Signal::new(9), Some(Signal::SIGKILL));
/// assert_eq!(Signal::new(0), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signal(rustix::process::Signal);

macro_rules! signals {
    ($($name:ident = $system:ident, $meaning:literal;)*) => {
        impl Signal {
            $(
                #[doc = $meaning]
                pub const $name: Signal = Signal(rustix::process::Signal::$system);
            )*

            fn name(self) -> Option<&'static str> {
                $(if self == Signal::$name {
                    return Some(stringify!($name));
                })*
                None
            }
        }
    };
}

signals! {
    SIGHUP = HUP, "Its terminal is gone.";
    SIGINT = INT, "Interrupted, as by Ctrl-C.";
    SIGQUIT = QUIT, "Quit with a core dump, as by Ctrl-\\.";
    SIGILL = ILL, "Illegal instruction.";
    SIGTRAP = TRAP, "Breakpoint.";
    SIGABRT = ABORT, "It aborted, as by a failed assertion.";
    SIGBUS = BUS, "Bad memory access.";
    SIGFPE = FPE, "Bad arithmetic.";
    SIGKILL = KILL, "Killed; cannot be caught.";
    SIGUSR1 = USR1, "Defined by the program.";
    SIGSEGV = SEGV, "Bad memory reference.";
    SIGUSR2 = USR2, "Defined by the program.";
    SIGPIPE = PIPE, "It wrote to a pipe without readers.";
    SIGALRM = ALARM, "Its timer has expired.";
    SIGTERM = TERM, "Asked to terminate.";
    SIGCHLD = CHILD, "A child has changed its state.";
    SIGCONT = CONT, "Continues it.";
    SIGSTOP = STOP, "Stops it; cannot be caught.";
    SIGTSTP = TSTP, "Stopped from its terminal.";
    SIGTTIN = TTIN, "It read from the terminal in the background.";
    SIGTTOU = TTOU, "It wrote to the terminal in the background.";
    SIGURG = URG, "Urgent data on a socket.";
    SIGXCPU = XCPU, "Over its limit of CPU time.";
    SIGXFSZ = XFSZ, "Over its limit of file size.";
    SIGVTALRM = VTALARM, "Its virtual timer has expired.";
    SIGPROF = PROF, "Its profiling timer has expired.";
    SIGWINCH = WINCH, "The size of its terminal has changed.";
    SIGIO = IO, "I/O is possible.";
    SIGPWR = POWER, "Power is failing.";
    SIGSYS = SYS, "Bad system call.";
}

impl Signal {
    /// The signal of this number, if it has a name. The real-time signals have none.
    pub fn new(number: i32) -> Option<Signal> {
        rustix::process::Signal::from_named_raw(number).map(Signal)
    }

    /// Its number on this machine.
    pub fn number(self) -> i32 {
        self.0.as_raw()
    }

    pub(super) fn system(self) -> rustix::process::Signal {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "signal {}", self.number()),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::hash::Hash for Signal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_that_has_a_name_is_that_signal() {
        let named = (0..=64).filter_map(Signal::new);
        let names: Vec<String> = named.map(|signal| signal.to_string()).collect();
        assert!(names.len() >= 30, "{names:?}");
        let known = names.iter().filter(|name| name.starts_with("SIG")).count();
        // Linux has one more, SIGSTKFLT, which nothing ever sends.
        assert!(known + 1 >= names.len(), "{names:?}");
        for signal in (0..=64).filter_map(Signal::new) {
            assert_eq!(Signal::new(signal.number()), Some(signal));
        }
    }
}
