//! Internal snapshots of a qcow2 image with an invalid snapshot table.

use imgtools::img::Repair;
use imgtools::qcow2;
use iotests_core::prelude::*;

use super::Edit;

defaults! { groups = [AUTO, QUICK] }

/// A wrong entry, by where it begins in the file and where the table of its snapshot is.
struct Damage {
    edit: fn(u64, u64) -> Edit,
    error: &'static str,
}

rows! {
    DAMAGES: Damage { edit, error };
    "unaligned-table" => |entry, table| Edit::Be64(entry, table + 512),
        "Snapshot L1 table offset invalid";
    "table-behind-all-offsets" => |entry, _| Edit::Be64(entry, u64::MAX << 16),
        "Snapshot L1 table offset invalid";
    "huge-table" => |entry, _| Edit::Be32(entry + 8, 0x7fff_ffff), "Snapshot L1 table too large";
}

/// A snapshot with an invalid table can be neither reverted to nor deleted nor read, a check reports it, and the current content of the image
/// stays as it was.
#[case(host = Host::None, rows = DAMAGES)]
async fn are_not_followed(t: &mut Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).fill(0x11).create().await?;
    image.snapshot("then").await?;
    image.write(0x22, 0..CLUSTER).await?;
    let snapshot = only_snapshot(&image)?;
    (damage.edit)(snapshot.entry_offset, snapshot.l1_table_offset).apply(&image)?;

    let file = image.file_bytes()?;
    image.go_back_to("then").expect_error(damage.error).await?;
    image.delete_snapshot("then").expect_error(damage.error).await?;
    let copy = t.image("copy").format(RAW).size(4 * MIB).reserve().await?;
    let convert = image.convert(&copy);
    convert
        .with(|call| call.snapshot("snapshot.name=then"))
        .expect_error(damage.error)
        .await?;
    file.assert_unchanged()?;
    let checked = image.check().any_status().await?;
    check!(!checked.status.is_success(), "a check finds nothing");
    image.assert_reads(&[(0x11, 0..4 * MIB), (0x22, 0..CLUSTER)]).await?;
    check!(qcow2::Image::open(image.file())?.header().incompatible_features == 0);
    Ok(())
}

/// More data about a snapshot than is allowed is cut by a repair; the snapshot and the image stay.
#[case(host = Host::None)]
async fn that_say_too_much_are_repaired(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).fill(0x11).create().await?;
    image.snapshot("then").await?;
    image.write(0x22, 0..CLUSTER).await?;
    let entry = only_snapshot(&image)?.entry_offset;
    // Behind what is fixed is the length of what is not; the table has a cluster, and zeroes behind its only entry.
    Edit::Be32(entry + 36, 2000).apply(&image)?;

    let checked = image.check().any_status().await?;
    check!(!checked.status.is_success(), "a check finds nothing");
    let repaired = image.check().with(|call| call.repair(Repair::All)).json().await?;
    check!(repaired["corruptions-fixed"] == 1, "{repaired}");
    image.assert_clean().await?;
    image.assert_reads(&[(0x11, 0..4 * MIB), (0x22, 0..CLUSTER)]).await?;
    // Its name was behind what is cut, so that only its place in the list is left.
    only_snapshot(&image).map(drop)
}

/// The snapshot that an image has.
fn only_snapshot(image: &Image) -> CaseResult<qcow2::Snapshot> {
    let mut snapshots = qcow2::Image::open(image.file())?.snapshots()?;
    check!(snapshots.len() == 1);
    Ok(snapshots.remove(0))
}
