//! Bitmaps that are stored in the image. The upstream test is 165.

use std::collections::BTreeSet;
use std::ops::Range;

use imgtools::qcow2;
use iotests_core::author::MachineBuilder;
use iotests_core::prelude::*;

use super::{WAYS, change};
use crate::json::items;

defaults! {
    formats = [QCOW2],
    groups = [RW, QUICK, BITMAP],
    unsupported_imgopts = ["compat", "cluster_size"],
    host = Any,
}

/// Regions that are not all aligned to the bitmap's granularity, which is [`GRANULARITY`].
const FIRST: [Range<u64>; 2] = [0xf_ff00..0x10_ff00, 0x20_0000..0x30_0000];
const SECOND: [Range<u64>; 2] = [0x1000_0000..0x1002_0000, 0x3fff_0000..0x4000_0000];

/// Not the default, which is the size of a cluster: it has to be kept as well.
const GRANULARITY: u64 = 32 * KIB;

const READ_ONLY: &str = "Bitmap 'bitmap0' is readonly and cannot be modified";

/// A persistent bitmap is there after a restart, with all that it has recorded, and keeps recording; a
/// read-only machine in between neither loses nor changes it.
#[case(upstream = "165::TestPersistentDirtyBitmap::test_persistent")]
async fn survives_restarts(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let writable = t.host().blockdev(&disk);
    let vm = writable.launch().await?;
    add_bitmap(&vm).await?;
    let first = record(&vm, &[&FIRST]).await?;
    vm.shutdown().await?;
    assert_stored(&disk).await?;

    t.step("a read-only machine");
    let stored = disk.file_bytes()?;
    let vm = read_only(t, &disk).launch().await?;
    assert_recorded(&vm, &first, &[&FIRST], false).await?;
    // A bitmap that is lost is complained about.
    vm.shutdown().await?;
    stored.assert_unchanged()?;

    t.step("writable again");
    let vm = writable.launch().await?;
    assert_recorded(&vm, &first, &[&FIRST], true).await?;
    let both = record(&vm, &[&FIRST, &SECOND]).await?;
    vm.shutdown().await?;
    let vm = writable.launch().await?;
    assert_recorded(&vm, &both, &[&FIRST, &SECOND], true).await?;
    vm.shutdown().await?;
    assert_stored(&disk).await?;
    assert_data(&disk).await
}

/// A persistent bitmap on a read-only node cannot change; when the node is reopened for writing, the
/// bitmap keeps recording, and is stored at the end.
#[case(
    upstream = "165::TestPersistentDirtyBitmap::test_reopen_rw",
    needs = [Command("blockdev-reopen")]
)]
async fn records_on_when_its_node_is_reopened(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let writable = t.host().blockdev(&disk);
    let vm = writable.launch().await?;
    add_bitmap(&vm).await?;
    let first = record(&vm, &[&FIRST]).await?;
    let both = record(&vm, &[&FIRST, &SECOND]).await?;
    vm.bitmap("disk", "bitmap0").clear().await?;
    vm.bitmap("disk", "bitmap0").assert(json!({"count": 0})).await?;
    let again = record(&vm, &[&FIRST]).await?;
    check!(again == first);
    vm.shutdown().await?;

    t.step("read-only");
    let vm = read_only(t, &disk).launch().await?;
    assert_recorded(&vm, &first, &[&FIRST], false).await?;
    vm.export("disk")
        .writable()
        .expect_error("Cannot export read-only node as writable")
        .await?;
    let bitmap = vm.bitmap("disk", "bitmap0");
    bitmap.clear().expect_error(READ_ONLY).await?;
    // Since 11 it is the node that is asked first.
    let refused = either(READ_ONLY, "no write access to node 'disk'");
    bitmap.remove().expect_error(refused).await?;
    assert_recorded(&vm, &first, &[&FIRST], false).await?;

    t.step("reopened");
    vm.reopen("disk", |node| node.read_only(false)).await?;
    assert_recorded(&vm, &first, &[&FIRST], true).await?;
    let reopened = record(&vm, &[&FIRST, &SECOND]).await?;
    check!(reopened == both);
    vm.shutdown().await?;
    assert_stored(&disk).await?;

    let vm = read_only(t, &disk).launch().await?;
    assert_recorded(&vm, &both, &[&FIRST, &SECOND], false).await?;
    vm.shutdown().await?;
    assert_data(&disk).await
}

async fn assert_inconsistent(vm: &Machine) -> CaseResult {
    let expected = json!({"inconsistent": true, "recording": false, "persistent": true});
    vm.bitmap("disk", "bitmap0").assert(expected).await
}

