//! Keeps secrets out of logs and transcripts.

use std::borrow::Cow;

/// Which members of messages hold secrets. Their string values are shown as `"REDACTED"`.
///
/// The content of strings is not searched, such as a human monitor command or a `json:` file name.
#[derive(Clone, Debug)]
pub struct Redaction {
    names: Vec<String>,
    secret_objects: bool,
}

impl Default for Redaction {
    /// Passwords, and the `data` of `secret` objects.
    fn default() -> Self {
        Self::members(["password"])
    }
}

impl Redaction {
    /// Redacts the members with these names, at any depth.
    ///
    /// The `data` of an `object-add` of a `secret` object is redacted as well.
    pub fn members<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            names: names.into_iter().map(Into::into).collect(),
            secret_objects: true,
        }
    }

    /// Shows everything.
    pub fn none() -> Self {
        Self {
            names: Vec::new(),
            secret_objects: false,
        }
    }

    /// The text of a message with its secrets redacted.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found = Cow::Borrowed(text);
        for name in &self.names {
            replace(&mut found, name);
        }
        if self.secret_objects && text.contains("\"object-add\"") && text.contains("\"secret") {
            replace(&mut found, "data");
        }
        found
    }
}

/// Replaces the string values of the members called `name`.
fn replace(text: &mut Cow<'_, str>, name: &str) {
    let key = format!("\"{name}\"");
    let mut from = 0;
    while let Some(at) = text[from..].find(&key) {
        from += at + key.len();
        let rest = text[from..].trim_start();
        let Some(rest) = rest.strip_prefix(':').map(str::trim_start) else {
            continue;
        };
        if !rest.starts_with('"') {
            continue;
        }
        let start = text.len() - rest.len();
        let end = start + string_len(rest);
        text.to_mut().replace_range(start..end, "\"REDACTED\"");
        from = start;
    }
}

/// The length of the string literal that `text` starts with, quotes included.
fn string_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_members_are_replaced_and_nothing_else() {
        let redaction = Redaction::members(["password"]);
        assert_eq!(
            redaction.apply(r#"{"password": "a\"b", "x": "password", "y": {"password":"c"}}"#),
            r#"{"password": "REDACTED", "x": "password", "y": {"password":"REDACTED"}}"#
        );
        assert!(matches!(redaction.apply(r#"{"a": 1}"#), Cow::Borrowed(_)));
    }

    #[test]
    fn the_data_of_a_secret_object_is_replaced() {
        let text = r#"{"execute":"object-add","arguments":{"qom-type":"secret","data":"s"}}"#;
        for redaction in [Redaction::default(), Redaction::members([""; 0])] {
            assert!(!redaction.apply(text).contains("\"s\""));
        }
        assert_eq!(Redaction::none().apply(text), text);
        let event = r#"{"event": "X", "data": "s"}"#;
        assert_eq!(Redaction::default().apply(event), event);
    }
}
