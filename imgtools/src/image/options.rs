//! QEMU's option strings: `key=value,key=value`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An option string, as for `-o`, `--object` and `--image-opts`. Values are escaped as they are
/// added: QEMU requires commas to be doubled.
///
/// ```
/// use imgtools::image::Options;
/// let options = Options::new().set("driver", "raw").set("file.filename", "a,b.img");
/// assert_eq!(options.to_string(), "driver=raw,file.filename=a,,b.img");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(OsString);

impl Options {
    /// No options.
    pub fn new() -> Options {
        Options::default()
    }

    /// A value without a key, such as the driver of `-device` or the backend of `-chardev`.
    pub fn with_first(value: impl fmt::Display) -> Options {
        Options::new().push_value(value.to_string().as_bytes())
    }

    /// Adds an option. If a key is repeated, QEMU uses the last.
    pub fn set(self, key: &str, value: impl fmt::Display) -> Options {
        self.set_bytes(key, value.to_string().as_bytes())
    }

    /// Adds an option whose value is a file, byte for byte.
    pub fn set_path(self, key: &str, path: impl AsRef<Path>) -> Options {
        self.set_bytes(key, path.as_ref().as_os_str().as_bytes())
    }

    fn set_bytes(mut self, key: &str, value: &[u8]) -> Options {
        self.separate();
        self.0.push(key);
        self.0.push("=");
        self.push_value(value)
    }

    fn push_value(mut self, value: &[u8]) -> Options {
        for (index, part) in value.split(|byte| *byte == b',').enumerate() {
            self.0.push(if index == 0 { "" } else { ",," });
            self.0.push(OsStr::from_bytes(part));
        }
        self
    }

    /// Adds a piece of an option string unchanged, such as `compat=0.10,cluster_size=2M`.
    pub fn append(mut self, options: impl AsRef<OsStr>) -> Options {
        let options = options.as_ref();
        if !options.is_empty() {
            self.separate();
            self.0.push(options);
        }
        self
    }

    fn separate(&mut self) {
        if !self.0.is_empty() {
            self.0.push(",");
        }
    }

    /// The option string.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that QEMU sees for a key, if there is one. A word without `=` is a key that is on.
    pub fn get(&self, key: &str) -> Option<String> {
        let text = self.0.to_string_lossy();
        let mut rest = &*text;
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

/// Splits off the first word, up to a comma that is not doubled, and unescapes it.
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

/// For messages: bytes that are not UTF-8 become U+FFFD.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// An option string, unchanged.
impl From<&str> for Options {
    fn from(text: &str) -> Options {
        Options(text.into())
    }
}

/// An option string, unchanged.
impl From<String> for Options {
    fn from(text: String) -> Options {
        Options(text.into())
    }
}

impl From<Options> for OsString {
    fn from(options: Options) -> OsString {
        options.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_without_a_key_comes_first() {
        let options = Options::with_first("socket,1").set("wait", "off");
        assert_eq!(options.to_string(), "socket,,1,wait=off");
    }

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
