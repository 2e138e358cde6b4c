//! Copies with a backing file, which hold only what differs from it.

use std::ops::Range;

use iotests_core::prelude::*;

defaults! { groups = [BACKING], unsupported_imgopts = ["compat", "extended_l2"] }

/// What is in a layer.
type Parts = &'static [(u8, Range<u64>)];

/// A chain whose top is copied, over what of it.
struct Chain {
    base: (u64, Parts),
    top: (u64, Parts),
    /// What the copy is to hold by itself.
    own: Parts,
}

const MANY: u64 = 16 * CLUSTER;
const ODD: u64 = 9 * CLUSTER + 1536;
const BASE: Parts = &[(0x11, 0..MANY)];

rows! {
    CHAINS: Chain { base, top, own };
    "data" => (MANY, BASE), (MANY, &[(0x22, 0..3 * CLUSTER)]), &[(0x22, 0..3 * CLUSTER)];
    "written-zeroes" => (MANY, BASE),
        (MANY, &[(0x22, 0..CLUSTER), (0, CLUSTER..4 * CLUSTER)]),
        &[(0x22, 0..CLUSTER), (0, CLUSTER..4 * CLUSTER)];
    "nothing" => (MANY, BASE), (MANY, &[]), &[];
    "odd-size" => (ODD, &[(0x11, 0..ODD)]),
        (ODD, &[(0, 0..CLUSTER), (0x22, 9 * CLUSTER..ODD)]),
        &[(0, 0..CLUSTER), (0x22, 9 * CLUSTER..ODD)];
    "over-a-shorter-one" => (ODD, &[(0x11, 0..ODD)]),
        (MANY, &[(0x22, 8 * CLUSTER..9 * CLUSTER), (0x33, 12 * CLUSTER..13 * CLUSTER)]),
        &[(0x22, 8 * CLUSTER..9 * CLUSTER), (0x33, 12 * CLUSTER..13 * CLUSTER)];
    "empty-over-a-shorter-one" => (ODD, &[(0x11, 0..ODD)]), (MANY, &[]), &[];
    "zeroes-across-the-end-of-a-shorter-one" => (ODD, &[(0x11, 0..ODD)]), (MANY, &[(0,
        8 * CLUSTER..MANY)]),
        &[(0, 8 * CLUSTER..ODD)];
    "over-a-longer-one" => (MANY, BASE),
        (ODD, &[(0x22, 0..CLUSTER)]), &[(0x22, 0..CLUSTER)];
}

/// How the copy is made.
enum How {
    Plain,
    Old,
    Compressed,
    OutOfOrder,
}

rows! {
    HOWS: How;
    "plain" => How::Plain;
    "v2" => How::Old;
    "compressed" => How::Compressed;
    "out-of-order" => How::OutOfOrder;
}

/// A copy over the backing file of its source reads as the source, and holds what the source holds and nothing of what is below.
#[case(upstream = "122", rows = (CHAINS, HOWS))]
async fn hold_what_the_source_holds(t: &mut Test, chain: &Chain, how: &How) -> CaseResult {
    let base = t.image("base").size(chain.base.0).content(chain.base.1).create().await?;
    let top = t.image("top").size(chain.top.0).backing(&base);
    let top = top.content(chain.top.1).create().await?;
    let (below, before) = (base.file_bytes()?, top.file_bytes()?);

    let copy = t.image("copy").size(chain.top.0).backing(&base).reserve().await?;
    let convert = top.convert(&copy);
    convert
        .with(|call| {
            let call = call.backing(base.filename(), base.format().name());
            match how {
                How::Plain => call,
                How::Old => call.option("compat", "0.10"),
                How::Compressed => call.compress(),
                How::OutOfOrder => call.out_of_order(),
            }
        })
        .await?;

    below.assert_unchanged()?;
    before.assert_unchanged()?;
    copy.assert_backing(&base).await?;
    check!(copy.size().await? == chain.top.0);
    let own = Content::from(chain.own);
    copy.assert_reads(own.over(&Content::from(chain.base.1).cut(chain.top.0))).await?;
    // What is compressed is whole clusters, of which the end of a shorter one is in none.
    let in_clusters = [chain.base.0, chain.top.0].iter().all(|size| size % CLUSTER == 0);
    if in_clusters || !matches!(how, How::Compressed) {
        copy.assert_layer(&own).await?;
    }
    copy.assert_clean().await
}

/// Of a longer chain everything above the backing file of the copy is in the copy.
#[case(upstream = "122")]
async fn of_a_longer_chain_hold_all_above(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MANY).content(BASE).create().await?;
    let mid = t.image("mid").backing(&base).write(0x22, 0..4 * CLUSTER).create().await?;
    let top = t.image("top").backing(&mid);
    let top = top.content(&[(0x33, CLUSTER..2 * CLUSTER), (0, 3 * CLUSTER..5 * CLUSTER)]);
    let top = top.create().await?;
    let copy = t.image("copy").size(MANY).backing(&mid).reserve().await?;
    let convert = top.convert(&copy);
    convert.with(|call| call.backing(mid.filename(), "qcow2")).await?;
    let own = [(0x33, CLUSTER..2 * CLUSTER), (0, 3 * CLUSTER..5 * CLUSTER)];
    copy.assert_layer(&own).await?;
    copy.assert_backing(&mid).await?;
    let below = Content::from(&[(0x22, 0..4 * CLUSTER)]).over(&Content::from(BASE));
    copy.assert_reads(Content::from(&own).over(&below)).await?;
    copy.assert_clean().await
}
