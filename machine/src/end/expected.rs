//! Which exits are not errors.

use imgtools::process::Status;
use std::fmt;

/// The exit statuses and signals with which a process may end. By default only status 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    any: bool,
    codes: Vec<i32>,
    signals: Vec<i32>,
}

impl Default for Expected {
    fn default() -> Self {
        Self::code(0)
    }
}

impl Expected {
    /// Exactly this exit status.
    #[must_use]
    pub fn code(code: i32) -> Self {
        Self {
            any: false,
            codes: vec![code],
            signals: Vec::new(),
        }
    }

    /// Exactly this signal, by number.
    #[must_use]
    pub fn signal(signal: i32) -> Self {
        Self {
            any: false,
            codes: Vec::new(),
            signals: vec![signal],
        }
    }

    /// Any exit.
    #[must_use]
    pub fn anything() -> Self {
        Self {
            any: true,
            codes: Vec::new(),
            signals: Vec::new(),
        }
    }

    /// Also this exit status.
    #[must_use]
    pub fn or_code(mut self, code: i32) -> Self {
        self.codes.push(code);
        self
    }

    /// Also this signal, by number.
    #[must_use]
    pub fn or_signal(mut self, signal: i32) -> Self {
        self.signals.push(signal);
        self
    }

    /// Whether this exit is among the expected ones.
    #[must_use]
    pub fn accepts(&self, status: Status) -> bool {
        self.any
            || status.code().is_some_and(|c| self.codes.contains(&c))
            || status.signal().is_some_and(|s| self.signals.contains(&s))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any {
            return f.write_str("any end");
        }
        let codes = self.codes.iter().map(|c| format!("exit status {c}"));
        let signals = self.signals.iter().map(|s| format!("signal {s}"));
        f.write_str(&codes.chain(signals).collect::<Vec<_>>().join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_ends_are_accepted() {
        let killed = Status::Signaled {
            signal: 9,
            core: false,
        };
        let default = Expected::default();
        assert!(default.accepts(Status::Exited(0)));
        assert!(!default.accepts(Status::Exited(1)) && !default.accepts(killed));
        let some = Expected::code(1).or_code(2).or_signal(9);
        assert!(some.accepts(Status::Exited(2)) && some.accepts(killed));
        assert!(!some.accepts(Status::Exited(0)));
        // A signal number is not an exit status.
        assert!(!Expected::signal(9).accepts(Status::Exited(9)));
        assert!(Expected::anything().accepts(killed));
        assert_eq!(
            some.to_string(),
            "exit status 1 or exit status 2 or signal 9"
        );
    }
}
