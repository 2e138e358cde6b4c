//! Classifies failures by QEMU's messages.

/// Why QEMU's tools refused something, from the caller's point of view. Derived from their
/// messages, which have been stable since 6.2; other messages have no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// Another process has the image open: try later, or force-share for reading.
    Locked,
    /// A file does not exist, possibly a backing file.
    NotFound,
    /// The storage is full.
    NoSpace,
    /// We lack permission to open or create the file.
    PermissionDenied,
    /// The file is not an image of the given format.
    NotAnImage,
    /// This build does not support the format, option or operation.
    Unsupported,
}

/// How lines end. File names come earlier in the line, so none can be mistaken for a reason.
const ENDS: [(&str, FailureKind); 8] = [
    (": No such file or directory", FailureKind::NotFound),
    (": No space left on device", FailureKind::NoSpace),
    (": Disk quota exceeded", FailureKind::NoSpace),
    (": Permission denied", FailureKind::PermissionDenied),
    (": Operation not supported", FailureKind::Unsupported),
    ("(Operation not supported)", FailureKind::Unsupported),
    (": invalid VMDK image descriptor", FailureKind::NotAnImage),
    (": invalid VPC image", FailureKind::NotAnImage),
];

/// How a reason begins, after a colon.
const BEGINNINGS: [(&str, FailureKind); 11] = [
    ("Image is not in ", FailureKind::NotAnImage),
    ("Image not in ", FailureKind::NotAnImage),
    ("Volume is not in LUKS format", FailureKind::NotAnImage),
    (
        "Could not locate UDIF trailer in dmg file",
        FailureKind::NotAnImage,
    ),
    ("Unknown driver '", FailureKind::Unsupported),
    ("Unknown file format '", FailureKind::Unsupported),
    ("Unknown protocol '", FailureKind::Unsupported),
    ("Format driver '", FailureKind::Unsupported),
    (
        "Image format driver does not support ",
        FailureKind::Unsupported,
    ),
    ("Block driver does not support ", FailureKind::Unsupported),
    ("Unsupported ", FailureKind::Unsupported),
];

impl FailureKind {
    /// Classifies a text: the standard error of qemu-img, or the output of qemu-io.
    pub fn of(text: &str) -> Option<FailureKind> {
        let kind = |line: &str| {
            if line.contains("Failed to get ") && line.ends_with("\" lock") {
                return Some(FailureKind::Locked);
            }
            let by_end = ENDS.iter().find(|(end, _)| line.ends_with(end));
            let reason = line.rsplit(": ").next().unwrap_or(line);
            let begins = |(start, _): &&(&str, FailureKind)| reason.starts_with(start);
            let found = by_end.or_else(|| BEGINNINGS.iter().find(begins));
            found.map(|(_, kind)| *kind)
        };
        text.lines().find_map(kind)
    }
}

/// Adds the classifying methods to an error that has an `output`.
#[cfg(any(feature = "img", feature = "io"))]
macro_rules! failure_kinds {
    ($error:ty) => {
        impl $error {
            /// Whether another process has the image open.
            pub fn is_locked(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::Locked)
            }

            /// Whether a file is missing.
            pub fn is_not_found(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::NotFound)
            }

            /// Whether the storage is full.
            pub fn is_no_space(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::NoSpace)
            }

            /// Whether we lack permission to open or create a file.
            pub fn is_permission_denied(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::PermissionDenied)
            }

            /// Whether a file is not an image of the given format.
            pub fn is_not_an_image(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::NotAnImage)
            }

            /// Whether the format, option or operation is not supported by this build.
            pub fn is_unsupported(&self) -> bool {
                self.kind() == Some($crate::image::FailureKind::Unsupported)
            }
        }
    };
}
#[cfg(any(feature = "img", feature = "io"))]
pub(crate) use failure_kinds;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_of_a_file_is_no_reason() {
        for name in [
            "No space left on device",
            "x: No space left on device",
            "Image is not in qcow2 format",
            "Failed to get \"write\" lock",
        ] {
            let text = format!("qemu-img: Could not open '{name}': Invalid argument\n");
            assert_eq!(FailureKind::of(&text), None, "{name}");
            let text = format!("qemu-img: Could not open '{name}': Permission denied\n");
            assert_eq!(FailureKind::of(&text), Some(FailureKind::PermissionDenied));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(\\PC|: |\n){0,60}") {
            let _ = FailureKind::of(&text);
        }
    }
}
