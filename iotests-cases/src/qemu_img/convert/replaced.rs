//! Copies onto images that are there already (`qemu-img convert -n`).

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [RW, QUICK],
    unsupported_imgopts = ["data_file"],
}

/// With a last cluster that is not a whole one.
const SIZE: u64 = MIB + 3 * KIB;
const SOURCE: Content = Content::of(&[
    (0x22, CLUSTER..3 * CLUSTER),
    (0, 5 * CLUSTER..6 * CLUSTER),
    (0x33, 8 * CLUSTER + 4096..8 * CLUSTER + 8192),
    (0x44, SIZE - 512..SIZE),
]);

rows! {
    TARGETS: Format;
    "onto-raw" => RAW;
    "onto-qcow2" => QCOW2;
}

rows! {
    HOW: &[&str];
    "as-usual" => &[];
    "without-holes" => &["-S", "0"];
    "with-many-holes" => &["-S", "512"];
    "in-any-order" => &["-W", "-m", "8"];
}

/// A copy onto an image that holds other data has all of the source, and nothing of what was there.
#[case(rows = (TARGETS, HOW))]
async fn replaces_what_was_there(t: &mut Test, target: &Format, how: &&[&str]) -> CaseResult {
    let source = t.image("source").size(SIZE).content(&SOURCE);
    let source = source.create().await?;
    let target = t.image("target").format(*target).size(SIZE).fill(0x99);
    let target = target.create().await?;
    let convert = source.convert(&target);
    convert.with(|call| call.no_create().args(*how)).await?;
    target.assert_reads(&SOURCE).await?;
    target.assert_clean().await?;
    source.assert_layer(&SOURCE).await
}

rows! {
    /// Whether the target has the backing file that the copy is told it has.
    BACKING: bool;
    "that-has-it" => true;
    "that-has-none" => false;
}

/// Where the target is said to have the backing file of the source, only what the source has by itself is copied, whether that is true or not;
/// what else the target holds stays.
#[case(rows = BACKING)]
async fn leaves_alone_what_is_below(t: &mut Test, backing: &bool) -> CaseResult {
    let base = t.image("base").size(SIZE).fill(0x11).create().await?;
    let own = Content::nothing().written(0x22, clusters(1..3));
    let own = own.zeroes(clusters(5..6));
    let source = t.image("source").size(SIZE).backing(&base);
    let source = source.content(&own).create().await?;
    let target = t.image("target").size(SIZE);
    let (target, below) = match backing {
        true => (target.backing(&base), 0x11),
        false => (target.fill(0x99), 0x99),
    };
    let target = target.create().await?;
    let file = base.file().as_str();
    let convert = source.convert(&target);
    convert
        .with(|call| call.no_create().backing(file, base.format().name()))
        .await?;
    let below = Content::nothing().written(below, 0..SIZE);
    target.assert_reads(own.over(&below)).await?;
    target.assert_clean().await?;
    base.assert_fill(0x11).await
}
