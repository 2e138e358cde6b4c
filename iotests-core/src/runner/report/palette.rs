//! Colours, which may be off.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

use crate::runner::verdict::Verdict;

/// The styles of the terminal report; all plain if colours are off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    enabled: bool,
}

impl Palette {
    /// With or without colours.
    pub(crate) const fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    /// Whether colours are on.
    pub(crate) const fn is_enabled(self) -> bool {
        self.enabled
    }

    fn paint(self, style: Style, text: impl Display) -> String {
        if self.enabled {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    /// For what matters most.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// For what matters least.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    /// For expected values, and added lines in a diff.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// For unexpected values, and removed lines in a diff.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    /// For what deserves attention.
    pub(crate) fn warn(self, text: impl Display) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// A text in the colour of a verdict.
    pub(crate) fn verdict(self, verdict: Verdict, text: impl Display) -> String {
        match verdict {
            Verdict::Pass => self.good(text),
            Verdict::Skip => self.dim(text),
            Verdict::Flaky
            | Verdict::ExpectedFail
            | Verdict::Quarantined
            | Verdict::Interrupted => self.warn(text),
            _ => self.paint(AnsiColor::Red.on_default().bold(), text),
        }
    }
}
