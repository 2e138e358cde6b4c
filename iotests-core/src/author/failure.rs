//! The one error type of a case: what went wrong, where in the case, during which step.
//!
//! A case body returns [`CaseResult`] and uses `?` on everything. Any error type converts into a
//! [`Failure`]; the conversion notes the line of the case that used `?`, so a report points into
//! the case and not into the harness. A skip is propagated the same way, because it also leaves the
//! case early.

use std::fmt;
use std::panic::Location;

use super::death::short;
use super::origin::Origin;
use crate::case::Skip;
use crate::wire::{FailureReport, Place};

/// The return type of a case body, and of every checked operation in it.
pub type CaseResult<T = ()> = Result<T, Failure>;

/// Why a case ended early: a failure, or a skip with its reason.
///
/// It is opaque on purpose. A case does not examine it; a case that expects an error declares that
/// on the operation (`expect_error`), and gets the error as a value.
pub struct Failure(Box<Inner>);

struct Inner {
    kind: Kind,
    headline: Option<String>,
    message: String,
    context: Vec<String>,
    origin: Origin,
    difference: Option<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Skipped(Skip),
}

/// Two values that should have been equal, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The value that the case expects.
    pub expected: String,
    /// The value that was found instead.
    pub found: String,
    /// A line-by-line diff, if that is more useful than both values in full.
    pub diff: Option<String>,
}

impl Failure {
    /// A failure with this message, at the caller's line.
    #[track_caller]
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self::build(Kind::Failed, message.into(), Location::caller().into())
    }

    /// A skip with this reason, at the caller's line.
    #[track_caller]
    #[must_use]
    pub fn skip(reason: Skip) -> Self {
        let message = reason.to_string();
        Self::build(Kind::Skipped(reason), message, Location::caller().into())
    }

    /// A failure that shows both values.
    #[track_caller]
    #[must_use]
    pub fn differs(message: impl Into<String>, difference: Difference) -> Self {
        let mut failure = Self::build(Kind::Failed, message.into(), Location::caller().into());
        failure.0.difference = Some(difference);
        failure
    }

    /// A panic as a failure; `hooked` is what the panic hook made of it.
    #[must_use]
    pub fn from_panic(payload: &(dyn std::any::Any + Send), hooked: Option<FailureReport>) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        let (message, place, case_place) = match hooked {
            Some(hooked) => (Some(hooked.message), hooked.place, hooked.case_place),
            None => (text, None, None),
        };
        let message = message.unwrap_or_else(|| "the case panicked".to_owned());
        let place = place.unwrap_or(Place {
            file: "unknown".to_owned(),
            line: 0,
        });
        Self::from_origin(&Origin::known(place, case_place), message)
    }

    fn build(kind: Kind, message: String, place: Place) -> Self {
        Failure(Box::new(Inner {
            kind,
            headline: None,
            message,
            context: Vec::new(),
            origin: Origin::of(place),
            difference: None,
        }))
    }

    /// Sets the headline for lists and reports, instead of one derived from the message and the
    /// values.
    #[must_use]
    pub fn headline(mut self, line: impl Into<String>) -> Self {
        self.0.headline = Some(line.into());
        self
    }

    /// Adds the context in which it happened, `what`; the outermost comes first.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.0.context.insert(0, what.into());
        self
    }

    /// Sets its place. The outermost harness call in the case's own code is the place that the
    /// reader wants, so a harness call overrides the place of the calls inside it.
    #[must_use]
    pub fn at(mut self, place: &Location<'_>) -> Self {
        self.0.origin.place = place.into();
        self
    }

    /// The reason of the skip, if this is a skip.
    #[must_use]
    pub fn skip_reason(&self) -> Option<&Skip> {
        match &self.0.kind {
            Kind::Skipped(reason) => Some(reason),
            Kind::Failed => None,
        }
    }

    /// A failure that was noticed away from its cause.
    pub(crate) fn from_origin(origin: &Origin, message: impl Into<String>) -> Self {
        let mut failure = Self::build(Kind::Failed, message.into(), origin.place.clone());
        failure.0.origin = origin.clone();
        failure
    }

    /// Adds both values.
    #[must_use]
    pub(crate) fn with_difference(mut self, difference: Difference) -> Self {
        self.0.difference = Some(difference);
        self
    }

    /// The line of the case that led to a failure in shared code.
    pub(crate) fn case_line(&self, file: &str) -> Option<Place> {
        self.0.origin.case_line(file)
    }

    /// The failure in the form used by the runner and the reports.
    #[must_use]
    pub fn report(&self) -> FailureReport {
        let contexts: String = self.0.context.iter().map(|text| format!("{text}: ")).collect();
        let difference = self.0.difference.as_ref();
        let message = contexts + &self.0.message;
        FailureReport {
            headline: headline(self.0.headline.as_deref(), &message, difference),
            message,
            place: Some(self.0.origin.place.clone()),
            expected: difference.map(|difference| difference.expected.clone()),
            found: difference.map(|difference| difference.found.clone()),
            diff: difference.and_then(|difference| difference.diff.clone()),
            ..FailureReport::default()
        }
    }

    /// What went wrong, or why the case is skipped, without context or place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The line of the case.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.0.origin.place
    }

    /// Both values, if two values should have been equal.
    #[must_use]
    pub fn difference(&self) -> Option<&Difference> {
        self.0.difference.as_ref()
    }

    /// Applies `hide` to all texts of the failure.
    #[must_use]
    pub(crate) fn map_text(mut self, hide: impl Fn(&str) -> String) -> Self {
        let inner = &mut *self.0;
        inner.headline = inner.headline.as_deref().map(&hide);
        inner.message = hide(&inner.message);
        inner.context.iter_mut().for_each(|text| *text = hide(text));
        if let Some(difference) = &mut inner.difference {
            difference.expected = hide(&difference.expected);
            difference.found = hide(&difference.found);
            difference.diff = difference.diff.as_deref().map(&hide);
        }
        self
    }
}

