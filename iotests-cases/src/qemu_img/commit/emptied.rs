//! Overlays after `qemu-img commit`: empty, and good for more.

use imgtools::img::BitmapAction;
use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], unsupported_imgopts = ["encrypt", "refcount_bits"],
}

/// What the overlay is, or has.
enum Kind {
    Option(&'static str, &'static str),
    DataFile,
    Encrypted,
    Snapshot,
    Bitmap,
}

rows! {
    KINDS: Kind;
    "plain" => Kind::Option("compat", "1.1");
    "version-2" => Kind::Option("compat", "0.10");
    "small-clusters" => Kind::Option("cluster_size", "512");
    "extended-l2" => Kind::Option("extended_l2", "on");
    "data-file" => Kind::DataFile;
    "encrypted" => Kind::Encrypted;
    "with-a-snapshot" => Kind::Snapshot;
    "with-a-bitmap" => Kind::Bitmap;
}

const SIZE: u64 = MIB + 3 * KIB;
const BASE: Content = Content::of(&[(0x11, 0..SIZE)]);
const TOP: Content = Content::of(&[
    (0x22, CLUSTER..3 * CLUSTER),
    (0, 5 * CLUSTER..6 * CLUSTER),
    (0x33, SIZE - 512..SIZE),
]);

/// What was committed is in the base, and no longer in the overlay or its data file; the overlay can be
/// opened with its key, and written to.
#[case(rows = KINDS)]
async fn take_what_is_written_next(t: &mut Test, kind: &Kind) -> CaseResult {
    let data = t.image("data").format(RAW).size(SIZE).create().await?;
    let base = t.image("base").size(SIZE).content(&BASE).create().await?;
    let top = t.image("top").size(SIZE).backing(&base).content(&TOP);
    let top = match kind {
        Kind::Option(name, value) => top.option(name, value),
        Kind::DataFile => top.option("data_file", data.filename()),
        Kind::Encrypted => top.encrypted(),
        Kind::Snapshot | Kind::Bitmap => top,
    };
    let top = top.create().await?;
    match kind {
        Kind::Snapshot => drop(top.snapshot("then").await?),
        Kind::Bitmap => {
            let add = top.bitmap("bitmap");
            add.with(|call| call.action(BitmapAction::Add)).await?;
        }
        _ => (),
    }

    top.commit().await?;

    base.assert_reads(TOP.over(&BASE)).await?;
    top.assert_reads(TOP.over(&BASE)).await?;
    top.assert_layer(&[]).await?;
    top.assert_clean().await?;
    data.assert_fill(0).await?;
    let next = Content::nothing().written(0x44, 4 * CLUSTER..5 * CLUSTER + 512);
    top.write_all(&next).await?;
    top.assert_reads(next.over(&TOP.over(&BASE))).await?;
    top.assert_clean().await?;
    base.assert_reads(TOP.over(&BASE)).await?;
    base.assert_clean().await
}
