//! Block jobs: backup, commit, mirror, stream, and what they have in common.

use iotests_core::prelude::*;

defaults! { groups = [RW, JOB], host = Any }

mod backup;
mod chain;
mod commit;
mod copy_before_write;
mod create;
mod discards;
mod ejected;
mod error_policy;
mod exported;
mod fleecing;
mod grouped;
mod lifecycle;
mod mirror;
mod mirror_backing_chain;
mod mirror_cancel;
mod recorded;
mod refusals;
mod stopped;
mod stream;
mod verbs;
mod woken;

/// A controller whose disks can be unplugged.
const SCSI: [Requirement; 2] = [Device("virtio-scsi-pci"), Device("virtio-scsi-ccw")];

/// How many clusters a table of 4 KiB has.
const IN_A_TABLE: u64 = 512;

/// A speed at which a job never gets beyond its first request.
const HELD: u64 = 1;

/// A node without an image behind it, of this size.
fn null(name: &str, size: u64) -> Node {
    Node::new("null-co").node_name(name).set("size", size)
}

const NEGATIVE_SPEED: &str = "Parameter 'speed' expects a non-negative value";
