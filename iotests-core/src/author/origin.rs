//! Where something was done: a line, and the calls that led there.
//!
//! A failure in shared code has one line there and another in the case. The latter is found on the
//! stack: above a polled future are the futures that wait for it. Only addresses are stored, which
//! costs next to nothing; they are resolved to names only for a report.

use std::path::Path;

use backtrace::Backtrace;

use crate::wire::Place;

/// A line, and the calls that led there.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) place: Place,
    calls: Backtrace,
    /// The line of the case, if it was already looked up.
    known: Option<Place>,
}

impl Origin {
    /// This line, and the calls that led here.
    pub(crate) fn of(place: Place) -> Self {
        let calls = Backtrace::new_unresolved();
        Origin {
            place,
            calls,
            known: None,
        }
    }

    /// A line, and the line of the case that led there.
    pub(crate) fn known(place: Place, case_line: Option<Place>) -> Self {
        let calls = Backtrace::from(Vec::new());
        Origin {
            place,
            calls,
            known: case_line,
        }
    }

    /// The line at which the case called the code that failed, unless the failure is on that line.
    /// `file` is the case's file: the outermost call in it is the case itself.
    pub(crate) fn case_line(&self, file: &str) -> Option<Place> {
        if self.known.is_some() {
            return self.known.clone();
        }
        let mut line = None;
        for frame in self.calls.frames() {
            // A return address on the stack points to the instruction after the call.
            let call = frame.ip().addr().saturating_sub(1);
            backtrace::resolve(std::ptr::without_provenance_mut(call), |symbol| {
                let found = symbol.filename().zip(symbol.lineno()).map(place);
                line = found.filter(|place| place.file == file).or(line.take());
            });
        }
        line.filter(|line| !self.is_in_the_same_statement_as(line))
    }

    /// An operation's place is its own line, but it is awaited at the end of its statement.
    fn is_in_the_same_statement_as(&self, line: &Place) -> bool {
        const LONGEST: u32 = 20;
        let lines = self.place.line..=self.place.line + LONGEST;
        self.place.file == line.file && lines.contains(&line.line)
    }
}

/// A place relative to the workspace root, as the compiler gives it.
fn place((file, line): (&Path, u32)) -> Place {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let inside = root.and_then(|root| file.strip_prefix(root).ok());
    Place {
        file: inside.unwrap_or(file).display().to_string(),
        line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shared_code() -> Origin {
        Origin::of(Place {
            file: "shared.rs".to_owned(),
            line: 7,
        })
    }

    #[test]
    fn the_line_of_the_case_is_found_among_the_calls() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let origin = runtime.block_on(shared_code());
        let found = origin.case_line(file!()).unwrap();
        assert_eq!(found.file, file!());
        assert_eq!(origin.case_line("another/file.rs"), None);
        let known = Origin::known(found.clone(), Some(found.clone()));
        assert_eq!(known.case_line("another/file.rs"), Some(found));
    }

    #[test]
    fn an_operation_and_the_end_of_its_statement_are_one_place() {
        let at = |file: &str, line| Place {
            file: file.to_owned(),
            line,
        };
        let origin = Origin::known(at("a.rs", 10), None);
        assert!(origin.is_in_the_same_statement_as(&at("a.rs", 10)));
        assert!(origin.is_in_the_same_statement_as(&at("a.rs", 14)));
        assert!(!origin.is_in_the_same_statement_as(&at("a.rs", 9)));
        assert!(!origin.is_in_the_same_statement_as(&at("a.rs", 40)));
        assert!(!origin.is_in_the_same_statement_as(&at("b.rs", 10)));
    }
}
