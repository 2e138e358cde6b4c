//! Disks that an iothread serves.

use iotests_core::author::{DiskBuilder, MachineBuilder};
use iotests_core::prelude::*;

rows! {
    /// Whether an iothread serves the guest's disk.
    pub(crate) THREADS: bool;
    "in-the-main-thread" => false;
    "in-an-iothread" => true, host = System;
}

/// The iothread that serves the disk.
const THREAD: &str = "thread";

/// Adds a guest's disk, in an iothread or in the main thread.
///
/// In an iothread it is a SCSI disk: virtio-blk goes there only when a guest drives it.
pub(crate) fn with_disk(
    vm: MachineBuilder,
    disk: impl Into<DiskBuilder>,
    threaded: bool,
) -> MachineBuilder {
    match threaded {
        true => vm.iothread(THREAD).disk(Disk::of(disk).scsi().iothread(THREAD)),
        false => vm.disk(disk),
    }
}

/// See docs/qemu-findings.md.
pub(crate) const CLIENT_LEAVES: KnownBug = known(
    "a client that leaves an export in an iothread aborts QEMU: a backport of 3e7ef738c8",
    "nbd_blockdev_client_closed",
    before(8, 0),
);
