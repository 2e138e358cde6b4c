//! Parallels images whose tables say what cannot be.

use imgtools::img::Repair;
use iotests_core::prelude::*;

use super::Edit;
use super::headers::PARALLELS_ENTRIES;

defaults! { groups = [AUTO, QUICK] }

/// Where the table begins.
const TABLE: usize = 64;

/// A check finds two parts of the disk that share a cluster; a repair gives each its own copy, so that a
/// write to one does not change the other.
#[case(formats = [PARALLELS], host = Host::None, needs = [since(8, 2)])]
async fn are_told_apart_by_a_repair(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB);
    let written = [
        (0x11, 0..MIB),
        (0x33, MIB..2 * MIB),
        (0x44, 2 * MIB..4 * MIB),
    ];
    let image = image.content(&written).create().await?;
    let bytes = std::fs::read(image.file())?;
    let first = bytes.get(TABLE..).and_then(|table| table.first_chunk());
    let first = first.ok_or_else(|| Failure::new("there is no table"))?;
    Edit::Le32(TABLE as u64 + 4, u32::from_le_bytes(*first)).apply(&image)?;

    let checked = image.check().any_status().await?;
    check!(!checked.status.is_success(), "a check finds nothing");
    let repair = image.check().with(|call| call.repair(Repair::All));
    repair.any_status().await?;
    image.assert_clean().await?;
    let both = Content::nothing().written(0x11, 0..2 * MIB).written(0x44, 2 * MIB..4 * MIB);
    image.assert_reads(&both).await?;
    image.write(0x22, 0..CLUSTER).await?;
    image.assert_reads(both.written(0x22, 0..CLUSTER)).await?;
    image.assert_clean().await
}

const REPAIR_ABORTS: KnownBug = known(
    "a repair of a Parallels image whose table reaches into its data aborts",
    "Assertion `ret != -E2BIG' failed",
    AllOf(&[since(8, 2), before(11, 0)]),
);

/// Whether or not a check notices a table that reaches into the data, a repair ends without a crash.
#[case(formats = [PARALLELS], host = Host::None, known_bugs = [REPAIR_ABORTS])]
async fn with_too_long_a_table_can_be_repaired(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..MIB);
    let image = image.create().await?;
    Edit::Le32(PARALLELS_ENTRIES, 0x0100_0004).apply(&image)?;
    let writes = ["write 0 4k", "write 1M 4k", "write 3M 4k"];
    image.io(writes).any_status().await?;
    let repair = image.check().with(|call| call.repair(Repair::All));
    repair.any_status().await?;
    Ok(())
}

/// See docs/qemu-findings.md.
const CHECK_ABORTS: KnownBug = known(
    "a check of a Parallels image with a cluster that is not all in its file aborts, unless it repairs",
    "Assertion `ret != -E2BIG' failed",
    since(8, 2),
);

rows! {
    /// How much of the file is missing.
    CUTS: u64;
    "by-a-sector" => 512;
    "by-a-part-of-a-cluster" => 300 * KIB;
    "by-a-cluster" => MIB;
    "by-more-than-a-cluster" => MIB + 300 * KIB;
}

/// An image whose file was cut: what is not in it as a whole is lost in a repair, and all else is there.
#[case(formats = [PARALLELS], host = Host::None, needs = [since(8, 2)], rows = CUTS)]
async fn that_were_cut_can_be_repaired(t: &mut Test, cut: &u64) -> CaseResult {
    let (image, kept) = cut_image(t, *cut).await?;
    let repair = image.check().with(|call| call.repair(Repair::All));
    let repaired = repair.any_status().await?.combined_text();
    check!(
        repaired.contains("is outside image"),
        "a repair finds nothing"
    );
    image.assert_clean().await?;
    image.assert_reads(&kept).await?;
    let again = 3 * MIB..4 * MIB;
    image.write(0x22, again.clone()).await?;
    image.assert_reads(kept.written(0x22, again)).await?;
    image.assert_clean().await
}

/// A check that does not repair finds what is not in the file as a whole, and leaves the file as it is.
#[case(
    formats = [PARALLELS], host = Host::None, needs = [since(8, 2)], rows = CUTS,
    known_bugs = [CHECK_ABORTS],
)]
async fn that_were_cut_are_noticed(t: &mut Test, cut: &u64) -> CaseResult {
    let (image, _) = cut_image(t, *cut).await?;
    let file = image.file_bytes()?;
    let checked = image.check().any_status().await?;
    check!(
        checked.combined_text().contains("is outside image"),
        "a check finds nothing"
    );
    check!(checked.status.code() == Some(2));
    file.assert_unchanged()
}

/// An image of four clusters whose file ends earlier, and what is left of it.
async fn cut_image(t: &Test, cut: u64) -> CaseResult<(Image, Content)> {
    let all = Content::nothing().numbered(0x20, 0..4 * MIB);
    let image = t.image("disk").size(4 * MIB).content(&all).create().await?;
    Edit::Cut(std::fs::metadata(image.file())?.len() - cut).apply(&image)?;
    let left = 4 - cut.div_ceil(MIB);
    Ok((image, Content::nothing().with_part_of(&all, 0..left * MIB)))
}
