//! `--review`: shows pending goldens one by one, to be accepted or rejected.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;

use super::error::{RunError, chain};
use super::exit::Exit;
use super::report::Palette;
use crate::author::golden::{self, Answer, Pending, Style};

/// Shows every pending golden below these folders, and asks what to do.
pub(super) fn review(folders: &BTreeSet<PathBuf>, palette: Palette) -> Result<Exit, RunError> {
    let mut input = stdin().lock();
    let can_ask = stdin().is_terminal();
    let (mut accepted, mut rejected, mut left) = (0, 0, 0);
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let mut ask = |pending: &Pending| {
            show(pending, palette);
            // Without a terminal, the review only shows.
            if can_ask {
                answer(&mut input)
            } else {
                Answer::Skip
            }
        };
        let summary = golden::review(folder, &mut ask).map_err(|error| RunError::System {
            doing: "review the goldens",
            source: io::Error::other(chain(&error)),
        })?;
        accepted += summary.accepted;
        rejected += summary.rejected;
        left += summary.left;
    }
    let _ = writeln!(
        stdout(),
        "{}",
        summary_line(accepted, rejected, left, can_ask)
    );
    Ok(Exit::Passed)
}

/// The counts, and what to do if there was no terminal to ask on.
fn summary_line(accepted: usize, rejected: usize, left: usize, can_ask: bool) -> String {
    let hint = match left > 0 && !can_ask {
        true => "; run `--review` in a terminal to decide",
        false => "",
    };
    format!("{accepted} accepted, {rejected} rejected, {left} left{hint}")
}

fn show(pending: &Pending, palette: Palette) {
    let kind = if pending.accepted.is_some() {
        "changes"
    } else {
        "is new"
    };
    // Errors are ignored: without a reader there is no answer either.
    let _ = writeln!(stdout(), "\n{} {kind}", palette.bold(&pending.name));
    if let Some(origin) = &pending.origin {
        let _ = writeln!(stdout(), "{}", palette.dim(format!("from {origin}")));
    }
    let style = if palette.is_enabled() {
        Style::Coloured
    } else {
        Style::Plain
    };
    let _ = write!(stdout(), "{}", pending.diff(style));
}

fn answer(input: &mut impl BufRead) -> Answer {
    loop {
        let _ = write!(stdout(), "accept (y), reject (n), or leave it (s)? ");
        let _ = stdout().flush();
        let mut line = String::new();
        // The end of input leaves the rest undecided.
        if input.read_line(&mut line).is_ok_and(|count| count == 0) {
            return Answer::Skip;
        }
        match line.trim() {
            "y" | "yes" => return Answer::Accept,
            "n" | "no" => return Answer::Reject,
            "s" | "" => return Answer::Skip,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_until_one_is_understood_and_the_end_decides_nothing() {
        let mut input = "what\ny\nn\n\n".as_bytes();
        let answers: Vec<Answer> = (0..4).map(|_| answer(&mut input)).collect();
        assert_eq!(
            answers,
            [Answer::Accept, Answer::Reject, Answer::Skip, Answer::Skip]
        );
    }

    #[test]
    fn without_a_terminal_the_way_to_decide_is_shown() {
        assert_eq!(
            summary_line(1, 0, 2, true),
            "1 accepted, 0 rejected, 2 left"
        );
        assert!(
            summary_line(0, 0, 2, false)
                .ends_with("2 left; run `--review` in a terminal to decide")
        );
        assert!(summary_line(0, 0, 0, false).ends_with("0 left"));
    }
}
