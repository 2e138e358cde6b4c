//! Discards and zeroes.

use std::ops::Range;

use super::*;

enum How {
    Discard,
    Zero,
    ZeroAndUnmap,
}

impl How {
    async fn apply(&self, vm: &Machine, range: &Range<u64>) -> CaseResult {
        let (node, start) = (vm.node("disk"), range.start);
        let length = range.end - start;
        match self {
            How::Discard => node.discard(range.clone()).await,
            How::Zero => node.zero(range.clone()).await,
            How::ZeroAndUnmap => {
                node.io(&format!("write -z -u {start} {length}")).await?;
                Ok(())
            }
        }
    }
}

rows! {
    HOW: How;
    "discarded" => How::Discard;
    "zeroed" => How::Zero;
    "zeroed-and-unmapped" => How::ZeroAndUnmap;
}

/// What the image has by itself: all of its first MiB.
const OWN: Content = Content::of(&[(0x22, 0..MIB)]);

/// Whole clusters that hold data, others that show the base, and parts of both.
const WHOLE: [Range<u64>; 2] = [CLUSTER..13 * CLUSTER, 20 * CLUSTER..22 * CLUSTER];
const PARTS: [Range<u64>; 2] = [
    14 * CLUSTER + 512..14 * CLUSTER + 4096,
    24 * CLUSTER + 4096..24 * CLUSTER + 8192,
];
/// Each of them in an L2 table and a block of refcounts of its own, where clusters are small.
const APART: u64 = 6;

/// What is discarded or zeroed reads as zeroes, and nothing of the backing file shows through, except that a discard has no effect where the
/// image cannot record it, or on a part of a cluster. It is the same when the image is opened again.
#[case(rows = (KINDS, HOW))]
async fn does_not_come_back(t: &mut Test, kind: &Kind, how: &How) -> CaseResult {
    let (base, disk) = kind.create(t, &OWN).await?;
    // No more of the refcounts than has to be.
    let node = disk.node().set("discard", "unmap");
    let node = node.set("refcount-cache-size", 4 * 512);
    let vm = t.host().blockdev(node).launch().await?;
    let small = kind.options.contains(&("cluster_size", "512"));
    let version_2 = kind.options.contains(&("compat", "0.10"));
    let mut expected = OWN.over(&Content::nothing().written(0x11, 0..SIZE));
    for (range, whole) in WHOLE
        .map(|range| (range, true))
        .into_iter()
        .chain(PARTS.map(|range| (range, small)))
        .chain((0..APART).map(|part| {
            let start = 13 * CLUSTER + part * 32 * KIB;
            (start..start + 512, small)
        }))
    {
        how.apply(&vm, &range).await?;
        if !matches!(how, How::Discard) || whole && !version_2 {
            expected = expected.zeroes(range);
        }
    }
    vm.node("disk").assert_reads(&expected).await?;
    vm.shutdown().await?;
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}

/// With `discard-no-unref`, clusters of data keep their place when they are discarded or zeroed, and get new data
/// there; those that have none get none.
#[case(
    rows = (KINDS, HOW), fixed_in = fix(["8.2"], "b2b109041e"),
    needs = [Schema("blockdev-add/arg-type/+qcow2/discard-no-unref")],
    excluded = [
        exclude(&["version-2", "*"], "it has no zeroes to record there"),
        exclude(&["*", "zeroed"], "that keeps the place anyway"),
    ],
)]
async fn keeps_its_place_where_that_is_asked(t: &mut Test, kind: &Kind, how: &How) -> CaseResult {
    let (base, disk) = kind.create(t, &OWN).await?;
    let before = places(&disk)?;
    let node = disk.node().set("discard", "unmap").set("discard-no-unref", true);
    let vm = t.host().blockdev(&node).launch().await?;
    let mut expected = OWN.over(&Content::nothing().written(0x11, 0..SIZE));
    for range in WHOLE {
        how.apply(&vm, &range).await?;
        expected = expected.zeroes(range);
    }
    vm.node("disk").assert_reads(&expected).await?;
    vm.shutdown().await?;
    check!(places(&disk)? == before);
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await?;

    let again = WHOLE[0].clone();
    disk.write(0x33, again.clone()).await?;
    check!(places(&disk)? == before);
    disk.assert_reads(expected.written(0x33, again)).await?;
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}
