//! `block-stream`: data of lower layers moves into upper ones.
//!
//! The upstream test is 030.

use iotests_core::prelude::*;

use super::{HELD, chain, refusals};

defaults! {
    formats = [QCOW2, QED],
    groups = [BACKING],
    // These change what the layers allocate, which is looked at cluster by cluster.
    unsupported_imgopts = ["cluster_size", "extended_l2", "preallocation"],
}

mod completed;
mod errors;
mod filters;
mod interrupted;
mod others;
mod overlapping;
mod refused;
mod verbs;

rows! {
    /// How a stream is cancelled.
    FORCE: bool;
    "softly" => false;
    "by-force" => true;
}

const HURRIED: KnownBug = known(
    "a drain wakes a job, which then does one step more than its speed allows (018e5987b5)",
    ", expected 524288",
    before(8, 1),
);

const STAYS_WRITABLE: KnownBug = known(
    "a read-only layer that was streamed into stays writable",
    "the node mid: \"ro\" is false, expected true",
    since_release(10, 0, 3),
);
