//! A layer that ends before those above and below it.

use iotests_core::prelude::*;

rows! {
    /// Where it ends.
    pub(crate) ENDS: u64;
    "at-a-cluster" => MIB;
    "in-a-cluster" => MIB + 3 * KIB;
}

/// Of the layers above and below it.
pub(crate) const SIZE: u64 = 3 * MIB;

/// The chain `top -> short -> base`, from the bottom up. The base is full; the others have one cluster each,
/// the top at 2 MiB.
pub(crate) async fn layers(t: &Test, end: u64) -> CaseResult<[Image; 3]> {
    let base = t.image("base").size(SIZE).fill(0x11).create().await?;
    let short = t.image("short").size(end).backing(&base);
    let short = short.write(0x22, 0..CLUSTER).create().await?;
    let top = t.image("top").size(SIZE).backing(&short);
    let top = top.write(0x33, 2 * MIB..2 * MIB + CLUSTER).create().await?;
    Ok([base, short, top])
}
