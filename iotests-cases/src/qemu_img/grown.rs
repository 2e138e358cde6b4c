//! Images that grow, by themselves, with a data file or over backing files of other sizes.

use std::os::unix::fs::MetadataExt;

use iotests_core::prelude::*;

use crate::shorter::ENDS;

defaults! { formats = [QCOW2], groups = [QUICK, BACKING], unsupported_imgopts = ["data_file"],
host = Any }

/// Who makes it larger.
enum By {
    Resize,
    BlockResize,
    Commit,
}

rows! {
    WAYS: By;
    "qemu-img-resize" => By::Resize;
    "block-resize" => By::BlockResize;
    "a-commit-of-a-larger-overlay" => By::Commit;
}

/// What an image gets when it grows reads as zeroes, also where its backing file, which is longer, has data.
#[case(rows = (WAYS, ENDS))]
async fn show_nothing_of_a_longer_backing_file(t: &mut Test, by: &By, end: &u64) -> CaseResult {
    let base = t.image("base").size(4 * MIB).fill(0x11).create().await?;
    let disk = t.image("disk").size(*end).backing(&base).create().await?;
    disk.write(0x22, 0..CLUSTER).await?;
    match by {
        By::Resize => {
            disk.resize(3 * MIB).await?;
        }
        By::BlockResize => {
            let vm = t.host().blockdev(&disk).launch().await?;
            vm.cmd(
                "block_resize",
                json!({"node-name": "disk", "size": 3 * MIB}),
            )
            .await?;
            vm.node("disk").assert_pattern(0, *end..3 * MIB).await?;
            vm.shutdown().await?;
        }
        By::Commit => {
            let top = t.image("top").size(3 * MIB).backing(&disk).create().await?;
            let vm = t.host().disk(&top).launch().await?;
            let job = vm.commit("top").base("disk").start().await?;
            job.complete().await?;
            vm.shutdown().await?;
        }
    }
    let expected = [(0x22, 0..CLUSTER), (0x11, CLUSTER..*end)];
    disk.assert_reads(&expected).await?;
    check!(disk.size().await? == 3 * MIB);
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}

/// How the last cluster is stored, which the old end cuts.
struct Stored {
    subclusters: &'static str,
    compressed: &'static str,
}

rows! {
    STORED: Stored { subclusters, compressed };
    "plain" => "off", "";
    "compressed" => "off", "-c";
    "in-subclusters" => "on", "";
    "compressed-beside-subclusters" => "on", "-c";
}

const NOT_ZEROED: KnownBug = known(
    "an image with subclusters does not grow in a compressed cluster",
    "Failed to zero out new clusters: Operation not supported",
    ALWAYS,
)
.only(&[&["compressed-beside-subclusters"]]);

/// An image can grow within its last cluster, however that is stored, and shows nothing of its backing file there.
#[case(
    host = Host::None, rows = STORED, known_bugs = [NOT_ZEROED],
    unsupported_imgopts = ["compat", "cluster_size", "encrypt"]
)]
async fn within_a_cluster(t: &mut Test, stored: &Stored) -> CaseResult {
    let base = t.image("base").size(CLUSTER).fill(0x11).create().await?;
    let disk = t.image("disk").size(512).backing(&base).option("extended_l2", stored.subclusters);
    let disk = disk.create().await?;
    disk.io([format!("write {} -P 0x22 0 512", stored.compressed)]).await?;
    disk.resize(CLUSTER / 2).await?;
    disk.assert_reads(&[(0x22, 0..512)]).await?;
    disk.assert_clean().await
}

/// What is below the image, or beside it.
enum With {
    Nothing,
    Base,
    DataFile,
    /// Its clusters are compressed, so that its file ends anywhere.
    Compressed,
}

rows! {
    WITH: With;
    "alone" => With::Nothing;
    "over-a-longer-base" => With::Base;
    "with-a-data-file" => With::DataFile;
    "compressed" => With::Compressed;
}

rows! {
    MODES: &str;
    "metadata" => "metadata";
    "falloc" => "falloc";
    "full" => "full";
}

