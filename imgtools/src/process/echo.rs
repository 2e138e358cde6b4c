//! Copying the output of a process to our standard error, without its secrets.

use std::io::{self, Write as _};

use super::{CommandLine, REDACTED, Stream};

/// Output comes in pieces of any size. What may be the beginning of a secret is held back until more
/// has come, so that none is shown in parts.
#[derive(Debug, Default)]
pub(super) struct Echo {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Echo {
    /// Shows what has come.
    pub(super) fn show(&mut self, command: &CommandLine, stream: Stream, bytes: &[u8]) {
        write(&self.pass(command, stream, bytes, false));
    }

    /// Shows what is held back: no more will come.
    pub(super) fn finish(&mut self, command: &CommandLine) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            write(&self.pass(command, stream, &[], true));
        }
    }

    fn pass(
        &mut self,
        command: &CommandLine,
        stream: Stream,
        bytes: &[u8],
        is_last: bool,
    ) -> Vec<u8> {
        let held = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        held.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(held.len());
        let mut done = 0;
        while done < held.len() {
            let rest = &held[done..];
            let secrets = || command.secrets().map(str::as_bytes);
            let begins = |secret: &[u8]| rest.len() < secret.len() && secret.starts_with(rest);
            if !is_last && secrets().any(begins) {
                break;
            }
            match secrets().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    shown.extend_from_slice(REDACTED.as_bytes());
                    done += secret.len();
                }
                None => {
                    shown.push(rest[0]);
                    done += 1;
                }
            }
        }
        held.drain(..done);
        shown
    }
}

fn write(bytes: &[u8]) {
    // Who has closed our standard error does not want to read it.
    let _ = io::stderr().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_pieces_are_the_text_is_shown_without_its_secrets(
            parts in prop::collection::vec((any::<bool>(), "[aé1-3]{0,5}"), 0..8),
            secrets in prop::collection::vec("[1-3]{1,5}", 0..3),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut command = CommandLine::default();
            secrets.iter().for_each(|secret| command.push_secret(secret));
            let text: String = parts
                .iter()
                .map(|(is_secret, text)| match secrets.first() {
                    Some(secret) if *is_secret => secret.as_str(),
                    _ => text.as_str(),
                })
                .collect();
            let mut echo = Echo::default();
            let mut shown = Vec::new();
            let mut bytes = text.as_bytes();
            for cut in cuts.iter().cycle() {
                let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
                shown.extend(echo.pass(&command, Stream::Stdout, piece, rest.is_empty()));
                bytes = rest;
                if rest.is_empty() {
                    break;
                }
            }
            let shown = String::from_utf8(shown).unwrap();
            for secret in &secrets {
                prop_assert!(!shown.contains(secret), "{} shows {}", shown, secret);
            }
            if secrets.len() < 2 {
                prop_assert_eq!(shown, command.redact(&text));
            }
        }
    }
}
