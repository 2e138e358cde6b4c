//! The names that are usable inside `#[case(…)]`, `defaults!` and `rows!` without an import.

use std::time::Duration;

pub use imgtools::tools::ToolKind;

pub use super::axes::Guest::{Native, RunningIdle, Stopped, VirtualClock};
pub use super::axes::Host::{Any, Qsd, System};
pub use super::axes::{Aio, Backend, Cache, Format, Guest, Host, Os, Protocol};
pub use super::declaration::{Exclusion, Group};
pub use super::known_bug::{Fix, KnownBug, Quarantine};
pub use super::requirement::Requirement::{self, *};
pub use super::version::{FixedIn, VersionRange};

/// The format raw.
pub const RAW: Format = Format::Raw;
/// The format qcow2.
pub const QCOW2: Format = Format::Qcow2;
/// The format qcow.
pub const QCOW: Format = Format::Qcow;
/// The format qed.
pub const QED: Format = Format::Qed;
/// The format luks.
pub const LUKS: Format = Format::Luks;
/// The format vmdk.
pub const VMDK: Format = Format::Vmdk;
/// The format vdi.
pub const VDI: Format = Format::Vdi;
/// The format vpc.
pub const VPC: Format = Format::Vpc;
/// The format vhdx.
pub const VHDX: Format = Format::Vhdx;
/// The format parallels.
pub const PARALLELS: Format = Format::Parallels;
/// The format vvfat.
pub const VVFAT: Format = Format::Vvfat;

/// The protocol file.
pub const FILE: Protocol = Protocol::File;
/// The protocol nbd.
pub const NBD: Protocol = Protocol::Nbd;
/// The protocol fuse.
pub const FUSE: Protocol = Protocol::Fuse;
/// The protocol ssh.
pub const SSH: Protocol = Protocol::Ssh;

/// Reads and writes image data.
pub const RW: Group = Group("rw");
/// Part of a gate.
pub const AUTO: Group = Group("auto");
/// Takes seconds at most.
pub const QUICK: Group = Group("quick");
/// Takes many seconds, or minutes.
pub const SLOW: Group = Group("slow");
/// Backing chains.
pub const BACKING: Group = Group("backing");
/// Snapshots.
pub const SNAPSHOT: Group = Group("snapshot");
/// qemu-img only.
pub const IMG: Group = Group("img");
/// Live migration.
pub const MIGRATION: Group = Group("migration");
/// Exports: NBD, FUSE, vhost-user.
pub const EXPORT: Group = Group("export");
/// I/O limits.
pub const THROTTLE: Group = Group("throttle");
/// Block jobs.
pub const JOB: Group = Group("job");
/// Dirty bitmaps.
pub const BITMAP: Group = Group("bitmap");
/// Encryption.
pub const CRYPTO: Group = Group("crypto");
/// Depends on real time, so load may disturb it.
pub const TIMING: Group = Group("timing");
/// Uses sudo.
pub const SUDO: Group = Group("sudo");
/// Does something different with each seed: `iotests explore`.
pub const EXPLORE: Group = Group("explore");

/// Every group, for the command line.
pub const GROUPS: &[Group] = &[
    RW, AUTO, QUICK, SLOW, BACKING, SNAPSHOT, IMG, MIGRATION, EXPORT, THROTTLE, JOB, BITMAP,
    CRYPTO, TIMING, SUDO, EXPLORE,
];

/// 1024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;

/// A budget in seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Versions from this release on.
pub const fn since(major: u32, minor: u32) -> Requirement {
    Requirement::Version(VersionRange::since(major, minor))
}

/// This release or a later one, on this or a later branch: for changes that came with a stable
/// release.
#[must_use]
pub const fn since_release(major: u32, minor: u32, micro: u32) -> Requirement {
    Requirement::Version(VersionRange::since_release(major, minor, micro))
}

/// Versions before this release.
pub const fn before(major: u32, minor: u32) -> Requirement {
    Requirement::Version(VersionRange::before(major, minor))
}

/// A requirement that always holds.
pub const ALWAYS: Requirement = Requirement::AllOf(&[]);

/// A known QEMU bug: why the case fails, with a reference; the text of the failure, or of a
/// machine's output at its end; and where the bug exists. `.fixed_in(["10.0.3", "10.1"])` names the
/// first releases with the fix, and `.only(&[&["row", "row"]])` the combinations of rows that fail.
/// A failure with a different text is a different bug; so is a hang or a crash, which has no such
/// text.
pub const fn known(reason: &'static str, says: &'static str, when: Requirement) -> KnownBug {
    KnownBug {
        reason,
        says,
        when,
        fixed_in: FixedIn::NONE,
        rows: &[],
        is_intermittent: false,
    }
}

/// The change in QEMU that a case depends on: the first releases with it, and the commit.
pub const fn fix<const N: usize>(releases: [&'static str; N], commit: &'static str) -> Fix {
    Fix {
        releases: FixedIn::new(releases),
        commit,
    }
}

/// A quarantine that ends after the day `YYYY-MM-DD`.
pub const fn until(day: &'static str, reason: &'static str) -> Quarantine {
    Quarantine { until: day, reason }
}

/// Excludes a combination of rows, and says why: one row name per table, or `*`.
pub const fn exclude(rows: &'static [&'static str], reason: &'static str) -> Exclusion {
    Exclusion { rows, reason }
}
