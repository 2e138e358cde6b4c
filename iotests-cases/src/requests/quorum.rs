//! Requests to a quorum one of whose children differs.

use super::*;

defaults! { formats = [RAW], needs = [Driver("quorum")] }

rows! {
    CORRECTS: bool;
    "is-outvoted" => false;
    "is-corrected" => true;
}

/// A child that differs does not count, and is mended where that was asked for, also for a client that only reads.
#[case(rows = CORRECTS)]
async fn a_child_that_differs(t: &mut Test, corrects: &bool) -> CaseResult {
    let image = |name: &str, byte| t.image(name).size(MIB).fill(byte).create();
    let (one, two) = (image("one", 0x11).await?, image("two", 0x11).await?);
    let other = image("other", 0x22).await?;
    let quorum = Node::new("quorum").node_name("three").set("vote-threshold", 2);
    let quorum = quorum.set("children", ["one", "other", "two"]);
    let quorum = quorum.set("rewrite-corrupted", *corrects);
    let host = t.host().blockdev(&one).blockdev(&two).blockdev(&other);
    let vm = host.blockdev(quorum).launch().await?;

    let client = vm.export("three").await?.client().await?;
    let read = client.read(CLUSTER, CLUSTER).await?;
    check!(
        read.iter().all(|byte| *byte == 0x11),
        "the wrong child was read"
    );
    client.disconnect().await?;
    vm.shutdown().await?;
    let mended = Content::nothing().written(0x22, 0..MIB);
    match corrects {
        true => other.assert_reads(mended.written(0x11, CLUSTER..2 * CLUSTER)).await?,
        false => other.assert_reads(mended).await?,
    }
    one.assert_fill(0x11).await?;
    two.assert_fill(0x11).await
}
