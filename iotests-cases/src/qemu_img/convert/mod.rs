//! Copies of images by `qemu-img convert`: what they hold, what they take, and when there is none.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], groups = [RW, QUICK, IMG],
    unsupported_imgopts = ["data_file", "cluster_size"],
}

mod backing;
mod bitmaps;
mod compressed;
mod existing;
mod formats;
mod refused;
mod several;
mod snapshots;
mod sparse;
mod unreadable;

/// In whole sectors, and ends in the middle of a cluster.
const SIZE: u64 = MIB + 3 * KIB + 512;

/// Data at both ends, and between them some that begins and ends within clusters, and zeroes that were written.
const PATTERNS: Content = Content::of(&[
    (0x11, 0..CLUSTER),
    (0x22, 5 * CLUSTER + 512..7 * CLUSTER - KIB),
    (0, 9 * CLUSTER..11 * CLUSTER),
    (0x33, MIB + KIB..SIZE),
]);

/// The same without the zeroes.
const DATA: Content = Content::of(&[
    (0x11, 0..CLUSTER),
    (0x22, 5 * CLUSTER + 512..7 * CLUSTER - KIB),
    (0x33, MIB + KIB..SIZE),
]);

/// An image of this format with [`PATTERNS`].
async fn source(t: &Test, format: Format) -> CaseResult<Image> {
    let source = t.image("source").format(format).size(SIZE);
    source.content(&PATTERNS).create().await
}
