//! `drive-mirror` and `blockdev-mirror`: a disk is copied while the guest uses it, which then goes on
//! with the copy.
//!
//! The upstream test is 041, with some smaller ones.

use iotests_core::prelude::*;

use super::{HELD, NEGATIVE_SPEED, null};

defaults! {
    formats = [QCOW2, QED],
    protocols = [FILE],
    // These change what the layers allocate, which is looked at cluster by cluster.
    unsupported_imgopts = ["cluster_size", "extended_l2", "preallocation"],
}

mod active;
mod errors;
mod graph;
mod in_flight;
mod interrupted;
mod locks;
mod orphans;
mod pair;
mod quorum;
mod refused;
mod sparse;
mod targets;
mod whole;