/// A bitmap that was not stored, because its machine was killed, is reported as inconsistent, cannot be used,
/// and can only be removed.
#[case]
async fn is_inconsistent_after_a_crash(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let writable = t.host().blockdev(&disk);
    let vm = writable.launch().await?;
    add_bitmap(&vm).await?;
    vm.shutdown().await?;
    let vm = writable.launch().await?;
    record(&vm, &[&FIRST]).await?;
    vm.kill().await?;

    let vm = writable.launch().await?;
    assert_inconsistent(&vm).await?;
    let bitmap = vm.bitmap("disk", "bitmap0");
    let why = "Bitmap 'bitmap0' is inconsistent and cannot be used";
    bitmap.clear().expect_error(why).await?;
    bitmap.enable().expect_error(why).await?;
    bitmap.remove().await?;
    vm.shutdown().await?;
    disk.assert_clean().await?;
    let info = disk.info().json().await?;
    info.assert_absent("format-specific/data/bitmaps")
}

/// A bitmap that was not stored after its disk grew far beyond the size that it was stored for does not keep
/// the image from being opened: it is inconsistent, and can be removed.
#[case]
async fn is_inconsistent_when_its_disk_grew_before_a_crash(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let writable = t.host().blockdev(&disk);
    let vm = writable.launch().await?;
    add_bitmap(&vm).await?;
    vm.shutdown().await?;
    let vm = writable.launch().await?;
    vm.cmd(
        "block_resize",
        json!({"node-name": "disk", "size": 64 * GIB}),
    )
    .await?;
    vm.kill().await?;

    let vm = writable.launch().await?;
    assert_inconsistent(&vm).await?;
    check!(vm.node("disk").size().await? == 64 * GIB);
    vm.bitmap("disk", "bitmap0").remove().await?;
    vm.shutdown().await?;
    disk.assert_clean().await
}

