//! Making images smaller with `qemu-img resize --shrink`.

use imgtools::qcow2;
use iotests_core::prelude::*;

defaults! { formats = [QCOW2], groups = [RW], unsupported_imgopts = ["compat"] }

/// What an image is like before it is made smaller.
struct Shrink {
    /// Cluster size and refcount width of a qcow2 image.
    clusters: (u64, u32),
    /// From this size to that one.
    sizes: (u64, u64),
    /// Written in pieces of this size.
    chunk: u64,
}

/// In which order the pieces are written.
enum Order {
    Untouched,
    Ascending,
    Shuffled,
}

use Order::{Ascending, Shuffled, Untouched};

rows! {
    SHRINKS: Shrink { clusters, sizes, chunk };
    "512-byte-clusters" => (512, 64), (3 * MIB, MIB), 256 * KIB, upstream = "TestShrink512";
    "64k-clusters" => (64 * KIB, 16), (32 * MIB, 10 * MIB), 4 * MIB, upstream = "TestShrink64K";
    "64k-clusters-to-the-middle-of-one" => (64 * KIB, 16), (32 * MIB, 10 * MIB + 1536), 4 * MIB;
    "1m-clusters" => (MIB, 1), (32 * MIB, 10 * MIB), 4 * MIB, upstream = "TestShrink1M";
}

rows! {
    ORDERS: Order;
    "untouched" => Untouched, upstream = "test_empty_image";
    "ascending" => Ascending, upstream = "test_sequential_write";
    "shuffled" => Shuffled, upstream = "test_random_write";
}

/// A smaller image keeps the data below its new end, and nothing of what was behind it.
#[case(upstream = "163::{shrink}::{order}", formats = [RAW, QCOW2], rows = (SHRINKS, ORDERS))]
async fn keeps_the_data_below_the_new_end(
    t: &mut Test,
    shrink: &Shrink,
    order: &Order,
) -> CaseResult {
    let (old, new) = shrink.sizes;
    let mut image = t.image("disk").size(old);
    if t.format() == QCOW2 {
        let (cluster_size, refcount_bits) = shrink.clusters;
        image = image.option("cluster_size", cluster_size).option("refcount_bits", refcount_bits);
    }
    let image = image.create().await?;

    t.step("writing");
    let mut offsets: Vec<u64> = (0..old).step_by(shrink.chunk as usize).collect();
    match order {
        Untouched => offsets.clear(),
        Ascending => {}
        Shuffled => t.shuffle(&mut offsets),
    }
    if !offsets.is_empty() {
        let write = |at| format!("write -P 0xff {at} {}", shrink.chunk);
        image.io(offsets.iter().map(write)).await?;
    }

    t.step("shrinking");
    image.shrink(new).await?;
    check!(image.size().await? == new);
    image.assert_fill(if offsets.is_empty() { 0 } else { 0xff }).await?;
    image.assert_clean().await?;
    if t.format() == QCOW2 {
        assert_no_tables_behind_the_end(&image, matches!(order, Shuffled))?;
        assert_file_ends_with_the_last_cluster(&image).await?;
    }

    t.step("growing again");
    image.resize(old).await?;
    // What is left of the last cluster belongs to it, and is kept with it.
    let clear = match t.format() {
        QCOW2 => new.next_multiple_of(shrink.clusters.0),
        _ => new,
    };
    if t.format() == QCOW2 {
        let mut behind = image.own_layer().await?.present;
        behind.retain(|part| part.end > clear);
        check!(behind == [], "allocated behind the new end");
    }
    image.assert_pattern(0, clear..old).await
}

/// A way to make an image smaller that is refused.
struct Refusal {
    /// More arguments of `qemu-img resize`.
    arguments: &'static [&'static str],
    /// Whether the image is of an old version and has a snapshot.
    old_with_snapshot: bool,
    error: &'static str,
}

rows! {
    REFUSALS: Refusal { old_with_snapshot, arguments, error };
    "not-meant" => false, &[], "Use the --shrink option to perform a shrink operation";
    "with-preallocation" => false, &["--shrink", "--preallocation=metadata"],
        "Preallocation can only be used for growing images";
    "old-version-with-snapshot" => true, &["--shrink"],
        "Can't resize a v2 image which has snapshots";
}

