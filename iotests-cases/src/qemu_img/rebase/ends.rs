//! Images that get another backing file and keep what they read as (`qemu-img rebase`).

use iotests_core::prelude::*;

defaults! { formats = [QCOW2], protocols = [FILE] }

/// Of the image, and in the middle of a cluster.
const SIZE: u64 = MIB + 3 * KIB;
const TOP: Content = Content::of(&[
    (0x22, CLUSTER + 512..2 * CLUSTER),
    (0, 4 * CLUSTER..5 * CLUSTER),
    (0x33, SIZE - 512..SIZE),
]);

rows! {
    /// How large its old backing file is.
    OLD: u64;
    "from-a-shorter-one" => SIZE / 2;
    "from-one-that-ends-in-the-same-cluster" => SIZE - 2 * KIB;
    "from-a-longer-one" => 2 * MIB;
}

/// The new backing file.
enum New {
    /// Another image of this size.
    Other(u64),
    /// The one below the old one.
    Below(u64),
    None,
}

rows! {
    NEW: New;
    "to-a-shorter-one" => New::Other(SIZE / 3);
    "to-a-longer-one" => New::Other(2 * MIB);
    "to-a-shorter-one-below" => New::Below(SIZE / 3);
    "to-a-longer-one-below" => New::Below(2 * MIB);
    "to-none" => New::None;
}

rows! {
    SUBCLUSTERS: &str;
    "plain" => "off";
    "extended-l2" => "on";
}

/// After a rebase, an image reads as before, wherever its old and its new backing file end; those are as they were.
#[case(rows = (OLD, NEW, SUBCLUSTERS))]
async fn read_as_before_wherever_files_end(
    t: &mut Test,
    old: &u64,
    new: &New,
    subclusters: &&str,
) -> CaseResult {
    let below = match new {
        New::Other(size) | New::Below(size) => *size,
        New::None => SIZE,
    };
    let below = t.image("below").size(below).fill(0x55).create().await?;
    let old = t.image("old").size(*old);
    let old = match new {
        New::Below(_) => old.backing(&below),
        _ => old,
    };
    let old = old.write(0x11, CLUSTER / 2..6 * CLUSTER).create().await?;
    let top = t.image("top").size(SIZE).backing(&old).content(&TOP);
    let top = top.option("extended_l2", subclusters).create().await?;
    let (before, files) = (top.bytes().await?, [below.file_bytes()?, old.file_bytes()?]);

    match new {
        New::None => top.rebase_to_nothing().await?,
        New::Other(_) | New::Below(_) => top.rebase(&below).await?,
    };

    check!(top.bytes().await? == before, "it reads as something else");
    match new {
        New::None => top.info().json().await?.assert_absent("backing-filename")?,
        New::Other(_) | New::Below(_) => drop(top.assert_backing(&below).await?),
    }
    top.assert_clean().await?;
    files.iter().try_for_each(FileBytes::assert_unchanged)
}
