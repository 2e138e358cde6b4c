//! How a file is named to QEMU: a path, which names exactly that file, or a text, which QEMU
//! interprets by its own rules.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name of a file, as passed to qemu-img and qemu-io.
///
/// - A [`Path`] or [`PathBuf`] names that file, byte for byte. Where QEMU would interpret it as a
///   protocol (`vm 2024-05-01T10:00.qcow2`) or an option (`--help`), it gets a `./` prefix.
/// - A `&str` or [`String`] means what it means to QEMU: `disk.qcow2`, but also
///   `nbd://host/export`, `json:{…}` or `file:disk.qcow2`. It is never treated as an option either.
///
/// An [`OsStr`] does not convert: the caller must say whether it is a path.
///
/// ```
/// use std::path::Path;
/// use imgtools::image::FileName;
///
/// assert_eq!(FileName::from(Path::new("disk:1.img")).to_string(), "./disk:1.img");
/// assert_eq!(FileName::from("nbd://localhost/a").to_string(), "nbd://localhost/a");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    name: OsString,
    is_path: bool,
}

impl FileName {
    /// The word for a command line.
    pub fn as_os_str(&self) -> &OsStr {
        &self.name
    }

    /// The file that it names, unless it uses a protocol other than `file:`.
    pub fn local(&self) -> Option<&Path> {
        let bytes = self.name.as_bytes();
        if self.is_path {
            return Some(Path::new(&self.name));
        }
        match protocol(bytes) {
            None if bytes.is_empty() => None,
            None => Some(Path::new(&self.name)),
            Some(b"file") => Some(Path::new(OsStr::from_bytes(&bytes[5..]))),
            Some(_) => None,
        }
    }

    /// The text that QEMU interprets by its own rules, if it is not a path.
    pub(crate) fn text(&self) -> Option<&str> {
        self.name.to_str().filter(|_| !self.is_path)
    }

    /// The same file as an absolute path. A text is left unchanged.
    #[cfg(feature = "img")]
    pub(crate) fn absolute(self) -> FileName {
        match std::path::absolute(&self.name) {
            Ok(path) if self.is_path => path.into(),
            _ => self,
        }
    }
}

/// The part before a colon that precedes any slash, which is how QEMU recognizes a protocol.
fn protocol(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[end] == b':').then(|| &name[..end])
}

/// For messages: bytes that are not UTF-8 become U+FFFD.
impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.display().fmt(f)
    }
}

impl From<&Path> for FileName {
    fn from(path: &Path) -> FileName {
        let bytes = path.as_os_str().as_bytes();
        let plain = bytes.first().is_some_and(|first| *first != b'-') && protocol(bytes).is_none();
        let mut name = OsString::from(if plain { "" } else { "./" });
        name.push(path);
        FileName {
            name,
            is_path: true,
        }
    }
}

impl From<&str> for FileName {
    fn from(text: &str) -> FileName {
        FileName {
            name: text.into(),
            is_path: false,
        }
    }
}

impl From<&FileName> for FileName {
    fn from(name: &FileName) -> FileName {
        name.clone()
    }
}

macro_rules! by_reference {
    ($($name:ty => $as:ty),* $(,)?) => {$(
        impl From<$name> for FileName {
            fn from(name: $name) -> FileName {
                let name: &$as = name.as_ref();
                name.into()
            }
        }
    )*};
}
by_reference!(
    String => str,
    &String => str,
    Cow<'_, str> => str,
    PathBuf => Path,
    &PathBuf => Path,
    Cow<'_, Path> => Path,
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_never_a_protocol_nor_an_option_and_a_text_is_as_it_is() {
        for (path, expected) in [
            ("disk.img", "disk.img"),
            ("-disk.img", "./-disk.img"),
            ("--help", "./--help"),
            ("vm 10:00.img", "./vm 10:00.img"),
            ("json:{}", "./json:{}"),
            ("a/b:c", "a/b:c"),
            ("/a:b/-c", "/a:b/-c"),
            // An empty text means "no backing file"; an empty path must not.
            ("", "./"),
        ] {
            assert_eq!(FileName::from(Path::new(path)).to_string(), expected);
            assert_eq!(FileName::from(path).to_string(), path);
        }
    }

    #[test]
    fn only_what_is_no_protocol_is_a_file_of_this_machine() {
        let local = |name: FileName| name.local().map(Path::to_owned);
        assert_eq!(local("a".into()), Some("a".into()));
        assert_eq!(local("file:a:b".into()), Some("a:b".into()));
        assert_eq!(local(Path::new("a:b").into()), Some("./a:b".into()));
        for text in ["nbd:localhost:1", "json:{}", "nbd+unix:///?socket=a", ""] {
            assert_eq!(local(text.into()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_path_keeps_its_bytes_and_names_the_same_file(bytes in prop::collection::vec(1u8.., 1..20)) {
            let path = Path::new(OsStr::from_bytes(&bytes));
            let name = FileName::from(path);
            prop_assert!(protocol(name.as_os_str().as_bytes()).is_none());
            prop_assert!(!name.as_os_str().as_bytes().starts_with(b"-"));
            let absolute = |path: &Path| std::path::absolute(path).unwrap();
            prop_assert_eq!(absolute(Path::new(name.as_os_str())), absolute(path));
        }
    }
}