/// An image shrinks only when that is asked for explicitly and possible; otherwise it is unchanged.
#[case(
    groups = [QUICK], rows = REFUSALS,
    // One row wants an image of the old version, which knows none of these.
    unsupported_imgopts = [
        "refcount_bits", "lazy_refcounts", "extended_l2", "compression_type", "data_file",
    ]
)]
async fn is_refused(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let image = t.image("disk").size(MIB).fill(0x11);
    let image = match refusal.old_with_snapshot {
        true => image.option("compat", "0.10").create().await?,
        false => image.create().await?,
    };
    if refusal.old_with_snapshot {
        image.snapshot("snapshot").await?;
    }
    let before = image.file_bytes()?;
    let resize = image.resize(512 * KIB);
    let resize = resize.with(|call| call.args(refusal.arguments));
    resize.expect_error(refusal.error).await?;
    before.assert_unchanged()?;
    image.assert_clean().await?;
    image.assert_fill(0x11).await
}

/// A raw file shrinks only when that is asked for as well.
#[case(formats = [RAW], groups = [QUICK])]
async fn is_refused_for_a_raw_file(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(MIB).fill(0x11).create().await?;
    let before = image.file_bytes()?;
    image.resize(512 * KIB).expect_error("Use the --shrink option").await?;
    before.assert_unchanged()?;
    image.shrink(512 * KIB).await?;
    check!(image.size().await? == 512 * KIB);
    image.assert_fill(0x11).await
}

/// A snapshot still has all that the image held before it was made smaller.
#[case(groups = [QUICK], unsupported_imgopts = ["data_file", "refcount_bits=1"])]
async fn leaves_a_snapshot_as_it_is(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(8 * MIB).fill(0x11).create().await?;
    image.snapshot("snapshot").await?;
    image.write(0x22, 0..64 * KIB).await?;
    image.shrink(MIB).await?;
    image.assert_clean().await?;
    image.assert_reads(&[(0x11, 0..MIB), (0x22, 0..64 * KIB)]).await?;

    image.go_back_to("snapshot").await?;
    check!(image.size().await? == 8 * MIB);
    image.assert_fill(0x11).await?;
    image.assert_clean().await
}

/// An image whose data is in another file cuts that one, too.
#[case(groups = [QUICK], unsupported_imgopts = ["data_file"])]
async fn cuts_the_data_file(t: &mut Test) -> CaseResult {
    let data = t.image("data").format(RAW).size(8 * MIB).create().await?;
    let image = t.image("disk").size(8 * MIB);
    let image = image.option("data_file", data.filename()).fill(0x11);
    let image = image.create().await?;
    for (size, held) in [(MIB, MIB), (8 * MIB, MIB)] {
        // To make it larger nothing must be meant.
        image.shrink(size).await?;
        for one in [&image, &data] {
            check!(one.size().await? == size, "{one}");
            one.assert_reads(&[(0x11, 0..held)]).await?;
        }
        image.assert_clean().await?;
    }
    Ok(())
}

/// The file was cut as well, as far as its last cluster in use allows.
async fn assert_file_ends_with_the_last_cluster(image: &Image) -> CaseResult {
    let length = std::fs::metadata(image.file())?.len();
    image.check().json().await?.assert("image-end-offset", length)
}

/// No L1 entry is left for what is behind the end, and no refcount block that counts nothing.
fn assert_no_tables_behind_the_end(image: &Image, shuffled: bool) -> CaseResult {
    let qcow2 = qcow2::Image::open(image.file())?;
    let header = qcow2.header();
    let covered = header.cluster_size() * header.l2_entries();
    let l1 = qcow2.l1_table()?;
    let (used, behind) = l1.split_at(header.size.div_ceil(covered) as usize);
    check!(!used.is_empty(), "the L1 table is empty");
    let none = behind.iter().all(|entry| entry.0 == 0);
    check!(none, "L2 tables behind the end: {behind:?}");
    let refcounts = qcow2.refcounts()?;
    let counted_by_one = header.refcount_block_entries() as usize;
    for (number, block) in qcow2.refcount_table()?.into_iter().enumerate() {
        let own = block / header.cluster_size();
        let counted = refcounts.iter().zip(0..).skip(number * counted_by_one);
        let mut counted = counted.take(counted_by_one);
        // QEMU goes through the blocks once. If they lie anywhere, one may count another that goes
        // later, and be left with itself.
        let itself = |cluster: u64| cluster == own && !shuffled;
        let counts = counted.any(|(count, cluster)| *count != 0 && !itself(cluster));
        check!(
            (block == 0 || counts),
            "the refcount block at {block:#x} counts nothing"
        );
    }
    Ok(())
}