/// An image that grows with its new clusters allocated has all of them, which read as zeroes, and keeps what it showed in the cluster where it
/// ended; a data file has its room on disk where that was asked for.
#[case(host = Host::None, rows = (WITH, MODES, ENDS), unsupported_imgopts = ["cluster_size"])]
async fn have_their_new_clusters(t: &mut Test, with: &With, mode: &&str, end: &u64) -> CaseResult {
    let size = match with {
        // Else only its last cluster is filled, see docs/qemu-findings.md.
        With::DataFile => 3 * MIB,
        With::Nothing | With::Base | With::Compressed => 3 * MIB + 512,
    };
    let base = t.image("base").size(4 * MIB).fill(0x11).create().await?;
    let data = t.file("data")?;
    let disk = t.image("disk").size(*end);
    let (disk, below) = match with {
        With::Nothing | With::Compressed => (disk, 0),
        With::Base => (disk.backing(&base), 0x11),
        With::DataFile => (disk.option("data_file", data.as_str()), 0),
    };
    let mut disk = disk.write(0x22, 0..512).create().await?;
    if let With::Compressed = with {
        let copy = t.image("copy").size(*end).reserve().await?;
        disk.convert(&copy).with(|call| call.compress()).await?;
        disk = copy;
    }
    disk.resize(size).with(|call| call.preallocation(mode)).await?;

    let below = Content::nothing().written(below, 0..*end);
    let held = Content::of(&[(0x22, 0..512)]).over(&below);
    disk.assert_reads(held).await?;
    disk.assert_clean().await?;
    let layer = disk.own_layer().await?;
    let grown = layer.present.iter().any(|part| part.contains(end) && part.end >= size);
    check!(grown, "only {:x?} is allocated", layer.present);
    if let (With::DataFile, "full") = (with, *mode) {
        let file = std::fs::File::open(&*data)?;
        file.sync_all()?;
        let blocks = file.metadata()?.blocks() * 512;
        let room = blocks >= size - end || !crate::image_create::zeroes_take_place(&data)?;
        check!(room, "the data file takes {blocks} bytes on disk");
    }
    base.assert_fill(0x11).await
}

/// An image with a raw data file reads what anybody has written into that file.
#[case(unsupported_imgopts = ["compat", "extended_l2"])]
async fn raw_data_files_are_what_is_read(t: &mut Test) -> CaseResult {
    let data = t.file("data")?;
    let disk = t.image("disk").size(MIB).option("data_file", data.as_str());
    let disk = disk.option("data_file_raw", "on").create().await?;
    let raw = t.open(data.as_str()).format(RAW).await?;
    raw.write(0x33, 5 * CLUSTER..6 * CLUSTER).await?;
    disk.assert_reads(&[(0x33, 5 * CLUSTER..6 * CLUSTER)]).await?;
    let vm = t.host().disk(&disk).launch().await?;
    vm.disk("disk").assert_pattern(0x33, 5 * CLUSTER..6 * CLUSTER).await?;
    vm.disk("disk").write(0x44, 0..CLUSTER).await?;
    vm.shutdown().await?;
    let all = [(0x44, 0..CLUSTER), (0x33, 5 * CLUSTER..6 * CLUSTER)];
    raw.assert_reads(&all).await?;
    disk.assert_reads(&all).await?;
    disk.assert_clean().await
}

/// An image with a raw data file that has grown, and whoever made it grow, reads what anybody has written into that file, also behind
/// the old end.
#[case(rows = WAYS, unsupported_imgopts = ["compat", "extended_l2"])]
async fn raw_data_files_are_read_behind_the_old_end(t: &mut Test, by: &By) -> CaseResult {
    let data = t.file("data")?;
    let disk = t.image("disk").size(MIB).option("data_file", data.as_str());
    let disk = disk.option("data_file_raw", "on").create().await?;
    disk.write(0x22, 0..CLUSTER).await?;
    match by {
        By::Resize => {
            disk.resize(2 * MIB).await?;
        }
        By::BlockResize => {
            let vm = t.host().blockdev(&disk).launch().await?;
            let size = json!({"node-name": "disk", "size": 2 * MIB});
            vm.cmd("block_resize", size).await?;
            vm.shutdown().await?;
        }
        By::Commit => {
            let top = t.image("top").size(2 * MIB).backing(&disk).create().await?;
            let vm = t.host().disk(&top).launch().await?;
            vm.commit("top").base("disk").start().await?.complete().await?;
            vm.shutdown().await?;
        }
    }
    let raw = t.open(data.as_str()).format(RAW).await?;
    check!(raw.size().await? == 2 * MIB);
    let new = MIB + 8 * CLUSTER..MIB + 9 * CLUSTER;
    raw.write(0x33, new.clone()).await?;
    let all = [(0x22, 0..CLUSTER), (0x33, new)];
    disk.assert_reads(&all).await?;
    let vm = t.host().disk(&disk).launch().await?;
    vm.disk("disk").assert_reads(&all).await?;
    vm.shutdown().await?;
    disk.assert_clean().await
}
