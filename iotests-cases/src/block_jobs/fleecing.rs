//! Fleecing: a disk as it was at one time is read, while the guest goes on to write.

use std::ops::Range;

use iotests_core::author::{Frozen, Keeper};
use iotests_core::prelude::*;
use nbd::proto::{BaseAllocation, CommandFlags};

use crate::json::{items, number};
use crate::nbd::allocation_client;
use crate::threads::{CLIENT_LEAVES, THREADS, with_disk};

defaults! {
    upstream = "image-fleecing", formats = [QCOW2], groups = [QUICK, EXPORT],
    needs = [Driver("copy-before-write")],
    // An old qcow2 cannot record zeroes, and with bigger clusters more is copied than is dirty.
    unsupported_imgopts = ["compat", "cluster_size"],
}

const SIZE: u64 = 8 * MIB;

/// What the disk holds at first: at both ends, and in clusters with holes around them.
const PATTERNS: Content = Content::of(&[
    (0x5d, 0..CLUSTER),
    (0xd5, MIB..MIB + CLUSTER),
    (0xdc, 4 * MIB..4 * MIB + 2 * CLUSTER),
    (0xcd, SIZE - CLUSTER..SIZE),
]);

/// What the guest writes: over a whole cluster, over the end of a hole and the start of data, over the
/// end of data and the start of a hole, zeroes over data, and beside data.
const OVERWRITES: Content = Content::of(&[
    (0xab, 0..CLUSTER),
    (0xad, MIB - CLUSTER / 2..MIB + CLUSTER / 2),
    (0x1d, 4 * MIB + CLUSTER / 2..4 * MIB + CLUSTER),
    (0, 4 * MIB + CLUSTER..4 * MIB + 3 * CLUSTER),
    (0xea, SIZE - 2 * CLUSTER..SIZE - CLUSTER),
]);

rows! {
    KEEPERS: Keeper;
    "backup" => Keeper::Backup;
    "filter" => Keeper::Filter;
    "snapshot-access" => Keeper::Access, needs = [Driver("snapshot-access")];
}

/// Nothing is left but the disk on its own node.
async fn thaw(vm: &Machine, frozen: Frozen<'_>) -> CaseResult {
    frozen.thaw().await?;
    vm.assert_chain("disk").await?;
    vm.disk("disk").assert_node("disk").await?;
    let nodes = vm.cmd("query-named-block-nodes", ()).await?;
    check!(items(&nodes, "")?.len() == 2);
    vm.assert_no_jobs().await
}

async fn make_disk(t: &Test) -> CaseResult<Image> {
    t.image("disk").size(SIZE).content(&PATTERNS).create().await
}

/// When the machine has ended, the disk holds what the guest wrote over what it held.
async fn assert_disk(vm: Machine, disk: &Image) -> CaseResult {
    vm.shutdown().await?;
    disk.assert_layer(OVERWRITES.over(&PATTERNS)).await?;
    disk.assert_clean().await
}

/// An export shows the disk as it was, whatever the guest writes.
#[case(
    rows = (KEEPERS, THREADS), known_bugs = [CLIENT_LEAVES.only(&[&["*", "in-an-iothread"]])]
)]
async fn an_export_stands_still(t: &mut Test, keeper: &Keeper, threaded: &bool) -> CaseResult {
    let disk = make_disk(t).await?;
    let vm = with_disk(t.host(), &disk, *threaded).launch().await?;
    let frozen = vm.freeze("disk").by(*keeper).await?;
    let export = vm.export(&frozen).await?;
    export.assert_reads(&PATTERNS).await?;

    vm.disk("disk").write_all(&OVERWRITES).await?;
    export.assert_reads(&PATTERNS).await?;
    // What was copied once is not copied again.
    vm.disk("disk").write_all(&OVERWRITES).await?;

    export.assert_reads(&PATTERNS).await?;
    vm.disk("disk").assert_reads(OVERWRITES.over(&PATTERNS)).await?;
    export.remove().await?;
    thaw(&vm, frozen).await?;
    vm.disk("disk").assert_reads(OVERWRITES.over(&PATTERNS)).await?;
    assert_disk(vm, &disk).await
}

