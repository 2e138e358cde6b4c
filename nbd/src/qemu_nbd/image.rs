//! What a qemu-nbd serves: a file, or a text that QEMU interprets.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a qemu-nbd serves.
///
/// Paths and strings name files. QEMU interprets a file name with a colon before its first slash as
/// a protocol (`a:b.raw`), so such a path is passed as `./a:b.raw`. A text for QEMU to interpret,
/// such as `json:{…}`, `nbd://…` or options, is an [`Image::verbatim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(OsString);

impl Image {
    /// A file.
    pub fn file(path: impl AsRef<Path>) -> Image {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        let head = bytes.split(|b| *b == b'/').next().unwrap_or_default();
        match head.contains(&b':') {
            true => Image(Path::new(".").join(path).into()),
            false => Image(path.into()),
        }
    }

    /// A text that is passed to QEMU unchanged.
    pub fn verbatim(text: impl Into<OsString>) -> Image {
        Image(text.into())
    }

    pub(super) fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl From<&Path> for Image {
    fn from(path: &Path) -> Image {
        Image::file(path)
    }
}

impl From<PathBuf> for Image {
    fn from(path: PathBuf) -> Image {
        Image::file(path)
    }
}

impl From<&PathBuf> for Image {
    fn from(path: &PathBuf) -> Image {
        Image::file(path)
    }
}

impl From<&str> for Image {
    fn from(path: &str) -> Image {
        Image::file(path)
    }
}

impl From<String> for Image {
    fn from(path: String) -> Image {
        Image::file(path)
    }
}

impl From<&String> for Image {
    fn from(path: &String) -> Image {
        Image::file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_protocol_whatever_it_looks_like() {
        for (path, written) in [
            ("a:b.raw", "./a:b.raw"),
            ("json:{}", "./json:{}"),
            ("a/b:c", "a/b:c"),
            ("/a:b", "/a:b"),
            ("plain", "plain"),
        ] {
            assert_eq!(Image::from(path).as_os_str(), written);
        }
        assert_eq!(Image::verbatim("json:{}").as_os_str(), "json:{}");
    }
}
