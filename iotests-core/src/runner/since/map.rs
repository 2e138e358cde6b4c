//! Maps QEMU's source files to the instances that they affect.

use std::sync::LazyLock;

use regex::RegexSet;

use crate::runner::filter::Filter;

/// What a file affects.
#[derive(Debug, Clone)]
pub(super) enum Touched {
    /// Nothing that is tested here.
    Nothing,
    /// The instances that match an expression, given with its text.
    These(String, Filter),
    /// The file is not on the map.
    Unknown,
}

impl PartialEq for Touched {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(one, _), Self::These(other, _)) => one == other,
            (Self::Nothing, Self::Nothing) | (Self::Unknown, Self::Unknown) => true,
            _ => false,
        }
    }
}

/// No test covers it.
const NOTHING: &str = "none()";

/// Regular expressions for whole paths, and what they affect. The first matching row counts.
///
/// Upstream scripts are matched by their text (`mentions`), cases by their declarations.
const MAP: &[(&str, &str)] = &[
    // Formats.
    (
        r"block/qcow2.*",
        "format(qcow2) | group(img) | mentions(/qcow2/)",
    ),
    (r"block/qcow\.c", "format(qcow)"),
    (r"block/qed.*", "format(qed)"),
    (r"block/raw-format\.c", "format(raw)"),
    (r"block/vdi\.c", "format(vdi)"),
    (r"block/vhdx.*", "format(vhdx)"),
    (r"block/vmdk\.c", "format(vmdk)"),
    (r"block/vpc\.c", "format(vpc)"),
    (r"block/parallels.*", "format(parallels)"),
    (r"block/bochs\.c", "format(bochs)"),
    (r"block/cloop\.c", "format(cloop)"),
    (r"block/dmg.*", "format(dmg)"),
    (r"block/vvfat\.c", "format(vvfat) | mentions(/vvfat/)"),
    (
        r"block/crypto\..*|crypto/.*|include/crypto/.*",
        "format(luks) | group(crypto) | mentions(/(?i)luks|encrypt|tls/)",
    ),
    // Jobs. Committing the active layer is a mirror; a stream reads through copy-on-read.
    (
        r"job(-qmp)?\.c|blockjob\.c|include/qemu/job\.h|include/block/blockjob.*|.*/progress_meter\.[ch]",
        "group(job) | mentions(/(?i)job|mirror|commit|stream|backup/)",
    ),
    (
        r"block/mirror\.c",
        "mentions(/(?i)mirror|commit/) | name(/^walk::/)",
    ),
    (
        r"block/commit\.c",
        "mentions(/(?i)commit/) | name(/^walk::/)",
    ),
    (
        r"block/(stream|copy-on-read)\.[ch]",
        "mentions(/(?i)stream|copy-on-read/) | name(/^walk::/)",
    ),
    (
        r"(include/)?block/(backup|block[-_]copy|block_backup|copy-before-write|snapshot-access|reqlist)\.[ch]",
        "mentions(/(?i)backup|fleecing|copy-before-write|snapshot-access/)",
    ),
    (
        r"block/(create|amend)\.c",
        "mentions(/(?i)create|amend|key/)",
    ),
    // Filters and test drivers.
    (
        r".*/throttle(-groups|-options)?\.[ch]",
        "mentions(/(?i)throttl/)",
    ),
    (r"block/quorum\.c", "mentions(/(?i)quorum/)"),
    (
        r"block/blkdebug\.c",
        "mentions(/(?i)blkdebug|error|inject|fails?\\b/)",
    ),
    (r"block/blkverify\.c", "mentions(/blkverify/)"),
    (r"block/blklogwrites\.c", "mentions(/blklogwrites/)"),
    (r"block/blkreplay\.c", "mentions(/blkreplay/)"),
    (r"block/null\.c", "mentions(/null-(co|aio)/)"),
    (r"block/preallocate\.c", "mentions(/preallocate/)"),
    (r"block/filter-compress\.c", "mentions(/compress/)"),
    (
        r"(include/)?block/replication\.[ch]|replication\.c",
        "mentions(/replication/)",
    ),
    (
        r"(include/)?block/write-threshold\.[ch]",
        "mentions(/threshold/)",
    ),
    // Bitmaps, which mirrors and backups also use; internal snapshots; migration.
    (
        r"(include/)?block/dirty-bitmap\.[ch]|block/monitor/bitmap.*|(util|include/qemu)/hbitmap\.[ch]",
        "group(bitmap) | mentions(/(?i)bitmap|mirror|backup/) | name(/^walk::/)",
    ),
    (
        r"(include/)?block/snapshot\.[ch]",
        "mentions(/(?i)snapshot|savevm|loadvm/)",
    ),
    (
        r"migration/.*|include/migration/.*",
        "group(migration) | mentions(/(?i)migrat|savevm|loadvm/)",
    ),
    // NBD. The harness accesses the disks of a storage daemon through its exports.
    (
        r"nbd/client.*|block/nbd\.c",
        "protocol(nbd) | mentions(/(?i)nbd/)",
    ),
    (
        r"nbd/.*|block/export/(export|meson.*|trace.*)|blockdev-nbd\.c|include/block/(nbd|export)\.h|block/export/export\.c",
        "protocol(nbd) | group(export) | mentions(/(?i)nbd/) | backend(qsd)",
    ),
    (r"qemu-nbd\.c", "protocol(nbd) | mentions(/(?i)nbd/)"),
    (
        r"(include/)?block/(export/)?fuse\.[ch]",
        "protocol(fuse) | mentions(/(?i)fuse/)",
    ),
    (
        r"block/export/(vhost-user|virtio-blk|vduse).*",
        "mentions(/vhost-user|vduse/)",
    ),
    (r"block/ssh\.c", "protocol(ssh) | mentions(/(?i)ssh/)"),
    // Protocols that no test uses, and other operating systems.
    (
        r"block/(blkio|curl|gluster|iscsi.*|nfs|nvme|rbd|file-win32|win32-aio)\.c",
        NOTHING,
    ),
    (r"block/linux-aio\.c", "aio(native) & cache(none)"),
    (r"block/io_uring\.c", "aio(io_uring)"),
    // Tools. Nearly every case uses qemu-img; those that test it have no machine.
    (
        r"qemu-img(-cmds\.hx|\.c)",
        "group(img) | !backend(system) & !backend(qsd)",
    ),
    (r"qemu-io(-cmds)?\.c", "all()"),
    (
        r"storage-daemon/.*",
        "backend(qsd) | protocol(fuse) | mentions(/(?i)storage-daemon|QSD/)",
    ),
    // Devices, and whatever else is only in emulators.
    (
        r"(include/)?(hw/(block|core|ide|nvme|pci|s390x|scsi|virtio)|scsi|system|softmmu|accel/qtest)/.*",
        "backend(system) | needs(emulator)",
    ),
    // The root of the block layer, and what everything goes through.
    (
        r"block\.c|blockdev\.c|iothread\.c|block/(accounting|aio_task|block-backend|block-gen|block-ram-registrar|coroutines|file-posix|graph-lock|io|qapi|qapi-system)\.[ch]|block/monitor/.*|include/block/.*|(util|monitor|qobject|qom|io)/.*|qapi/(block|job|transaction|crypto|error|common).*",
        "all()",
    ),
    // Not part of the block layer.
    (
        r"(docs|po|roms|pc-bios|contrib|audio|ui|net|bsd-user|linux-user|target|tcg|fpu|disas|gdbstub|plugins|qga|ebpf|dump|semihosting|configs|common-user|linux-headers|gdb-xml|accel|hw|include/(hw|ui|net|tcg|exec|standard-headers|fpu|disas|gdbstub)|\.gitlab-ci\.d|\.gitlab|\.github|\.b4-config)/.*|(.*/)?(trace-events|trace\.h|MAINTAINERS|VERSION|README.*|COPYING.*|LICENSE|\.git.*|\.mailmap|\.editorconfig|\.dir-locals\.el|.*\.(rst|md))",
        NOTHING,
    ),
    // Used by scripts, but not by cases.
    (r"python/.*|tests/qemu-iotests/[^/]*", "name(/^upstream::/)"),
    (r"tests/.*", NOTHING),
];

