//! The text of an error that a case expects.

use std::fmt;

use super::failure::{CaseResult, Difference, Failure};

/// The text of an expected error: a part of it, as in `expect_error("No space")`, or all of it, as
/// in `expect_error(exactly("No space left on device"))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorText {
    text: String,
    /// The wording of another version.
    other: Option<String>,
    whole: bool,
}

/// Matches only the whole text of an error.
#[must_use]
pub fn exactly(text: impl Into<String>) -> ErrorText {
    ErrorText {
        text: text.into(),
        other: None,
        whole: true,
    }
}

/// Matches a part of the text of an error, in the wording of either of two QEMU versions.
#[must_use]
pub fn either(text: impl Into<String>, other: impl Into<String>) -> ErrorText {
    ErrorText {
        text: text.into(),
        other: Some(other.into()),
        whole: false,
    }
}

impl<T: Into<String>> From<T> for ErrorText {
    fn from(text: T) -> Self {
        ErrorText {
            text: text.into(),
            other: None,
            whole: false,
        }
    }
}

impl ErrorText {
    /// Whether an error with the text `found` is the expected one.
    pub(crate) fn allows(&self, found: &str) -> bool {
        let mut texts = std::iter::once(&self.text).chain(&self.other);
        match self.whole {
            true => texts.any(|text| found == text),
            false => texts.any(|text| !text.is_empty() && found.contains(text)),
        }
    }

    /// Whether a line of a program's output is the expected error.
    pub(crate) fn allows_a_line(&self, printed: &str) -> bool {
        printed.lines().any(|line| self.allows(line))
    }

    /// Checks that the error with which `what` ended is the expected one.
    pub(crate) fn check(&self, what: &str, found: &str) -> CaseResult {
        if self.allows(found) {
            return Ok(());
        }
        if self.text.is_empty() {
            return Err(Failure::new(format!(
                "{what} failed, but the case does not say with which text; it was: {found}"
            )));
        }
        let difference = Difference {
            expected: self.text.clone(),
            found: found.to_owned(),
            diff: None,
        };
        let message = format!("{what} failed with \"{found}\", expected {self}");
        Err(Failure::differs(message, difference))
    }
}

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text)?;
        match &self.other {
            Some(other) => write!(f, " or \"{other}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H34: a part is enough unless the whole text is required; an empty text is not.
    #[test]
    fn a_part_the_whole_or_nothing() {
        let found = "No space left on device";
        assert!(ErrorText::from("No space").allows(found));
        assert!(!ErrorText::from("").allows(found));
        assert!(!exactly("No space").allows(found));
        assert!(exactly(found).allows(found));
        assert!(exactly("").allows(""));

        assert!(exactly("No space").allows_a_line("a\nNo space\n"));
        assert!(!exactly("No space").allows_a_line("a\nNo space left\n"));
        assert!(!ErrorText::from("").allows_a_line("a\n\n"));

        let wrong = exactly("No space").check("the job", found).unwrap_err();
        let text = "the job failed with \"No space left on device\", expected \"No space\"";
        assert_eq!(wrong.message(), text);
        assert!(either("full", "No space").allows(found));
        let wrong = either("full", "no room").check("it", found).unwrap_err();
        assert!(wrong.message().ends_with("expected \"full\" or \"no room\""));
        let wrong = ErrorText::from("").check("the job", found).unwrap_err();
        assert!(wrong.message().ends_with(found), "{wrong}");
    }
}
