//! Targets that were there before (`-n`).

use iotests_core::prelude::*;

use super::{PATTERNS, SIZE, source};

defaults! { unsupported_imgopts = ["compat", "extended_l2", "refcount_bits"] }

/// All of a target that is as large as the source becomes what the source is: of its old data nothing is left, also where the source is
/// empty. What it has behind the end of the source stays.
#[case(
    upstream = "122", formats = [RAW, QCOW2, QED, VMDK, VDI], rows = (TARGETS, HOW)
)]
async fn become_what_the_source_is(t: &mut Test, size: &u64, how: &How) -> CaseResult {
    let source = source(t, how.source).await?;
    let before = source.file_bytes()?;
    let target = t.image("target").size(*size).fill(0xa5).create().await?;
    let convert = source.convert(&target);
    convert.with(|call| call.no_create().args(how.options)).await?;
    before.assert_unchanged()?;
    check!(target.size().await? == *size);
    let old = Content::nothing().written(0xa5, 0..*size);
    target.assert_reads(old.with_part_of(&PATTERNS, 0..SIZE)).await?;
    target.assert_clean().await
}

rows! {
    TARGETS: u64;
    "of-the-same-size" => SIZE;
    "that-are-larger" => SIZE + MIB;
}

/// From which format, and in which way.
struct How {
    source: Format,
    options: &'static [&'static str],
}

rows! {
    HOW: How { source, options };
    "from-raw" => RAW, &[];
    "from-qcow2" => QCOW2, &[], formats = [RAW, QCOW2];
    "without-holes" => QCOW2, &["-S", "0"], formats = [RAW, QCOW2];
    "with-many-holes" => QCOW2, &["-S", "512"], formats = [RAW, QCOW2];
    "in-any-order" => QCOW2, &["-W", "-m", "8"], formats = [RAW, QCOW2];
}

/// A target that is too small stays as it is.
#[case(formats = [RAW, QCOW2, QED, VMDK, VDI])]
async fn that_are_too_small_stay_as_they_are(t: &mut Test) -> CaseResult {
    let source = source(t, RAW).await?;
    let target = t.image("target").size(SIZE - 512).fill(0xa5).create().await?;
    let before = target.file_bytes()?;
    let convert = source.convert(&target).with(|call| call.no_create());
    convert.expect_error("output file is smaller than input file").await?;
    before.assert_unchanged()?;
    target.assert_fill(0xa5).await
}

/// An empty target gets all of the source; if it is said to be empty, or has no zero clusters, nothing but the data is written to it.
#[case(
    upstream = "122", rows = EMPTY,
    unsupported_imgopts = ["compression_type", "lazy_refcounts"]
)]
async fn that_are_empty_get_the_data_alone(t: &mut Test, empty: &Empty) -> CaseResult {
    let source = source(t, t.format()).await?;
    let target = t.image("target").size(SIZE).option("compat", empty.compat).create().await?;
    let convert = source.convert(&target).with(|call| {
        let call = call.no_create();
        if empty.is_said {
            call.target_is_zero()
        } else {
            call
        }
    });
    convert.await?;
    target.assert_reads(&PATTERNS).await?;
    if empty.is_said || empty.compat == "0.10" {
        target.assert_layer(&super::DATA).await?;
    }
    target.assert_clean().await
}

struct Empty {
    compat: &'static str,
    is_said: bool,
}

rows! {
    EMPTY: Empty { compat, is_said };
    "v3" => "1.1", false;
    "v3-and-said-to-be" => "1.1", true;
    "v2" => "0.10", false;
    "v2-and-said-to-be" => "0.10", true;
}

/// The zeroes of a source hide what the target's own backing file has there, also where no option names that file.
#[case(upstream = "122", rows = VERSIONS, groups = [BACKING],
    unsupported_imgopts = ["lazy_refcounts", "compression_type"])]
async fn that_have_a_backing_file_hide_it(t: &mut Test, compat: &&str) -> CaseResult {
    let source = source(t, t.format()).await?;
    let base = t.image("base").size(SIZE + MIB).fill(0x77).create().await?;
    let target = t.image("target").size(SIZE).option("compat", compat).backing(&base);
    let target = target.create().await?;
    let below = base.file_bytes()?;
    source.convert(&target).with(|call| call.no_create()).await?;
    below.assert_unchanged()?;
    target.assert_backing(&base).await?;
    target.assert_reads(&PATTERNS).await?;
    target.assert_clean().await
}

rows! {
    VERSIONS: &str;
    "v2" => "0.10";
    "v3" => "1.1";
}

/// With `-B` a target that has the same backing file gets what the source has above it.
#[case(rows = BASES, groups = [BACKING])]
async fn over_the_same_backing_file_share_it(t: &mut Test, base_size: &u64) -> CaseResult {
    let base = t.image("base").size(*base_size).fill(0x77).create().await?;
    let own = Content::nothing().written(0x22, 0..CLUSTER).zeroes(2 * CLUSTER..4 * CLUSTER);
    let own = own.written(0x33, 12 * CLUSTER..13 * CLUSTER);
    let source = t.image("source").size(MIB).backing(&base).content(&own).create().await?;
    let target = t.image("target").size(MIB).backing(&base).create().await?;
    let convert =
        source.convert(&target).with(|call| call.no_create().backing(base.filename(), "qcow2"));
    convert.await?;
    target.assert_backing(&base).await?;
    let below = Content::nothing().written(0x77, 0..*base_size).cut(MIB);
    target.assert_reads(own.over(&below)).await?;
    if *base_size >= MIB {
        target.assert_layer(&own).await?;
    }
    target.assert_clean().await
}

rows! {
    BASES: u64;
    "as-long" => MIB;
    "longer" => 2 * MIB;
    "shorter" => 8 * CLUSTER + 512;
}

/// `-B` is no promise that the target has a backing file: one without gets what the source has above it, and keeps the rest.
#[case(upstream = "122", groups = [BACKING])]
async fn without_the_backing_file_that_was_named_get_the_data(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x77).create().await?;
    let own = Content::nothing().written(0x22, 0..CLUSTER);
    let own = own.zeroes(3 * CLUSTER..4 * CLUSTER);
    let source = t.image("source").size(MIB).backing(&base).content(&own);
    let source = source.create().await?;
    let target = t.image("target").size(MIB).fill(0xa5).create().await?;
    let convert =
        source.convert(&target).with(|call| call.no_create().backing(base.filename(), "qcow2"));
    convert.await?;
    let old = Content::nothing().written(0xa5, 0..MIB);
    target.assert_reads(own.over(&old)).await?;
    target.assert_clean().await?;
    check!(target.header().await?.get("backing-filename").is_none());
    source.assert_backing(&base).await.map(drop)
}

/// A target that is said to be zero and to have a backing file is refused, and stays as it is.
#[case(
    groups = [BACKING],
    known_bugs = [known("qemu-img reports the error, and exits with status 0",
        "--target-is-zero when the destination image has a backing file", ALWAYS)]
)]
async fn cannot_be_zero_over_a_backing_file(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x77).create().await?;
    let source = t.image("source").size(MIB).write(0x22, 0..CLUSTER).create().await?;
    let target = t.image("target").size(MIB).backing(&base).create().await?;
    let before = target.file_bytes()?;
    let convert = source
        .convert(&target)
        .with(|call| call.no_create().target_is_zero().backing(base.filename(), "qcow2"));
    convert.expect_error("Cannot use --target-is-zero when the destination").await?;
    before.assert_unchanged()
}