/// When a node becomes read-only, its bitmap is stored at once, so that not even a crash loses it, and
/// does not change any more.
#[case(needs = [Command("blockdev-reopen")])]
async fn is_stored_when_its_node_becomes_read_only(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    add_bitmap(&vm).await?;
    for region in FIRST {
        vm.node("disk").write(1, region).await?;
    }
    let sha256 = vm.bitmap("disk", "bitmap0").sha256().await?;
    vm.reopen("disk", |node| node.read_only(true)).await?;
    assert_flags(t, &disk, json!({"bitmap0": ["auto"]})).await?;
    vm.assert_read_only(&[("disk", true)]).await?;
    let clear = vm.bitmap("disk", "bitmap0").clear();
    clear.expect_error(READ_ONLY).await?;
    check!(vm.bitmap("disk", "bitmap0").sha256().await? == sha256);
    vm.kill().await?;

    assert_stored(&disk).await?;
    let vm = read_only(t, &disk).launch().await?;
    assert_recorded(&vm, &sha256, &[&FIRST], false).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A machine that has migrated has stored its bitmaps, where others can use them; if it goes on after
/// all, it takes them back.
#[case(groups = [MIGRATION], host = System, guest = RunningIdle)]
async fn is_stored_when_its_machine_migrates(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    add_bitmap(&vm).await?;
    let first = record(&vm, &[&FIRST]).await?;
    t.migrate(&vm, Destination::Nowhere).await?;
    assert_stored(&disk).await?;

    vm.cmd("cont", ()).await?;
    vm.wait_run_state("running").await?;
    assert_flags(t, &disk, json!({"bitmap0": ["in-use", "auto"]})).await?;
    assert_recorded(&vm, &first, &[&FIRST], true).await?;
    record(&vm, &[&FIRST, &SECOND]).await?;
    vm.shutdown().await?;
    assert_stored(&disk).await?;
    assert_data(&disk).await
}

/// Each of several bitmaps is stored with its own properties: one that records, one that was disabled, but
/// not a transient one. When one of them is removed, the others stay.
#[case(needs = [Command("blockdev-reopen")])]
async fn are_stored_each_as_it_is(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let writable = t.host().blockdev(&disk);
    let vm = writable.launch().await?;
    for (name, persistent) in [
        ("on", true),
        ("off", true),
        ("second", true),
        ("gone", false),
    ] {
        let bitmap = vm.bitmap("disk", name).add();
        match persistent {
            true => bitmap.persistent().await?,
            false => bitmap.await?,
        }
    }
    vm.node("disk").write(1, 0..64 * KIB).await?;
    vm.bitmap("disk", "off").disable().await?;
    vm.node("disk").write(1, 64 * KIB..128 * KIB).await?;
    vm.shutdown().await?;
    let stored = json!({"off": [], "on": ["auto"], "second": ["auto"]});
    assert_flags(t, &disk, stored).await?;

    t.step("again");
    let vm = read_only(t, &disk).launch().await?;
    vm.reopen("disk", |node| node.read_only(false)).await?;
    let used = json!(["in-use", "auto"]);
    let in_use = json!({"off": ["in-use"], "on": used, "second": used});
    assert_flags(t, &disk, in_use).await?;
    vm.node("disk").write(2, 512 * KIB..576 * KIB).await?;
    for (name, recording, count) in [("on", true, 192), ("off", false, 64), ("second", true, 192)] {
        let expected = json!({"recording": recording, "count": count * KIB, "persistent": true});
        vm.bitmap("disk", name).assert(expected).await?;
    }
    vm.bitmap("disk", "on").remove().await?;
    vm.shutdown().await?;
    assert_flags(t, &disk, json!({"off": [], "second": ["auto"]})).await?;
    disk.assert_clean().await?;

    t.step("the last ones");
    let vm = writable.launch().await?;
    assert_flags(t, &disk, json!({"off": ["in-use"], "second": used})).await?;
    for (name, count) in [("off", 64), ("second", 192)] {
        vm.bitmap("disk", name).assert(json!({"count": count * KIB})).await?;
        vm.bitmap("disk", name).remove().await?;
    }
    vm.shutdown().await?;
    disk.assert_clean().await?;
    disk.info().json().await?.assert_absent("format-specific/data/bitmaps")
}

/// A persistent bitmap that is removed before its image was closed has gone; the one that is stored stays.
#[case(rows = WAYS)]
async fn goes_before_it_is_stored(t: &mut Test, in_transaction: &bool) -> CaseResult {
    let disk = t.image("disk").size(GIB).create().await?;
    let host = t.host().blockdev(&disk);
    let vm = host.launch().await?;
    add_bitmap(&vm).await?;
    vm.shutdown().await?;

    let vm = host.launch().await?;
    vm.bitmap("disk", "new").add().persistent().await?;
    vm.node("disk").write(0x11, 0..CLUSTER).await?;
    let new = json!({"node": "disk", "name": "new"});
    change(&vm, "block-dirty-bitmap-remove", new, *in_transaction).await?;
    check!(!vm.bitmap("disk", "new").exists().await?);
    vm.shutdown().await?;
    let stored = qcow2::Image::open(disk.file())?.bitmaps()?;
    check!(stored.iter().map(|bitmap| &bitmap.name).eq(["bitmap0"]));
    disk.assert_clean().await
}

/// The same disk, read-only.
fn read_only(t: &Test, disk: &Image) -> MachineBuilder {
    t.host().blockdev(disk.node().read_only(true))
}

async fn add_bitmap(vm: &Machine) -> CaseResult {
    let bitmap = vm.bitmap("disk", "bitmap0").add();
    bitmap.persistent().granularity(GRANULARITY).await
}

/// Writes the last of these regions, after which the bitmap has all of them. Returns the hash of its
/// contents.
async fn record(vm: &Machine, regions: &[&[Range<u64>]]) -> CaseResult<String> {
    let before = vm.bitmap("disk", "bitmap0").sha256().await?;
    for region in regions[regions.len() - 1] {
        vm.node("disk").write(regions.len() as u8, region.clone()).await?;
    }
    let after = vm.bitmap("disk", "bitmap0").sha256().await?;
    check!(before != after, "the bitmap has not recorded the writes");
    assert_recorded(vm, &after, regions, true).await?;
    Ok(after)
}

/// The bitmap is in good order and has exactly these regions.
async fn assert_recorded(
    vm: &Machine,
    sha256: &str,
    regions: &[&[Range<u64>]],
    writable: bool,
) -> CaseResult {
    let mut dirty = BTreeSet::new();
    for region in regions.concat() {
        dirty.extend(region.start / GRANULARITY..region.end.div_ceil(GRANULARITY));
    }
    let expected = json!({
        "count": dirty.len() as u64 * GRANULARITY, "granularity": GRANULARITY,
        "recording": true, "persistent": true, "busy": false,
    });
    vm.bitmap("disk", "bitmap0").assert(expected).await?;
    let bitmaps = vm.node("disk").await?;
    bitmaps.assert_absent("dirty-bitmaps[0]/inconsistent")?;
    bitmaps.assert_absent("dirty-bitmaps[1]")?;
    vm.assert_read_only(&[("disk", !writable)]).await?;
    check!(vm.bitmap("disk", "bitmap0").sha256().await? == sha256);
    Ok(())
}

/// The image names the bitmap, which is not in use, and is in good order.
async fn assert_stored(disk: &Image) -> CaseResult {
    disk.assert_clean().await?;
    let info = disk.info().json().await?;
    let bitmap = json!({"name": "bitmap0", "granularity": GRANULARITY, "flags": ["auto"]});
    info.assert("format-specific/data/bitmaps", json!([bitmap]))
}

/// All regions hold what was written last, and the space between holds nothing.
async fn assert_data(disk: &Image) -> CaseResult {
    let mut patterns = Vec::new();
    for (number, regions) in [FIRST, SECOND].into_iter().enumerate() {
        for region in regions {
            patterns.push((0, region.start - MIB / 2..region.start));
            patterns.push((number as u8 + 1, region));
        }
    }
    disk.assert_patterns(&patterns).await
}

/// The image has exactly these bitmaps, by name, with these flags; a machine may be at work on it.
async fn assert_flags(t: &Test, disk: &Image, expected: Value) -> CaseResult {
    let info = ["info", "-U", "--output=json", disk.filename()];
    let info = t.qemu_img(info).json().await?;
    let bitmaps = info.at("format-specific/data/bitmaps")?;
    let named =
        |bitmap: &Value| Some((bitmap["name"].as_str()?.to_owned(), bitmap["flags"].clone()));
    let found: Value = items(bitmaps, "")?.iter().filter_map(named).collect();
    check!(found == expected);
    Ok(())
}
