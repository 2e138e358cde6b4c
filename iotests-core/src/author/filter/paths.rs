//! Replaces a path in text, in every spelling that tools print.

use std::borrow::Cow;

/// A path and its placeholder: `/tmp/x/case` and `TEST_DIR`.
///
/// A path may contain any character, so it is searched for as a plain string, in each spelling that
/// QEMU or a tool prints: verbatim, with JSON escapes, with doubled commas (option strings) and
/// with percent encoding (URIs). A longer name with the path as a prefix is not replaced:
/// `/tmp/x/case2` is not inside `/tmp/x/case`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    spellings: Vec<String>,
    placeholder: String,
}

impl Hidden {
    /// Shows `path` as `placeholder`. An empty path hides nothing.
    #[must_use]
    pub fn new(path: &str, placeholder: &str) -> Self {
        let path = path.trim_end_matches('/');
        let mut spellings = vec![path.to_owned()];
        spellings.push(path.replace(',', ",,"));
        spellings.push(json_escaped(path));
        spellings.push(percent_encoded(path));
        // A comma in an option string inside a JSON string.
        spellings.push(json_escaped(&path.replace(',', ",,")));
        spellings.retain(|spelling| !spelling.is_empty());
        // Longest first, so that a shorter spelling does not split a longer one.
        spellings.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
        spellings.dedup();
        Hidden {
            spellings,
            placeholder: placeholder.to_owned(),
        }
    }

    /// The text with every whole occurrence replaced.
    #[must_use]
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for spelling in &self.spellings {
            if let Some(replaced) = replace_whole(&text, spelling, &self.placeholder) {
                text = Cow::Owned(replaced);
            }
        }
        text
    }

    /// The length of the path, which determines the order in which nested paths are hidden.
    pub(crate) fn len(&self) -> usize {
        self.spellings.iter().map(String::len).min().unwrap_or(0)
    }
}

/// Replaces `needle` where it ends at the end of a path component; `None` if there is nothing to
/// do.
fn replace_whole(text: &str, needle: &str, placeholder: &str) -> Option<String> {
    let mut out: Option<String> = None;
    let mut copied = 0;
    for (at, _) in text.match_indices(needle) {
        let end = at + needle.len();
        if continues_a_name(&text[end..]) {
            continue;
        }
        let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
        out.push_str(&text[copied..at]);
        out.push_str(placeholder);
        copied = end;
    }
    out.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

/// Whether the name before `rest` continues. A full stop ends a sentence unless a name follows it.
fn continues_a_name(rest: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let mut chars = rest.chars();
    match chars.next() {
        Some('.') => chars.next().is_some_and(name),
        Some(c) => name(c),
        None => false,
    }
}

fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(path: &str, text: &str) -> String {
        Hidden::new(path, "DIR").apply(text).into_owned()
    }

    #[test]
    fn a_path_is_hidden_in_every_spelling() {
        let path = "/t/a b,c\"d";
        assert_eq!(hide(path, "open /t/a b,c\"d/x"), "open DIR/x");
        assert_eq!(
            hide(path, "file=/t/a b,,c\"d/x,format=raw"),
            "file=DIR/x,format=raw"
        );
        assert_eq!(
            hide(path, r#"{"filename": "/t/a b,c\"d/x"}"#),
            r#"{"filename": "DIR/x"}"#
        );
        assert_eq!(
            hide(path, "nbd+unix:///?socket=/t/a%20b%2Cc%22d/s"),
            "nbd+unix:///?socket=DIR/s"
        );
    }

    #[test]
    fn a_longer_name_with_the_same_beginning_is_another_path() {
        for text in ["/t/raw2/x", "/t/raw-x", "/t/raw.d/x", "/t/raw_"] {
            assert_eq!(hide("/t/raw", text), text);
        }
        assert_eq!(hide("/t/raw/", "in /t/raw."), "in DIR.");
    }

    #[test]
    fn an_empty_path_hides_nothing() {
        assert_eq!(hide("", "a b"), "a b");
    }
}
