//! `key=value,key=value` lists (`QemuOpts`, util/qemu-option.c): the comma is the only
//! special character, and two of them stand for one.

use std::fmt;

/// A key-value list, in the order in which its members were added.
///
/// Displayed, it is what goes into one argument.
///
/// ```
/// use machine::args::Opts;
/// let opts = Opts::with_first("socket").set("path", "/tmp/a,b").flag("wait", false);
/// assert_eq!(opts.to_string(), "socket,path=/tmp/a,,b,wait=off");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opts {
    members: Vec<(Option<String>, String)>,
}

impl Opts {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A list that begins with a value without a key: the option's implied key, such as the
    /// driver of `-device` or the backend of `-chardev`.
    #[must_use]
    pub fn with_first(value: impl Into<String>) -> Self {
        Self {
            members: vec![(None, value.into())],
        }
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.members.push((Some(key.into()), value.to_string()));
        self
    }

    /// Adds `key=on` or `key=off`.
    #[must_use]
    pub fn flag(self, key: impl Into<String>, on: bool) -> Self {
        self.set(key, if on { "on" } else { "off" })
    }

    /// The value of the last member with this key, as QEMU sees it: the last one wins.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members
            .iter()
            .rev()
            .find(|(k, _)| k.as_deref() == Some(key))
            .map(|(_, v)| v.as_str())
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl fmt::Display for Opts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.members.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if let Some(key) = key {
                write!(f, "{key}=")?;
            }
            f.write_str(&value.replace(',', ",,"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// QEMU's own reading of a list, as far as the quoting goes: an odd comma ends a member.
    fn unquote(text: &str) -> Vec<String> {
        let mut members = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.next_if_eq(&',').is_none() {
                members.push(String::new());
            } else if let Some(last) = members.last_mut() {
                last.push(c);
            }
        }
        members
    }

    proptest! {
        #[test]
        fn any_values_come_back_after_unquoting(values in prop::collection::vec("[a-z,= ]{1,12}", 1..6)) {
            // A value that ends in a comma before a separator stays ambiguous only if the
            // doubling is wrong, which is what this test would show.
            let opts = values.iter().fold(Opts::new(), |o, v| o.set("k", v));
            let expected: Vec<_> = values.iter().map(|v| format!("k={v}")).collect();
            prop_assert_eq!(unquote(&opts.to_string()), expected);
        }
    }

    #[test]
    fn the_last_member_of_a_key_wins() {
        let opts = Opts::with_first("x").set("a", 1).set("a", 2);
        assert_eq!(opts.get("a"), Some("2"));
        assert_eq!(opts.get("b"), None);
    }
}
