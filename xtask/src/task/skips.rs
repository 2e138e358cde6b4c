//! The summary of a test run: which tests failed, and which passed without testing anything; the
//! latter print a line `skipped: WHY`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::cargo::{self, XtaskError};

/// The marker of a skipped test.
const SKIPPED: &str = "skipped: ";

/// How many lines of a failed test's output the summary repeats.
const SHOWN: usize = 12;

/// The skipped tests, by reason, and the failed ones, with the end of their output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    skipped: BTreeMap<String, Vec<String>>,
    failed: Vec<(String, Vec<String>)>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.skipped.values().map(Vec::len).sum();
        write!(f, "{count} skipped")?;
        for (reason, tests) in &self.skipped {
            write!(f, "\n  {}, {reason}: {}", tests.len(), tests.join(", "))?;
        }
        for (test, printed) in &self.failed {
            write!(f, "\n  failed: {test}")?;
            for line in printed {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

/// Runs tests with `cargo test`, where `command` continues after `--` with options for the test
/// programs, and shows their output; for passed tests only their skip lines.
pub(crate) fn run(command: &mut Command) -> (Summary, Result<(), XtaskError>) {
    command.arg("--show-output").stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(source) => {
            let program = cargo::display(command);
            return (
                Summary::default(),
                Err(XtaskError::Start { program, source }),
            );
        }
    };
    let mut reader = Reader::default();
    if let Some(output) = child.stdout.take() {
        // A test's output need not be text.
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if reader.line(&line) {
                println!("{line}");
            }
        }
    }
    let result = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(XtaskError::Failed {
            command: cargo::display(command),
            status,
        }),
        Err(source) => Err(XtaskError::Start {
            program: cargo::display(command),
            source,
        }),
    };
    (reader.summary, result)
}

/// Parses the output of test programs.
#[derive(Debug, Default)]
struct Reader {
    summary: Summary,
    /// Whether it is inside the output of passed tests.
    in_successes: bool,
    test: String,
}

impl Reader {
    /// Processes a line, and returns whether to show it.
    fn line(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.in_successes = false;
            self.test.clear();
        } else if let Some(name) = line.strip_prefix("---- ") {
            let name = name.split(' ').next().unwrap_or(name);
            name.clone_into(&mut self.test);
        } else if let Some(reason) = line.strip_prefix(SKIPPED).filter(|_| self.in_successes) {
            let tests = self.summary.skipped.entry(reason.to_owned()).or_default();
            // A test that iterates over several versions may skip more than one of them.
            if tests.last() != Some(&self.test) {
                tests.push(self.test.clone());
            }
        } else if let Some(name) = failed(line).filter(|_| !self.in_successes) {
            self.summary.failed.push((name.to_owned(), Vec::new()));
        } else if line == "stack backtrace:" {
            self.test.clear();
        } else if !line.is_empty() {
            let mut failed = self.summary.failed.iter_mut();
            let failed = failed.find(|(test, printed)| *test == self.test && printed.len() < SHOWN);
            if let Some((_, printed)) = failed {
                printed.push(line.to_owned());
            }
        }
        !self.in_successes
    }
}

/// The name of the test if the line reports a failure.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_tests_say_of_skips_is_counted_and_the_rest_of_their_output_is_not_shown() {
        let output = "\
running 3 tests
test a::one ... ok
test a::three ... FAILED

successes:

---- a::one stdout ----
some output
skipped: no emulator

---- a::two stdout ----
skipped: no emulator
skipped: no emulator

successes:
    a::one
    a::two

failures:

---- a::three stdout ----
thread 'a::three' panicked at a.rs:1:1:
skipped: is what it failed with
stack backtrace:
   0: many

failures:
    a::three

test result: FAILED.
";
        let mut reader = Reader::default();
        let shown: Vec<&str> = output.lines().filter(|line| reader.line(line)).collect();
        assert_eq!(
            reader.summary.to_string(),
            "2 skipped\n  2, no emulator: a::one, a::two\n  failed: a::three\n    \
             thread 'a::three' panicked at a.rs:1:1:\n    skipped: is what it failed with"
        );
        assert!(shown.contains(&"---- a::three stdout ----"));
        assert!(!shown.contains(&"some output"));
        assert_eq!(shown.first(), Some(&"running 3 tests"));
    }
}
