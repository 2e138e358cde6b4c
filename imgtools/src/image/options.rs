//! QEMU's option strings: `key=value,key=value`.

use std::fmt;

/// An option string, as `-o`, `--object` and `--image-opts` take it. Values are escaped as they are
/// added: QEMU wants a comma doubled.
///
/// ```
/// use imgtools::image::Options;
/// let options = Options::new().set("driver", "raw").set("file.filename", "a,b.img");
/// assert_eq!(options.as_str(), "driver=raw,file.filename=a,,b.img");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(String);

impl Options {
    /// No options.
    pub fn new() -> Options {
        Options::default()
    }

    /// Adds an option. Where a key comes twice, QEMU takes the last.
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Options {
        self.separate();
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&value.to_string().replace(',', ",,"));
        self
    }

    /// Adds a piece of an option string as it is, such as `compat=0.10,cluster_size=2M`.
    pub fn append(mut self, options: &str) -> Options {
        if !options.is_empty() {
            self.separate();
            self.0.push_str(options);
        }
        self
    }

    fn separate(&mut self) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
    }

    /// The option string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that QEMU sees for a key, if there is one. A word without `=` is a key that is on.
    pub fn get(&self, key: &str) -> Option<String> {
        let mut rest = self.0.as_str();
        let mut found = None;
        while !rest.is_empty() {
            let (word, after) = next_word(rest);
            rest = after;
            let (name, value) = word.split_once('=').unwrap_or((&word, "on"));
            if name == key {
                found = Some(value.to_owned());
            }
        }
        found
    }
}

/// Takes a word off the front, up to a comma that is not doubled; undoes the doubling.
fn next_word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        word.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                word.push(',');
                rest = after;
            }
            None => return (word, rest),
        }
    }
    word.push_str(rest);
    (word, "")
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An option string as it is.
impl From<&str> for Options {
    fn from(text: &str) -> Options {
        Options(text.to_owned())
    }
}

/// An option string as it is.
impl From<String> for Options {
    fn from(text: String) -> Options {
        Options(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_several_values_is_the_one() {
        let options = Options::from("compat=0.10,lazy,x=1").set("compat", "1.1");
        assert_eq!(options.get("compat").as_deref(), Some("1.1"));
        assert_eq!(options.get("lazy").as_deref(), Some("on"));
        assert_eq!(options.get("com"), None);
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_set(
            values in prop::collection::vec("[a-z,=]{0,10}", 1..6),
            raw in prop_oneof![Just(""), Just("x=y"), Just("flag")],
        ) {
            let mut options = Options::from(raw);
            for (index, value) in values.iter().enumerate() {
                options = options.set(&format!("k{index}"), value);
            }
            for (index, value) in values.iter().enumerate() {
                let found = options.get(&format!("k{index}"));
                prop_assert_eq!(found.as_ref(), Some(value));
            }
        }
    }
}
