//! Invalid entries in the tables of a qcow2 image: found before anything is written where it does not belong.

use imgtools::img::{Call, Check, Repair};
use imgtools::qcow2;
use iotests_core::prelude::*;
use nbd::proto::Errno;

use super::Edit;

defaults! { groups = [AUTO, QUICK] }

/// Where the tables of the image are.
struct Tables {
    l1: u64,
    l2: u64,
    data: u64,
    refcounts: u64,
    block: u64,
}

impl Tables {
    fn of(image: &Image) -> CaseResult<Tables> {
        let header = qcow2::Image::open(image.file())?;
        let (l1, refcounts) = {
            let header = header.header();
            (header.l1_table_offset, header.refcount_table_offset)
        };
        let bytes = std::fs::read(image.file())?;
        let entry = |at: u64| -> CaseResult<u64> {
            let at = usize::try_from(at)?;
            let entry = bytes.get(at..at + 8).and_then(|it| it.first_chunk());
            let entry = entry.ok_or_else(|| Failure::new("a table is not in the file"))?;
            Ok(u64::from_be_bytes(*entry) & 0x00ff_ffff_ffff_fe00)
        };
        let l2 = entry(l1)?;
        let (data, block) = (entry(l2)?, entry(refcounts)?);
        Ok(Tables {
            l1,
            l2,
            data,
            refcounts,
            block,
        })
    }
}

/// The cluster is only used here.
const COPIED: u64 = 1 << 63;

/// A wrong entry.
struct Damage {
    edit: fn(&Tables) -> Edit,
    /// Where a guest writes, so that QEMU looks at it.
    write: u64,
    /// What the event says of it.
    error: &'static str,
    /// Whether it can be repaired.
    repaired: bool,
}

/// Beside the first cluster, which holds data.
const NEW: u64 = CLUSTER;

rows! {
    DAMAGES: Damage { edit, write, error, repaired };
    "unaligned-data" => |it| Edit::Be64(it.l2, (it.data + 512) | COPIED), 0,
        "Data cluster offset 0x50200 unaligned", false;
    "unaligned-l2" => |it| Edit::Be64(it.l1, (it.l2 + 512) | COPIED), 0,
        "L2 table offset 0x40200 unaligned", false;
    "unaligned-refcount-block" => |it| Edit::Be64(it.refcounts, it.block + 512), NEW,
        "Refblock offset 0x20200 unaligned", false;
    "data-in-the-l1-table" => |it| Edit::Be64(it.l2, it.l1 | COPIED), 0,
        "overlaps with active L1 table", true;
    "data-in-the-l2-table" => |it| Edit::Be64(it.l2, it.l2 | COPIED), 0,
        "overlaps with active L2 table", true;
    "data-in-a-refcount-block" => |it| Edit::Be64(it.l2, it.block | COPIED), 0,
        "overlaps with refcount block", true;
    "data-in-the-refcount-table" =>
        |it| Edit::Be64(it.l2, it.refcounts | COPIED), 0, "overlaps with refcount table", true;
    "l1-table-counts-as-free" => |it| Edit::Be16(it.block + it.l1 / CLUSTER * 2, 0), NEW,
        "overlaps with active L1 table", true;
    "l2-table-counts-as-free" => |it| Edit::Be16(it.block + it.l2 / CLUSTER * 2, 0), NEW,
        "overlaps with active L2 table", true;
    "refcount-block-counts-as-free" =>
        |it| Edit::Be16(it.block + it.block / CLUSTER * 2, 0), NEW, "overlaps with refcount block",
        true;
}

