//! Internal snapshots, which `-l` copies instead of what the image holds now.

use iotests_core::prelude::*;

defaults! { groups = [SNAPSHOT], unsupported_imgopts = ["refcount_bits=1"] }

rows! {
    NAMES: &str;
    "by-name" => "first";
    "by-id" => "1";
    "by-parameter-name" => "snapshot.name=first";
    "by-parameter-id" => "snapshot.id=1";
    "by-both" => "snapshot.id=1,snapshot.name=first";
}

/// A snapshot is copied as it was taken, to any format; the image, and its other snapshots, stay as they are.
#[case(rows = NAMES, formats = [QCOW2, RAW, VMDK])]
async fn are_copied_as_they_were(t: &mut Test, name: &&str) -> CaseResult {
    let source = t.image("source").format(QCOW2).size(MIB);
    let source = source.write(0x11, 0..4 * CLUSTER).create().await?;
    source.snapshot("first").await?;
    source.write(0x22, CLUSTER..6 * CLUSTER).await?;
    source.snapshot("second").await?;
    source.write(0x33, 0..MIB).await?;
    let before = source.file_bytes()?;

    let target = t.image("target").size(MIB).reserve().await?;
    source.convert(&target).with(|call| call.snapshot(name)).await?;
    before.assert_unchanged()?;
    target.assert_reads(&[(0x11, 0..4 * CLUSTER)]).await?;
    target.assert_clean().await?;
    check!(target.info().await?.snapshots.is_empty());
    let second = t.image("second").size(MIB).reserve().await?;
    source.convert(&second).with(|call| call.snapshot("second")).await?;
    let held = [(0x11, 0..CLUSTER), (0x22, CLUSTER..6 * CLUSTER)];
    second.assert_reads(&held).await
}

/// What a snapshot does not hold comes from the backing file, as it is now.
#[case]
async fn show_the_backing_file_through(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x77).create().await?;
    let source = t.image("source").backing(&base).write(0x11, 0..CLUSTER).create().await?;
    source.snapshot("s").await?;
    source.write(0x22, 0..8 * CLUSTER).await?;
    let target = t.image("target").size(MIB).reserve().await?;
    source.convert(&target).with(|call| call.snapshot("s")).await?;
    target.assert_reads(&[(0x77, 0..MIB), (0x11, 0..CLUSTER)]).await?;

    t.step("over the same backing file");
    let over = t.image("over").size(MIB).backing(&base).reserve().await?;
    let convert = source.convert(&over);
    convert.with(|call| call.snapshot("s").backing(base.filename(), "qcow2")).await?;
    over.assert_layer(&[(0x11, 0..CLUSTER)]).await?;
    over.assert_clean().await
}
