//! Copies of blocks by `qemu-img dd`.

use std::ops::Range;

use iotests_core::prelude::*;

use super::EMPTY_VMDK;

defaults! {
    formats = [RAW, QCOW2, QED, VMDK, VDI, PARALLELS], groups = [RW, QUICK, IMG],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size", "refcount_bits"],
}

const SIZE: u64 = MIB + 3 * KIB + 512;
const PATTERNS: Content = Content::of(&[
    (0x11, 0..CLUSTER),
    (0x22, 5 * CLUSTER + 512..7 * CLUSTER - KIB),
    (0x33, MIB + KIB..SIZE),
]);

async fn source(t: &Test) -> CaseResult<Image> {
    let source = t.image("source").size(SIZE);
    source.content(&PATTERNS).create().await
}

/// What is in this range, as it is at the start of a target.
fn part(range: Range<u64>) -> Content {
    let mut part = Content::nothing();
    for (byte, found) in PATTERNS.cut(range.end).extents() {
        if found.end > range.start {
            let start = found.start.max(range.start) - range.start;
            part = part.written(byte, start..found.end - range.start);
        }
    }
    part
}

/// Which blocks are copied.
struct Blocks {
    size: u64,
    count: Option<u64>,
    skip: u64,
}

rows! {
    BLOCKS: Blocks { size, count, skip };
    "all" => 512, None, 0, upstream = "170";
    "all-in-blocks-of-no-sectors" => 1000, None, 0;
    "all-in-one-block" => 2 * MIB, None, 0;
    "without-the-first" => 512, None, 1, upstream = "160";
    "without-the-first-thirty" => 512, None, 30, upstream = "160";
    "none" => 512, None, SIZE / 512, known_bugs = [EMPTY_VMDK];
    "the-last" => 512, None, SIZE / 512 - 1;
    "the-first" => 64 * KIB, Some(1), 0;
    "some" => 4 * KIB, Some(10), 0;
    "more-than-there-are" => 64 * KIB, Some(1000), 0;
    "as-many-as-there-can-be" => 64 * KIB, Some((1 << 63) - 1), 0;
    "nothing" => 64 * KIB, Some(0), 0, known_bugs = [EMPTY_VMDK];
}

/// The target has exactly the blocks that were asked for, from its start on; the source stays as it is.
#[case(rows = BLOCKS)]
async fn are_those_asked_for(t: &mut Test, blocks: &Blocks) -> CaseResult {
    let source = source(t).await?;
    let before = source.file_bytes()?;
    let first = blocks.skip * blocks.size;
    let end = blocks.count.map_or(SIZE, |count| SIZE.min(count.saturating_mul(blocks.size)));
    let target = t.image("target").size(end - first).reserve().await?;
    let copy = source.dd(&target).with(|call| {
        let call = call.block_size(blocks.size);
        let call = if blocks.skip == 0 {
            call
        } else {
            call.skip(blocks.skip)
        };
        match blocks.count {
            Some(count) => call.count(count),
            None => call,
        }
    });
    copy.await?;
    before.assert_unchanged()?;
    check!(target.size().await? == end - first);
    target.assert_reads(part(first..end)).await?;
    target.assert_clean().await
}

/// Skipped blocks do not count: as many as asked for are copied.
#[case(
    rows = SOME,
    known_bugs = [known(
        "skipped blocks are subtracted from the number of blocks to copy",
        "as many blocks are missing as were left out",
        ALWAYS
    )]
)]
async fn are_counted_behind_those_left_out(t: &mut Test, (skip, count): &(u64, u64)) -> CaseResult {
    let source = source(t).await?;
    let end = SIZE.min((skip + count) * CLUSTER);
    let target = t.image("target").size(end - skip * CLUSTER).reserve().await?;
    let copy = source.dd(&target);
    copy.with(|call| call.block_size(CLUSTER).skip(*skip).count(*count)).await?;
    let (wanted, copied) = (end - skip * CLUSTER, target.size().await?);
    check!(
        copied != wanted.saturating_sub(skip * CLUSTER),
        "as many blocks are missing as were left out"
    );
    check!(copied == wanted);
    target.assert_reads(part(skip * CLUSTER..end)).await
}

rows! {
    SOME: (u64, u64);
    "as-many" => (4, 4), known_bugs = [EMPTY_VMDK];
    "fewer" => (6, 2), known_bugs = [EMPTY_VMDK];
    "more" => (2, 6);
    "nearly-all" => (1, 15);
}

/// A skip beyond the end copies nothing, and warns.
#[case(known_bugs = [EMPTY_VMDK])]
async fn behind_the_end_are_none(t: &mut Test) -> CaseResult {
    let source = source(t).await?;
    let target = t.image("target").size(0).reserve().await?;
    let said = source.dd(&target).with(|call| call.block_size(MIB).skip(30)).await?.combined_text();
    check!(said.contains("cannot skip to specified offset"), "{said}");
    check!(target.size().await? == 0);
    target.assert_clean().await
}

/// Invalid operands, and the error that they give.
struct Refused {
    operands: &'static [&'static str],
    error: &'static str,
}

rows! {
    REFUSED: Refused { operands, error };
    "blocks-of-nothing" => &["bs=0"], "Invalid bs specified";
    "negative-blocks" => &["bs=-1"], "Invalid bs specified";
    "blocks-too-large" => &["bs=3G"], "Invalid bs specified";
    "no-number" => &["count=many"], "Invalid count specified";
    "negative-skip" => &["skip=-1"], "Invalid skip specified";
    "no-such-operand" => &["seek=1"], "unrecognized operand seek";
    "no-operand" => &["bs"], "unrecognized operand bs";
    "no-such-format" => &["-O", "nonsense"], "Unknown file format";
    "no-such-source" => &["if=/nonsense"], "Could not open '/nonsense'";
}

/// Invalid operands are refused, and the file that was to be the target stays as it is.
#[case(formats = [QCOW2], rows = REFUSED)]
async fn with_invalid_arguments_are_refused(t: &mut Test, refused: &Refused) -> CaseResult {
    let source = source(t).await?;
    let target = t.image("target").size(SIZE).fill(0xa5).create().await?;
    let before = [source.file_bytes()?, target.file_bytes()?];
    let operands = [
        format!("if={}", source.filename()),
        format!("of={}", target.filename()),
    ];
    let call = t.qemu_img(["dd", "-f", "qcow2"]).args(operands).args(refused.operands);
    let output = call.expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    before.iter().try_for_each(FileBytes::assert_unchanged)
}