/// The patterns of all rows. An invalid one would leave all paths unknown; a test checks each.
static PATHS: LazyLock<RegexSet> = LazyLock::new(|| {
    let whole = MAP.iter().map(|(pattern, _)| format!("^(?:{pattern})$"));
    RegexSet::new(whole).unwrap_or_else(|_| RegexSet::empty())
});

/// What a file affects, by its path relative to the root of the sources.
pub(super) fn touched(path: &str) -> Touched {
    if let Some(test) = test(path) {
        return these(&format!("upstream(/^{}(::|$)/)", regex::escape(test)));
    }
    let row = PATHS.matches(path).iter().next();
    match row.and_then(|row| MAP.get(row)) {
        Some((_, NOTHING)) => Touched::Nothing,
        Some((_, expression)) => these(expression),
        None => Touched::Unknown,
    }
}

fn these(expression: &str) -> Touched {
    match expression.parse() {
        Ok(filter) => Touched::These(expression.to_owned(), filter),
        // Cannot happen: a test parses each.
        Err(_) => Touched::Unknown,
    }
}

/// The test whose script or reference this is.
fn test(path: &str) -> Option<&str> {
    let name = path.strip_prefix("tests/qemu-iotests/")?;
    let (folder, name) = match name.strip_prefix("tests/") {
        Some(name) => (true, name),
        None => (false, name),
    };
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let is_number = stem.len() == 3 && stem.bytes().all(|byte| byte.is_ascii_digit());
    ((folder || is_number) && !stem.contains('/')).then_some(stem)
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn shown(path: &str) -> String {
        match touched(path) {
            Touched::Nothing => "nothing".to_owned(),
            Touched::These(text, _) => text,
            Touched::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn every_row_is_valid() {
        for (pattern, expression) in MAP {
            assert!(Regex::new(&format!("^(?:{pattern})$")).is_ok(), "{pattern}");
            let read = expression.parse::<Filter>();
            assert!(read.is_ok(), "{expression}: {read:?}");
        }
    }

    #[test]
    fn a_path_affects_its_format_job_or_tool_and_an_unknown_one_everything() {
        for (path, expected) in [
            ("block/qcow2-bitmap.c", "format(qcow2) |"),
            ("block/qcow.c", "format(qcow)"),
            ("block/vhdx-log.c", "format(vhdx)"),
            ("block/mirror.c", "mentions(/(?i)mirror|commit/)"),
            ("include/qemu/job.h", "group(job) |"),
            ("block/block-copy.c", "mentions(/(?i)backup|"),
            ("util/throttle.c", "mentions(/(?i)throttl/)"),
            ("util/hbitmap.c", "group(bitmap) |"),
            ("nbd/server.c", "protocol(nbd) | group(export)"),
            ("nbd/client-connection.c", "protocol(nbd) | mentions"),
            ("block/export/fuse.c", "protocol(fuse) |"),
            ("qemu-img.c", "group(img) |"),
            ("hw/scsi/scsi-disk.c", "backend(system) |"),
            ("hw/arm/virt.c", "nothing"),
            ("block.c", "all()"),
            ("block/io.c", "all()"),
            ("include/block/block_int-common.h", "all()"),
            ("util/aio-posix.c", "all()"),
            ("block/rbd.c", "nothing"),
            ("block/trace-events", "nothing"),
            ("docs/interop/nbd.rst", "nothing"),
            ("tests/unit/test-bdrv-drain.c", "nothing"),
            ("tests/qemu-iotests/040", "upstream(/^040(::|$)/)"),
            ("tests/qemu-iotests/051.pc.out", "upstream(/^051(::|$)/)"),
            (
                "tests/qemu-iotests/tests/mirror-top.out",
                "upstream(/^mirror\\-top(::|$)/)",
            ),
            ("tests/qemu-iotests/iotests.py", "name(/^upstream::/)"),
            ("meson.build", "unknown"),
            ("block/new-driver.c", "unknown"),
        ] {
            let found = shown(path);
            assert!(found.starts_with(expected), "{path}: {found}");
        }
    }
}
