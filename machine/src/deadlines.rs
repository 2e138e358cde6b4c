//! Deadlines for each phase of a machine's life.

use std::time::Duration;

/// Budgets, meant for a loaded host; an idle one needs a hundredth of them. They exist so that
/// nothing waits forever, not to measure speed: scale them all with [`Deadlines::scaled`] for slow
/// hosts, valgrind or sanitizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// From the start of the process to the negotiated greeting.
    pub launch: Duration,
    /// One QMP command or qtest request.
    pub command: Duration,
    /// From `quit` to the exit of the process; then SIGTERM follows.
    pub quit: Duration,
    /// From the first of several SIGTERMs to the exit of the process; then SIGKILL follows.
    pub terminate: Duration,
    /// Each QMP command of a diagnosis.
    pub diagnose_command: Duration,
    /// Each backtrace of a diagnosis.
    pub diagnose_backtrace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            launch: s(60),
            command: s(60),
            quit: s(30),
            terminate: s(5),
            diagnose_command: s(2),
            diagnose_backtrace: s(10),
        }
    }
}

impl Deadlines {
    /// All budgets multiplied by `factor`. A factor that is not positive changes nothing.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let scale = |d: Duration| {
            Duration::try_from_secs_f64(d.as_secs_f64() * factor)
                .ok()
                .filter(|d| !d.is_zero())
                .unwrap_or(d)
        };
        Self {
            launch: scale(self.launch),
            command: scale(self.command),
            quit: scale(self.quit),
            terminate: scale(self.terminate),
            diagnose_command: scale(self.diagnose_command),
            diagnose_backtrace: scale(self.diagnose_backtrace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_budgets_scale_together() {
        let base = Deadlines::default();
        let half = base.scaled(0.5);
        assert_eq!(half.launch * 2, base.launch);
        assert_eq!(half.diagnose_backtrace * 2, base.diagnose_backtrace);
        assert_eq!(half.terminate * 2, base.terminate);
    }

    #[test]
    fn a_factor_that_makes_no_sense_is_ignored() {
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Deadlines::default().scaled(factor), Deadlines::default());
        }
    }
}
