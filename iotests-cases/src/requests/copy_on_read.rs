//! Copy-on-read: what is read from below is in the image then.

use std::ops::Range;

use super::*;

defaults! { needs = [Driver("copy-on-read")] }

rows! {
    /// How large the backing file is; the image ends in a cluster.
    BELOW: u64;
    "over-a-longer-one" => 2 * MIB;
    "over-one-of-the-same-size" => END;
    "over-one-that-ends-in-the-same-cluster" => END - KIB;
    "over-a-shorter-one" => MIB / 2;
}

const END: u64 = MIB + 3 * KIB;

/// A read of a part copies whole clusters, up to the end of the image; what is read is the same before and
/// after.
#[case(rows = BELOW)]
async fn takes_whole_clusters_to_the_end(t: &mut Test, below: &u64) -> CaseResult {
    let base = t.image("base").size(*below).fill(0x11).create().await?;
    let top = t.image("top").size(END).backing(&base);
    let top = top.write(0x22, 0..512).create().await?;
    let filter = Node::new("copy-on-read").node_name("filter").file(top.node());
    let vm = t.host().blockdev(filter).launch().await?;
    let shown = Content::nothing().written(0x11, 0..*below.min(&END));
    for part in [4 * CLUSTER + 512..4 * CLUSTER + 1024, END - 512..END] {
        let byte = shown.byte_at(part.start);
        vm.node("filter").assert_pattern(byte, part).await?;
    }
    vm.shutdown().await?;
    top.assert_reads(Content::of(&[(0x22, 0..512)]).over(&shown)).await?;
    let layer = top.own_layer().await?;
    for part in [4 * CLUSTER..5 * CLUSTER, 16 * CLUSTER..END] {
        let there = |it: &Range<u64>| it.start <= part.start && it.end >= part.end;
        // An NBD client asks where there are zeroes, and does not read these.
        let zeroes = shown.byte_at(part.end - 512) == 0;
        let copied = zeroes || layer.present.iter().any(there);
        check!(
            copied,
            "{part:x?} is not in the image, only {:x?}",
            layer.present
        );
    }
    check!(!layer.present.iter().any(|it| it.contains(&(8 * CLUSTER))));
    top.assert_clean().await?;
    base.assert_fill(0x11).await
}