/// A write that would follow an invalid entry fails, and so does every later one; the machine reports why and lives on, and the tables and all
/// other data are as they were. The image is marked as corrupt, and can be written to again only after a repair, if one is possible.
#[case(rows = DAMAGES)]
async fn are_found_by_a_write(t: &mut Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..CLUSTER).create().await?;
    let tables = Tables::of(&image)?;
    (damage.edit)(&tables).apply(&image)?;
    let before = std::fs::read(image.file())?;

    let host = t.host().blockdev(&image);
    let vm = host.tolerate("Marking image as corrupt").launch().await?;
    let export = vm.export("disk").writable().await?;
    let client = export.client().await?;
    for _ in 0..2 {
        let written = client.write(damage.write, vec![0x22; 64 * KIB as usize]).await;
        let errno = written.map_err(|error| error.errno());
        // The second time there is no image any more, for which the protocol has no word.
        let refused = matches!(errno, Err(Some(Errno::EIO | Errno::EINVAL)));
        check!(refused, "{errno:?}");
    }
    client.disconnect().await?;
    export.remove().await?;
    let event = vm.event("BLOCK_IMAGE_CORRUPTED").await?;
    event.assert_includes(&json!({"data": {"node-name": "disk", "fatal": true}}))?;
    let said = event.at("data/msg")?.to_string();
    check!(said.contains(damage.error), "it says {said}");
    vm.shutdown().await?;

    const CORRUPT: u64 = 2;
    check!(qcow2::Image::open(image.file())?.header().incompatible_features == CORRUPT);
    let after = std::fs::read(image.file())?;
    check!(
        after.get(512..before.len()) == before.get(512..),
        "something but the header was written"
    );
    let error = "Image is corrupt; cannot be opened read/write";
    image.io(["write 0 512"]).expect_error(error).await?;
    let all = |call: Call<Check>| call.repair(Repair::All);
    image.check().with(all).any_status().await?;
    if !damage.repaired {
        return image.io(["write 0 512"]).expect_error(error).await.map(drop);
    }
    image.assert_clean().await?;
    image.write(0x33, NEW..2 * CLUSTER).await?;
    image.assert_pattern(0x33, NEW..2 * CLUSTER).await
}

const IN_THE_HEADER: KnownBug = known(
    "a write aborts where the L2 table is said to be in the header",
    "qemu-io died of SIGABRT",
    ALWAYS,
);

/// An L2 table that is said to be in the header harms no reader, no repair and no writer.
#[case(host = Host::None, known_bugs = [IN_THE_HEADER])]
async fn in_the_header_harm_nobody(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..CLUSTER).create().await?;
    let edit = Edit::Be64(Tables::of(&image)?.l1, COPIED);
    edit.apply(&image)?;
    image.io(["read 0 4k"]).any_status().await?;
    image.check().with(|call| call.repair(Repair::All)).any_status().await?;
    edit.apply(&image)?;
    image.io(["write 0 4k"]).any_status().await?;
    Ok(())
}

/// See docs/qemu-findings.md.
const DROPPED: KnownBug = known(
    "looking for what is allocated goes on without the driver when the image was found to be corrupt",
    "died of SIGSEGV",
    ALWAYS,
);

/// A refcount block that is where none can be harms nobody who asks what is allocated where nothing is.
#[case(host = Host::None, known_bugs = [DROPPED])]
async fn in_refcounts_harm_nobody_who_looks(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, MIB..2 * MIB).create().await?;
    let tables = Tables::of(&image)?;
    Edit::Be64(tables.refcounts, tables.block + 512).apply(&image)?;
    image.io(["map"]).any_status().await?;
    Ok(())
}

rows! {
    /// A bit that means nothing, in an entry of a table.
    RESERVED: fn(&Tables) -> Edit;
    "in-an-l1-entry" => |it| Edit::Be64(it.l1, it.l2 | COPIED | 1 << 56);
    "in-an-l2-entry" => |it| Edit::Be64(it.l2, it.data | COPIED | 1 << 56);
    "in-an-l2-entry-beside-zero" => |it| Edit::Be64(it.l2, it.data | COPIED | 2);
}

/// A check reports a reserved bit that is set, with or without repairing, and changes nothing of the data.
#[case(host = Host::None, rows = RESERVED)]
async fn are_reported_for_reserved_bits(t: &mut Test, edit: &fn(&Tables) -> Edit) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..CLUSTER);
    let image = image.create().await?;
    edit(&Tables::of(&image)?).apply(&image)?;
    for repair in [None, Some(Repair::All)] {
        let check = image.check().with(|call| match repair {
            Some(what) => call.repair(what),
            None => call,
        });
        let said = check.any_status().await?;
        let said = String::from_utf8_lossy(&said.stderr).to_lowercase();
        check!(said.contains("entry with reserved bits set"), "{said}");
    }
    image.assert_reads(&[(0x11, 0..CLUSTER)]).await
}