/// The failure in one line: the given headline, or else the first informative line of its message,
/// followed by the two values unless it already has them.
fn headline(said: Option<&str>, message: &str, difference: Option<&Difference>) -> String {
    if let Some(line) = said {
        return short(line);
    }
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut line = lines.next().unwrap_or_default().to_owned();
    // A line that ends like this only introduces the next one.
    while let (true, Some(next)) = (line.ends_with(':'), lines.next()) {
        line += &format!(" {}", next.trim_start_matches("| "));
    }
    line = with_short_command(&line);
    // The last words of a failed program; its status alone does not explain the failure.
    let mut printed = message.lines().filter_map(|line| line.trim().strip_prefix("| "));
    let words = printed.rfind(|words| !words.trim().is_empty());
    let ended = ["exited with status", "was killed by"];
    if let Some(words) = words
        && ended.iter().any(|how| line.contains(how))
        && !line.contains(words.trim())
    {
        line += &format!(": {}", words.trim());
    }
    let values = difference.filter(|values| values.diff.is_none() && !line.contains(&values.found));
    if let Some(Difference {
        expected, found, ..
    }) = values
    {
        let first = |text: &str| short(text.lines().next().unwrap_or_default());
        line += &format!(": expected {}, found {}", first(expected), first(found));
    } else if let Some(diff) = difference.and_then(|values| values.diff.as_deref()) {
        let changed = |sign: char| {
            let mut lines = diff.lines();
            let line = lines.find(|line| line.starts_with(sign));
            line.map(|line| short(line[1..].trim()))
        };
        match (changed('-'), changed('+')) {
            (Some(expected), Some(found)) => {
                line += &format!(": expected `{expected}`, found `{found}`");
            }
            (Some(expected), None) => line += &format!(": `{expected}` is missing"),
            (None, Some(found)) => line += &format!(": `{found}` was not expected"),
            (None, None) => {}
        }
    }
    short(line.trim_end_matches(':'))
}

/// How much of a command line a headline shows, in characters: the result matters more.
const COMMAND: usize = 100;

/// The line, with the middle of a long command between backticks removed.
fn with_short_command(line: &str) -> String {
    let ends = line.find('`').zip(line.rfind('`'));
    let Some((start, end)) = ends.filter(|(start, end)| start < end) else {
        return line.to_owned();
    };
    let command: Vec<char> = line[start + 1..end].chars().collect();
    if command.len() <= COMMAND {
        return line.to_owned();
    }
    let part = |chars: &[char]| chars.iter().collect::<String>();
    let (first, last) = (
        part(&command[..COMMAND / 2]),
        part(&command[command.len() - COMMAND / 2..]),
    );
    format!("{}{first}…{last}{}", &line[..=start], &line[end..])
}

impl<E> From<E> for Failure
where
    E: std::error::Error + 'static,
{
    /// Converts any error, with its sources, at the line that used `?`.
    #[track_caller]
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors already end with the text of their cause.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::build(Kind::Failed, message, Location::caller().into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.0.context {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(Difference {
            expected,
            found,
            diff,
        }) = &self.0.difference
        {
            match diff {
                Some(diff) => write!(f, "\n{diff}")?,
                None => write!(f, "\n  expected: {expected}\n  found:    {found}")?,
            }
        }
        Ok(())
    }
}

/// Like [`fmt::Display`], plus the place: this is what a failed `unwrap` in a unit test shows.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.kind {
            Kind::Failed => "failed",
            _ => "skipped",
        };
        write!(f, "{kind} at {}: {self}", self.0.origin.place)
    }
}