/// A disk that is frozen a second time shows what it holds at that moment.
#[case(rows = KEEPERS)]
async fn a_second_time_shows_the_second_state(t: &mut Test, keeper: &Keeper) -> CaseResult {
    let disk = make_disk(t).await?;
    let vm = t.host().disk(&disk).launch().await?;
    let first = vm.freeze("disk").by(*keeper).await?;
    vm.disk("disk").write_all(&OVERWRITES).await?;
    thaw(&vm, first).await?;

    let second = vm.freeze("disk").by(*keeper).await?;
    let export = vm.export(&second).await?;
    vm.disk("disk").write(0x77, 0..SIZE).await?;
    export.assert_reads(OVERWRITES.over(&PATTERNS)).await?;
    export.remove().await?;
    thaw(&vm, second).await?;
    vm.shutdown().await?;
    disk.assert_fill(0x77).await?;
    disk.assert_clean().await
}

/// With a bitmap, only what was dirty in it is preserved, and a client that reads anything else gets an
/// error.
#[case(needs = [Driver("snapshot-access")])]
async fn a_bitmap_limits_what_is_shown(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    let bitmap = vm.bitmap("disk", "changed").add();
    bitmap.granularity(CLUSTER).await?;
    vm.disk("disk").write_all(&PATTERNS).await?;
    let frozen = vm.freeze("disk").bitmap("changed").await?;
    let export = vm.export(&frozen).await?;
    assert_shows_only(&export, &PATTERNS).await?;

    vm.disk("disk").write_all(&OVERWRITES).await?;

    assert_shows_only(&export, &PATTERNS).await?;
    export.remove().await?;
    thaw(&vm, frozen).await?;
    vm.disk("disk").assert_reads(OVERWRITES.over(&PATTERNS)).await?;
    assert_disk(vm, &disk).await
}

/// A client can read a range, and every byte in it is this one.
async fn assert_shown(client: &nbd::Client, byte: u8, range: Range<u64>) -> CaseResult {
    let found = client.read(range.start, range.end - range.start).await;
    let found = found.context(format!("reading {range:#x?}"))?;
    check!(
        found.iter().all(|found| *found == byte),
        "other data in {range:#x?}"
    );
    Ok(())
}

/// An export shows the parts that are no holes, and refuses to show anything of the holes.
async fn assert_shows_only(export: &Export, content: &Content) -> CaseResult {
    let client = export.client().await?;
    for (byte, range) in content.reads(SIZE) {
        if byte == 0 {
            let found = client.read(range.start, range.end - range.start).await;
            let last = client.read(range.end - 512, 512).await;
            check!(found.is_err() && last.is_err(), "{range:#x?} was shown");
        } else {
            assert_shown(&client, byte, range).await?;
        }
    }
    client.disconnect().await?;
    Ok(())
}

/// See docs/qemu-findings.md.
const LATER: KnownBug = known(
    "a read that begins in what was copied and ends elsewhere shows what was written later (a4d5224c2c)",
    "other data in",
    before(8, 0),
);

/// The clusters that the guest overwrites.
const WRITTEN: [u64; 4] = [0, 2, 3, 7];

/// One request may read what the guest has overwritten, and what follows it.
#[case(needs = [Driver("snapshot-access")], known_bugs = [LATER])]
async fn a_read_takes_each_part_from_where_it_is(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x5d).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    let frozen = vm.freeze("disk").await?;
    let export = vm.export(&frozen).await?;
    let client = export.client().await?;
    for cluster in WRITTEN {
        vm.disk("disk").write(0x77, clusters(cluster..cluster + 1)).await?;
    }
    for first in 0..8 {
        let range = clusters(first..9);
        // A server may read each part by itself, unless it must not.
        let (length, whole) = (range.end - range.start, CommandFlags::DF);
        let found = client.read_with(range.start, length, whole, Vec::new()).await?;
        check!(
            found.iter().all(|found| *found == 0x5d),
            "other data in {range:#x?}"
        );
    }
    client.disconnect().await?;
    export.remove().await?;
    thaw(&vm, frozen).await?;
    vm.shutdown().await?;
    let written = |all: Content, cluster| all.written(0x77, clusters(cluster..cluster + 1));
    let all = Content::nothing().written(0x5d, 0..SIZE);
    disk.assert_reads(WRITTEN.into_iter().fold(all, written)).await
}

/// See docs/qemu-findings.md; which commit fixed it is not known yet.
const ZEROES: KnownBug = known(
    "the backup has zeroes where the guest wrote zeroes before the backup got there",
    "copy holds 0x00 in 0x410000",
    before(8, 0),
);

