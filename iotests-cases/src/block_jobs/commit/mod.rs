//! `block-commit`: data of upper layers moves into lower ones.
//!
//! The upstream test is 040.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2, QED],
    groups = [AUTO, BACKING],
    // These change what the layers allocate, which is looked at cluster by cluster.
    unsupported_imgopts = ["cluster_size", "extended_l2", "preallocation"],
}

use super::{HELD, chain, refusals};

mod backing_files;
mod completed;
mod errors;
mod filters;
mod interrupted;
mod others;
mod refused;
mod short;

pub(super) use interrupted::STAYS_WRITABLE;