/// Adds context to the error of any result that can end a case.
pub trait Context<T> {
    /// Adds what was being done to an error.
    ///
    /// # Errors
    /// The same error, with the context, and with the caller's line if it had none.
    #[track_caller]
    fn context(self, what: impl Into<String>) -> CaseResult<T>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    #[track_caller]
    fn context(self, what: impl Into<String>) -> CaseResult<T> {
        // Not `map_err`: a closure would become the caller that the conversion notes.
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(error.into().context(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> CaseResult<u32> {
        Ok(text.parse::<u32>()?)
    }

    #[test]
    fn a_foreign_error_notes_the_line_that_used_the_question_mark() {
        let failure = parse("no number").unwrap_err();
        assert!(failure.place().file.ends_with("failure.rs"), "{failure:?}");
        assert_eq!(failure.place().line, line!() - 7);
        assert!(failure.message().contains("invalid digit"));
    }

    #[test]
    fn a_long_command_leaves_room_for_what_came_of_it() {
        let command = format!("qemu-io {} disk", "x".repeat(500));
        let message =
            format!("failed to run `{command}`: it exited with status 1\n  | no such thing\n");
        let line = headline(None, &message, None);
        assert!(
            line.starts_with("failed to run `qemu-io xxx") && line.contains("…"),
            "{line}"
        );
        assert!(
            line.ends_with("xx disk`: it exited with status 1: no such thing"),
            "{line}"
        );
        let short = "failed to run `qemu-img info`: it exited with status 1";
        assert_eq!(headline(None, short, None), short);
    }

    #[test]
    fn context_is_shown_outermost_first() {
        let failure = parse("x").context("reading the size").context("opening the image");
        let failure = failure.unwrap_err();
        assert!(failure.to_string().starts_with("opening the image: reading the size: "));
    }

    #[test]
    fn a_skip_keeps_its_reason_through_context() {
        let failure = Err::<(), _>(Failure::skip(Skip::Case {
            reason: "no LUKS here".into(),
        }))
        .context("set-up")
        .unwrap_err();
        assert!(failure.skip_reason().is_some());
        assert_eq!(failure.message(), "no LUKS here");
    }

    #[test]
    fn both_values_of_a_difference_are_shown() {
        let difference = Difference {
            expected: "7".into(),
            found: "8".into(),
            diff: None,
        };
        let text = Failure::differs("wrong size", difference).to_string();
        assert!(
            text.contains("expected: 7") && text.contains("found:    8"),
            "{text}"
        );
    }

    #[test]
    fn a_headline_informs() {
        let of = |message: &str, difference: Option<(&str, &str, Option<&str>)>| {
            let failure = match difference {
                None => Failure::new(message),
                Some((expected, found, diff)) => Failure::differs(
                    message,
                    Difference {
                        expected: expected.into(),
                        found: found.into(),
                        diff: diff.map(str::to_owned),
                    },
                ),
            };
            failure.report().headline
        };
        let table = [
            (of("plain\nmore", None), "plain"),
            (
                of("the value differs:\n  \"a\" is 1, expected 2", None),
                "the value differs: \"a\" is 1, expected 2",
            ),
            (
                of("vm printed:\n  | qemu: no\n  and more", None),
                "vm printed: qemu: no",
            ),
            (
                of(
                    "`qemu-img create a` exited with status 1\n  | Formatting 'a'\n  | qemu-img: a: No space left on device",
                    None,
                ),
                "`qemu-img create a` exited with status 1: qemu-img: a: No space left on device",
            ),
            (of("nothing follows:", None), "nothing follows"),
            (
                of("wrong size", Some(("7", "8", None))),
                "wrong size: expected 7, found 8",
            ),
            (
                of("it is 8, expected 7", Some(("7", "8", None))),
                "it is 8, expected 7",
            ),
            (
                of(
                    "the log differs from the golden x",
                    Some(("", "", Some("@@ expected lines 1-1\n-a: 1\n+a: 2\n"))),
                ),
                "the log differs from the golden x: expected `a: 1`, found `a: 2`",
            ),
            (
                of("the log differs", Some(("", "", Some("@@\n+more\n")))),
                "the log differs: `more` was not expected",
            ),
        ];
        for (found, expected) in table {
            assert_eq!(found, expected);
        }
        let failure = Failure::new("text").headline("the fact");
        assert_eq!(failure.report().headline, "the fact");
        let long = Failure::new("x".repeat(3 << 20)).report().headline;
        assert!(long.len() < 400, "{}", long.len());
    }

    #[test]
    fn a_panic_keeps_its_text() {
        let payload = std::panic::catch_unwind(|| panic!("boom {}", 1)).unwrap_err();
        assert!(Failure::from_panic(&*payload, None).message().ends_with("boom 1"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("failed to open the door")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn the_causes_of_an_error_are_told() {
        let failure = Failure::from(Outer("x".parse::<u32>().unwrap_err()));
        assert_eq!(
            failure.message(),
            "failed to open the door: invalid digit found in string"
        );
    }
}
