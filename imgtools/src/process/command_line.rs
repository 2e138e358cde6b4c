//! A command as shown to a user: quoted so that it can be pasted, with its secrets redacted.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// The replacement for a secret.
pub const REDACTED: &str = "REDACTED";

/// A command that is safe to show, log and include in errors.
///
/// It holds the secrets, so that [`CommandLine::redact`] can also remove them from the command's
/// output; nothing that it returns or formats shows them.
#[derive(Clone, Default)]
pub struct CommandLine {
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    words: Vec<String>,
    secrets: Vec<String>,
}

impl CommandLine {
    /// The words of the command, redacted, not quoted.
    pub fn words(&self) -> Vec<String> {
        self.words.iter().map(|word| self.redact(word).into_owned()).collect()
    }

    /// The program, as given.
    pub fn program(&self) -> Cow<'_, str> {
        self.words.first().map_or(Cow::Borrowed(""), |word| self.redact(word))
    }

    /// Redacts this command's secrets in a text, such as its own output.
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), REDACTED));
            }
        }
        text
    }

    /// The secrets, the longest first.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(String::as_str)
    }

    pub(super) fn set_directory(&mut self, directory: &Path) {
        self.directory = Some(directory.to_owned());
    }

    pub(super) fn push_word(&mut self, word: &OsStr) {
        self.words.push(word.to_string_lossy().into_owned());
    }

    pub(super) fn push_words_before(&mut self, words: &[impl AsRef<OsStr>]) {
        let words = words.iter().map(|word| word.as_ref().to_string_lossy().into_owned());
        self.words.splice(0..0, words);
    }

    pub(super) fn push_env(&mut self, key: &OsStr, value: &OsStr) {
        let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
        self.environment.push((key.into_owned(), value.into_owned()));
    }

    pub(super) fn push_secret(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.push(secret.to_owned());
        }
        // Longest first: a secret may contain another one.
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
}

fn quote(word: &str) -> Cow<'_, str> {
    // QEMU's options are full of these two, which are not special to a shell inside a word.
    if word.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '-')
        && word.chars().all(|char| char.is_ascii_alphanumeric() || "=,-_./:@+".contains(char))
    {
        return Cow::Borrowed(word);
    }
    // Only a NUL byte cannot be quoted, and no argument can contain one.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

/// One line for a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |word: &str| quote(&self.redact(word)).into_owned();
        if let Some(directory) = &self.directory {
            write!(f, "cd {} && ", shown(&directory.to_string_lossy()))?;
        }
        for (key, value) in &self.environment {
            write!(f, "{key}={} ", shown(value))?;
        }
        for (index, word) in self.words.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(&shown(word))?;
        }
        Ok(())
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(words: &[&str], secrets: &[&str]) -> CommandLine {
        let mut line = CommandLine::default();
        words.iter().for_each(|word| line.push_word(OsStr::new(word)));
        secrets.iter().for_each(|secret| line.push_secret(secret));
        line
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        let line = line(
            &["qemu-img", "--object", "secret,id=s,data=hunter2", "x"],
            &["hunter2"],
        );
        assert_eq!(
            line.to_string(),
            "qemu-img --object secret,id=s,data=REDACTED x"
        );
        assert_eq!(
            format!("{line:?}"),
            "`qemu-img --object secret,id=s,data=REDACTED x`"
        );
        assert_eq!(
            line.redact("bad: hunter2 hunter2!"),
            "bad: REDACTED REDACTED!"
        );
    }

    #[test]
    fn a_secret_that_holds_another_one_leaves_no_rest() {
        let line = line(&["x"], &["key", "key-and-more"]);
        assert_eq!(line.redact("key-and-more key"), "REDACTED REDACTED");
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_pasted(words in prop::collection::vec("[ -~é\n\t]{0,12}", 1..6)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let shown = line(&words, &[]).to_string();
            prop_assert_eq!(shlex::split(&shown).unwrap(), words);
        }

        #[test]
        fn no_secret_survives(
            before in "[a-z ]{0,8}", secret in "[0-9]{1,8}", after in "[a-z ]{0,8}",
        ) {
            let text = format!("{before}{secret}{after}{secret}");
            let line = line(&["x", &text], &[&secret]);
            prop_assert!(!line.redact(&text).contains(&secret));
            prop_assert!(!line.to_string().contains(&secret));
        }
    }
}
