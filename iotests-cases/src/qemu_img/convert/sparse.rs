//! Zeroes in the data of a source (`-S`), which may become holes.

use std::ops::Range;

use imgtools::raw;
use iotests_core::prelude::*;

defaults! { unsupported_imgopts = ["compat", "extended_l2"] }

/// Zeroes of 3 KiB, of 4 KiB, of 8 KiB and of 24 KiB, all of them written as data.
const GAPS: [(u8, Range<u64>); 5] = [
    (0x11, 0..KIB),
    (0x22, 4 * KIB..8 * KIB),
    (0x33, 12 * KIB..16 * KIB),
    (0x44, 24 * KIB..32 * KIB),
    (0x55, 56 * KIB..64 * KIB),
];

/// How long zeroes are to be, and what is allocated then.
struct Sparse {
    size: u64,
    allocated: &'static [(u64, u64)],
}

rows! {
    SIZES: Sparse { size, allocated };
    "512-bytes" => 512,
        &[(0, KIB), (4 * KIB, 8 * KIB), (12 * KIB, 16 * KIB), (24 * KIB, 32 * KIB),
          (56 * KIB, 64 * KIB)];
    "4k" => 4 * KIB,
        &[(0, 8 * KIB), (12 * KIB, 16 * KIB), (24 * KIB, 32 * KIB), (56 * KIB, 64 * KIB)];
    "8k" => 8 * KIB, &[(0, 16 * KIB), (24 * KIB, 32 * KIB), (56 * KIB, 64 * KIB)];
    "16k" => 16 * KIB, &[(0, 32 * KIB), (48 * KIB, 64 * KIB)];
    "not-at-all" => 0, &[(0, MIB)];
}

/// Zeroes become a hole where there are as many as asked for, and are written as data elsewhere.
#[case(upstream = "122", rows = SIZES)]
async fn become_holes_from_a_length_on(t: &mut Test, sparse: &Sparse) -> CaseResult {
    let source = t.image("source").format(RAW).size(MIB).create().await?;
    // As data, not as a hole.
    raw::fill(source.file(), 0..64 * KIB, 0)?;
    source.write_all(&GAPS).await?;
    let target = t.image("target").size(MIB).reserve().await?;
    let convert = source
        .convert(&target)
        .with(|call| call.option("cluster_size", KIB).sparse_size(sparse.size));
    convert.await?;
    target.assert_reads(&GAPS).await?;
    let layer = target.own_layer().await?;
    let found: Vec<_> = layer.present.iter().map(|range| (range.start, range.end)).collect();
    check!(found == sparse.allocated);
    target.assert_clean().await
}

/// What is copied in full (`-S 0`).
enum Whole {
    Empty,
    Data,
    Chain,
}

rows! {
    WHOLE: Whole;
    "empty" => Whole::Empty, upstream = "150";
    "data-and-zeroes" => Whole::Data;
    "chain" => Whole::Chain;
}

rows! {
    COMPRESSED: bool;
    "plain" => false;
    "compressed" => true;
}

/// With `-S 0` all of the target is allocated, as data.
#[case(upstream = "122", rows = (WHOLE, COMPRESSED))]
async fn are_allocated_in_full(t: &mut Test, whole: &Whole, compressed: &bool) -> CaseResult {
    const SIZE: u64 = MIB + KIB;
    let base = t.image("base").size(SIZE).write(0x11, 0..8 * CLUSTER).create().await?;
    let own =
        Content::nothing().written(0x22, CLUSTER..3 * CLUSTER).zeroes(4 * CLUSTER..5 * CLUSTER);
    let (source, expected) = match whole {
        Whole::Empty => (t.image("source").size(SIZE), Content::nothing()),
        Whole::Data => (t.image("source").size(SIZE).content(&own), own),
        Whole::Chain => (
            t.image("source").size(SIZE).backing(&base).content(&own),
            own.over(&Content::nothing().written(0x11, 0..8 * CLUSTER)),
        ),
    };
    let source = source.create().await?;
    let target = t.image("target").size(SIZE).reserve().await?;
    let convert = source.convert(&target).with(|call| {
        let call = call.sparse_size(0);
        if *compressed { call.compress() } else { call }
    });
    convert.await?;
    target.assert_reads(&expected).await?;
    let check = target.check().await?.clean()?;
    check!(check.allocated_clusters == Some(17));
    check!(check.total_clusters == Some(17));
    for extent in target.map().await? {
        check!(extent.data && !extent.zero, "{extent:?}");
    }
    Ok(())
}

/// A raw target of `-S 0` takes all its space on the disk.
#[case(formats = [RAW])]
async fn take_their_space_in_a_raw_file(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).write(0x11, 0..CLUSTER).create().await?;
    let target = t.image("target").size(MIB).reserve().await?;
    source.convert(&target).with(|call| call.sparse_size(0)).await?;
    target.assert_reads(&[(0x11, 0..CLUSTER)]).await?;
    std::fs::File::open(target.file())?.sync_all()?;
    let holes = raw::extents(target.file())?.into_iter().filter(|extent| !extent.data);
    let holes: Vec<_> = holes.collect();
    check!(holes == []);
    Ok(())
}