/// A full backup of a frozen disk has the disk as it was, even where the guest writes before the
/// backup gets there.
#[case(needs = [Driver("snapshot-access")], known_bugs = [ZEROES])]
async fn a_backup_has_the_disk_as_it_was(t: &mut Test) -> CaseResult {
    let disk = make_disk(t).await?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().disk(&disk).blockdev(&copy).launch().await?;
    let frozen = vm.freeze("disk").await?;
    let job = vm.backup(&frozen).to("copy").speed(1).start().await?;

    vm.disk("disk").write_all(&OVERWRITES).await?;

    // It had not copied everything by then.
    let info = job.info().await?;
    check!(number(&info, "current-progress")? < number(&info, "total-progress")?);
    job.set_speed(0).await?;
    job.wait().await?;
    vm.node("copy").assert_reads(&PATTERNS).await?;
    vm.remove_node("copy").await?;
    thaw(&vm, frozen).await?;
    assert_disk(vm, &disk).await?;
    copy.assert_reads(&PATTERNS).await?;
    copy.assert_clean().await
}

/// The same, as it is reported to a client.
const TOLD: KnownBug = known(
    "a snapshot reports zeroes where the guest wrote zeroes later",
    "are no zeroes",
    before(8, 0),
)
.only(&[&["snapshot-access"]]);

/// A disk with preallocated metadata can be frozen: what was never written reads as zeroes, also when the
/// guest has written there since, and what was written is nowhere reported as zeroes.
#[case(unsupported_imgopts = ["preallocation"], rows = KEEPERS, known_bugs = [TOLD])]
async fn preallocated_metadata_stand_still(t: &mut Test, keeper: &Keeper) -> CaseResult {
    let disk = t.image("disk").size(SIZE).option("preallocation", "metadata");
    let disk = disk.content(&PATTERNS).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    let frozen = vm.freeze("disk").by(*keeper).await?;
    let export = vm.export(&frozen).await?;
    assert_data_is_reported(&export, &PATTERNS).await?;
    vm.disk("disk").write_all(&OVERWRITES).await?;
    assert_data_is_reported(&export, &PATTERNS).await?;
    export.assert_reads(&PATTERNS).await?;
    export.remove().await?;
    thaw(&vm, frozen).await?;
    vm.shutdown().await?;
    disk.assert_reads(OVERWRITES.over(&PATTERNS)).await
}

/// A client is told nowhere that there are zeroes where the disk had something else.
async fn assert_data_is_reported(export: &Export, content: &Content) -> CaseResult {
    let client = allocation_client(&export.uri()?).await?;
    let pieces = client.map("base:allocation", 0..SIZE).await?;
    let zeroes = pieces.iter().filter(|piece| piece.base().contains(BaseAllocation::ZERO));
    for piece in zeroes {
        let mut data = content.reads(SIZE).into_iter().filter(|(byte, _)| *byte != 0);
        let reported =
            data.find(|(_, range)| piece.offset < range.end && range.start < piece.end());
        check!(reported.is_none(), "{piece:x?} are no zeroes");
    }
    client.disconnect().await?;
    Ok(())
}

/// See docs/qemu-findings.md.
const UNALIGNED: KnownBug = known(
    "discarding a part of a cluster of a snapshot aborts QEMU (507175197b)",
    "hbitmap_reset: Assertion",
    before(9, 1),
);

/// A client that has read a part of a snapshot discards it: what is discarded cannot be read any more, and a
/// cluster that is discarded in part stays as a whole.
#[case(needs = [Driver("snapshot-access")], known_bugs = [UNALIGNED])]
async fn a_discard_takes_whole_clusters(t: &mut Test) -> CaseResult {
    let disk = make_disk(t).await?;
    let vm = t.host().disk(&disk).launch().await?;
    let frozen = vm.freeze("disk").await?;
    let export = vm.export(&frozen).writable().await?;
    let client = export.client().await?;
    vm.disk("disk").write_all(&OVERWRITES).await?;
    let pair = 4 * MIB..4 * MIB + 2 * CLUSTER;
    client.trim(512, CLUSTER - 512).await?;
    client.trim(pair.start + 512, 2 * CLUSTER - 512).await?;

    assert_shown(&client, 0x5d, 0..CLUSTER).await?;
    assert_shown(&client, 0xdc, pair.start..pair.start + CLUSTER).await?;
    assert_shown(&client, 0, pair.end..5 * MIB).await?;
    let gone = client.read(pair.end - CLUSTER, 512).await;
    check!(gone.is_err(), "what was discarded is shown");
    client.disconnect().await?;
    export.remove().await?;
    thaw(&vm, frozen).await?;
    assert_disk(vm, &disk).await
}