/// A check says in JSON how many clusters leak, and a repair how many of them it freed.
#[case(host = Host::None, unsupported_imgopts = ["refcount_bits"])]
async fn with_leaks_are_counted_when_they_are_repaired(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..CLUSTER).create().await?;
    let block = Tables::of(&image)?.block;
    // Nobody has the cluster behind the end of the file.
    let file = std::fs::OpenOptions::new().write(true).open(image.file())?;
    let end = file.metadata()?.len().div_ceil(CLUSTER);
    file.set_len((end + 1) * CLUSTER)?;
    Edit::Be16(block + 2 * end, 1).apply(&image)?;

    let found = image.check().any_status().await?;
    let found: Value = serde_json::from_slice(&found.stdout)?;
    check!(found["leaks"] == 1, "{found}");
    let repaired = image.check().with(|call| call.repair(Repair::All)).json().await?;
    check!(repaired["leaks-fixed"] == 1, "{repaired}");
    check!(repaired["leaks"].is_null(), "{repaired}");
    image.assert_clean().await?;
    image.assert_reads(&[(0x11, 0..CLUSTER)]).await
}

/// The descriptor of compressed data: its place, above that the number of further sectors, and a flag.
const COMPRESSED: u64 = 1 << 62;
const SECTORS: u32 = 54;

/// What the descriptor of the last cluster says then.
struct Behind {
    damage: fn(u64) -> u64,
    /// Whether what it says has all of the data.
    is_read: bool,
}

rows! {
    BEHIND: Behind { damage, is_read };
    "begins-there" => |_| COMPRESSED | 1 << 40, false;
    "begins-where-offsets-end" => |_| COMPRESSED | ((1 << SECTORS) - 512), false;
    "has-a-part-there" => |it| it | 0xff << SECTORS, true;
}

/// A cluster that is said to be compressed behind the end of the file is read as far as its data are in it, or the read fails; a check reports it,
/// and all others are read. When it is overwritten, it has what was written.
#[case(rows = BEHIND)]
async fn of_compressed_clusters_may_lead_behind_the_file(t: &mut Test, row: &Behind) -> CaseResult {
    let plain = t
        .image("plain")
        .size(2 * CLUSTER)
        .content(&[(0x11, 0..CLUSTER), (0x22, CLUSTER..2 * CLUSTER)]);
    let plain = plain.create().await?;
    let image = t.image("disk").size(2 * CLUSTER).reserve().await?;
    plain.convert(&image).with(|call| call.compress()).await?;
    let at = Tables::of(&image)?.l2 + 8;
    let bytes = std::fs::read(image.file())?;
    let entry = bytes.get(at as usize..).and_then(|it| it.first_chunk());
    let entry = entry.map_or(0, |entry| u64::from_be_bytes(*entry));
    check!(entry & COMPRESSED != 0, "{entry:#x}");
    Edit::Be64(at, (row.damage)(entry)).apply(&image)?;

    let said = image.check().any_status().await?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    check!(said.contains("exceeding the end of the file"), "{said}");
    match row.is_read {
        true => image.assert_pattern(0x22, CLUSTER..2 * CLUSTER).await?,
        false => {
            let read = format!("read {CLUSTER} {CLUSTER}");
            image.io([read]).expect_error("Input/output error").await?;
        }
    }
    // Where it is said to begin, nothing can be freed.
    let vm = t.host().tolerate("qcow2_free_clusters failed").disk(&image).launch().await?;
    vm.disk("disk").assert_pattern(0x11, 0..CLUSTER).await?;
    vm.disk("disk").write(0x33, CLUSTER..2 * CLUSTER).await?;
    vm.disk("disk").assert_pattern(0x33, CLUSTER..2 * CLUSTER).await?;
    vm.shutdown().await?;
    image.assert_reads(&[(0x11, 0..CLUSTER), (0x33, CLUSTER..2 * CLUSTER)]).await
}
