//! The dimensions of the matrix: format, protocol, cache, aio, host, guest.

use std::fmt;
use std::str::FromStr;

use imgtools::tools::ToolKind;
use serde::{Deserialize, Serialize};

/// A name that is not a value of its axis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{axis} `{given}` is unknown; known: {known}")]
pub struct UnknownName {
    /// The axis: "format", "protocol"…
    pub axis: &'static str,
    /// The name that was given.
    pub given: String,
    /// All known names, comma separated.
    pub known: String,
}

macro_rules! axis {
    ($(#[$doc:meta])* $type:ident, $axis:literal { $($(#[$vdoc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$vdoc])* #[serde(rename = $name)] $variant),+
        }

        impl $type {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as QEMU and the command line spell it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| UnknownName {
                    axis: $axis,
                    given: text.to_owned(),
                    known: Self::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

axis! {
    /// An image format: upstream's IMGFMT.
    Format, "format" {
        /// No format at all.
        Raw = "raw",
        /// QEMU's native format, versions 2 and 3.
        Qcow2 = "qcow2",
        /// The first QEMU copy-on-write format.
        Qcow = "qcow",
        /// QEMU enhanced disk.
        Qed = "qed",
        /// LUKS encryption as a format.
        Luks = "luks",
        /// VMware.
        Vmdk = "vmdk",
        /// VirtualBox.
        Vdi = "vdi",
        /// Virtual PC.
        Vpc = "vpc",
        /// Hyper-V.
        Vhdx = "vhdx",
        /// Parallels.
        Parallels = "parallels",
        /// Bochs, read only.
        Bochs = "bochs",
        /// Compressed loop, read only.
        Cloop = "cloop",
        /// Apple disk image, read only.
        Dmg = "dmg",
        /// A directory presented as a FAT disk.
        Vvfat = "vvfat",
    }
}

axis! {
    /// What carries the image: upstream's IMGPROTO.
    Protocol, "protocol" {
        /// A file in the test directory, opened directly.
        File = "file",
        /// Served by qemu-nbd on a UNIX socket.
        Nbd = "nbd",
        /// A FUSE export of qemu-storage-daemon.
        Fuse = "fuse",
        /// Over ssh to 127.0.0.1.
        Ssh = "ssh",
    }
}

axis! {
    /// Host page cache mode (`-t` of qemu-img, `cache=`).
    Cache, "cache mode" {
        /// QEMU's default since 1.x.
        Writeback = "writeback",
        /// O_DIRECT.
        None = "none",
        /// Flush after every write.
        Writethrough = "writethrough",
        /// O_DIRECT and flush after every write.
        Directsync = "directsync",
        /// Never flush.
        Unsafe = "unsafe",
    }
}

axis! {
    /// How QEMU does host I/O (`-i` of qemu-img, `aio=`).
    Aio, "aio mode" {
        /// The thread pool.
        Threads = "threads",
        /// Linux AIO; needs a cache mode with O_DIRECT.
        Native = "native",
        /// io_uring.
        IoUring = "io_uring",
    }
}

axis! {
    /// An operating system, named as `std::env::consts::OS` names it.
    Os, "operating system" {
        /// Linux.
        Linux = "linux",
        /// macOS.
        Macos = "macos",
        /// FreeBSD.
        Freebsd = "freebsd",
        /// NetBSD.
        Netbsd = "netbsd",
        /// OpenBSD.
        Openbsd = "openbsd",
        /// illumos and Solaris.
        Solaris = "solaris",
        /// Windows.
        Windows = "windows",
    }
}

axis! {
    /// The process that runs the block layer under test.
    Backend, "backend" {
        /// A qemu-system-* emulator.
        System = "system",
        /// qemu-storage-daemon.
        Qsd = "qsd",
    }
}

impl Format {
    /// The formats in upstream's `generic`: qemu-img can create and write them without further
    /// options.
    pub const GENERIC: &'static [Self] = &[
        Self::Raw,
        Self::Qcow2,
        Self::Qcow,
        Self::Qed,
        Self::Luks,
        Self::Vmdk,
        Self::Vdi,
        Self::Vpc,
        Self::Vhdx,
        Self::Parallels,
    ];
}

impl Cache {
    /// Whether this mode opens files with O_DIRECT.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }
}

impl Backend {
    /// The tool that runs it.
    pub const fn tool(self) -> ToolKind {
        match self {
            Self::System => ToolKind::System,
            Self::Qsd => ToolKind::StorageDaemon,
        }
    }
}

/// The formats a case supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formats {
    /// The format does not matter: every format that can be created generically.
    Generic,
    /// Exactly these.
    Only(&'static [Format]),
    /// Every generic format except these.
    Except(&'static [Format]),
}

impl Formats {
    /// Whether a case with this set runs on `format`.
    pub fn contains(&self, format: Format) -> bool {
        match self {
            Self::Generic => Format::GENERIC.contains(&format),
            Self::Only(list) => list.contains(&format),
            Self::Except(list) => Format::GENERIC.contains(&format) && !list.contains(&format),
        }
    }

    /// The formats in the set.
    pub fn to_vec(&self) -> Vec<Format> {
        Format::ALL.iter().copied().filter(|format| self.contains(*format)).collect()
    }
}

/// The process that a case needs to host the block layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// None: tools only.
    None,
    /// Any backend; one instance per backend.
    Any,
    /// An emulator.
    System,
    /// qemu-storage-daemon.
    Qsd,
}

impl Host {
    /// The backends on which a case with this need runs.
    pub const fn backends(self) -> &'static [Option<Backend>] {
        match self {
            Self::None => &[None],
            Self::Any => &[Some(Backend::System), Some(Backend::Qsd)],
            Self::System => &[Some(Backend::System)],
            Self::Qsd => &[Some(Backend::Qsd)],
        }
    }
}

/// What a case needs from the guest when it runs on an emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guest {
    /// No guest code may run; the run state does not matter (qtest, else `-S`).
    Stopped,
    /// The run state is "running", but nothing touches the disks (qtest, else an idle ROM).
    RunningIdle,
    /// Firmware really runs, on kvm or tcg.
    Native,
    /// The virtual clock is stopped, and the case steps it (qtest only).
    VirtualClock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_an_unknown_one_lists_the_known() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(*format));
        }
        let error = "qcow3".parse::<Format>().unwrap_err().to_string();
        assert!(
            error.starts_with("format `qcow3` is unknown; known: raw, qcow2"),
            "{error}"
        );
    }

    #[test]
    fn generic_formats_are_those_that_can_be_created() {
        assert!(Formats::Generic.contains(Format::Vmdk));
        assert!(!Formats::Generic.contains(Format::Bochs));
        assert!(!Formats::Except(&[Format::Vpc]).contains(Format::Vpc));
        assert_eq!(Formats::Only(&[Format::Bochs]).to_vec(), [Format::Bochs]);
    }
}
